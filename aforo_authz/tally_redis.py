"""Writes the tally to Redis each second: totals, so that what was written twice counts once."""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from aforo_authz.read_model import decisions_field, decisions_key, processes_key
from aforo_authz.redis_link import Failure, RedisAnswerError
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.tally import Tally, Total

log = structlog.get_logger(__name__)

EVERY_S = 1.0
WRITE_S_MAX = 1.0
BATCH_MAX = 100  # Totals in one go: putting them together keeps the loop busy for 0.2 ms.
KEPT_S = 3 * 86_400  # How long a reader may take to compare an hour with the log.


class TallyWriter:
    """Keeps Redis' figures as fresh as a second. What can't be written is written later.

    Args:
        tally: Where calls are counted.
        nodes: Where totals go.
        observe: Told of what Redis took, for the metrics: (purpose, seconds, failure).
    """

    def __init__(
        self,
        tally: Tally,
        nodes: RedisNodes,
        *,
        observe: Callable[[str, float, Failure | None], None],
    ) -> None:
        self._tally = tally
        self._nodes = nodes
        self._observe = observe
        # The last flush of a process may meet the one of the second: totals are written by one of
        # them at a time, since both may find that it is time to begin anew.
        self._flushing = asyncio.Lock()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what has changed, in batches, as long as Redis takes it."""
        async with self._flushing:
            self._tally.gather()
            while totals := self._tally.take(BATCH_MAX):
                started_s = time.perf_counter()
                failure = await self._write(totals)
                self._observe("tally", time.perf_counter() - started_s, failure)
                if failure is not None:
                    return

    async def _write(self, totals: Sequence[Total]) -> Failure | None:
        by_hour: dict[int, list[str | int]] = {}
        for hour_s, tenant_id, features, outcome, decisions in totals:
            pairs = by_hour.setdefault(hour_s, [])
            pairs += (decisions_field(tenant_id, outcome, features), decisions)
        asked: list[tuple[str | int, ...]] = []
        for hour_s, pairs in by_hour.items():
            key, names = decisions_key(hour_s, self._tally.instance), processes_key(hour_s)
            asked += (("SADD", names, self._tally.instance), ("EXPIREAT", names, hour_s + KEPT_S))
            asked += (("HSET", key, *pairs), ("EXPIREAT", key, hour_s + KEPT_S))
        failure: RedisAnswerError | None = None
        try:
            answers = await self._nodes.ask_all(asked, budget_s=WRITE_S_MAX)
            failure = next((a for a in answers if isinstance(a, RedisAnswerError)), None)
        except RedisAnswerError as error:
            failure = error
        except BaseException:
            self._tally.give_back(totals)
            raise
        if failure is None:
            self._tally.written(totals)
            return None
        self._tally.give_back(totals)
        log.debug("totals of decisions were not written", totals=len(totals), error=str(failure))
        return failure.failure
