"""What ship keeps while Kafka is away, over its own end, and over a full disk. Real processes."""

import asyncio
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.servers import KafkaServer, eventually, scratch_dir
from tests.contract.kafka_limit import LimitedKafka
from tests.contract.ship_lab import ShipLab, create, make_entry, make_message, make_ship, ship_lab

pytestmark = pytest.mark.contract


@pytest.fixture
def own_kafka() -> Iterator[KafkaServer]:
    """A broker that a test may freeze or kill."""
    server = KafkaServer().start()
    yield server
    server.stop()


async def send(lab: ShipLab, count: int, *, begin: int = 0, padding: int = 0) -> None:
    """Send `count` entries, told apart and ordered by their bytes, and wait until they are read."""
    before = read_by(lab)
    async with lab.stream() as stream:
        for number in range(begin, begin + count):
            entry = make_entry(path="/" + "x" * padding)
            entry.response.response_body_bytes = number + 1
            await stream.write(make_message(entry))
        await eventually(lambda: read_by(lab) == before + count)


def read_by(lab: ShipLab) -> float:
    return lab.metric('aforo_ship_entries_total{as="event"}')


def sizes(lab: ShipLab) -> list[int]:
    """The numbers that `send` gave the events, in the order in which each first arrived."""
    return [measure.units for event in lab.events for measure in event.measures[1:2]]


async def kill(lab: ShipLab) -> None:
    await asyncio.to_thread(lab.program.kill)


async def test_ship_killed_while_kafka_is_away_loses_nothing_that_it_read(
    own_kafka: KafkaServer,
) -> None:
    lab = await make_ship(own_kafka.bootstrap, SPOOL_DIR=str(scratch_dir("spool")))
    try:
        await lab.start()
        async with lab.reading():
            await send(lab, 100)
            await lab.arrived(100)
            own_kafka.freeze()
            await send(lab, 400, begin=100)
            await kill(lab)
            await lab.start()
            assert lab.metric("aforo_ship_buffer_records") >= 400
            await send(lab, 100, begin=500)
            own_kafka.thaw()
            await lab.arrived(600)
            assert sizes(lab) == list(range(1, 601)), "each in its turn, over outage and restart"
            await eventually(lambda: lab.metric("aforo_ship_buffer_records") == 0)
    finally:
        own_kafka.thaw()
        await lab.stop()


async def test_ship_killed_again_and_again_at_full_speed_loses_nothing_that_it_read(
    kafka_server: KafkaServer,
) -> None:
    lab = await make_ship(kafka_server.bootstrap, SPOOL_DIR=str(scratch_dir("spool")))
    sent = 0
    try:
        async with lab.reading():
            for _ in range(4):
                await lab.start()
                await send(lab, 300, begin=sent)
                sent += 300
                await kill(lab)
            await lab.start()
            await lab.arrived(sent)
            assert sizes(lab) == list(range(1, sent + 1))
    finally:
        await lab.stop()


async def test_a_broker_that_comes_back_empty_gets_what_waits(own_kafka: KafkaServer) -> None:
    lab = await make_ship(own_kafka.bootstrap, SPOOL_DIR=str(scratch_dir("spool")))
    try:
        await lab.start()
        await eventually(lambda: lab.metric("aforo_ship_kafka_reachable") == 1)
        await asyncio.to_thread(own_kafka.kill)
        await send(lab, 200)
        await eventually(lambda: lab.metric("aforo_ship_kafka_reachable") == 0)
        assert b" 200 " in lab.ask("/readyz"), "it does its work"
        # This broker forgets what it acknowledged for a topic that is being created.
        await asyncio.to_thread(lab.program.freeze)
        await asyncio.to_thread(own_kafka.start)
        await create(own_kafka.bootstrap, [lab.usage_topic, lab.dead_letter_topic])
        lab.program.thaw()
        async with lab.reading():
            await lab.arrived(200)
            assert sizes(lab) == list(range(1, 201))
    finally:
        await lab.stop()


async def test_ship_tells_that_kafka_is_away_before_there_is_anything_to_write(
    own_kafka: KafkaServer,
) -> None:
    lab = await make_ship(own_kafka.bootstrap)
    try:
        await lab.start()
        await eventually(lambda: lab.metric("aforo_ship_kafka_reachable") == 1)
        await asyncio.to_thread(own_kafka.kill)
        await eventually(lambda: lab.metric("aforo_ship_kafka_reachable") == 0)
        await eventually(lambda: "kafka does not take events" in lab.program.log_text())
    finally:
        await lab.stop()


