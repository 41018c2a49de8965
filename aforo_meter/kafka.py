"""Writing records to Kafka until it has them, however long it is away.

aiokafka's batches are filled here: `send` would cost ten times as much for each record. One group
of records is written after the other, and within it one batch after the other to each partition, so
that a partition's records keep their order whatever fails. What fails is sent again, which may
write it twice: an event's id makes that harmless.
"""

import asyncio
import contextlib
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import murmur2

from aforo_meter.kafka_place import client_options, start
from aforo_meter.outflow import Outflow
from aforo_meter.records import Record

# Large enough for a tenth of a second at full speed; all of them are under way at once.
GROUP_RECORDS_MAX: Final = 5000
# Below the 1 MiB that brokers accept by default.
BATCH_BYTES_MAX: Final = 512 * 1024
RECORD_OVERHEAD_BYTES: Final = 32  # In a batch: lengths, offset and time take no more.
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 1.0
PATIENCE_TIMEOUTS: Final = 6  # Unanswered requests, after which a new producer is made.
PROBE_S: Final = 5.0  # Of silence, after which brokers are asked whether they are there.
METADATA_MAX_AGE_MS: Final = 60_000  # How soon new partitions are used.
HASHES_MAX: Final = 100_000

TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)
WRITE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach the brokers."""

    bootstrap: str
    idempotence: bool
    request_timeout_ms: int
    record_bytes_max: int
    client_id: str
    idempotence_setting: str


@dataclass(frozen=True, slots=True)
class Stuck:
    """What of a partition's records Kafka did not take, and why."""

    error: BaseException
    records: Sequence[Record]
    batch: int  # How many of them, the first ones, were refused together; 0: not tried.


class Durations:
    """A histogram in plain integers."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative buckets, as Prometheus wants them."""
        told, running = [], 0
        for bound_s, count in zip((*self._bounds_s, "+Inf"), self._counts, strict=True):
            running += count
            told.append((str(bound_s), float(running)))
        return told


class Partitioner:
    """Where a key belongs: Kafka's own rule, murmur2 of the key modulo the partitions.

    Hashing a key in Python takes several times as long as all else that is done for a record, and
    there are far fewer keys than records.
    """

    def __init__(self) -> None:
        self._hashes: dict[bytes, int] = {}
        self._turn = 0

    def partition_of(self, key: bytes | None, partitions: Sequence[int]) -> int:
        """Return one of `partitions`, in ascending order; without a key, the next one."""
        if key is None:
            self._turn += 1
            return partitions[self._turn % len(partitions)]
        hashed = self._hashes.get(key)
        if hashed is None:
            if len(self._hashes) >= HASHES_MAX:
                self._hashes.clear()
            hashed = self._hashes[key] = murmur2(key) & 0x7FFFFFFF
        return partitions[hashed % len(partitions)]


