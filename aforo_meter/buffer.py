"""Records on their way to Kafka, held in memory within bounds. It writes nothing."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    topic: str
    key: bytes | None
    value: bytes


class Buffer:
    """A queue that counts what was taken as held until it is released.

    The bounds are asked for before reading on, not when adding: what has been read has nowhere else
    to go, so the records of one message may exceed them.
    """

    def __init__(self, *, records_max: int, bytes_max: int) -> None:
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._waiting: deque[Record] = deque()
        self._held_bytes = 0
        self._held = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._room = asyncio.Event()
        self._emptied.set()
        self._room.set()

    @property
    def held(self) -> int:
        """Records added and not yet released."""
        return self._held

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    @property
    def has_room(self) -> bool:
        return self._held < self._records_max and self._held_bytes < self._bytes_max

    def add(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self._waiting.extend(records)
        self._held += len(records)
        self._held_bytes += sum(len(record.value) for record in records)
        self._filled.set()
        self._emptied.clear()
        if not self.has_room:
            self._room.clear()

    async def room(self) -> None:
        """Wait until there is room for more."""
        await self._room.wait()

    async def emptied(self) -> None:
        """Wait until nothing is held."""
        await self._emptied.wait()

    async def take(self, count_max: int) -> list[Record]:
        """Wait for records and return the oldest; they are held until released."""
        await self._filled.wait()
        taken = [self._waiting.popleft() for _ in range(min(count_max, len(self._waiting)))]
        if not self._waiting:
            self._filled.clear()
        return taken

    def release(self, records: Sequence[Record]) -> None:
        """Let go of records that are written, or given up and counted."""
        self._held -= len(records)
        self._held_bytes -= sum(len(record.value) for record in records)
        if self._held == 0:
            self._emptied.set()
        if self.has_room:
            self._room.set()