async def test_a_stop_while_kafka_is_away_leaves_the_rest_to_the_next_start(
    own_kafka: KafkaServer,
) -> None:
    lab = await make_ship(own_kafka.bootstrap, SPOOL_DIR=str(scratch_dir("spool")), DRAIN_S="3600")
    try:
        await lab.start()
        own_kafka.freeze()
        await send(lab, 70)
        await eventually(lambda: lab.metric("aforo_ship_kafka_reachable") == 0)
        assert await lab.stop() == 0, "without waiting for Kafka"
        assert '"held": 70, "event": "stopped; the spool keeps' in lab.program.log_text()
        own_kafka.thaw()
        await lab.start()
        assert '"held": 70, "event": "the spool holds records' in lab.program.log_text()
        async with lab.reading():
            await lab.arrived(70)
    finally:
        own_kafka.thaw()
        await lab.stop()


async def test_a_record_that_was_not_written_to_its_end_costs_no_other(
    own_kafka: KafkaServer,
) -> None:
    spool = scratch_dir("spool")
    lab = await make_ship(own_kafka.bootstrap, SPOOL_DIR=str(spool))
    try:
        await lab.start()
        own_kafka.freeze()
        await send(lab, 50)
        await kill(lab)
        (segment,) = spool.glob("*.spool")
        content = segment.read_bytes()
        segment.write_bytes(content[:-10])
        own_kafka.thaw()
        await lab.start()
        async with lab.reading():
            await lab.arrived(49)
            assert sizes(lab) == list(range(1, 50))
        assert lab.metric("aforo_ship_spool_torn_bytes_total") > 0
        assert "was not written to its end" in lab.program.log_text()
    finally:
        own_kafka.thaw()
        await lab.stop()


