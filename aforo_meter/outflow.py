"""Records on their way to Kafka: written to a spool first, held, let go when Kafka has them.

What is held is one line, oldest first: a head in memory, from which Kafka's writer takes; then what
is only on disk; then, if the disk takes nothing, a tail in memory. Without a spool all of it is
memory.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog

from aforo_meter.records import Record
from aforo_meter.segments import sync_all
from aforo_meter.spool import Spool, SpoolFullError

RETRY_S: Final = 1.0  # After the disk took nothing.
CHECKPOINT_S: Final = 0.1
# What `accept` waits for is nearly always in Kafka by then, and the disk need not be asked.
KAFKA_FIRST_S: Final = 0.05

log = structlog.get_logger()


class FullError(Exception):
    """Nothing more can be held: Kafka takes nothing, and spool and memory are full."""


class Chunk:
    """Records that came together."""

    __slots__ = ("in_memory", "mark", "records", "size")

    def __init__(self, records: Sequence[Record], size: int) -> None:
        self.records = records
        self.size = size
        self.mark: int | None = None  # The spool's ordinal behind them; None: not in the spool.
        self.in_memory = False


class Group:
    """What a writer has taken, and has to release."""

    __slots__ = ("chunks", "records")

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = chunks
        self.records = [record for chunk in chunks for record in chunk.records]


class Outflow:
    """Takes records from many, gives them to one writer. Lives in one event loop.

    Bounds are asked for before reading on, not when adding: what has been read has nowhere else to
    go, so that the records of one message may exceed them.

    Args:
        spool: Where records are written first. Without one, they are in memory only.
        records_max: How many records memory may hold.
        bytes_max: How large they may be together.
        sync_s: How soon the disk itself has what Kafka has not, for power cuts.
    """

    def __init__(
        self, spool: Spool | None, *, records_max: int, bytes_max: int, sync_s: float = 1.0
    ) -> None:
        self._spool = spool
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._sync_s = sync_s
        self._head: deque[Chunk] = deque()
        self._tail: deque[Chunk] = deque()
        self._unspooled: deque[Chunk] = deque()  # Those of head and tail that the disk lacks.
        self._memory_records = 0
        self._memory_bytes = 0
        # Of this process's records and those found in the spool: how many came, how many Kafka
        # has, how many the disk has. All three follow the order of the line.
        self._added = self._synced = spool.kept if spool else 0
        self._released = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._retry_at_s = 0.0
        self._checkpoint_at_s = 0.0
        self._sync_wanted = asyncio.Event()
        self._syncing: asyncio.Future[None] | None = None
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._room = asyncio.Event()
        self.flowing = False  # The writer's word: does Kafka take records?
        self.spool_failing = False
        self.spool_errors = 0
        self.lost = 0
        self._room.set()
        (self._filled if self._added else self._emptied).set()

    # --- For those who bring records -------------------------------------------------------------

    @property
    def spool(self) -> Spool | None:
        return self._spool

    @property
    def held(self) -> int:
        """Records that Kafka does not have yet, in memory or on disk."""
        return self._added - self._released

    @property
    def held_bytes(self) -> int:
        """The size of those that are in memory."""
        return self._memory_bytes

    @property
    def unprotected(self) -> int:
        """Records that would be lost with this process."""
        return self.held - (self._spool.kept if self._spool else 0)

    @property
    def has_room(self) -> bool:
        """May more be read? As long as the spool takes records, what memory holds is no bound."""
        return (self._spool is not None and not self.spool_failing) or self._memory_has(1)

    async def room(self) -> None:
        """Wait until there is room for more."""
        await self._room.wait()

    def add(self, records: Sequence[Record]) -> None:
        """Hold records. On return they are in the spool, if it takes them."""
        if not records:
            return
        size = 0
        for record in records:
            size += len(record[2])
        chunk = Chunk(records, size)
        self._added += len(records)
        behind_disk = False
        if self._spool is not None:
            behind_disk = self._spool.unread > 0 or bool(self._tail)
            self._unspooled.append(chunk)
            self._spool_unspooled()
        if chunk.mark is None:
            (self._tail if behind_disk else self._head).append(chunk)
            self._remember(chunk)
        elif not behind_disk and self._memory_has(1 / 2):
            # The other half is for what the disk may not take.
            assert self._spool is not None, "it has a mark"
            self._spool.skip()
            self._head.append(chunk)
            self._remember(chunk)
        self._filled.set()
        self._emptied.clear()
        self._say_room()

    async def accept(self, records: Sequence[Record]) -> None:
        """Hold records, and return when neither SIGKILL nor a power cut would lose them.

        Either Kafka has them by then, or the disk itself. Without a spool only Kafka counts, and
        this may take as long as Kafka is away. A caller who is cancelled leaves them held.

        Raises:
            FullError: There is no room. Nothing was held.
        """
        if not self.has_room:
            raise FullError(f"{self.held} records wait for kafka, and there is room for no more")
        if not records:
            return
        self.add(records)
        saved = asyncio.get_running_loop().create_future()
        self._waiting.append((self._added, saved))
        if self._spool is not None:
            if self.flowing:
                await asyncio.wait([saved], timeout=KAFKA_FIRST_S)
            if not saved.done():
                self._sync_wanted.set()
        await saved

    async def emptied(self) -> None:
        """Wait until nothing is held."""
        await self._emptied.wait()

    # --- For the one writer ----------------------------------------------------------------------

    async def take(self, records_max: int) -> Group:
        """Wait for records and return the oldest; they are held until released.

        What was taken is to be released before more is taken.
        """
        while not self._head:
            await self._filled.wait()
            self._refill(records_max)
        chunks = []
        count = 0
        while self._head and count < records_max:
            chunk = self._head.popleft()
            chunks.append(chunk)
            count += len(chunk.records)
        self._say_filled()
        return Group(chunks)

    def release(self, group: Group) -> None:
        """Let go of records that Kafka has, or that were given up and counted."""
        for chunk in group.chunks:
            self._released += len(chunk.records)
            self._memory_records -= len(chunk.records)
            self._memory_bytes -= chunk.size
            if self._spool is None:
                continue
            if chunk.mark is None:
                self._unspooled.popleft()
            else:
                self._spool.acknowledge(chunk.mark)
                self._retry_at_s = 0.0
        self._checkpoint()
        if self._unspooled:
            self._spool_unspooled()
        self._say_saved()
        self._say_room()
        if not self.held:
            self._emptied.set()

    # --- The disk --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring to the disk itself what Kafka does not take soon, until cancelled."""
        spool = self._spool
        if spool is None:
            await asyncio.Event().wait()
            return
        seen = spool.end
        while True:
            with contextlib.suppress(TimeoutError):
                # Half of it: a record may have come right after the last look.
                await asyncio.wait_for(self._sync_wanted.wait(), self._sync_s / 2)
            wanted = self._sync_wanted.is_set()
            self._sync_wanted.clear()
            if self._unspooled:
                self._spool_unspooled()
                self._say_room()
            self._checkpoint()
            waits = spool.acknowledged < seen and spool.synced < spool.end
            if wanted or waits:
                await self._sync(spool)
            seen = spool.end

    async def close(self) -> None:
        """Bring everything to the disk and let go of the spool's directory."""
        if self._spool is None:
            return
        if self._syncing is not None:  # Its owner was cancelled; the thread goes on.
            await asyncio.wait([self._syncing])
            self._spool.end_sync(None)
        self._retry_at_s = 0.0
        self._spool_unspooled()
        await self._sync(self._spool)
        self._spool.close()

    async def _sync(self, spool: Spool) -> None:
        count = self._added - self.unprotected
        upto, fds = spool.begin_sync()
        self._syncing = asyncio.ensure_future(asyncio.to_thread(sync_all, fds))
        try:
            await asyncio.shield(self._syncing)
        except OSError as error:
            spool.end_sync(None)
            self._spool_failed(error)
        else:
            if spool.end_sync(upto):
                self._synced = max(self._synced, count)
                self._say_saved()
        self._syncing = None

    def _spool_unspooled(self) -> None:
        """Write to the spool what is in memory only, oldest first, as far as the disk takes it."""
        assert self._spool is not None, "called with a spool only"
        if self.spool_failing and time.monotonic() < self._retry_at_s:
            return
        while self._unspooled:
            chunk = self._unspooled[0]
            try:
                self._spool.append(chunk.records)
            except (OSError, SpoolFullError) as error:
                self._spool_failed(error)
                return
            self._unspooled.popleft()
            chunk.mark = self._spool.end
            if self._tail and self._tail[0] is chunk:  # Now it is one of those on disk.
                self._tail.popleft()
                self._memory_records -= len(chunk.records)
                self._memory_bytes -= chunk.size
            elif chunk.in_memory:
                self._spool.skip()
        if self.spool_failing:
            self.spool_failing = False
            log.info("the spool takes records again", held=self.held)

    def _spool_failed(self, error: Exception) -> None:
        self.spool_errors += 1
        self._retry_at_s = time.monotonic() + RETRY_S
        if self.spool_failing:
            return
        self.spool_failing = True
        why = "it is full" if isinstance(error, SpoolFullError) else str(error)
        log.error(
            "the spool takes no more; what comes is in memory only, and not read when that is full",
            error=why,
            held=self.held,
        )

    def _checkpoint(self) -> None:
        if self._spool is None or (now_s := time.monotonic()) < self._checkpoint_at_s:
            return
        self._checkpoint_at_s = now_s + CHECKPOINT_S
        try:
            self._spool.checkpoint()
        except OSError as error:  # Records would be sent twice after a restart, no more than that.
            self.spool_errors += 1
            log.debug("no checkpoint", error=str(error))

    # --- The line --------------------------------------------------------------------------------

    def _refill(self, records_max: int) -> None:
        """Bring what comes next into the empty head."""
        spool = self._spool
        if spool is not None and spool.unread:
            records, damaged = spool.read(records_max=records_max)
            if damaged:
                self._lose(damaged)
                spool.acknowledge(spool.end - spool.unread - len(records))
            if records:
                chunk = Chunk(records, sum(len(record.value) for record in records))
                chunk.mark = spool.end - spool.unread
                self._head.append(chunk)
                self._remember(chunk)
                return
        self._head, self._tail = self._tail, self._head
        self._say_filled()

    def _lose(self, count: int) -> None:
        """Count records of a damaged segment: they are held no longer, and Kafka has them not."""
        self.lost += count
        self._released += count
        log.error("lost: records of the spool that can't be read", count=count)
        if not self.held:
            self._emptied.set()

    def _remember(self, chunk: Chunk) -> None:
        chunk.in_memory = True
        self._memory_records += len(chunk.records)
        self._memory_bytes += chunk.size

    def _memory_has(self, share: float) -> bool:
        """Is less than this share of memory's bounds taken?"""
        return (
            self._memory_records < share * self._records_max
            and self._memory_bytes < share * self._bytes_max
        )

    def _say_filled(self) -> None:
        if not self._head and not self._tail and not (self._spool and self._spool.unread):
            self._filled.clear()

    def _say_room(self) -> None:
        if self.has_room:
            self._room.set()
        else:
            self._room.clear()

    def _say_saved(self) -> None:
        saved = max(self._released, self._synced)
        while self._waiting and self._waiting[0][0] <= saved:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
