"""Some records to Kafka, for a command that waits until all in-sync replicas have them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from aforo_meter.kafka_place import client_options, start
from aforo_meter.kafka_reading import CLOSE_S_MAX, START_S_MAX, away
from aforo_meter.records import Record

REQUEST_BYTES_MAX: Final = 32 * 1024 * 1024  # The broker decides what is too large, not we.


class Sender:
    """Use `open_sender`."""

    def __init__(self, producer: Any, bootstrap: str) -> None:  # noqa: ANN401
        self._producer = producer  # aiokafka ships no types.
        self._bootstrap = bootstrap

    async def send(self, records: Sequence[Record]) -> None:
        """Return once Kafka has all of them.

        Raises:
            CommandError: It may not have some. Sent again they count once: their ids are the same.
        """
        try:
            sent = [await self._producer.send(one.topic, one.value, key=one.key) for one in records]
            await asyncio.gather(*sent)
        except (KafkaError, OSError, TimeoutError) as error:
            raise away(self._bootstrap, error) from error


@contextlib.asynccontextmanager
async def open_sender(bootstrap: str) -> AsyncIterator[Sender]:
    """Open a connection for writing.

    Raises:
        CommandError: The brokers can't be reached.
    """
    producer = AIOKafkaProducer(
        **client_options(bootstrap),
        client_id="aforo-meter-tools",
        acks="all",
        max_request_size=REQUEST_BYTES_MAX,
    )
    try:
        try:
            await asyncio.wait_for(start(producer), START_S_MAX)
        except (KafkaError, OSError, TimeoutError) as error:
            raise away(bootstrap, error) from error
        yield Sender(producer, bootstrap)
    finally:
        with contextlib.suppress(KafkaError, TimeoutError):
            await asyncio.wait_for(producer.stop(), CLOSE_S_MAX)
