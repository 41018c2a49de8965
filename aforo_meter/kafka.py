"""Writing records to Kafka until it has them, however long it is away.

aiokafka gives a record up after its request timeout. Here it is sent again, which may write it
twice: an event's id makes that harmless.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from prometheus_client import Counter, Gauge, Histogram

from aforo_meter.buffer import Buffer, Record

# Large enough for a second's events at full speed; all of them are under way at once.
GROUP_RECORDS_MAX: Final = 5000
# Batches by partition: below the 1 MiB that brokers accept by default.
BATCH_BYTES_MAX: Final = 256 * 1024
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 1.0

TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)

ERRORS = Counter("aforo_ship_kafka_errors_total", "Failed attempts to write, by error.", ["error"])
LATENCY = Histogram(
    "aforo_ship_kafka_write_seconds",
    "From taking records out of the buffer until Kafka has them all.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
REACHABLE = Gauge("aforo_ship_kafka_reachable", "1 if the last attempt to write worked.")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach the brokers."""

    bootstrap: str
    idempotence: bool
    request_timeout_ms: int
    record_bytes_max: int


class KafkaWriter:
    """Moves records from a buffer to Kafka, one group after the other.

    Args:
        refused: Called with a record that Kafka will never take because of its size. Returns what
            to write in its place, or None if there is nothing; it counts and logs.
    """

    def __init__(
        self,
        connection: Connection,
        buffer: Buffer,
        *,
        refused: Callable[[Record], Record | None],
    ) -> None:
        self._connection = connection
        self._buffer = buffer
        self._refused = refused
        self._producer: Any = None  # aiokafka ships no types.
        self._away_since_s: float | None = None
        self._backoff_s = BACKOFF_FIRST_S

    async def run(self) -> None:
        """Write what the buffer gets, until cancelled."""
        try:
            while True:
                records = await self._buffer.take(GROUP_RECORDS_MAX)
                with LATENCY.time(), self._watched():
                    await self._write(records)
                self._buffer.release(records)
        finally:
            await self._disconnect()

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
            errors = await self._attempt(records)
            failed = [(one, error) for one, error in zip(records, errors, strict=True) if error]
            too_large = [one for one, error in failed if isinstance(error, TOO_LARGE)]
            others = [(one, error) for one, error in failed if not isinstance(error, TOO_LARGE)]
            if others:
                await self._recover(others[0][1])
            else:
                self._recovered()
            for record in too_large:
                await self._write_alone(record)
            records = [one for one, _ in others]

    async def _write_alone(self, record: Record) -> None:
        """Write a record of a refused batch: it may be small among large ones."""
        left: Record | None = record
        while left is not None:
            (error,) = await self._attempt([left])
            if error is None:
                return
            if isinstance(error, TOO_LARGE):
                left = self._refused(left)
            else:
                await self._recover(error)

    async def _attempt(self, records: Sequence[Record]) -> list[BaseException | None]:
        """Send records and wait for Kafka's word on each: None if it has it."""
        errors: list[BaseException | None] = []
        sent: dict[int, asyncio.Future[Any]] = {}
        failure: BaseException | None = None  # Of the connection: it would befall the rest too.
        for index, record in enumerate(records):
            errors.append(failure)
            if failure is not None:
                continue
            try:
                producer = await self._connected()
                sent[index] = await producer.send(record.topic, record.value, key=record.key)
            except TOO_LARGE as error:
                errors[index] = error
            except Exception as error:  # noqa: BLE001 - whatever it is, the record stays and waits.
                errors[index] = failure = error
        results = await asyncio.gather(*sent.values(), return_exceptions=True)
        for index, result in zip(sent, results, strict=True):
            errors[index] = result if isinstance(result, BaseException) else None
        # A refused batch leaves a gap in the sequence numbers of an idempotent producer, and a
        # fenced one never writes again: only a new one can go on.
        if any(error and not getattr(error, "retriable", False) for error in errors):
            await self._disconnect()
        return errors

    async def _connected(self) -> Any:  # noqa: ANN401 - aiokafka ships no types.
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._connection.bootstrap,
                client_id="aforo-meter-ship",
                acks="all",
                enable_idempotence=self._connection.idempotence,
                request_timeout_ms=self._connection.request_timeout_ms,
                max_request_size=self._connection.record_bytes_max,
                max_batch_size=BATCH_BYTES_MAX,
            )
            self._producer = producer
            try:
                await producer.start()
            except BaseException as error:
                await self._disconnect()
                if self._connection.idempotence and not getattr(error, "retriable", True):
                    error.add_note(
                        "(if these brokers know no idempotent producers, set "
                        "AFORO_METER_SHIP_KAFKA_IDEMPOTENCE=false)"
                    )
                raise
        return self._producer

    async def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            # It waits for what is still under way, for ever while Kafka is away.
            with contextlib.suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(producer.stop(), CLOSE_TIMEOUT_S)

    async def _recover(self, error: BaseException) -> None:
        """Count and log a failure, and wait a while before the next attempt."""
        name = type(error).__name__
        ERRORS.labels(error=name).inc()
        self._missed(" ".join([f"{name}: {error}", *getattr(error, "__notes__", ())]))
        await asyncio.sleep(self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)

    def _missed(self, error: str) -> None:
        REACHABLE.set(0)
        if self._away_since_s is None:
            self._away_since_s = time.monotonic()
            log.warning(
                "kafka does not take events; they are held and sent again",
                bootstrap=self._connection.bootstrap,
                error=error,
                held=self._buffer.held,
            )

    def _recovered(self) -> None:
        REACHABLE.set(1)
        self._backoff_s = BACKOFF_FIRST_S
        if self._away_since_s is not None:
            log.info(
                "kafka takes events again",
                away_s=round(time.monotonic() - self._away_since_s, 1),
                held=self._buffer.held,
            )
            self._away_since_s = None
