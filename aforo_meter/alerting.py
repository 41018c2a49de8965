"""Alerts that no single charge makes: quotas that are used up, usage without a price.

Each look compares what is in the ledger with what was told, and tells the difference: so a crash
in between loses nothing and repeats nothing. Of windows that have ended these are those that had
usage lately; after a start, those of the last hour. A tenant's alerts are left by the owner of its
partition alone. All of it lives in one event loop.
"""

import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

import structlog
from prometheus_client import Counter

from aforo_meter.alerting_sql import SqlAlerts
from aforo_meter.alerts import (
    QUOTA_REACHED,
    USAGE_UNPRICED,
    Alert,
    QuotaReached,
    quota_alert,
)
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.quotas import Quota
from aforo_meter.domain.terms import Terms
from aforo_meter.ledger import PartitionLostError, Place, Standing, UsageQuery
from aforo_meter.partitions import Owned, Partitions
from aforo_meter.publish import queries_of

TENANTS_MAX: Final = 200  # In one transaction.
WINDOWS_MAX: Final = 200  # In one question to the ledger.
TOLD_MAX: Final = 100_000  # What is remembered as told, so that it is not left again and again.

ALERTS = Counter("aforo_consume_alerts_total", "Alerts that were left, by kind.", ["kind"])

T = TypeVar("T")

log = structlog.get_logger()


class Noted(NamedTuple):
    """What is to be told of a quota, and by what it is known."""

    key: tuple[object, ...]
    tenant_id: str
    alert: Alert


class QuotaWindow(NamedTuple):
    """One window of a tenant's quota."""

    tenant_id: str
    subscription_id: str
    quota: Quota
    query: UsageQuery
    currency: str


class ReachedQuotas:
    """Hears how tenants stand, as their margins are published, and keeps what is to be told.

    Usage may be heard of after its window's end: that of a day's last second, or of a backlog.
    """

    def __init__(self, thresholds_bp: Sequence[int]) -> None:
        self._thresholds_bp = sorted(set(thresholds_bp))
        self._told: set[tuple[object, ...]] = set()
        self._waiting: dict[tuple[object, ...], Noted] = {}
        self._ended: dict[tuple[object, ...], QuotaWindow] = {}  # With usage: to be asked about.
        self._known: set[str] = set()  # Tenants that were heard of.

    def note(
        self, standing: Standing, terms: Terms, hours: Collection[int], now_micros: int
    ) -> None:
        """Hear how a tenant stands now, and in which hours it has used something."""
        if not terms.quotas or not self._thresholds_bp:
            return
        if standing.tenant_id not in self._known:
            # Whoever had it before may have ended between its last usage and its last look.
            self._known.add(standing.tenant_id)
            hours = {*hours, now_micros - now_micros % HOUR_MICROS - HOUR_MICROS}
        quotas = {quota.quota_id: quota for quota in terms.quotas}
        whose = (standing.tenant_id, standing.subscription_id)
        for query in ended_queries(terms, hours, now_micros=now_micros):
            self.ask([QuotaWindow(*whose, quotas[query.quota_id], query, standing.currency)])
        for query in queries_of(terms, now_micros=now_micros):
            one = QuotaWindow(*whose, quotas[query.quota_id], query, standing.currency)
            self.reached(one, standing.used_units[query.quota_id], now_micros)

    def reached(self, one: QuotaWindow, used_units: int, now_micros: int) -> None:
        """Hear how much of a quota was used in a window."""
        quota, window = one.quota, one.query.window
        for threshold_bp in quota.reached_bp(used_units, self._thresholds_bp):
            key = (
                *(one.tenant_id, one.subscription_id, quota.quota_id),
                *(window.start_micros, quota.limit_units, threshold_bp),
            )
            if key in self._told or key in self._waiting:
                continue
            reached = QuotaReached(
                tenant_id=one.tenant_id,
                subscription_id=one.subscription_id,
                quota=quota,
                window=window,
                threshold_bp=threshold_bp,
                used_units=used_units,
                currency=one.currency,
                as_of_micros=now_micros,
            )
            self._waiting[key] = Noted(key, one.tenant_id, quota_alert(reached))

    def ask(self, some: Iterable[QuotaWindow]) -> None:
        """Keep windows that the ledger is to be asked about."""
        for one in some:
            key = (one.tenant_id, one.subscription_id, one.quota.quota_id)
            self._ended[(*key, one.query.window.start_micros)] = one

    def take_asked(self, count_max: int) -> Sequence[QuotaWindow]:
        """Take out windows that the ledger is to be asked about."""
        keys = list(itertools.islice(self._ended, count_max))
        return [self._ended.pop(key) for key in keys]

    def waiting(self) -> Sequence[Noted]:
        return list(self._waiting.values())

    def told(self, some: Iterable[Noted]) -> None:
        if len(self._told) >= TOLD_MAX:
            self._told.clear()  # The outbox knows them still.
        self._told.update(one.key for one in some)

    def drop(self, some: Iterable[Noted]) -> None:
        """Let go of what was told, or is another consumer's; else it is heard of again."""
        for one in some:
            self._waiting.pop(one.key, None)


