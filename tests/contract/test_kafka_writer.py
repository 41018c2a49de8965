"""Order, partitions, refused records, outages: the writer alone, on real brokers."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter
from structlog.testing import capture_logs

from aforo_meter.access_log_service import Topics
from aforo_meter.commands_dlq import STAGES
from aforo_meter.ingest import run as ingest
from aforo_meter.kafka import PROBE_S, Connection, KafkaWriter, Partitioner
from aforo_meter.outflow import Outflow
from aforo_meter.records import Record
from aforo_meter.ship import after_refusal
from aforo_meter.ship_metrics import ShipMetrics
from aforo_proto.usage_pb2 import DeadLetter
from lab.kafka_cluster import KafkaCluster
from lab.servers import KafkaServer, eventually
from tests.contract.kafka_limit import LimitedKafka
from tests.contract.ship_lab import create

pytestmark = pytest.mark.contract

RECORD_BYTES_MAX = 2000  # Of the producer: it raises what a broker's bound would.
HASTY_MS = 1000  # Who has to be seen to be away is waited for no longer; others may be slow.


@pytest.fixture
async def topic(kafka_server: KafkaServer) -> str:
    name = f"writer.{uuid.uuid4().hex}"
    await create(kafka_server.bootstrap, [name], partitions=1)
    return name


@asynccontextmanager
async def running(
    bootstrap: str,
    *,
    refused: Callable[[Record], Record | None] = lambda _: None,
    idempotence: bool = False,
    record_bytes_max: int = 1 << 20,
    request_timeout_ms: int = 30_000,
) -> AsyncIterator[Outflow]:
    """Run a writer; at the end, wait until nothing is held."""
    outflow = Outflow(None, records_max=1_000_000, bytes_max=1 << 30)
    connection = Connection(
        bootstrap=bootstrap,
        idempotence=idempotence,
        request_timeout_ms=request_timeout_ms,
        record_bytes_max=record_bytes_max,
        client_id="test",
        idempotence_setting="IDEMPOTENCE",
    )
    task = asyncio.create_task(KafkaWriter(connection, outflow, refused=refused).run())
    try:
        yield outflow
        await asyncio.wait_for(outflow.emptied(), 60)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def writing(
    kafka_server: KafkaServer, replacement: Record | None, refused: list[Record]
) -> AsyncIterator[Outflow]:
    def refuse(record: Record) -> Record | None:
        refused.append(record)
        return replacement if len(refused) == 1 else None

    async with running(
        kafka_server.bootstrap, refused=refuse, record_bytes_max=RECORD_BYTES_MAX
    ) as outflow:
        yield outflow


async def records_in(
    bootstrap: str, topic: str, count: int, *, sent_again: bool = False
) -> list[ConsumerRecord[bytes, bytes]]:
    """Return the first `count` records, and those that follow within a second.

    Where some may have been sent again, `count` is of different ones.
    """
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    found: list[ConsumerRecord[bytes, bytes]] = []
    try:
        async with asyncio.timeout(60):
            while len({one.value for one in found} if sent_again else found) < count:
                for some in (await consumer.getmany(timeout_ms=100)).values():
                    found += some
            for some in (await consumer.getmany(timeout_ms=1000)).values():
                found += some
    finally:
        await consumer.stop()
    return found


async def values_in(bootstrap: str, topic: str, count: int) -> list[bytes]:
    return [record.value for record in await records_in(bootstrap, topic, count)]


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
    assert metrics.counts == {("dead_letter", "too_large"): 1}
    assert outflow.lost == 0
    assert after_refusal(letter, topics, outflow, metrics) is None, "it has no dead letter"
    assert outflow.lost == 1


async def test_an_accepted_event_that_is_too_large_is_a_dead_letter_of_ingest() -> None:
    event = Record("usage", b"acme", b"y" * 30_000)
    outflow = Outflow(None, records_max=1, bytes_max=1)
    letters = Counter("too_large_here", "Of this test.", registry=None)

    def refuse(record: Record) -> Record | None:
        return ingest.after_refusal(record, "dlq", outflow, letters=letters)

    async with LimitedKafka(batch_bytes_max=20_000, topics={"usage"}).serving() as broker:
        await create(broker.bootstrap, ["usage", "dlq"], partitions=1)
        async with running(broker.bootstrap, refused=refuse) as writing_to:
            writing_to.add([event, make_record("usage", b"after")])
        (value,) = await values_in(broker.bootstrap, "dlq", 1)
        assert await values_in(broker.bootstrap, "usage", 1) == [b"after"]

    letter = DeadLetter.FromString(value)
    assert (letter.stage, letter.payload) == ("ingest", event.value)
    assert letter.stage in STAGES
    assert letter.reason == "too large for usage: 30000 bytes"
    assert outflow.lost == 0
    assert refuse(Record("dlq", None, value)) is None, "it has no dead letter"
    assert outflow.lost == 1


async def test_what_a_missing_topic_is_for_keeps_nothing_of_the_same_group(
    kafka_server: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lab's brokers make a topic when asked for it, so the client is made to miss it."""
    missing = f"{topic}.dlq"
    is_there = asyncio.Event()
    found = AIOKafkaProducer.partitions_for

    async def partitions_for(producer: AIOKafkaProducer, name: str) -> set[int]:
        if name == missing and not is_there.is_set():
            await asyncio.sleep(0.5)
            raise UnknownTopicOrPartitionError
        partitions: set[int] = await found(producer, name)
        return partitions

    monkeypatch.setattr(AIOKafkaProducer, "partitions_for", partitions_for)
    await create(kafka_server.bootstrap, [missing], partitions=1)
    with capture_logs() as logs:
        async with running(kafka_server.bootstrap) as outflow:
            outflow.add([make_record(missing, b"letter"), make_record(topic, b"event")])
            assert await values_in(kafka_server.bootstrap, topic, 1) == [b"event"]
            assert outflow.held == 2
            await eventually(lambda: not outflow.flowing)
            is_there.set()

    assert await values_in(kafka_server.bootstrap, missing, 1) == [b"letter"]
    assert any(f"topic {missing} is missing" in line.get("error", "") for line in logs)


