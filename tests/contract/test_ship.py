"""Access-log streams on their way to Kafka, through a real ship process and a real broker."""

import asyncio
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

from aforo_meter.ship import LAST_MESSAGE_S_MAX, NOTICE_S
from aforo_proto.usage_pb2 import UsageEvent
from lab.ports import free_port
from lab.servers import HANG_S, KafkaServer, eventually, scratch_dir
from tests.contract.ship_lab import (
    HEALTH,
    create,
    make_entry,
    make_message,
    make_ship,
    ship_lab,
)

pytestmark = pytest.mark.contract

# Who is slow to answer is not sent the same again: these tests look at records as they lie there.
PATIENT_MS = "30000"


@pytest.fixture
def own_kafka() -> Iterator[KafkaServer]:
    """A broker that a test may freeze, or start late."""
    server = KafkaServer()
    yield server
    server.stop()


async def test_each_entry_becomes_one_event_keyed_by_its_tenant(kafka_server: KafkaServer) -> None:
    async with (
        ship_lab(kafka_server.bootstrap, KAFKA_REQUEST_TIMEOUT_MS=PATIENT_MS) as lab,
        lab.stream() as stream,
    ):
        for number in range(20):
            await stream.write(make_message(*[make_entry(f"t-{number % 5}") for _ in range(10)]))
        events = await lab.arrived(200)
        records = lab.records[lab.usage_topic]

    assert len(records) == 200
    assert {event.source for event in events} == {"envoy:gateway-1"}
    assert all(UsageEvent.FromString(one.value).tenant_id.encode() == one.key for one in records)
    for tenant in {one.key for one in records}:
        own = [one for one in records if one.key == tenant]
        assert len({one.partition for one in own}) == 1, "a tenant is one partition"


async def test_events_of_a_tenant_keep_their_order(kafka_server: KafkaServer) -> None:
    async with (
        ship_lab(kafka_server.bootstrap, KAFKA_REQUEST_TIMEOUT_MS=PATIENT_MS) as lab,
        lab.stream() as stream,
    ):
        for number in range(500):
            entry = make_entry()
            entry.response.response_body_bytes = number + 1
            await stream.write(make_message(entry))
        await lab.arrived(500)
        sizes = [
            one.measures[1].units
            for one in (UsageEvent.FromString(two.value) for two in lab.records[lab.usage_topic])
        ]

    assert sizes == list(range(1, 501))


async def test_partitions_are_those_of_kafkas_own_clients(kafka_server: KafkaServer) -> None:
    """Expected: Kafka's murmur2 of the key, its sign bit cleared, modulo the partitions.

    Utils.murmur2 of "21" is -973932308, and of "foobar" -790332482 (Kafka's own UtilsTest).
    """
    async with ship_lab(kafka_server.bootstrap, partitions=7) as lab, lab.stream() as stream:
        await stream.write(make_message(make_entry("21"), make_entry("foobar")))
        await lab.arrived(2)
        found = {one.key: one.partition for one in lab.records[lab.usage_topic]}

    assert found == {
        b"21": (-973932308 & 0x7FFFFFFF) % 7,
        b"foobar": (-790332482 & 0x7FFFFFFF) % 7,
    }


async def test_what_cannot_be_read_becomes_a_dead_letter_and_the_stream_goes_on(
    kafka_server: KafkaServer,
) -> None:
    broken = make_entry()
    broken.request.request_headers["not-utf-8"] = "x"
    payload = make_message(make_entry("first"), broken, make_entry("last"))
    payload = payload.replace(b"not-utf-8", b"\xff" * 9)
    bad_tokens = make_entry()
    packed = bad_tokens.common_properties.metadata.typed_filter_metadata["envoy.ai.token_usage"]
    packed.type_url = "type.googleapis.com/envoy.data.ai.v3.TokenUsage"
    packed.value = b"\xff\xff"
    async with ship_lab(kafka_server.bootstrap) as lab, lab.stream() as stream:
        await stream.write(b"this is no protobuf")
        await stream.write(payload)
        await stream.write(make_message(bad_tokens))
        await stream.write(make_message(make_entry("after")))
        events = await lab.arrived(3)
        await eventually(lambda: len(lab.dead_letters) == 3)
        letters = {letter.reason: letter for letter in lab.dead_letters}
        counted = lab.metric('aforo_ship_dead_letters_total{kind="unreadable"}')

    assert sorted(event.tenant_id for event in events) == ["after", "first", "last"]
    assert letters["not a StreamAccessLogsMessage"].payload == b"this is no protobuf"
    assert letters["not an HTTPAccessLogEntry"].payload in payload
    unread = letters["token usage that is not a envoy.data.ai.v3.TokenUsage"]
    assert HTTPAccessLogEntry.FromString(unread.payload) == bad_tokens
    assert {letter.stage for letter in letters.values()} == {"ship"}
    assert counted == 3


