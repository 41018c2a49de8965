"""Tells tenants' owner of new prices of what they use: when they are entered, and when they hold.

What a partition's tenants were charged at is compared with the prices of the catalog once for each
of its versions, whenever one of its prices begins to hold, and every hour while one is to come, for
who begins to use what it is for. The ledger knows for which version
that was done, so that a change is found although nobody ran when it came, and a start compares
nothing twice. What is told is told once: by the ledger's table.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import structlog

from aforo_meter.alerting import ALERTS, fenced
from aforo_meter.alerting_sql import Checked, Measure, SqlAlerts
from aforo_meter.alerts import PRICE_CHANGED
from aforo_meter.contracts import Contracts
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.price_changes import News, PriceChange, changes
from aforo_meter.domain.prices import PriceBook, PriceList, Prices
from aforo_meter.domain.terms import Terms
from aforo_meter.partitions import Owned, Partitions

# A new price by which somebody was charged for longer than this is no news: a consumer that comes
# with this version, or after a long pause, does not tell of old times.
NEWS_MICROS: Final = 24 * HOUR_MICROS
TO_COME_MICROS: Final = HOUR_MICROS  # How often is compared while a price is to come.
READ_TENANTS_MAX: Final = 200  # In one transaction.
NEVER_MICROS: Final = 2**63 - 1

log = structlog.get_logger()


class PriceWatch:
    """Compares prices of this consumer's partitions. Lives in one event loop.

    Args:
        alerts: What was charged and told, and where alerts are left.
        contracts: Terms and prices.
        partitions: Those of this consumer.
        tenants: Whom this consumer follows.
        now_micros: The clock.
    """

    def __init__(
        self,
        alerts: SqlAlerts,
        contracts: Contracts,
        partitions: Partitions,
        *,
        tenants: Callable[[], Sequence[str]],
        now_micros: Callable[[], int],
    ) -> None:
        self._alerts = alerts
        self._contracts = contracts
        self._partitions = partitions
        self._tenants = tenants
        self._now_micros = now_micros
        self._checked: dict[Owned, Checked] = {}
        self._compared: dict[str, Prices] = {}  # By tenant: with which prices, and no later start.
        self._starts = BookStarts()

    async def look(self) -> None:
        """Compare what has to be compared.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        version, owned = self._contracts.catalog_version, list(self._partitions.all())
        self._checked = {one: self._checked[one] for one in owned if one in self._checked}
        if version is None or self._contracts.book is None:
            return
        for one in owned:
            if one.is_new:
                self._checked.pop(one, None)
                continue  # Its tenants' contracts are not known yet.
            if one not in self._checked:
                self._checked[one] = await self._alerts.prices_checked(one.partition)
            checked = self._checked[one]
            now = self._now_micros()
            if now >= checked.until_micros:
                self._compared.clear()  # Another price holds, or other usage was charged by now.
            elif checked.catalog_version == version:
                continue
            await self._compare(one, version, now_micros=now)

    async def _compare(self, owned: Owned, version: str, *, now_micros: int) -> None:
        since = now_micros - NEWS_MICROS
        old_price_ids = await self._alerts.old_price_ids(since)
        news = News(since_micros=since, old_price_ids=old_price_ids)
        until = NEVER_MICROS
        terms_of_all = list(self._terms_in(owned))
        for start in range(0, len(terms_of_all), READ_TENANTS_MAX):
            some = terms_of_all[start : start + READ_TENANTS_MAX]
            until = min([until, *(self._next_start(terms, now_micros) for terms in some)])
            await self._compare_some(owned, some, news, now_micros=now_micros)
        if until != NEVER_MICROS:
            until = min(until, now_micros + TO_COME_MICROS)
        checked = Checked(catalog_version=version, until_micros=until)
        if await fenced(owned, lambda place: self._alerts.set_prices_checked(place, checked)):
            self._checked[owned] = checked
        else:
            self._compared.clear()  # What was found may not have been told.

    async def _compare_some(
        self, owned: Owned, some: Sequence[Terms], news: News, *, now_micros: int
    ) -> None:
        due = [
            terms
            for terms in some
            if self._compared.get(terms.tenant_id) is not self._contracts.prices(terms.tenant_id)
        ]
        measures = [self._measure(terms, terms.period_at(now_micros)) for terms in due]
        for terms, periods in zip(due, await self._alerts.charged(measures), strict=True):
            prices = self._contracts.prices(terms.tenant_id)
            told: set[tuple[object, ...]] = set()
            # A change on the first of the month is seen in the usage of the month before.
            for period, charged in periods:
                found = [
                    change
                    for change in changes(charged, prices, news, now_micros=now_micros)
                    if (change.use, change.state) not in told
                ]
                told |= {(change.use, change.state) for change in found}
                if found:
                    await self._tell(owned, self._measure(terms, period), found)
            self._compared[terms.tenant_id] = prices

    async def _tell(self, owned: Owned, measure: Measure, found: Sequence[PriceChange]) -> None:
        now = self._now_micros()
        told = await fenced(
            owned, lambda place: self._alerts.tell_prices(place, measure, found, now_micros=now)
        )
        for repricing in told or ():
            ALERTS.labels(PRICE_CHANGED).inc()
            first = repricing.changes[0]
            log.warning(
                "the price of what a tenant uses changes",
                tenant=repricing.tenant_id,
                provider=first.use.provider,
                model=first.use.model,
                state=first.state.value,
                meters=[change.use.meter for change in repricing.changes],
            )

    def _terms_in(self, owned: Owned) -> Iterator[Terms]:
        for tenant_id in self._tenants():
            terms = self._contracts.terms(tenant_id)
            if terms is not None and self._partitions.of_tenant(tenant_id) is owned:
                yield terms

    def _measure(self, terms: Terms, period: PeriodMicros) -> Measure:
        book = self._contracts.book
        assert book is not None, "its caller has seen it"
        return Measure(
            tenant_id=terms.tenant_id,
            subscription_id=terms.subscription_id,
            period=period,
            thresholds=terms.thresholds,
            currency=book.currency,
        )

    def _next_start(self, terms: Terms, now_micros: int) -> int:
        """Return when the next price that may be the tenant's begins to hold."""
        book = self._contracts.book
        assert book is not None, "its caller has seen it"
        own = [start for start in _starts(terms.negotiated) if start > now_micros]
        return min([self._starts.after(book, now_micros), *own])


class BookStarts:
    """When the prices of the book begin to hold: found once for each book."""

    def __init__(self) -> None:
        self._book: PriceBook | None = None
        self._sorted: list[int] = []

    def after(self, book: PriceBook, at_micros: int) -> int:
        """Return the first instant after another at which a price begins to hold."""
        if book is not self._book:
            self._book, self._sorted = book, sorted(_starts((*book.own, *book.built_in)))
        index = bisect.bisect_right(self._sorted, at_micros)
        return self._sorted[index] if index < len(self._sorted) else NEVER_MICROS


def _starts(lists: Iterable[PriceList]) -> set[int]:
    return {entry.effective_from_micros for prices in lists for entry in prices.entries}