KEYS = [f"tenant-{number}".encode() for number in range(7)]


def make_numbered(topic: str, begin: int, count: int) -> list[Record]:
    return [
        Record(topic, KEYS[number % len(KEYS)], b"%d" % number)
        for number in range(begin, begin + count)
    ]


def in_order_of_first_arrival(records: list[ConsumerRecord[bytes, bytes]]) -> bool:
    """Whether each key's records arrived in order; repeats of what had arrived don't count."""
    for key in KEYS:
        own = list(dict.fromkeys(int(one.value) for one in records if one.key == key))
        if own != sorted(own):
            return False
    return True


async def test_an_idempotent_producer_loses_nothing_and_keeps_order_over_outages() -> None:
    with KafkaCluster() as cluster:
        async with running(
            cluster.bootstrap, idempotence=True, request_timeout_ms=HASTY_MS
        ) as outflow:
            for number in range(60):
                outflow.add(make_numbered("usage", number * 100, 100))
                await asyncio.sleep(0.005)
                if number in {20, 40}:
                    cluster.program.freeze()
                    outflow.add(make_numbered("usage", 100_000 + number, 1))
                    await eventually(lambda: not outflow.flowing)
                    cluster.program.signal(signal.SIGCONT)
        found = await records_in(cluster.bootstrap, "usage", 6002, sent_again=True)

    assert len({one.value for one in found}) == 6002
    assert in_order_of_first_arrival([one for one in found if int(one.value) < 100_000])


