"""Alerts that no single charge makes: quotas used up, usage without a price, new prices.

Each look compares what is in the ledger with what was told, and tells the difference:
so a crash in between loses nothing and repeats nothing. A tenant's alerts are left by the owner of
its partition alone. Lives in one event loop.
"""

import bisect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from prometheus_client import Counter

from aforo_meter.alerting_sql import Measure, SqlAlerts
from aforo_meter.alerts import (
    PRICE_CHANGED,
    QUOTA_REACHED,
    USAGE_UNPRICED,
    Alert,
    QuotaReached,
    quota_alert,
)
from aforo_meter.contracts import Contracts
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.price_changes import News, PriceChange, changes
from aforo_meter.domain.prices import PriceBook, PriceList, Prices
from aforo_meter.domain.terms import Terms
from aforo_meter.ledger import PartitionLostError, Place, Standing
from aforo_meter.partitions import Owned, Partitions
from aforo_meter.publish import queries_of

# A new price by which somebody was charged for longer than this is no news: a consumer that comes
# with this version, or after a long pause, does not tell of old times.
NEWS_MICROS: Final = 24 * HOUR_MICROS
TENANTS_MAX: Final = 200  # In one transaction.
TOLD_MAX: Final = 100_000  # Message ids that are remembered, so that they are not left again.
NEVER_MICROS: Final = 2**63 - 1

ALERTS = Counter("aforo_consume_alerts_total", "Alerts that were left, by kind.", ["kind"])

T = TypeVar("T")

log = structlog.get_logger()


class ReachedQuotas:
    """Hears how tenants stand, as their margins are published, and keeps what is to be told."""

    def __init__(self, thresholds_bp: Sequence[int]) -> None:
        self._thresholds_bp = sorted(set(thresholds_bp))
        self._told: set[str] = set()
        self._waiting: dict[str, tuple[str, Alert]] = {}  # By message id; with the tenant.

    def note(self, standing: Standing, terms: Terms, now_micros: int) -> None:
        quotas = {quota.quota_id: quota for quota in terms.quotas}
        for query in queries_of(terms, now_micros=now_micros):
            quota, used_units = quotas[query.quota_id], standing.used_units[query.quota_id]
            for threshold_bp in quota.reached_bp(used_units, self._thresholds_bp):
                reached = QuotaReached(
                    tenant_id=standing.tenant_id,
                    subscription_id=standing.subscription_id,
                    quota=quota,
                    window=query.window,
                    threshold_bp=threshold_bp,
                    used_units=used_units,
                    currency=standing.currency,
                    as_of_micros=now_micros,
                )
                alert = quota_alert(reached)
                if alert.message_id not in self._told:
                    self._waiting.setdefault(alert.message_id, (standing.tenant_id, alert))

    def waiting(self) -> Sequence[tuple[str, Alert]]:
        return list(self._waiting.values())

    def told(self, alerts: Iterable[tuple[str, Alert]]) -> None:
        if len(self._told) >= TOLD_MAX:
            self._told.clear()  # The outbox knows them still.
        for _, alert in alerts:
            self._told.add(alert.message_id)
            self._waiting.pop(alert.message_id, None)


@dataclass(frozen=True, slots=True)
class Checked:
    """The prices that a tenant's usage was compared with, and until when that says all."""

    prices: Prices
    until_micros: int


