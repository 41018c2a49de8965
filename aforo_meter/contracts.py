"""Contracts, quotas and prices from Redis: what sync wrote, remembered."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from aforo_meter.contract_messages import UnreadableError, book_of, terms_of
from aforo_meter.domain.prices import PriceBook, Prices
from aforo_meter.domain.terms import Terms
from aforo_meter.redis_faults import address_of
from aforo_proto import policy_pb2

SYNC_KEY: Final = "aforo:v1:sync"
PUBLISHED_KEY: Final = "aforo:v1:published"
PRICE_BOOK_KEY: Final = "aforo:v1:pricebook"
READ_TENANTS_MAX: Final = 500  # In one pipeline.

log = structlog.get_logger()


class NotSyncedError(Exception):
    """Redis holds no complete sync: what is missing in it is not known to be absent."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"{key} is not in Redis; is this the right Redis, and does `aforo-admin sync` run?"
        )


class CurrencyChangedError(NotSyncedError):
    """The prices are in another currency than the charges so far. None of them is used."""

    def __init__(self, *, prices: str, charges: str) -> None:
        Exception.__init__(
            self,
            f"the prices in Redis are in {prices}, and the ledger has charges in {charges}: amounts"
            f" of two currencies are never added up; set the catalog's currency back to {charges},"
            " or begin a new ledger",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at Redis found."""

    tenants: frozenset[str] = frozenset()  # Whose terms changed.
    prices: bool = False  # They changed for everyone.
    emptied: bool = False  # The margins are gone.


async def _nothing() -> str:
    return ""


class Contracts:
    """What is known of tenants' terms. One per process; lives in one event loop."""

    def __init__(self, redis: Redis, charged_in: Callable[[], Awaitable[str]] = _nothing) -> None:
        """Remember the wiring.

        Args:
            redis: What sync writes to.
            charged_in: Asks for the currency of what the ledger has charged, "" for nothing yet:
                prices in another one are not taken over.
        """
        self._redis = redis
        self._charged_in = charged_in
        self._terms: dict[str, Terms | None] = {}  # None: no contract.
        self._prices: dict[str, Prices] = {}  # Of those with negotiated ones.
        self._book: PriceBook | None = None
        self._general: Prices | None = None
        self._catalog_version: str | None = None
        self._written: frozenset[str] = frozenset()  # Alone, since the last pass.
        self._former: set[tuple[str, str]] = set()  # Subscriptions that are not the known ones.
        self._prices_changed = False
        # How often prices or terms have changed: what was rated before such a change, and is
        # written after it, may have another price by now.
        self.generation = 0

    @property
    def address(self) -> str:
        """Where Redis is, for complaints."""
        return address_of(self._redis)

    @property
    def book(self) -> PriceBook | None:
        """The price book; None until one was found."""
        return self._book

    @property
    def catalog_version(self) -> str | None:
        """The version of the catalog that all that is known was read at, or after."""
        return self._catalog_version

    def terms(self, tenant_id: str) -> Terms | None:
        """Return a tenant's terms; None if it has no contract, as far as is known."""
        return self._terms.get(tenant_id)

    def prices(self, tenant_id: str) -> Prices:
        """Return the prices that hold for a tenant; `know` comes before."""
        found = self._prices.get(tenant_id, self._general)
        assert found is not None, "know() needs the price book"
        return found

    async def know(self, subscriptions: Iterable[tuple[str, str]]) -> None:
        """Read what is not known yet.

        Args:
            subscriptions: Tenant ids, each with the subscription that its usage names, or "".
                Another than the known one is read again: the usage may be ahead of us.

        Raises:
            NotSyncedError: No complete sync, or no price book in the ledger's currency, is in
                Redis.
            UnreadableError: A value can't be understood, and none is known from before.
            RedisError, OSError: Redis does not answer. What is known needs no answer.
        """
        if self._book is None:
            await self._read_book()
        doubtful = {pair for pair in subscriptions if self._is_doubtful(*pair)}
        missing = sorted({tenant_id for tenant_id, _ in doubtful})
        for chunk in _chunks(missing):
            self._remember(await self._read(chunk))
        self._former |= {pair for pair in doubtful if self._is_doubtful(*pair)}

    async def look(self) -> Look:
        """Read again what sync has written since: after a pass with another catalog everything.

        Raises:
            RedisError, OSError: Redis does not answer.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(SYNC_KEY)
        pipeline.get(PUBLISHED_KEY)
        sync, published = await pipeline.execute()
        emptied = published is None
        state = _state_of(sync)
        if state is None:
            return Look(emptied=emptied)
        version = state.catalog_version
        try:
            if version == self._catalog_version:
                alone = await self._read_written(state.written_since)
                return Look(tenants=frozenset(alone), emptied=emptied)
            prices = await self._read_book()
            # Should the rest fail now, the next look reads it, and says that prices changed.
            self._prices_changed |= prices
            changed = await self._read_again(self._terms)
        except (NotSyncedError, UnreadableError) as error:
            log.error("the catalog's changes can't be read; the last known hold", error=str(error))
            return Look(emptied=emptied)
        self._catalog_version = version
        self._written = frozenset(state.written_since)
        self._former.clear()
        prices, self._prices_changed = self._prices_changed, False
        return Look(tenants=frozenset(changed), prices=prices, emptied=emptied)

    def _is_doubtful(self, tenant_id: str, subscription_id: str) -> bool:
        if tenant_id not in self._terms:
            return True
        terms = self._terms[tenant_id]
        return (
            terms is not None
            and bool(subscription_id)
            and terms.of_subscription(subscription_id) is None
            and (tenant_id, subscription_id) not in self._former
        )

    async def _read_written(self, versions: Mapping[str, str]) -> set[str]:
        """Read again whom sync wrote alone, under versions that are not those that are known.

        Whom it no longer names, too: what changed and changed back leaves a pass, and the catalog's
        version, as they were.
        """
        stale = {
            tenant_id
            for tenant_id in self._terms.keys() & (versions.keys() | self._written)
            if versions.get(tenant_id) != _version_of(self._terms[tenant_id])
        }
        changed = await self._read_again(stale)
        self._written = frozenset(versions)
        self._former = {pair for pair in self._former if pair[0] not in stale}
        return changed

    async def _read_again(self, tenant_ids: Iterable[str]) -> set[str]:
        """Read what is known of tenants again, or nothing; return whose terms changed."""
        fresh: dict[str, Terms | None] = {}
        for chunk in _chunks(sorted(tenant_ids)):
            fresh |= await self._read(chunk)
        changed = {
            tenant_id
            for tenant_id, terms in fresh.items()
            if _content(terms) != _content(self._terms[tenant_id])
        }
        self._remember(fresh)
        return changed

    def _remember(self, fresh: Mapping[str, Terms | None]) -> None:
        assert self._book is not None
        if any(name in self._terms and self._terms[name] != terms for name, terms in fresh.items()):
            self.generation += 1
        self._terms.update(fresh)
        for tenant_id, terms in fresh.items():
            if terms is not None and terms.negotiated:
                self._prices[tenant_id] = Prices(self._book, terms.negotiated)
            else:
                self._prices.pop(tenant_id, None)

    async def _read_book(self) -> bool:
        """Read the price book; return whether it is another one."""
        value: Any = await self._redis.get(PRICE_BOOK_KEY)
        if value is None:
            raise NotSyncedError(PRICE_BOOK_KEY)
        book = book_of(value)
        if self._book is not None and book.version == self._book.version:
            return False
        if self._book is None or book.currency != self._book.currency:
            charges = await self._charged_in()
            if charges not in {"", book.currency}:
                raise CurrencyChangedError(prices=book.currency, charges=charges)
        self._book, self._general = book, Prices(book)
        self.generation += 1
        self._prices = {
            tenant_id: Prices(book, terms.negotiated)
            for tenant_id, terms in self._terms.items()
            if terms is not None and terms.negotiated
        }
        return True

    async def _read(self, tenant_ids: Sequence[str]) -> dict[str, Terms | None]:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(SYNC_KEY)
        for tenant_id in tenant_ids:
            # Both lie in one slot of a cluster; two tenants need not.
            pipeline.mget(f"aforo:v1:{{{tenant_id}}}:contract", f"aforo:v1:{{{tenant_id}}}:policy")
        pipeline.get(SYNC_KEY)
        before, *pairs, after = await pipeline.execute()
        if before is None or after is None:
            # Sync writes it last: in a Redis without it, what is missing may just not be there yet.
            raise NotSyncedError(SYNC_KEY)
        return {
            tenant_id: self._terms_of(tenant_id, contract, policy)
            for tenant_id, (contract, policy) in zip(tenant_ids, pairs, strict=True)
        }

    def _terms_of(
        self, tenant_id: str, contract: bytes | None, policy: bytes | None
    ) -> Terms | None:
        if contract is None:
            return None
        try:
            return terms_of(tenant_id, contract, policy)
        except UnreadableError as error:
            if tenant_id not in self._terms:
                raise
            log.error("the last known contract holds", tenant=tenant_id, error=str(error))
            return self._terms[tenant_id]


def _chunks(tenant_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(tenant_ids), READ_TENANTS_MAX):
        yield tenant_ids[start : start + READ_TENANTS_MAX]


def synced_at_micros(sync: bytes | None) -> int | None:
    """Return when the last complete sync ended, Unix time; None if that is not known."""
    if sync is None:
        return None
    try:
        return policy_pb2.SyncState.FromString(sync).completed_at_micros or None
    except DecodeError:
        return None


def _state_of(sync: bytes | None) -> policy_pb2.SyncState | None:
    """Return what sync last said; None if it said nothing that can be understood."""
    if sync is None:
        return None
    try:
        return policy_pb2.SyncState.FromString(sync)
    except DecodeError:
        return None


def _version_of(terms: Terms | None) -> str:
    return "" if terms is None else terms.catalog_version


def _content(terms: Terms | None) -> Terms | None:
    """Return what matters of terms: not which version of the catalog said so."""
    return None if terms is None else replace(terms, catalog_version="")
