"""How old events may be: what is set, but no older than the ledger tells repeats of."""

import asyncio
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from aforo_meter.ingest.redis_link import RedisAwayError, RedisLink
from aforo_meter.ledger import INGEST_IDS_DAYS_MIN
from aforo_proto import margin_pb2

CONSUMED_KEY: Final = "aforo:v1:consumed:0"  # There is always a first partition.
POLL_S: Final = 1.0

log = structlog.get_logger()


class Ages:
    """Lives in one event loop.

    Args:
        link: Redis, where consume says how long the ledger knows ids.
        days_set: How old events may be at most.
    """

    def __init__(self, link: RedisLink, days_set: int) -> None:
        self._link = link
        self._days_set = days_set
        self._ids_days = INGEST_IDS_DAYS_MIN  # As long as consume has not told.
        self._warn()

    @property
    def days_max(self) -> int:
        return min(self._days_set, self._ids_days - 1)

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Look once. An emptied Redis, or a consume that does not tell, takes nothing back."""
        try:
            (value,) = await self._link.ask(("GET", CONSUMED_KEY))
            told_days = margin_pb2.ConsumeState.FromString(value or b"").ingest_ids_days
        except (RedisAwayError, DecodeError):
            return
        if told_days >= INGEST_IDS_DAYS_MIN and told_days != self._ids_days:
            self._ids_days = told_days
            log.info("the ledger knows ids of events", days=told_days, taken_days=self.days_max)
            self._warn()

    def _warn(self) -> None:
        if self.days_max < self._days_set:
            log.warning(
                "older events are refused: repeats of them would count twice",
                set_days=self._days_set,
                taken_days=self.days_max,
                remedy="AFORO_METER_CONSUME_INGEST_IDS_DAYS has to be at least a day more",
            )
