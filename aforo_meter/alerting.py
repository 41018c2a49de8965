"""Alerts that no single charge makes: quotas that are used up, usage without a price.

Each look compares what is in the ledger with what was told, and tells the difference:
so a crash in between loses nothing and repeats nothing. A tenant's alerts are left by the owner of
its partition alone. Lives in one event loop.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

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
from aforo_meter.domain.terms import Terms
from aforo_meter.ledger import PartitionLostError, Place, Standing
from aforo_meter.partitions import Owned, Partitions
from aforo_meter.publish import queries_of

TENANTS_MAX: Final = 200  # In one transaction.
TOLD_MAX: Final = 100_000  # Message ids that are remembered, so that they are not left again.

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