async def test_nothing_is_lost_while_kafka_is_away(own_kafka: KafkaServer) -> None:
    own_kafka.start()
    async with ship_lab(own_kafka.bootstrap) as lab, lab.stream() as stream:
        await stream.write(make_message(make_entry("before")))
        await lab.arrived(1)
        await eventually(lambda: lab.metric("aforo_ship_buffer_records") == 0)
        own_kafka.freeze()
        for _ in range(50):
            await stream.write(make_message(*[make_entry("during") for _ in range(10)]))
        # Longer than the request timeout: the client library has given them up by then.
        await eventually(lambda: lab.metric("aforo_ship_kafka_reachable") == 0)
        await asyncio.sleep(1.5)
        assert lab.metric("aforo_ship_buffer_records") == 500
        own_kafka.thaw()
        await stream.write(make_message(make_entry("after")))
        events = await lab.arrived(502)
        await eventually(lambda: lab.metric("aforo_ship_buffer_records") == 0)

    assert sorted({event.tenant_id for event in events}) == ["after", "before", "during"]
    assert len(events) == 502


async def test_it_starts_before_kafka_does(own_kafka: KafkaServer) -> None:
    lab = await make_ship(own_kafka.bootstrap, partitions=None)
    try:
        await lab.start()
        async with lab.stream() as stream:
            await stream.write(make_message(make_entry("early")))
            await eventually(lambda: lab.metric("aforo_ship_kafka_reachable") == 0)
            # This broker forgets what it acknowledged for a topic that is being created.
            await asyncio.to_thread(lab.program.freeze)
            await asyncio.to_thread(own_kafka.start)
            await create(own_kafka.bootstrap, [lab.usage_topic, lab.dead_letter_topic])
            lab.program.thaw()
            async with lab.reading():
                events = await lab.arrived(1)
    finally:
        await lab.stop()

    assert [event.tenant_id for event in events] == ["early"]


async def test_a_full_buffer_holds_the_sender_back_and_loses_nothing(
    own_kafka: KafkaServer,
) -> None:
    own_kafka.start()
    async with (
        ship_lab(own_kafka.bootstrap, BUFFER_EVENTS_MAX="100") as lab,
        lab.stream() as stream,
    ):
        await stream.write(make_message(make_entry()))
        await lab.arrived(1)
        await eventually(lambda: lab.metric("aforo_ship_buffer_records") == 0)
        own_kafka.freeze()
        # 1 MB a message: sockets and HTTP/2 windows hold a few of them, not all.
        large = [make_entry(path="/" + "x" * 20_000) for _ in range(50)]
        writing = asyncio.create_task(write_all(stream, [make_message(*large)] * 40))
        await eventually(lambda: lab.metric("aforo_ship_buffer_records") >= 100)
        await asyncio.sleep(1)
        assert not writing.done(), "the sender waits"
        assert lab.metric("aforo_ship_buffer_records") <= 150, "one message beyond the bound"
        assert b"503" in lab.ask("/readyz")
        own_kafka.thaw()
        await asyncio.wait_for(writing, HANG_S)
        assert len(await lab.arrived(2001)) == 2001


async def write_all(stream: grpc.aio.StreamUnaryCall[bytes, bytes], messages: list[bytes]) -> None:
    for message in messages:
        await stream.write(message)


async def test_a_stop_writes_what_is_held_and_tells_that_nothing_is_left(
    kafka_server: KafkaServer,
) -> None:
    lab = await make_ship(kafka_server.bootstrap)
    try:
        await lab.start()
        async with lab.stream() as stream:
            for _ in range(100):
                await stream.write(make_message(*[make_entry() for _ in range(10)]))
            # What it has not read yet when it is told to stop, it can't write.
            await eventually(lambda: lab.metric('aforo_ship_entries_total{as="event"}') == 1000)
            code = await lab.stop()
            answer = await stream
    finally:
        await lab.stop()
    async with lab.reading():
        await lab.arrived(1000)

    assert code == 0, lab.program.log_text()
    assert answer == b"", "the stream was ended in order, not cut"
    assert not lab.socket_path.exists()
    assert "stopped, nothing is left" in lab.program.log_text()


async def test_a_stop_waits_for_the_next_message_of_a_stream_but_not_for_ever(
    kafka_server: KafkaServer,
) -> None:
    """What is sent before the end is heard of is lost; right after a message nothing is."""
    async with ship_lab(kafka_server.bootstrap) as lab, lab.stream() as stream:
        await stream.write(make_message(make_entry()))
        await lab.arrived(1)
        began_s = time.monotonic()
        stopping = asyncio.create_task(lab.stop())
        assert await stream == b"", "it was ended in order, not cut"
        waited_s = time.monotonic() - began_s
        assert await stopping == 0

    assert waited_s >= NOTICE_S + LAST_MESSAGE_S_MAX