class Alerting:
    """Looks for what is to be told, each kind at its own pace.

    Args:
        alerts: Where it is left.
        contracts: Terms and prices.
        partitions: Those of this consumer.
        reached: What of quotas is to be told.
        tenants: Whom this consumer follows.
        now_micros: The clock.
    """

    def __init__(
        self,
        alerts: SqlAlerts,
        contracts: Contracts,
        partitions: Partitions,
        reached: ReachedQuotas,
        *,
        tenants: Callable[[], Sequence[str]],
        now_micros: Callable[[], int],
    ) -> None:
        self._alerts = alerts
        self._contracts = contracts
        self._partitions = partitions
        self._reached = reached
        self._tenants = tenants
        self._now_micros = now_micros
        self._checked: dict[str, Checked] = {}
        self._book: PriceBook | None = None
        self._book_starts: list[int] = []

    async def tell_quotas(self) -> None:
        """Tell of quotas that were used up to a threshold.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        waiting = self._reached.waiting()
        by_tenant: dict[str, list[tuple[str, Alert]]] = {}
        for tenant_id, alert in waiting:
            by_tenant.setdefault(tenant_id, []).append((tenant_id, alert))
        for owned, names in self._by_partition(by_tenant):
            some = [one for name in names for one in by_tenant[name]]

            async def leave(place: Place, some: Sequence[tuple[str, Alert]] = some) -> int:
                return await self._alerts.leave(place, some, now_micros=self._now_micros())

            ALERTS.labels(QUOTA_REACHED).inc(await fenced(owned, leave) or 0)
        # What is another consumer's by now, that one tells.
        self._reached.told(waiting)

    async def tell_unpriced(self) -> None:
        """Tell of usage that waits for a price.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        for owned, names in self._by_partition(await self._alerts.unpriced_changes()):
            now = self._now_micros()
            told = await fenced(
                owned,
                lambda place, names=names, now=now: self._alerts.tell_unpriced(  # type: ignore[misc]
                    place, names, now_micros=now
                ),
            )
            for one in told or ():
                ALERTS.labels(USAGE_UNPRICED).inc()
                log.warning("usage has no price", tenant=one.tenant_id, **one.use._asdict())

    async def tell_prices(self) -> None:
        """Tell of new prices for what tenants use.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        news: News | None = None
        for tenant_id in self._tenants():
            now, terms = self._now_micros(), self._contracts.terms(tenant_id)
            if terms is None or self._contracts.book is None:
                continue
            prices = self._contracts.prices(tenant_id)
            checked = self._checked.get(tenant_id)
            if checked and checked.prices is prices and now < checked.until_micros:
                continue
            owned = self._partitions.of_tenant(tenant_id)
            if owned is None:
                continue
            if news is None:
                since = now - NEWS_MICROS
                ids = await self._alerts.old_price_ids(since)
                news = News(since_micros=since, old_price_ids=ids)
            await self._compare_prices(owned, terms, prices, news, now_micros=now)
            self._checked[tenant_id] = Checked(prices, self._next_start(terms, now))

    async def _compare_prices(
        self, owned: Owned, terms: Terms, prices: Prices, news: News, *, now_micros: int
    ) -> None:
        told: set[tuple[object, ...]] = set()
        for measure in await self._measures(terms, now_micros):
            charged = await self._alerts.charged(measure)
            # A change on the first of the month is seen in the usage of the month before.
            found = [
                change
                for change in changes(charged, prices, news, now_micros=now_micros)
                if (change.use, change.state) not in told
            ]
            told |= {(change.use, change.state) for change in found}
            if found:
                await self._tell_price(owned, measure, found)

    async def _tell_price(
        self, owned: Owned, measure: Measure, found: Sequence[PriceChange]
    ) -> None:
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

    async def _measures(self, terms: Terms, now_micros: int) -> Sequence[Measure]:
        """Return the tenant's period, and the one before it that the ledger has."""
        book = self._contracts.book
        assert book is not None, "its caller has seen it"

        def of(period: PeriodMicros) -> Measure:
            return Measure(
                tenant_id=terms.tenant_id,
                subscription_id=terms.subscription_id,
                period=period,
                thresholds=terms.thresholds,
                currency=book.currency,
            )

        current = of(terms.period_at(now_micros))
        former = await self._alerts.former_period(current)
        return [current] if former is None else [current, of(former)]

    def _next_start(self, terms: Terms, now_micros: int) -> int:
        """Return when the next price of the tenant's book begins to hold."""
        book = self._contracts.book
        assert book is not None, "its caller has seen it"
        if book is not self._book:
            self._book, self._book_starts = book, sorted(_starts((*book.own, *book.built_in)))
        index = bisect.bisect_right(self._book_starts, now_micros)
        own = [start for start in _starts(terms.negotiated) if start > now_micros]
        return min([*self._book_starts[index : index + 1], *own, NEVER_MICROS])

    def _by_partition(self, tenant_ids: Iterable[str]) -> Iterable[tuple[Owned, Sequence[str]]]:
        """Yield this consumer's of these tenants, by partition, as many as fit a transaction."""
        found: dict[Owned, list[str]] = {}
        for tenant_id in sorted(tenant_ids):
            owned = self._partitions.of_tenant(tenant_id)
            if owned is not None:
                found.setdefault(owned, []).append(tenant_id)
        for owned, names in found.items():
            for start in range(0, len(names), TENANTS_MAX):
                yield owned, names[start : start + TENANTS_MAX]


async def fenced(owned: Owned, work: Callable[[Place], Awaitable[T]]) -> T | None:
    """Do some work for a partition at its place; None if it is not ours any more."""
    async with owned.lock:
        if owned.is_revoked:
            return None
        try:
            return await work(owned.place)
        except PartitionLostError as error:
            owned.displaced(error)
            return None


def _starts(lists: Iterable[PriceList]) -> set[int]:
    return {entry.effective_from_micros for prices in lists for entry in prices.entries}
