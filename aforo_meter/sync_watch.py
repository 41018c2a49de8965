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
        self._last_micros: int | None = None  # When the last complete pass that we know of ended.
        self._unknown_since_micros: int | None = None  # No pass was known when we began to look.
        self._told_micros: int | None = None  # Since when it was told that it stands still.

    async def look(self) -> None:
        """Look how old the last complete sync is.

        A Redis that was emptied names none: then it is the last that we know of, or for as long as
        we look there was none.

        Raises:
            RedisError, OSError: Redis does not answer: then it is not known.
            LedgerUnavailableError: The ledger does not answer.
        """
        owned = self._partitions.get(self._first)
        if owned is None:
            return
        said: Any = await self._redis.get(SYNC_KEY)
        now = self._now_micros()
        since_micros = self._still_since(synced_at_micros(said), now)
        if since_micros == self._told_micros:
            return
        if now - since_micros <= self._stale_after_s * 1_000_000:
            return
        alert = sync_alert(
            since_micros=since_micros,
            stale_after_s=self._stale_after_s,
            now_micros=now,
            is_known=self._last_micros is not None,
        )
        left = await fenced(
            owned, lambda place: self._alerts.leave(place, [(NOBODY, alert)], now_micros=now)
        )
        if left is None:
            return
        self._told_micros = since_micros
        ALERTS.labels(SYNC_STALE).inc(left)
        log.error("sync stands still", completed_at_micros=self._last_micros)

    def _still_since(self, completed_micros: int | None, now_micros: int) -> int:
        """Return since when the sync has not ended a pass, as far as is known."""
        if completed_micros is not None:
            self._last_micros = completed_micros
        if self._last_micros is not None:
            return self._last_micros
        if self._unknown_since_micros is None:
            self._unknown_since_micros = now_micros
        return self._unknown_since_micros
