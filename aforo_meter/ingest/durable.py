"""Where accepted events go: a port, and the outflow behind it.

An event is answered for when a broker has it on all in-sync replicas, or the disk has it.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from aforo_meter.outflow import FullError, Outflow
from aforo_meter.records import Record

# Also what a record is, for the rest of this package: it knows this module alone.
__all__ = ["Durable", "FullError", "OutflowDurable", "Record"]


class Durable(Protocol):
    async def accept(self, records: Sequence[Record]) -> None:
        """Return once the records would survive SIGKILL and a power cut.

        Raises:
            FullError: They would not. Some may be written all the same: their ids tell.
        """


class OutflowDurable:
    """Waits for an outflow no longer than a client waits for us."""

    def __init__(self, outflow: Outflow, *, timeout_ms: int) -> None:
        self._outflow = outflow
        self._timeout_s = timeout_ms / 1000

    async def accept(self, records: Sequence[Record]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._outflow.accept(records)
        except TimeoutError:
            # Held, and sent when Kafka is back: the repeats of the client count for nothing then.
            raise FullError("neither kafka nor a spool took them in time") from None
