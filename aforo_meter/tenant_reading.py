"""What Redis holds of tenants, for people who ask: terms, override, margin, and how old each is."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import DecodeError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from aforo_meter import redis_client
from aforo_meter.command_arguments import CommandError
from aforo_meter.contract_messages import UnreadableError, terms_of
from aforo_meter.contracts import PRICE_BOOK_KEY, SYNC_KEY
from aforo_meter.domain.margin import Level
from aforo_meter.domain.terms import Terms
from aforo_meter.publish import consumed_key, margin_key
from aforo_meter.redis_faults import address_of, redis_away
from aforo_proto import contract_pb2, margin_pb2, policy_pb2

TIMEOUT_S: Final = 5.0
READ_TENANTS_MAX: Final = 500  # In one pipeline.


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Finance lets a tenant through: its level is never taken as worse than this, for a while."""

    level_max: Level
    until_micros: int
    reason: str
    author: str

    def holds(self, at_micros: int) -> bool:
        return at_micros < self.until_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The margin that decisions go by."""

    level: Level
    as_of_micros: int
    confirmed_micros: int  # Until when all usage of its partition is in the ledger; 0: unknown.
    # By quota: when its window began, and units used in it, by the ledger's account.
    used_units: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What Redis holds of one tenant."""

    terms: Terms | None  # None: no contract.
    override: Override | None
    shadow: bool  # Its level is told, and refuses nothing.
    published: Published | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """Of which catalog and price book the read model is, and since when."""

    completed_at_micros: int
    catalog_version: str
    price_book_version: str
    currency: str  # Of the price book.


class TenantReader:
    """Reads, and changes nothing."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def synced(self) -> Synced:
        """Return what the last complete sync wrote.

        Raises:
            CommandError: There was none, Redis does not answer, or a value can't be understood.
        """
        sync, book = await self._get([SYNC_KEY, PRICE_BOOK_KEY])
        if sync is None or book is None:
            raise CommandError(
                "this Redis holds no complete sync; is it the right one? run: aforo-admin sync"
            )
        try:
            state = policy_pb2.SyncState.FromString(sync)
            prices = contract_pb2.PriceBook.FromString(book)
        except DecodeError as error:
            raise CommandError(str(UnreadableError("sync state", "it is broken"))) from error
        return Synced(
            completed_at_micros=state.completed_at_micros,
            catalog_version=state.catalog_version,
            price_book_version=prices.version,
            currency=prices.currency,
        )

    async def price_book(self) -> bytes:
        """Return the cost prices that hold for everyone, as they were written.

        Raises:
            CommandError: There are none, or Redis does not answer.
        """
        (value,) = await self._get([PRICE_BOOK_KEY])
        if value is None:
            raise CommandError(
                "this Redis holds no price book; is it the right one? run: aforo-admin sync"
            )
        return bytes(value)

    async def known(self, tenant_ids: Sequence[str]) -> dict[str, Known]:
        """Return what Redis holds of tenants; of unknown ones, nothing in every field.

        Raises:
            CommandError: Redis does not answer, or a value can't be understood.
        """
        found: dict[str, Known] = {}
        for start in range(0, len(tenant_ids), READ_TENANTS_MAX):
            some = tenant_ids[start : start + READ_TENANTS_MAX]
            keys = [key for tenant_id in some for key in _keys_of(tenant_id)]
            values = await self._get(keys)
            heartbeats = await self.confirmed(
                margin_pb2.Margin.FromString(value).partition for value in values[2::3] if value
            )
            for index, tenant_id in enumerate(some):
                contract, policy, margin = values[3 * index : 3 * index + 3]
                try:
                    found[tenant_id] = _known(tenant_id, contract, policy, margin, heartbeats)
                except (UnreadableError, DecodeError) as error:
                    raise CommandError(f"what Redis holds of {tenant_id}: {error}") from error
        return found

    async def overrides(self, tenant_ids: Sequence[str], *, at_micros: int) -> dict[str, Override]:
        """Return the overrides in force of tenants; those without one are left out.

        Raises:
            CommandError: Redis does not answer, or a value can't be understood.
        """
        found = {}
        policies = await self._get([_keys_of(tenant_id)[1] for tenant_id in tenant_ids])
        for tenant_id, policy in zip(tenant_ids, policies, strict=True):
            try:
                override = _override(policy_pb2.Policy.FromString(policy or b""))
            except DecodeError as error:
                raise CommandError(f"what Redis holds of {tenant_id}: {error}") from error
            if override is not None and override.holds(at_micros):
                found[tenant_id] = override
        return found

    async def confirmed(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return until when all usage of partitions is in the ledger; of unknown ones, nothing.

        Raises:
            CommandError: Redis does not answer.
        """
        numbers = sorted(set(partitions))
        values = await self._get([consumed_key(number) for number in numbers])
        return {
            number: margin_pb2.ConsumeState.FromString(value).as_of_micros
            for number, value in zip(numbers, values, strict=True)
            if value
        }

    async def _get(self, keys: Sequence[str]) -> list[Any]:
        if not keys:
            return []
        pipeline = self._redis.pipeline(transaction=False)  # Keys may lie in several slots.
        for key in keys:
            pipeline.get(key)
        try:
            return list(await pipeline.execute())
        except (RedisError, OSError) as error:
            raise redis_away(address_of(self._redis), error) from error


@asynccontextmanager
async def tenant_reader(redis_url: str) -> AsyncIterator[TenantReader]:
    redis = redis_client.connect(redis_url, timeout_s=TIMEOUT_S)
    try:
        yield TenantReader(redis)
    finally:
        await redis.aclose()


def _keys_of(tenant_id: str) -> tuple[str, str, str]:
    prefix = f"aforo:v1:{{{tenant_id}}}:"
    return (f"{prefix}contract", f"{prefix}policy", margin_key(tenant_id))


def _known(
    tenant_id: str,
    contract: bytes | None,
    policy: bytes | None,
    margin: bytes | None,
    heartbeats: dict[int, int],
) -> Known:
    said = policy_pb2.Policy.FromString(policy or b"")
    published = None
    if margin is not None:
        told = margin_pb2.Margin.FromString(margin)
        published = Published(
            level=Level(told.level),
            as_of_micros=told.as_of_micros,
            confirmed_micros=heartbeats.get(told.partition, 0),
            used_units={
                one.quota_id: (one.window_start_micros, one.used_units) for one in told.quota_usages
            },
        )
    return Known(
        terms=None if contract is None else terms_of(tenant_id, contract, policy),
        override=_override(said),
        shadow=said.shadow,
        published=published,
    )


def _override(policy: policy_pb2.Policy) -> Override | None:
    if not policy.HasField("margin_override"):
        return None
    said = policy.margin_override
    return Override(
        level_max=Level(said.level_max),
        until_micros=said.until_micros,
        reason=said.reason,
        author=said.author,
    )