async def test_each_keys_records_keep_their_order_when_a_broker_is_frozen() -> None:
    with KafkaServer() as own:
        await create(own.bootstrap, ["usage"], partitions=3)
        async with running(own.bootstrap, request_timeout_ms=HASTY_MS) as outflow:
            for number in range(90):
                outflow.add(make_numbered("usage", number * 100, 100))
                await asyncio.sleep(0.005)
                if number in {30, 60}:
                    own.freeze()
                    outflow.add(make_numbered("usage", (number + 1) * 100, 1))
                    await eventually(lambda: not outflow.flowing)
                    own.thaw()
        found = await records_in(own.bootstrap, "usage", 9000, sent_again=True)

    assert len({one.value for one in found}) == 9000
    assert in_order_of_first_arrival(found)


async def test_more_than_a_batch_for_one_partition_keeps_its_order(
    kafka_server: KafkaServer, topic: str
) -> None:
    records = [Record(topic, b"k", b"%d" % number + b"x" * 1000) for number in range(3000)]
    async with running(kafka_server.bootstrap) as outflow:
        outflow.add(records)
    found = await values_in(kafka_server.bootstrap, topic, 3000)

    assert found == [record.value for record in records]


async def test_new_partitions_are_used_without_a_restart(kafka_server: KafkaServer) -> None:
    """The topic is made anew with more: this broker can't add partitions to one that is there."""
    topic = f"writer.{uuid.uuid4().hex}"
    await create(kafka_server.bootstrap, [topic], partitions=1)
    async with running(kafka_server.bootstrap) as outflow:
        outflow.add(make_numbered(topic, 0, 10))
        await asyncio.wait_for(outflow.emptied(), 60)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.bootstrap)
        await admin.start()
        await admin.delete_topics([topic])
        await admin.close()
        await create(kafka_server.bootstrap, [topic], partitions=5)
        await asyncio.sleep(2 * PROBE_S)
        outflow.add(make_numbered(topic, 10, 100))
    found = await records_in(kafka_server.bootstrap, topic, 100)

    partitioner = DefaultPartitioner()
    assert {(one.key, one.partition) for one in found} == {
        (key, partitioner(key, list(range(5)), [])) for key in KEYS
    }


@given(key=st.binary(), count=st.integers(1, 50))
def test_a_key_goes_where_kafkas_default_partitioner_puts_it(key: bytes, count: int) -> None:
    ours, partitions = Partitioner(), range(count)

    expected = DefaultPartitioner()(key, list(partitions), [])
    assert ours.partition_of(key, partitions) == expected
    assert ours.partition_of(key, partitions) == expected, "from memory, too"


def test_records_without_a_key_take_turns() -> None:
    ours = Partitioner()

    assert sorted(ours.partition_of(None, [0, 1, 2]) for _ in range(6)) == [0, 0, 1, 1, 2, 2]


async def test_what_a_broker_refuses_for_its_size_is_told_from_its_neighbours() -> None:
    """Nothing in between is known about the broker's bound: batches shrink until it takes them."""
    topic = "usage"
    records = [Record(topic, b"k", b"%05d" % number + b"x" * 495) for number in range(200)]
    large = Record(topic, b"k", b"large" + b"y" * 30_000)
    refused: list[Record] = []

    def refuse(record: Record) -> Record:
        refused.append(record)
        return Record(topic, b"k", b"letter")

    async with LimitedKafka(batch_bytes_max=20_000).serving() as broker:
        await create(broker.bootstrap, [topic], partitions=1)
        async with running(broker.bootstrap, refused=refuse) as outflow:
            outflow.add([*records[:100], large, *records[100:]])
            await asyncio.wait_for(outflow.emptied(), 60)
            refusals = broker.refusals
            outflow.add(records)
        found = await values_in(broker.bootstrap, topic, 401)

    assert refused == [large]
    own = [record.value for record in records]
    assert found == [*own[:100], b"letter", *own[100:], *own]
    assert broker.refusals == refusals, "what was learnt is not asked again"
