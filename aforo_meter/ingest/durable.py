"""Where accepted events go: a port, and Kafka behind it.

An event is answered for when a broker has it on all in-sync replicas. This is the only module that
knows how; `Durable` is all that the rest needs.
"""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2
from prometheus_client import Gauge

from aforo_meter.buffer import Record

# Also what a record is, for the rest of this package: it knows this module alone.
__all__ = ["Durable", "FullError", "KafkaDurable", "Record"]

BATCH_BYTES_MAX: Final = 512 * 1024
REQUEST_BYTES_MAX: Final = 1024 * 1024
HELD_RECORDS_MAX: Final = 100_000
GROUP_RECORDS_MAX: Final = 20_000
HASHES_MAX: Final = 100_000
STOP_S: Final = 1.0

REACHABLE = Gauge("aforo_ingest_kafka_reachable", "1 if Kafka took the last records.")

log = structlog.get_logger()


class FullError(Exception):
    """What came can't be made durable now; nothing is promised of it. The client is to retry."""


class Durable(Protocol):
    async def accept(self, records: Sequence[Record]) -> None:
        """Return once the records would survive SIGKILL and a power cut.

        Raises:
            FullError: They would not. Some may have been written: their ids tell.
        """


@dataclass(slots=True)
class Waiting:
    """Records of one request, and the future that it waits for."""

    records: Sequence[Record]
    durable: asyncio.Future[None]


class KafkaDurable:
    """Records to Kafka, one group after the other: all that came while the last was under way.

    So a broker that takes long for an answer has fewer, larger batches to answer. They are filled
    here: `send` costs ten times as much a record. Nothing is kept of what failed: it is the
    client's to repeat. Lives in one event loop.
    """

    def __init__(self, *, bootstrap: str, idempotence: bool, timeout_ms: int) -> None:
        self._options = {
            "bootstrap_servers": bootstrap,
            "client_id": "aforo-meter-ingest",
            "acks": "all",
            "enable_idempotence": idempotence,
            "request_timeout_ms": timeout_ms,
            "max_request_size": REQUEST_BYTES_MAX,
            "max_batch_size": BATCH_BYTES_MAX,
        }
        self._timeout_s = timeout_ms / 1000
        self._producer: Any = None  # aiokafka ships no types.
        self._hashes: dict[bytes, int] = {}
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._held = 0
        self._was_reachable = True

    async def accept(self, records: Sequence[Record]) -> None:
        if not records:
            return
        if self._held + len(records) > HELD_RECORDS_MAX:
            raise FullError(f"{self._held} records wait for Kafka")
        one = Waiting(records, asyncio.get_running_loop().create_future())
        one.durable.add_done_callback(_look_at)
        self._waiting.append(one)
        self._held += len(records)
        self._arrived.set()
        try:
            await asyncio.wait_for(asyncio.shield(one.durable), self._timeout_s)
        except TimeoutError:
            raise FullError("Kafka did not take them in time") from None

    async def run(self) -> None:
        """Write what arrives, until cancelled."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    await self._write_group()
        finally:
            await self._close()

    async def _write_group(self) -> None:
        group: list[Waiting] = []
        count = 0
        while self._waiting and count < GROUP_RECORDS_MAX:
            one = self._waiting.popleft()
            count += len(one.records)
            group.append(one)
        try:
            # A time of its own: an idempotent producer tries for ever while Kafka is away.
            async with asyncio.timeout(self._timeout_s):
                await self._write([record for one in group for record in one.records])
        except (KafkaError, TimeoutError, OSError, FullError) as error:
            name = type(error).__name__
            self._say(reachable=False, error=name)
            if not getattr(error, "retriable", True):
                await self._close()  # Only a new one can go on after a fenced or refused batch.
            for one in group:
                one.durable.set_exception(FullError(f"Kafka did not take them: {name}"))
        else:
            self._say(reachable=True)
            for one in group:
                one.durable.set_result(None)
        finally:
            self._held -= count

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(producer.stop(), STOP_S)

    async def _write(self, records: Sequence[Record]) -> None:
        producer = await self._started()
        by_place: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        for record in records:
            partitions = await producer.partitions_for(record.topic)
            by_place[record.topic, self._partition(record, len(partitions))].append(record)
        sent: list[asyncio.Future[Any]] = []
        for (topic, partition), some in by_place.items():
            batch = producer.create_batch()
            for record in some:
                if batch.append(key=record.key, value=record.value, timestamp=None) is None:
                    sent.append(await producer.send_batch(batch, topic, partition=partition))
                    batch = producer.create_batch()
                    if batch.append(key=record.key, value=record.value, timestamp=None) is None:
                        raise FullError(f"a record of {len(record.value)} bytes fits in no batch")
            sent.append(await producer.send_batch(batch, topic, partition=partition))
        for one in sent:
            one.add_done_callback(_look_at)
        await asyncio.wait(sent)  # Not gather: a time-out must not cancel what is under way.
        for one in sent:
            one.result()

    def _partition(self, record: Record, count: int) -> int:
        """Return the partition that Kafka's own rule gives a key; hashing in Python is slow."""
        key = record.key or b""
        found = self._hashes.get(key)
        if found is None:
            if len(self._hashes) >= HASHES_MAX:
                self._hashes.clear()
            found = self._hashes[key] = murmur2(key) & 0x7FFFFFFF
        return found % count

    async def _started(self) -> Any:  # noqa: ANN401 - aiokafka ships no types.
        if self._producer is None:
            producer = AIOKafkaProducer(**self._options)
            try:
                await producer.start()
            except BaseException:
                with contextlib.suppress(TimeoutError, KafkaError):
                    await asyncio.wait_for(producer.stop(), STOP_S)
                raise
            self._producer = producer
        return self._producer

    def _say(self, *, reachable: bool, error: str = "") -> None:
        REACHABLE.set(int(reachable))
        if self._was_reachable and not reachable:
            log.warning("kafka does not take events; clients are told to retry", error=error)
        elif reachable and not self._was_reachable:
            log.info("kafka takes events again")
        self._was_reachable = reachable


def _look_at(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()  # It may fail after the time-out, when nobody waits for it.