async def test_a_disk_that_takes_no_more_is_told_and_costs_nothing(own_kafka: KafkaServer) -> None:
    """A limit for the size of ship's files, and then none, as a disk that is full and is freed."""
    async with ship_lab(own_kafka.bootstrap, SPOOL_DIR=str(scratch_dir("spool"))) as lab:
        await send(lab, 10)
        await lab.arrived(10)
        own_kafka.freeze()
        before = resource.prlimit(lab.program.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(lab.program.pid, resource.RLIMIT_FSIZE, (100, before[1]))
        await send(lab, 300, begin=10)
        assert lab.metric("aforo_ship_spool_working") == 0
        assert lab.metric("aforo_ship_unprotected_records") > 0
        resource.prlimit(lab.program.pid, resource.RLIMIT_FSIZE, before)
        await eventually(lambda: lab.metric("aforo_ship_unprotected_records") == 0)
        own_kafka.thaw()
        await lab.arrived(310)
        assert sizes(lab) == list(range(1, 311))


async def test_a_full_disk_is_told_and_the_oldest_are_kept(own_kafka: KafkaServer) -> None:
    spool = scratch_dir("spool")
    lab = await make_ship(own_kafka.bootstrap, SPOOL_DIR=str(spool), BUFFER_EVENTS_MAX="100")
    mount = "mount -t tmpfs -o size=256k none " + str(spool) + ' && exec "$@"'
    namespace = [shutil.which("unshare") or "unshare", "--mount", "--map-root-user"]
    in_own_mounts = [*namespace, "sh", "-c", mount, "sh"]
    can = await asyncio.to_thread(subprocess.run, [*in_own_mounts, "true"], capture_output=True)
    if can.returncode != 0:
        pytest.skip(f"no file system of our own: {can.stderr.decode().strip()}")
    lab.program.command[:0] = in_own_mounts
    try:
        await lab.start()
        async with lab.reading():
            await send(lab, 10)
            await lab.arrived(10)
            own_kafka.freeze()
            async with lab.stream() as stream:
                writing = asyncio.create_task(fill(lab, stream))
                await eventually(lambda: b" 503 " in lab.ask("/readyz"))
                assert lab.metric("aforo_ship_spool_working") == 0
                held = lab.metric("aforo_ship_buffer_records")
                assert held > 500
                assert lab.metric("aforo_ship_unprotected_records") >= 30
                assert "No space left on device" in lab.program.log_text()
                own_kafka.thaw()
                sent = await writing
                await lab.arrived(10 + sent)
            assert sizes(lab) == [*range(1, 11), *range(1, sent + 1)]
            await send(lab, 1, begin=10 + sent)
            await eventually(lambda: lab.metric("aforo_ship_spool_working") == 1)
    finally:
        own_kafka.thaw()
        await lab.stop()


async def fill(lab: ShipLab, stream: object) -> int:
    """Send until ship is no longer ready, and a little more; return how many entries."""
    sent = 0
    while b" 503 " not in lab.ask("/readyz"):
        entries = [make_entry() for _ in range(20)]
        for entry in entries:
            sent += 1
            entry.response.response_body_bytes = sent
        await stream.write(make_message(*entries))  # type: ignore[attr-defined]
    return sent


async def test_a_full_spool_gives_way_to_memory_and_then_to_the_sender(
    own_kafka: KafkaServer,
) -> None:
    spool = scratch_dir("spool")
    async with ship_lab(
        own_kafka.bootstrap,
        SPOOL_DIR=str(spool),
        SPOOL_BYTES_MAX="1048576",
        BUFFER_EVENTS_MAX="100",
    ) as lab:
        await send(lab, 10)
        await lab.arrived(10)
        own_kafka.freeze()
        async with lab.stream() as stream:
            writing = asyncio.create_task(fill(lab, stream))
            await eventually(lambda: b" 503 " in lab.ask("/readyz"))
            assert "it is full" in lab.program.log_text()
            assert sum(path.stat().st_size for path in spool.glob("*.spool")) <= 1048576
            own_kafka.thaw()
            sent = await writing
            await lab.arrived(10 + sent)
        assert sizes(lab) == [*range(1, 11), *range(1, sent + 1)]


async def test_a_dead_letter_that_kafka_refuses_is_told_and_stops_nobody() -> None:
    async with LimitedKafka(batch_bytes_max=20_000).serving() as broker:
        spool = str(scratch_dir("spool"))
        async with ship_lab(broker.bootstrap, SPOOL_DIR=spool) as lab:
            await send(lab, 10)
            async with lab.stream() as stream:
                await stream.write(b"\xff" * 30_000)
                await stream.done_writing()
                await stream
            await send(lab, 10, begin=10)
            await lab.arrived(20)
            assert sizes(lab) == list(range(1, 21))
            await eventually(lambda: lab.metric("aforo_ship_lost_total") == 1)
            assert "kafka takes no dead letter of this size" in lab.program.log_text()
            await eventually(lambda: lab.metric("aforo_ship_buffer_records") == 0)


async def test_a_spool_in_use_is_one_clear_line(kafka_server: KafkaServer) -> None:
    spool = scratch_dir("spool")
    async with ship_lab(kafka_server.bootstrap, SPOOL_DIR=str(spool)) as first:
        second = await make_ship(kafka_server.bootstrap, SPOOL_DIR=str(spool))
        second.program.start(wait=False)
        assert await asyncio.to_thread(second.program.wait) == 2
        assert second.program.log_text() == (
            f"aforo-meter: the spool {spool} is in use by process {first.program.pid}: each "
            "process needs a directory of its own; change AFORO_METER_SHIP_SPOOL_DIR\n"
        )


async def test_a_spool_that_can_not_be_written_to_is_one_clear_line(
    kafka_server: KafkaServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    lab = await make_ship(kafka_server.bootstrap, SPOOL_DIR=str(tmp_path / "file" / "spool"))
    lab.program.start(wait=False)
    assert await asyncio.to_thread(lab.program.wait) == 2
    assert lab.program.log_text().startswith("aforo-meter: the spool ")
    assert lab.program.log_text().endswith("or change AFORO_METER_SHIP_SPOOL_DIR\n")


async def test_without_a_spool_it_says_so(kafka_server: KafkaServer) -> None:
    async with ship_lab(kafka_server.bootstrap) as lab:
        assert "there is no spool" in lab.program.log_text()


async def test_frozen_itself_it_goes_on_where_it_was(kafka_server: KafkaServer) -> None:
    async with ship_lab(kafka_server.bootstrap, SPOOL_DIR=str(scratch_dir("spool"))) as lab:
        await send(lab, 100)
        async with lab.stream() as stream:
            await asyncio.to_thread(lab.program.freeze)
            for number in range(100, 200):
                entry = make_entry()
                entry.response.response_body_bytes = number + 1
                await stream.write(make_message(entry))
            lab.program.signal(signal.SIGCONT)
            await lab.arrived(200)
        assert sizes(lab) == list(range(1, 201))
