"""Contracts, quotas and prices from Redis: what sync wrote, as domain values, remembered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog
from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from aforo_meter.domain.margin import Thresholds
from aforo_meter.domain.periods import Cadence
from aforo_meter.domain.prices import (
    MatchKind,
    ModelMatch,
    PriceBook,
    PriceEntry,
    PriceList,
    Prices,
    prices_of,
)
from aforo_meter.domain.quotas import Quota, WindowKind
from aforo_meter.domain.terms import Terms
from aforo_proto import contract_pb2, policy_pb2

log = structlog.get_logger()

SYNC_KEY: Final = "aforo:v1:sync"
PRICE_BOOK_KEY: Final = "aforo:v1:pricebook"
READ_TENANTS_MAX: Final = 500  # In one pipeline.

_CADENCES: Final = {
    contract_pb2.CADENCE_UNSPECIFIED: Cadence.MONTH,
    contract_pb2.CADENCE_MONTH: Cadence.MONTH,
    contract_pb2.CADENCE_YEAR: Cadence.YEAR,
}
_WINDOWS: Final = {getattr(policy_pb2, f"WINDOW_{kind.name}"): kind for kind in WindowKind}


class NotSyncedError(Exception):
    """Redis holds no complete sync: what is missing in it is not known to be absent."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a look at Redis found to be different."""

    tenants: frozenset[str] = frozenset()  # Whose terms changed.
    prices: bool = False

    @property
    def any(self) -> bool:
        return self.prices or bool(self.tenants)


class Contracts:
    """What is known of tenants' terms. One per process; lives in one event loop."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._terms: dict[str, Terms | None] = {}  # None: no contract.
        self._prices: dict[str, Prices] = {}
        self._book: PriceBook | None = None
        self._general: Prices | None = None
        self._catalog_version: str | None = None

    @property
    def price_book_version(self) -> str:
        return self._book.version if self._book is not None else ""

    def terms(self, tenant_id: str) -> Terms | None:
        """Return a tenant's terms, None without a contract; `know` has to come before."""
        return self._terms[tenant_id]

    def prices(self, tenant_id: str) -> Prices:
        """Return the prices that hold for a tenant; `know` has to come before."""
        found = self._prices.get(tenant_id, self._general)
        assert found is not None, "know() waits for the price book"
        return found

    async def know(self, tenant_ids: Iterable[str]) -> None:
        """Read what is not known yet.

        Raises:
            NotSyncedError: No complete sync, or no price book, is in Redis.
            RedisError, OSError: Redis does not answer. What is known needs no answer.
        """
        if self._book is None:
            await self._read_book()
        missing = sorted({tenant_id for tenant_id in tenant_ids if tenant_id not in self._terms})
        for start in range(0, len(missing), READ_TENANTS_MAX):
            self._remember(await self._read(missing[start : start + READ_TENANTS_MAX]))

    async def refresh(self) -> Changes:
        """Read everything known again if sync has written since; return what changed.

        Raises:
            RedisError, OSError: Redis does not answer.
        """
        value: bytes | None = await self._redis.get(SYNC_KEY)
        if value is None:
            return Changes()
        version = policy_pb2.SyncState.FromString(value).catalog_version
        if version == self._catalog_version:
            return Changes()
        book_before = self.price_book_version
        changed: set[str] = set()
        try:
            await self._read_book()
            known = sorted(self._terms)
            for start in range(0, len(known), READ_TENANTS_MAX):
                fresh = await self._read(known[start : start + READ_TENANTS_MAX])
                changed |= {
                    tenant_id
                    for tenant_id, terms in fresh.items()
                    if _content(terms) != _content(self._terms[tenant_id])
                }
                self._remember(fresh)
        except NotSyncedError:
            return Changes()  # It was emptied meanwhile; the next look finds it filled.
        self._catalog_version = version
        return Changes(frozenset(changed), prices=self.price_book_version != book_before)

    def _remember(self, fresh: dict[str, Terms | None]) -> None:
        assert self._book is not None
        self._terms.update(fresh)
        for tenant_id, terms in fresh.items():
            if terms is not None and terms.negotiated:
                self._prices[tenant_id] = prices_of(self._book, terms.negotiated)
            else:
                self._prices.pop(tenant_id, None)

    async def _read_book(self) -> None:
        value: bytes | None = await self._redis.get(PRICE_BOOK_KEY)
        if value is None:
            raise NotSyncedError(f"{PRICE_BOOK_KEY} is not in Redis; is aforo-admin sync running?")
        book = book_of(contract_pb2.PriceBook.FromString(value))
        if self._book is None or book.version != self._book.version:
            self._book = book
            self._general = prices_of(book)
            self._prices = {
                tenant_id: prices_of(book, terms.negotiated)
                for tenant_id, terms in self._terms.items()
                if terms is not None and terms.negotiated
            }

    async def _read(self, tenant_ids: Sequence[str]) -> dict[str, Terms | None]:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(SYNC_KEY)
        for tenant_id in tenant_ids:
            pipeline.get(f"aforo:v1:{{{tenant_id}}}:contract")
            pipeline.get(f"aforo:v1:{{{tenant_id}}}:policy")
        pipeline.get(SYNC_KEY)
        before, *values, after = await pipeline.execute()
        if before is None or after is None:
            # Sync writes it last: in a Redis without it, what is missing may just not be there yet.
            raise NotSyncedError(f"{SYNC_KEY} is not in Redis; is aforo-admin sync running?")
        pairs = zip(values[::2], values[1::2], strict=True)
        return {
            tenant_id: _terms_or_none(tenant_id, contract, policy)
            for tenant_id, (contract, policy) in zip(tenant_ids, pairs, strict=True)
        }


