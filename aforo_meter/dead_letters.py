"""What can't become charges → the dead-letter topic, before the position moves past it."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from aforo_meter import consume_metrics as metrics
from aforo_meter.batches import Refused, now_micros
from aforo_meter.kafka_place import client_options, start
from aforo_proto import usage_pb2

STAGE: Final = "consume"
REQUEST_BYTES_MAX: Final = 32 * 1024 * 1024  # The broker decides what is too large, not we.
CUT_BYTES: Final = 256 * 1024
CLOSE_TIMEOUT_S: Final = 1.0

log = structlog.get_logger()


class DeadLetters:
    """A producer that is made when it is first needed."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._producer: Any = None  # aiokafka ships no types.

    async def send(self, refused: Sequence[Refused]) -> None:
        """Write dead letters; return when Kafka has all of them. Twice is harmless.

        Raises:
            KafkaError: It does not have all of them.
        """
        if not refused:
            return
        try:
            producer = await self._started()
            for one in refused:
                await self._send_one(producer, one)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(producer.stop(), CLOSE_TIMEOUT_S)

    async def _send_one(self, producer: Any, one: Refused) -> None:  # noqa: ANN401
        try:
            await producer.send_and_wait(self._topic, letter_of(one).SerializeToString())
        except MessageSizeTooLargeError:
            # Around a record as large as the broker takes, no envelope fits.
            letter = letter_of(one)
            letter.reason += f" (only {CUT_BYTES} of {len(letter.payload)} bytes are kept here)"
            letter.payload = letter.payload[:CUT_BYTES]
            await producer.send_and_wait(self._topic, letter.SerializeToString())
        metrics.DEAD_LETTERS.inc()
        record = one.record
        log.error(
            "dead letter",
            reason=one.reason,
            partition=record.partition,
            offset=record.offset,
            topic=self._topic,
        )

    async def _started(self) -> Any:  # noqa: ANN401
        if self._producer is None:
            producer = AIOKafkaProducer(
                **client_options(self._bootstrap),
                client_id="aforo-meter-consume",
                acks="all",
                max_request_size=REQUEST_BYTES_MAX,
            )
            self._producer = producer
            await start(producer)
        return self._producer


def letter_of(refused: Refused) -> usage_pb2.DeadLetter:
    record = refused.record
    return usage_pb2.DeadLetter(
        reason=refused.reason,
        stage=STAGE,
        payload=record.value or b"",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        failed_at_micros=now_micros(),
    )
