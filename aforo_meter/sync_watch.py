"""Tells of a sync that stands still: changes of the catalog do not arrive any more."""

from collections.abc import Callable
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from aforo_meter.alerting import ALERTS, fenced
from aforo_meter.alerting_sql import SqlAlerts
from aforo_meter.alerts import NOBODY, SYNC_STALE, sync_alert
from aforo_meter.contracts import SYNC_KEY, synced_at_micros
from aforo_meter.ledger import Partition
from aforo_meter.partitions import Partitions

FIRST: Final = 0  # The partition whose owner tells of what is about no tenant.

log = structlog.get_logger()


class SyncWatch:
    """Tells of a sync that stands still. The owner of the topic's first partition does."""

    def __init__(
        self,
        redis: Redis,
        alerts: SqlAlerts,
        partitions: Partitions,
        *,
        topic: str,
        stale_after_s: int,
        now_micros: Callable[[], int],
    ) -> None:
        self._redis = redis
        self._alerts = alerts
        self._partitions = partitions
        self._first = Partition(topic, FIRST)
        self._stale_after_s = stale_after_s
        self._now_micros = now_micros
        self._told_micros = 0  # Of which pass it was told that it is the last one.

    async def look(self) -> None:
        """Look how old the last complete sync is.

        Raises:
            RedisError, OSError: Redis does not answer: then it is not known.
            LedgerUnavailableError: The ledger does not answer.
        """
        owned = self._partitions.get(self._first)
        if owned is None:
            return
        said: Any = await self._redis.get(SYNC_KEY)
        completed_micros = synced_at_micros(said)
        now = self._now_micros()
        if completed_micros is None or completed_micros == self._told_micros:
            return
        if now - completed_micros <= self._stale_after_s * 1_000_000:
            return
        alert = sync_alert(
            completed_at_micros=completed_micros,
            stale_after_s=self._stale_after_s,
            now_micros=now,
        )
        left = await fenced(
            owned, lambda place: self._alerts.leave(place, [(NOBODY, alert)], now_micros=now)
        )
        if left is None:
            return
        self._told_micros = completed_micros
        ALERTS.labels(SYNC_STALE).inc(left)
        log.error("sync stands still", completed_at_micros=completed_micros)