def _content(terms: Terms | None) -> Terms | None:
    """Return what matters of terms: not which version of the catalog said so."""
    if terms is None:
        return None
    return replace(terms, catalog_version="")


def _terms_or_none(tenant_id: str, contract: bytes | None, policy: bytes | None) -> Terms | None:
    if contract is None:
        return None
    try:
        return terms_of(
            contract_pb2.Contract.FromString(contract), policy_pb2.Policy.FromString(policy or b"")
        )
    except (DecodeError, KeyError) as error:
        log.error("unreadable contract, taken as none", tenant=tenant_id, error=repr(error))
        return None


def terms_of(contract: contract_pb2.Contract, policy: policy_pb2.Policy) -> Terms:
    """Turn a Contract, and the quotas of the Policy beside it, into terms.

    Raises:
        KeyError: A cadence or window is unknown to this version.
    """
    floors = contract.thresholds
    return Terms(
        tenant_id=contract.tenant_id,
        subscription_id=contract.subscription_id,
        plan_id=contract.plan_id,
        currency=contract.currency,
        committed_fee_nanos=contract.committed_fee_nanos,
        allowance_nanos=contract.allowance_nanos,
        cadence=_CADENCES[contract.cadence],
        anchor_micros=contract.anchor_micros,
        thresholds=Thresholds(
            warn_below_bp=floors.warn_below_bp,
            throttle_below_bp=floors.throttle_below_bp,
            block_below_bp=floors.block_below_bp,
            hysteresis_bp=floors.hysteresis_bp,
            source=floors.source,
        )
        if contract.HasField("thresholds")
        else Thresholds(),
        negotiated=tuple(list_of(prices) for prices in contract.negotiated),
        quotas=tuple(
            Quota(
                quota_id=quota.quota_id,
                meter=quota.meter,
                window=_WINDOWS[quota.window],
                features=frozenset(quota.features),
            )
            for quota in policy.quotas
        ),
        catalog_version=contract.catalog_version,
    )


def book_of(message: contract_pb2.PriceBook) -> PriceBook:
    return PriceBook(
        version=message.version,
        currency=message.currency,
        own=tuple(list_of(prices) for prices in message.own),
        built_in=tuple(list_of(prices) for prices in message.built_in),
    )


def list_of(message: contract_pb2.PriceList) -> PriceList:
    return PriceList(
        provider=message.provider,
        model=message.model,
        match=match_of(message.match) if message.HasField("match") else None,
        entries=tuple(
            PriceEntry(
                price_id=entry.price_id,
                meter=entry.meter,
                price_nanos=entry.price_nanos,
                per_units=entry.per_units,
                effective_from_micros=entry.effective_from_micros,
                tier_input_tokens_from=entry.tier_input_tokens_from,
                source=entry.source,
                day_from_s=entry.day_from_s,
                day_to_s=entry.day_to_s,
            )
            for entry in message.entries
        ),
    )


def match_of(message: contract_pb2.ModelMatch) -> ModelMatch:
    rule = message.WhichOneof("rule")
    if rule in {"any_of", "all_of"}:
        parts = getattr(message, rule).matches
        return ModelMatch(kind=MatchKind(rule), parts=tuple(match_of(part) for part in parts))
    # An empty rule is from the future: it recognises nothing, and the usage stays unpriced.
    return ModelMatch(kind=MatchKind(rule), text=getattr(message, rule)) if rule else NOTHING


NOTHING: Final = ModelMatch(kind=MatchKind.ANY_OF)