async def test_a_stop_while_kafka_is_away_tells_how_much_was_not_written(
    own_kafka: KafkaServer,
) -> None:
    own_kafka.start()
    async with ship_lab(own_kafka.bootstrap, DRAIN_S="0.5") as lab:
        async with lab.stream() as stream:
            await stream.write(make_message(make_entry()))
            await lab.arrived(1)
            await eventually(lambda: lab.metric("aforo_ship_buffer_records") == 0)
            own_kafka.freeze()
            await stream.write(make_message(*[make_entry() for _ in range(7)]))
            await eventually(lambda: lab.metric("aforo_ship_buffer_records") == 7)
            code = await lab.stop()
        own_kafka.thaw()

    assert code == 1
    assert '"not_written": 7' in lab.program.log_text()
    assert "Traceback" not in lab.program.log_text()
    assert "never retrieved" not in lab.program.log_text()


async def test_a_client_that_leaves_takes_nothing_with_it(kafka_server: KafkaServer) -> None:
    async with ship_lab(kafka_server.bootstrap) as lab:
        for _ in range(20):
            async with lab.stream() as stream:
                await stream.write(make_message(*[make_entry() for _ in range(5)]))
                await stream.done_writing()
                await stream
        assert len(await lab.arrived(100)) == 100
        await eventually(lambda: lab.metric("aforo_ship_streams") == 0)


async def test_what_arrived_before_a_client_vanished_is_read(kafka_server: KafkaServer) -> None:
    async with ship_lab(kafka_server.bootstrap) as lab:
        for _ in range(20):
            async with lab.stream() as stream:  # Cancelled at its end, as when Envoy is killed.
                for _ in range(5):
                    await stream.write(make_message(make_entry()))
                await eventually(lambda: lab.metric("aforo_ship_streams") == 1)
            await eventually(lambda: lab.metric("aforo_ship_streams") == 0)
        read = int(lab.metric('aforo_ship_entries_total{as="event"}'))
        assert len(await lab.arrived(read)) == read
        assert "error" not in lab.program.log_text()


async def test_a_socket_that_a_killed_ship_left_behind_is_taken_over(
    kafka_server: KafkaServer,
) -> None:
    async with ship_lab(kafka_server.bootstrap) as lab:
        await asyncio.to_thread(lab.program.kill)
        assert lab.socket_path.exists()
        await lab.start()
        async with lab.stream() as stream:
            await stream.write(make_message(make_entry("again")))
            assert [event.tenant_id for event in await lab.arrived(1)] == ["again"]


async def test_an_address_in_use_is_one_clear_line(kafka_server: KafkaServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lab = await make_ship(kafka_server.bootstrap, LISTEN=f"127.0.0.1:{port}")
        lab.program.start(wait=False)
        code = await asyncio.to_thread(lab.program.wait)

    assert code == 2
    assert lab.program.log_text() == (
        f"aforo-meter: 127.0.0.1:{port} is already in use: stop what listens there, or change "
        "AFORO_METER_SHIP_LISTEN\n"
    )


async def test_a_socket_in_use_is_not_taken_over(kafka_server: KafkaServer) -> None:
    async with ship_lab(kafka_server.bootstrap) as first:
        second = await make_ship(kafka_server.bootstrap, LISTEN=f"unix:{first.socket_path}")
        second.program.start(wait=False)
        assert await asyncio.to_thread(second.program.wait) == 2
        assert f"unix:{first.socket_path} is already in use" in second.program.log_text()
        async with first.stream() as stream:
            await stream.write(make_message(make_entry()))
            await first.arrived(1)


async def test_a_file_that_is_no_socket_is_left_alone(kafka_server: KafkaServer) -> None:
    path = scratch_dir("file") / "precious.txt"
    path.write_text("mine")
    lab = await make_ship(kafka_server.bootstrap, LISTEN=f"unix:{path}")
    lab.program.start(wait=False)

    assert await asyncio.to_thread(lab.program.wait) == 2
    assert "not a socket" in lab.program.log_text()
    assert path.read_text() == "mine"


async def test_it_listens_on_several_addresses_and_tells_its_health(
    kafka_server: KafkaServer,
) -> None:
    port = free_port()
    path = scratch_dir("ship2") / "als.sock"
    async with ship_lab(kafka_server.bootstrap, LISTEN=f"127.0.0.1:{port},unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        for target in (f"127.0.0.1:{port}", f"unix:{path}"):
            async with grpc.aio.insecure_channel(target) as channel:
                check: Any = channel.unary_unary(HEALTH, None, None)
                assert await check(b"") == b"\x08\x01"
                name = b"envoy.service.accesslog.v3.AccessLogService"
                assert await check(b"\x0a" + bytes([len(name)]) + name) == b"\x08\x01"
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await check(b"\x0a\x05other")
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_topics_are_created_once_and_left_as_they_are(kafka_server: KafkaServer) -> None:
    names = [f"topics.{uuid.uuid4().hex}.{what}" for what in ("usage", "dlq")]

    made = await create(kafka_server.bootstrap, names, partitions=5)
    assert [line.partition(";")[0] for line in made] == [
        f"{name}: created, 5 partitions, replication 1" for name in names
    ]
    assert await create(kafka_server.bootstrap, names, partitions=6) == [
        f"{name}: exists, 5 partitions (not the 6 asked for)" for name in names
    ]