class KafkaWriter:
    """Moves records from an outflow to Kafka.

    Args:
        refused: Called with a record that Kafka will never take because of its size. Returns what
            to write in its place, or None if there is nothing; it counts and logs.
    """

    def __init__(
        self,
        connection: Connection,
        outflow: Outflow,
        *,
        refused: Callable[[Record], Record | None],
    ) -> None:
        self._connection = connection
        self._outflow = outflow
        self._refused = refused
        self._producer: Any = None  # aiokafka ships no types.
        self._partitioner = Partitioner()
        self._batch_bytes = BATCH_BYTES_MAX
        # An idempotent producer never gives up by itself.
        self._patience_s = PATIENCE_TIMEOUTS * connection.request_timeout_ms / 1000
        self._away_since_s: float | None = None
        self._backoff_s = BACKOFF_FIRST_S
        self.errors: Counter[str] = Counter()
        self.write_seconds = Durations(WRITE_S)

    async def run(self) -> None:
        """Write what the outflow gets, until cancelled."""
        try:
            await self._reach()
            while True:
                try:
                    async with asyncio.timeout(PROBE_S):
                        group = await self._outflow.take(GROUP_RECORDS_MAX)
                except TimeoutError:
                    await self._reach()
                    continue
                begin_s = time.monotonic()
                with self._watched():
                    await self._write(group.records)
                self.write_seconds.add(time.monotonic() - begin_s)
                self._outflow.release(group)
        finally:
            await self._disconnect()

    async def _reach(self) -> None:
        """See whether Kafka is there, though there is nothing to write."""
        try:
            with self._watched():
                producer = await self._connected()
                if not await producer.client.force_metadata_update():
                    raise KafkaConnectionError("no broker answers")  # noqa: TRY301 - as others do.
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look or record tells.
            self._count(error)
        else:
            self._recovered()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Notice an absence that nothing reports: an idempotent producer tries on in silence."""
        timeout_s = self._connection.request_timeout_ms / 1000
        timer = asyncio.get_running_loop().call_later(
            timeout_s, self._missed, f"no answer within {timeout_s:g} s"
        )
        try:
            yield
        finally:
            timer.cancel()

    async def _write(self, records: Sequence[Record]) -> None:
        while records:
            stuck = await self._attempt(records)
            left: list[Record] = []
            failure: BaseException | None = None
            for one in stuck:
                if isinstance(one.error, TOO_LARGE) and one.batch:
                    left += self._smaller(one)
                else:
                    left += one.records
                    failure = one.error
            if failure is not None:
                self._count(failure)
                await asyncio.sleep(self._backoff_s)
                self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
            else:
                self._recovered()
            records = left

    def _smaller(self, stuck: Stuck) -> Sequence[Record]:
        """Return what to try after Kafka found a batch too large."""
        if stuck.batch == 1:
            instead = self._refused(stuck.records[0])
            return [*([instead] if instead else []), *stuck.records[1:]]
        size = sum(_size(record) for record in stuck.records[: stuck.batch])
        self._batch_bytes = size // 2
        log.info("kafka takes no batches of this size, smaller ones follow", bytes=size)
        return stuck.records

    async def _attempt(self, records: Sequence[Record]) -> list[Stuck]:
        """Send records; return those that Kafka did not take, in order for each partition."""
        try:
            producer = await self._connected()
        except Exception as error:  # noqa: BLE001 - whatever it is, the records stay and wait.
            return [Stuck(error, records, 0)]
        # One topic that is not there keeps no record of another.
        topics = {record[0] for record in records}
        sending = [
            self._send_topic(
                producer,
                topic,
                records if len(topics) == 1 else [one for one in records if one[0] == topic],
            )
            for topic in topics
        ]
        stuck = [one for some in await asyncio.gather(*sending) for one in some]
        # A refused batch leaves a gap in the sequence numbers of an idempotent producer, a fenced
        # one never writes again, and one whose brokers have all moved never finds them: only a new
        # one can go on.
        if any(one.batch and not getattr(one.error, "retriable", False) for one in stuck):
            await self._disconnect()
        return stuck

    async def _send_topic(
        self,
        producer: Any,  # noqa: ANN401 - aiokafka ships no types.
        topic: str,
        records: Sequence[Record],
    ) -> list[Stuck]:
        try:
            lines = self._lines(records, {topic: sorted(await producer.partitions_for(topic))})
        except Exception as error:  # noqa: BLE001 - whatever it is, the records stay and wait.
            if isinstance(error, UnknownTopicOrPartitionError):
                error.add_note(f"(if topic {topic} is missing, run: aforo-meter topics)")
            return [Stuck(error, records, 0)]
        sending = [self._send_line(producer, *place, line) for place, line in lines.items()]
        return [one for one in await asyncio.gather(*sending) if one is not None]

    def _lines(
        self, records: Sequence[Record], partitions: Mapping[str, Sequence[int]]
    ) -> dict[tuple[str, int], list[Record]]:
        """Return the records of each topic and partition, in order."""
        lines: dict[tuple[str, int], list[Record]] = {}
        # A group has far fewer keys than records: each is looked up once.
        by_key: dict[str, dict[bytes | None, list[Record]]] = {topic: {} for topic in partitions}
        for record in records:
            keys = by_key[record[0]]
            line = keys.get(record[1])
            if line is None:
                partition = self._partitioner.partition_of(record[1], partitions[record[0]])
                line = lines.setdefault((record[0], partition), [])
                keys[record[1]] = line
            line.append(record)
        return lines

    async def _send_line(
        self,
        producer: Any,  # noqa: ANN401 - aiokafka ships no types.
        topic: str,
        partition: int,
        records: list[Record],
    ) -> Stuck | None:
        """Send the records of one partition, a batch when Kafka has the one before."""
        done = 0
        count = 0
        try:
            while done < len(records):
                count = 1
                if _size(records[done]) > self._connection.record_bytes_max:
                    raise MessageSizeTooLargeError  # noqa: TRY301 - as a broker would.
                batch, count = self._batch(producer, records, done)
                async with asyncio.timeout(self._patience_s):
                    await _settled(await producer.send_batch(batch, topic, partition=partition))
                done += count
        except Exception as error:  # noqa: BLE001 - whatever it is, the records stay and wait.
            return Stuck(error, records[done:], count)
        return None

    def _batch(self, producer: Any, records: list[Record], begin: int) -> tuple[Any, int]:  # noqa: ANN401 - aiokafka ships no types.
        """Return a batch of the records from `begin` on, and how many are in it; at least one."""
        batch = producer.create_batch()
        append = batch.append
        now_ms = int(time.time() * 1000)
        room = self._batch_bytes
        count = 0
        size_max = self._connection.record_bytes_max
        for _, key, value in islice(records, begin, None):
            size = len(value) + RECORD_OVERHEAD_BYTES + (len(key) if key else 0)
            room -= size
            if count and (room < 0 or size > size_max):
                break
            if append(timestamp=now_ms, key=key, value=value) is None:
                break
            count += 1
        batch.close()
        return batch, count

    async def _connected(self) -> Any:  # noqa: ANN401 - aiokafka ships no types.
        if self._producer is None:
            producer = AIOKafkaProducer(
                **client_options(self._connection.bootstrap),
                client_id=self._connection.client_id,
                acks="all",
                enable_idempotence=self._connection.idempotence,
                request_timeout_ms=self._connection.request_timeout_ms,
                max_request_size=self._connection.record_bytes_max,
                max_batch_size=BATCH_BYTES_MAX,
                metadata_max_age_ms=METADATA_MAX_AGE_MS,
            )
            self._producer = producer
            try:
                await start(producer)
            except BaseException as error:
                await self._disconnect()
                if self._connection.idempotence and not getattr(error, "retriable", True):
                    error.add_note(
                        "(if these brokers know no idempotent producers, set "
                        f"{self._connection.idempotence_setting}=false)"
                    )
                raise
        return self._producer

    async def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            await asyncio.wait_for(producer.stop(), CLOSE_TIMEOUT_S)
        except (TimeoutError, KafkaError):
            # It waits for what is still under way, for ever while Kafka is away. Left alone, it
            # would go on trying, beside the next one.
            if producer._sender.sender_task is not None:  # noqa: SLF001 - there is no other way.
                producer._sender.sender_task.cancel()  # noqa: SLF001
            await producer.client.close()

    def _count(self, error: BaseException) -> None:
        name = type(error).__name__
        self.errors[name] += 1
        self._missed(" ".join([f"{name}: {error}", *getattr(error, "__notes__", ())]))

    def _missed(self, error: str) -> None:
        self._outflow.flowing = False
        if self._away_since_s is None:
            self._away_since_s = time.monotonic()
            log.warning(
                "kafka does not take events; they are held and sent again",
                bootstrap=self._connection.bootstrap,
                error=error,
                held=self._outflow.held,
            )

    def _recovered(self) -> None:
        self._outflow.flowing = True
        self._backoff_s = BACKOFF_FIRST_S
        if self._away_since_s is not None:
            log.info(
                "kafka takes events again",
                away_s=round(time.monotonic() - self._away_since_s, 1),
                held=self._outflow.held,
            )
            self._away_since_s = None


async def _settled(sent: asyncio.Future[Any]) -> None:
    """Wait until Kafka has a batch, or an error; whoever stops waiting leaves nothing behind.

    aiokafka shields a future of its own by the one that it hands out. Were that cancelled, as by
    awaiting it, an error of the other would be told at its end as one that nobody looked at.
    """
    sent.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait([sent])
    sent.result()


def _size(record: Record) -> int:
    """Return what a record takes in a batch."""
    return len(record.key or b"") + len(record.value) + RECORD_OVERHEAD_BYTES
