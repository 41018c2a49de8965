"""Records of one partition → a batch for the ledger: read, rated, with the margins they touch."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from aforo_meter.contracts import Contracts
from aforo_meter.domain.periods import PeriodMicros, calendar_month
from aforo_meter.domain.prices import PriceBook
from aforo_meter.domain.rating import Rated, Usage, rate
from aforo_meter.domain.revenue import exchange_rate, fixed_nanos
from aforo_meter.domain.terms import NO_SUBSCRIPTION, Terms
from aforo_meter.ledger import Batch, Ledger, Partition, Retention, TooLargeError, Watch
from aforo_meter.wire import UnreadableEventError, usage_of

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


def read(records: Iterable[Any]) -> tuple[list[Readable], list[Refused]]:
    """Decode records; each is in one of the two answers."""
    readable: list[Readable] = []
    refused: list[Refused] = []
    latest_micros = now_micros() + AHEAD_MICROS_MAX
    for record in records:
        try:
            usage = usage_of(record.value)
        except UnreadableEventError as error:
            refused.append(Refused(record=record, reason=str(error)))
            continue
        if usage.occurred_at_micros > latest_micros:
            reason = f"occurred_at_micros {usage.occurred_at_micros} is more than a day ahead of us"
            refused.append(Refused(record=record, reason=reason))
            continue
        readable.append(Readable(record=record, usage=usage))
    return readable, refused


class Rater:
    """Rates usage by what is known of contracts and prices."""

    def __init__(
        self, contracts: Contracts, ledger: Ledger, retention: Retention | None = None
    ) -> None:
        self._contracts = contracts
        self._ledger = ledger
        self._retention = retention or Retention()
        self._refused_prices: set[str] = set()
        self._told_currencies: set[tuple[str, str, str]] = set()

    @property
    def currency(self) -> str:
        book = self._contracts.book
        assert book is not None, "know() needs the price book"
        return book.currency

    def refuse_prices(self, price_ids: Sequence[str]) -> None:
        """Take usage at these prices as unpriced from now on: they contradict the ledger."""
        self._refused_prices.update(price_ids)

    def refuses(self, price_id: str) -> bool:
        return price_id in self._refused_prices

    def trust_prices(self) -> None:
        """Try refused prices again: the catalog has changed, and may have been put right."""
        self._refused_prices.clear()

    async def batch(
        self,
        partition: Partition,
        readable: Sequence[Readable],
        *,
        first_offset: int,
        next_offset: int,
        stands_at: int = 0,
    ) -> Batch:
        """Rate what was read.

        Raises:
            NotSyncedError, UnreadableError, RedisError, OSError: A contract is not known, and can't
                be had now.
            LedgerUnavailableError: The ledger does not answer.
        """
        usages = [one.usage for one in readable]
        named = {(usage.tenant_id, usage.subscription_id) for usage in usages if usage.tenant_id}
        await self._contracts.know(named)
        return Batch(
            partition=partition,
            first_offset=first_offset,
            next_offset=next_offset,
            stands_at=stands_at,
            rated=[await self._rate(usage) for usage in usages],
            watches=self.watches({tenant_id for tenant_id, _ in named}),
            currency=self.currency,
            now_micros=now_micros(),
            retention=self._retention,
        )

    def watches(self, tenant_ids: Iterable[str]) -> Mapping[str, Watch]:
        """Return what margins of these tenants are measured by now; none without a contract."""
        book, now = self._contracts.book, now_micros()
        found: dict[str, Watch] = {}
        for tenant_id in tenant_ids:
            terms = self._contracts.terms(tenant_id)
            if terms is None or book is None:
                continue
            watch = watch_of(terms, book, now_micros=now)
            if watch is not None:
                found[tenant_id] = watch
            else:
                self._tell_currencies(terms, book)
        return found

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
        if usage.subscription_id in ("", terms.subscription_id):
            return terms.subscription_id, terms.period_at(at_micros)
        # A call that was decided under a former subscription belongs to that one's period, of
        # which only the ledger knows.
        former = await self._ledger.period_covering(
            usage.tenant_id, usage.subscription_id, at_micros
        )
        return usage.subscription_id, former or calendar_month(at_micros)


def watch_of(terms: Terms, book: PriceBook, *, now_micros: int) -> Watch | None:
    """Return what a tenant's margin is measured by; None if its revenue has no exchange rate."""
    period = terms.period_at(now_micros)
    fixed = fixed_nanos(terms, period, book_currency=book.currency)
    if fixed is None and exchange_rate(terms, period, book_currency=book.currency) is None:
        return None
    return Watch(
        tenant_id=terms.tenant_id,
        subscription_id=terms.subscription_id,
        period=period,
        revenue_nanos=fixed or 0,
        terms=terms if fixed is None else None,
        allowance_nanos=terms.allowance_nanos,
        currency=book.currency,
        thresholds=terms.thresholds,
        guards=terms.guards,
        catalog_version=terms.catalog_version,
        price_book_version=book.version,
    )


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
