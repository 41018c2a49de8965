"""Records that Kafka refuses, and their neighbours, through a real broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiokafka import AIOKafkaConsumer

from aforo_meter.access_log_service import Topics
from aforo_meter.kafka import Connection, KafkaWriter
from aforo_meter.outflow import Outflow
from aforo_meter.records import Record
from aforo_meter.ship import after_refusal
from aforo_meter.ship_metrics import ShipMetrics
from aforo_proto.usage_pb2 import DeadLetter
from lab.servers import KafkaServer, free_port
from tests.contract.ship_lab import create

pytestmark = pytest.mark.contract

RECORD_BYTES_MAX = 2000  # Of the producer: it raises what a broker's bound would.


@pytest.fixture
async def topic(kafka_server: KafkaServer) -> str:
    name = f"writer.{free_port()}"
    await create(kafka_server.bootstrap, [name], partitions=1)
    return name


@asynccontextmanager
async def writing(
    kafka_server: KafkaServer, replacement: Record | None, refused: list[Record]
) -> AsyncIterator[Outflow]:
    def refuse(record: Record) -> Record | None:
        refused.append(record)
        return replacement if len(refused) == 1 else None

    outflow = Outflow(None, records_max=1000, bytes_max=1 << 20)
    connection = Connection(
        bootstrap=kafka_server.bootstrap,
        idempotence=False,
        request_timeout_ms=5000,
        record_bytes_max=RECORD_BYTES_MAX,
        client_id="test",
        idempotence_setting="IDEMPOTENCE",
    )
    task = asyncio.create_task(KafkaWriter(connection, outflow, refused=refuse).run())
    yield outflow
    await asyncio.wait_for(outflow.emptied(), 20)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def values_in(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


def make_record(topic: str, value: bytes) -> Record:
    return Record(topic=topic, key=b"acme", value=value)


async def test_a_refused_record_is_replaced_and_takes_no_neighbour_with_it(
    kafka_server: KafkaServer, topic: str
) -> None:
    large = make_record(topic, b"x" * 3000)
    refused: list[Record] = []
    async with writing(kafka_server, make_record(topic, b"letter"), refused) as outflow:
        outflow.add([make_record(topic, b"before"), large, make_record(topic, b"after")])

    assert refused == [large]
    assert sorted(await values_in(kafka_server.bootstrap, topic, 3)) == [
        b"after",
        b"before",
        b"letter",
    ]


@pytest.mark.parametrize("replacement", [None, b"y" * 4000])
async def test_a_record_that_nothing_can_replace_does_not_stop_the_others(
    kafka_server: KafkaServer, topic: str, replacement: bytes | None
) -> None:
    large = make_record(topic, b"x" * 3000)
    second = make_record(topic, replacement) if replacement else None
    refused: list[Record] = []
    async with writing(kafka_server, second, refused) as outflow:
        outflow.add([large])
        outflow.add([make_record(topic, b"after")])

    assert refused == ([large, second] if second else [large])
    assert await values_in(kafka_server.bootstrap, topic, 1) == [b"after"]


def test_a_refused_event_becomes_a_dead_letter_whole() -> None:
    topics = Topics(usage="usage", dead_letters="dlq")
    event = Record(topic="usage", key=b"acme", value=b"x" * 5000)

    outflow, metrics = Outflow(None, records_max=1, bytes_max=1), ShipMetrics()
    letter = after_refusal(event, topics, outflow, metrics)

    assert letter is not None
    assert letter.topic == "dlq"
    read = DeadLetter.FromString(letter.value)
    assert read.payload == event.value
    assert read.reason == "too large for usage: 5000 bytes"
    assert metrics.dead_letters == {"too_large": 1}
    assert outflow.lost == 0
    assert after_refusal(letter, topics, outflow, metrics) is None, "it has no dead letter"
    assert outflow.lost == 1