def ended_queries(terms: Terms, hours: Iterable[int], *, now_micros: int) -> Iterable[UsageQuery]:
    """Yield what to ask about the windows of some hours that have ended by now.

    Those that ended before the contract said what it says now are left out: what their quotas
    were is not known any more.
    """
    begun = [p.effective_from_micros for p in terms.dated_phases()]
    since_micros = max((at for at in begun if at <= now_micros), default=now_micros)
    found: set[tuple[str, int]] = set()
    # A billing period may begin within an hour.
    for at_micros in {at for hour in hours for at in (hour, hour + HOUR_MICROS - 1)}:
        for query in queries_of(terms, now_micros=at_micros):
            name = (query.quota_id, query.window.start_micros)
            if since_micros < query.window.end_micros <= now_micros and name not in found:
                found.add(name)
                yield query


class Alerting:
    """Looks for what is to be told of a tenant's usage.

    Args:
        alerts: Where it is left.
        partitions: Those of this consumer.
        reached: What of quotas is to be told.
        now_micros: The clock.
    """

    def __init__(
        self,
        alerts: SqlAlerts,
        partitions: Partitions,
        reached: ReachedQuotas,
        *,
        now_micros: Callable[[], int],
    ) -> None:
        self._alerts = alerts
        self._partitions = partitions
        self._reached = reached
        self._now_micros = now_micros

    async def tell_quotas(self) -> None:
        """Tell of quotas that were used up to a threshold.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        while some := self._reached.take_asked(WINDOWS_MAX):
            await self._ask(some)
        waiting = self._reached.waiting()
        by_tenant: dict[str, list[Noted]] = {}
        for one in waiting:
            by_tenant.setdefault(one.tenant_id, []).append(one)
        for owned, names in self._by_partition(by_tenant):
            await self._tell_quotas(owned, [one for name in names for one in by_tenant[name]])
        self._reached.drop(waiting)

    async def _ask(self, some: Sequence[QuotaWindow]) -> None:
        """Ask how much was used in windows that have ended."""
        try:
            used_units = await self._alerts.used(
                [(one.tenant_id, one.subscription_id, one.query) for one in some]
            )
        except BaseException:
            self._reached.ask(some)
            raise
        for one, used in zip(some, used_units, strict=True):
            self._reached.reached(one, used, self._now_micros())

    async def _tell_quotas(self, owned: Owned, some: Sequence[Noted]) -> None:
        alerts = [(one.tenant_id, one.alert) for one in some]
        now = self._now_micros()
        left = await fenced(owned, lambda place: self._alerts.leave(place, alerts, now_micros=now))
        if left is not None:
            self._reached.told(some)
            ALERTS.labels(QUOTA_REACHED).inc(left)

    async def tell_unpriced(self) -> None:
        """Tell of usage that waits for a price.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        for owned, names in self._by_partition(await self._alerts.unpriced_changes()):
            await self._tell_unpriced(owned, names)

    async def _tell_unpriced(self, owned: Owned, names: Sequence[str]) -> None:
        now = self._now_micros()
        told = await fenced(
            owned, lambda place: self._alerts.tell_unpriced(place, names, now_micros=now)
        )
        for one in told or ():
            ALERTS.labels(USAGE_UNPRICED).inc()
            log.warning("usage has no price", tenant=one.tenant_id, **one.use._asdict())

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
