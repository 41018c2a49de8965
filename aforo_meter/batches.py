"""Records of one partition → a batch for the ledger: read, rated, with the margins they touch."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError

from aforo_meter.contracts import Contracts
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros, calendar_month
from aforo_meter.domain.prices import PriceBook
from aforo_meter.domain.rating import Rated, Usage, key_of, rate
from aforo_meter.domain.terms import NO_SUBSCRIPTION, Terms
from aforo_meter.domain.usage import API_CALLS
from aforo_meter.kinds import Kind, Kinds, Looked, Name, Tally, look, name_of
from aforo_meter.ledger import Batch, Ledger, Partition, Retention, TooLargeError, Watch
from aforo_meter.usage_shapes import Shape
from aforo_meter.watches import watch_of
from aforo_meter.wire import NO_EVENT, UnreadableEventError, usage_from, usage_of
from aforo_proto import usage_pb2

SLICE_RECORDS: Final = 1000  # Some 10 ms.
AHEAD_MICROS_MAX: Final = 86_400_000_000  # A source whose clock is a day ahead is broken.

log = structlog.get_logger()


def now_micros() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A record that can't become charges."""

    record: Any  # aiokafka's ConsumerRecord; it ships no types.
    reason: str  # A sentence.


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    record: Any
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Records, rated."""

    rated: Sequence[Rated]
    refused: Sequence[Refused] = ()
    repeated: int = 0  # Events that were left out, as they count already.
    late: int = 0
    oldest_micros: Mapping[str, int]  # By tenant: when the first of its events occurred.


def read(records: Iterable[Any]) -> tuple[list[Readable], list[Refused]]:
    """Decode records; each is in one of the two answers."""
    readable: list[Readable] = []
    refused: list[Refused] = []
    latest_micros = now_micros() + AHEAD_MICROS_MAX
    for record in records:
        one = _readable(record, latest_micros)
        if isinstance(one, Refused):
            refused.append(one)
        else:
            readable.append(one)
    return readable, refused


def _readable(record: Any, latest_micros: int) -> Readable | Refused:  # noqa: ANN401 - aiokafka's.
    try:
        usage = usage_of(record.value)
    except UnreadableEventError as error:
        return Refused(record=record, reason=str(error))
    if usage.occurred_at_micros > latest_micros:
        reason = f"occurred_at_micros {usage.occurred_at_micros} is more than a day ahead of us"
        return Refused(record=record, reason=reason)
    return Readable(record=record, usage=usage)


class Rater:
    """Rates usage by what is known of contracts and prices."""

    def __init__(
        self, contracts: Contracts, ledger: Ledger, retention: Retention | None = None
    ) -> None:
        self._contracts = contracts
        self._ledger = ledger
        self.retention = retention or Retention()
        self._refused_prices: set[str] = set()
        self._told_currencies: set[tuple[str, str, str]] = set()
        self._kinds = Kinds()
        self._watches: dict[str, Watch] = {}
        self._generation = contracts.generation
        self._changes_of_trust = 0

    @property
    def currency(self) -> str:
        book = self._contracts.book
        assert book is not None, "know() needs the price book"
        return book.currency

    @property
    def generation(self) -> int:
        """Another one: what was rated before may have another price by now."""
        return self._contracts.generation

    @property
    def basis(self) -> tuple[int, int]:
        """Another one: what was added up before is to be read again."""
        return self._contracts.generation, self._changes_of_trust

    def refuse_prices(self, price_ids: Sequence[str]) -> None:
        """Take usage at these prices as unpriced from now on: they contradict the ledger."""
        self._refused_prices.update(price_ids)
        self._changes_of_trust += 1
        self._kinds.clear()

    def refuses(self, price_id: str) -> bool:
        return price_id in self._refused_prices

    def trust_prices(self) -> None:
        """Try refused prices again: the catalog has changed, and may have been put right."""
        self._refused_prices.clear()
        self._changes_of_trust += 1
        self._kinds.clear()

    async def add_up(self, records: Sequence[Any], *, counted: Collection[bytes]) -> Counted:
        """Read and rate records, many at once where they differ in their quantities alone.

        Args:
            records: Of one partition.
            counted: Keys of events that were counted before.

        Raises:
            NotSyncedError, UnreadableError, RedisError, OSError: A contract is not known, and can't
                be had now.
            LedgerUnavailableError: The ledger does not answer.
        """
        tally = Tally(counted=set(counted))
        await self.add_known(records, tally)
        return await self.finish(tally)

    async def add_known(self, records: Sequence[Any], tally: Tally) -> None:
        """Add up records of kinds that are known. Others are put on `tally`, for `finish`."""
        self._forget_what_changed()
        latest_micros = now_micros() + AHEAD_MICROS_MAX
        # A tenant's events one after the other: what is known of it is then at hand.
        ordered = sorted(records, key=_key_of)
        for start in range(0, len(ordered), SLICE_RECORDS):
            looked = look(ordered[start : start + SLICE_RECORDS], tally)
            self._kinds.add_up(looked, tally, latest_micros=latest_micros)
            await asyncio.sleep(0)  # Others want to go on meanwhile.

    async def add_rest(self, tally: Tally) -> None:
        """Read and rate what is of no kind that was known, and what is one by itself.

        Raises:
            As `add_up`. Then what came of the records is not known.
        """
        self._forget_what_changed()
        unknown, single = tally.unknown, tally.single
        tally.unknown, tally.single = [], []
        if unknown and await self._learn_kinds(unknown):
            self._kinds.add_up(unknown, tally, latest_micros=now_micros() + AHEAD_MICROS_MAX)
            unknown, single = tally.unknown, single + tally.single
            tally.unknown, tally.single = [], []
        readable, refused = read([record for record, _ in unknown] + single)
        await self._know(one.usage for one in readable)
        for one in readable:
            await self._rate_into(tally, one.usage)
        tally.refused += refused

    async def finish(self, tally: Tally) -> Counted:
        """Return all that came of the records on a tally.

        Raises:
            As `add_up`.
        """
        if tally.unknown or tally.single:
            await self.add_rest(tally)
        return self.rated(tally)

    def rated(self, tally: Tally) -> Counted:
        """Return what came of the records on a tally that were read."""
        tally.close()
        unreadable = [Refused(record=one, reason=NO_EVENT) for one in tally.unreadable]
        return Counted(
            rated=tally.rated,
            refused=[*unreadable, *tally.refused],
            repeated=tally.repeated,
            late=tally.late,
            oldest_micros=tally.oldest_micros,
        )

    async def _learn_kinds(self, unknown: Iterable[Looked]) -> bool:
        """Find the kind of each shape that comes again; return whether one was found.

        Who names another tool in each call makes as many shapes, of which none does: they are
        rated one by one, and what is known of others is not forgotten for them.
        """
        of_shape: dict[Shape, list[Any]] = {}
        for record, (shape, *_) in unknown:
            of_shape.setdefault(shape, []).append(record)
        named = []
        for shape, (record, *more) in of_shape.items():
            if not self._kinds.was_met(shape) and not more:
                continue
            with contextlib.suppress(DecodeError, UnreadableEventError):
                event = usage_pb2.UsageEvent.FromString(record.value or b"")
                name = name_of(event)
                if name is not None:
                    named.append((shape, name, usage_from(event, record.value)))
        await self._know(usage for _, _, usage in named)
        kinds = [(shape, self._kind(name, usage)) for shape, name, usage in named]
        for shape, kind in kinds:
            if kind is not None:
                self._kinds.recognise(shape, kind)
        return any(kind is not None for _, kind in kinds)

    async def one_by_one(self, readable: Sequence[Readable]) -> Counted:
        """Rate what was read, each by itself.

        Raises:
            As `add_up`.
        """
        await self._know(one.usage for one in readable)
        tally = Tally()
        for one in readable:
            await self._rate_into(tally, one.usage)
        return Counted(
            rated=tally.rated,
            repeated=tally.repeated,
            late=tally.late,
            oldest_micros=tally.oldest_micros,
        )

    def batch(
        self,
        partition: Partition,
        counted: Counted,
        *,
        first_offset: int,
        next_offset: int,
        stands_at: int = 0,
    ) -> Batch:
        """Return what the ledger is to write."""
        return Batch(
            partition=partition,
            first_offset=first_offset,
            next_offset=next_offset,
            stands_at=stands_at,
            rated=counted.rated,
            watches=self.watches(counted.oldest_micros),
            currency=self.currency,
            now_micros=now_micros(),
            retention=self.retention,
        )

    async def _know(self, usages: Iterable[Usage]) -> None:
        named = {(usage.tenant_id, usage.subscription_id) for usage in usages if usage.tenant_id}
        await self._contracts.know(named)

    def _kind(self, name: Name, usage: Usage) -> Kind | None:
        """Return the kind of a usage; None: it is one by itself."""
        known = self._kinds.get(name)
        if known is not None:
            return known
        terms = self._contracts.terms(usage.tenant_id) if usage.tenant_id else None
        hour = usage.hour_start_micros
        if terms is None:
            subscription_id, period = NO_SUBSCRIPTION, calendar_month(hour)
        else:
            charging = terms.charging(usage.subscription_id, hour)
            last_micros = hour + HOUR_MICROS - 1
            if charging is None or charging is not terms.charging(
                usage.subscription_id, last_micros
            ):
                return None  # The ledger may know its periods; or another begins in the hour.
            subscription_id, period = charging.subscription_id, charging.period_at(hour)
            if period != charging.period_at(last_micros):
                return None  # Another one begins within the hour.
        prices = self._contracts.prices(usage.tenant_id)
        kind = Kind(
            usage, prices, self._refused_prices, subscription_id=subscription_id, period=period
        )
        self._kinds.add(name, kind)
        return kind

    async def _rate_into(self, tally: Tally, usage: Usage) -> None:
        key = key_of(usage)
        if key in tally.counted:
            tally.repeated += 1
            return
        tally.counted.add(key)
        rated = await self._rate(usage)
        tally.rated.append(rated)  # Not before: meanwhile the list may have been taken out.
        tally.late += usage.late
        tally.note_time(usage.tenant_id, usage.occurred_at_micros)

    def watches(self, tenant_ids: Iterable[str]) -> Mapping[str, Watch]:
        """Return what margins of these tenants are measured by now; none without a contract."""
        self._forget_what_changed()
        book, now = self._contracts.book, now_micros()
        found: dict[str, Watch] = {}
        for tenant_id in tenant_ids:
            watch = self._watches.get(tenant_id)
            if watch is not None and now < watch.period.end_micros:
                found[tenant_id] = watch
                continue
            terms = self._contracts.terms(tenant_id)
            if terms is None or book is None:
                continue
            watch = watch_of(terms, book, now_micros=now)
            if watch is not None:
                found[tenant_id] = self._watches[tenant_id] = watch
            else:
                self._tell_currencies(terms, book)
        return found

    def with_metered_quotas(self, tenant_ids: Iterable[str]) -> set[str]:
        """Return who has a quota by which the ledger refuses: a hard one, of anything but calls."""
        terms = {tenant_id: self._contracts.terms(tenant_id) for tenant_id in tenant_ids}
        return {
            tenant_id
            for tenant_id, known in terms.items()
            if known is not None
            and any(quota.meter != API_CALLS and not quota.soft for quota in known.quotas)
        }

    def _forget_what_changed(self) -> None:
        """Drop what follows from contracts and prices once they are others."""
        if self._generation != self._contracts.generation:
            self._generation = self._contracts.generation
            self._kinds.clear()
            self._watches.clear()

    def _tell_currencies(self, terms: Terms, book: PriceBook) -> None:
        """Say once that a margin can't be measured."""
        case = (terms.tenant_id, terms.currency, book.currency)
        if case not in self._told_currencies:
            self._told_currencies.add(case)
            log.error(
                "no margin: no exchange rate from the contract's currency to that of the prices "
                "was in force as the period began; give one under exchange_rates in the catalog",
                tenant=terms.tenant_id,
                contract=terms.currency,
                prices=book.currency,
            )

    async def _rate(self, usage: Usage) -> Rated:
        terms = self._contracts.terms(usage.tenant_id) if usage.tenant_id else None
        subscription_id, period = await self._period_of(usage, terms)
        return rate(
            usage,
            self._contracts.prices(usage.tenant_id),
            subscription_id=subscription_id,
            period=period,
            refused_price_ids=self._refused_prices,
        )

    async def _period_of(self, usage: Usage, terms: Terms | None) -> tuple[str, PeriodMicros]:
        at_micros = usage.occurred_at_micros
        if terms is None:
            return NO_SUBSCRIPTION, calendar_month(at_micros)
        charging = terms.charging(usage.subscription_id, at_micros)
        if charging is not None:
            return charging.subscription_id, charging.period_at(at_micros)
        # A call that was decided under a subscription which the catalog has no more belongs to
        # that one's period, of which only the ledger knows.
        former = await self._ledger.period_covering(
            usage.tenant_id, usage.subscription_id, at_micros
        )
        return usage.subscription_id, former or calendar_month(at_micros)


def _key_of(record: Any) -> bytes:  # noqa: ANN401 - aiokafka's.
    key: bytes = record.key or b""
    return key


def without(
    error: TooLargeError, readable: Sequence[Readable]
) -> tuple[list[Readable], list[Refused]]:
    """Take the usage that makes a sum overflow out of a batch."""

    def is_part(usage: Usage) -> bool:
        meters = {measure.meter for measure in usage.measures}
        return usage.tenant_id == error.tenant_id and error.meter in {None, *meters}

    return (
        [one for one in readable if not is_part(one.usage)],
        [Refused(record=one.record, reason=str(error)) for one in readable if is_part(one.usage)],
    )
