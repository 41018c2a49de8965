"""What is held between those who bring records and Kafka."""

import asyncio
import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from aforo_meter.outflow import FullError, Group, Outflow
from aforo_meter.records import Record
from aforo_meter.spool import Spool
from lab.servers import eventually


def make_records(count: int, *, size: int = 10, begin: int = 0) -> list[Record]:
    return [
        Record("t", b"k", b"%08d" % number + b"x" * (size - 8))
        for number in range(begin, begin + count)
    ]


def make_outflow(
    directory: Path | None = None,
    *,
    records_max: int = 100,
    bytes_max: int = 10_000,
    spool_bytes_max: int = 1 << 20,
    sync_s: float = 3600,
) -> Outflow:
    spool = directory and Spool.open(directory, bytes_max=spool_bytes_max, setting="S")
    return Outflow(spool or None, records_max=records_max, bytes_max=bytes_max, sync_s=sync_s)


async def write_all(outflow: Outflow, *, records_max: int = 7) -> list[Record]:
    """Take and release until nothing is held."""
    found: list[Record] = []
    while outflow.held:
        group = await asyncio.wait_for(outflow.take(records_max), 20)
        found += group.records
        outflow.release(group)
    return found


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A full disk, as far as writes can tell; not for the log, which may be a file too."""
    with limit_of_files() as limit, capture_logs():
        limit(size)
        yield


@pytest.fixture(params=["memory", "spool"])
def outflow(request: pytest.FixtureRequest, tmp_path: Path) -> Outflow:
    return make_outflow(tmp_path / "s" if request.param == "spool" else None)


async def test_records_leave_in_the_order_they_came(outflow: Outflow) -> None:
    records = make_records(7)
    outflow.add(records[:3])
    outflow.add(records[3:])

    assert await write_all(outflow, records_max=5) == records


async def test_what_was_taken_is_held_until_it_is_released(outflow: Outflow) -> None:
    outflow.add(make_records(2))
    outflow.add(make_records(1))
    group = await outflow.take(2)
    assert (outflow.held, outflow.held_bytes) == (3, 30)

    outflow.release(group)
    assert (outflow.held, outflow.held_bytes) == (1, 10)
    assert not outflow._emptied.is_set()

    outflow.release(await outflow.take(2))
    await asyncio.wait_for(outflow.emptied(), 20)


async def test_taking_waits_for_a_record(outflow: Outflow) -> None:
    taking = asyncio.create_task(outflow.take(5))
    await asyncio.sleep(0)
    assert not taking.done()

    records = make_records(1)
    outflow.add(records)
    assert (await asyncio.wait_for(taking, 20)).records == records


async def test_an_empty_message_changes_nothing(outflow: Outflow) -> None:
    outflow.add([])
    await outflow.accept([])

    await asyncio.wait_for(outflow.emptied(), 20)
    await asyncio.wait_for(outflow.room(), 20)


async def test_full_memory_without_a_spool_lets_nobody_read_on_until_something_is_written() -> None:
    outflow = make_outflow(records_max=3)
    outflow.add(make_records(4))
    assert not outflow.has_room
    with pytest.raises(FullError, match="4 records wait for kafka"):
        await outflow.accept(make_records(1))
    reading = asyncio.create_task(outflow.room())
    group = await outflow.take(2)
    await asyncio.sleep(0)
    assert not reading.done(), "taken is not written"

    outflow.release(group)
    await asyncio.wait_for(reading, 20)


async def test_bytes_fill_memory_as_well_as_records() -> None:
    outflow = make_outflow(records_max=1000, bytes_max=100)
    outflow.add(make_records(2, size=50))

    assert not outflow.has_room


async def test_with_a_spool_memory_holds_only_the_beginning(tmp_path: Path) -> None:
    outflow = make_outflow(tmp_path / "s", records_max=10)
    records = make_records(1000)
    for begin in range(0, 1000, 5):
        outflow.add(records[begin : begin + 5])

    assert outflow.has_room
    assert (outflow.held, outflow.held_bytes, outflow.unprotected) == (1000, 50, 0)
    assert await write_all(outflow) == records
    assert outflow.held_bytes == 0


async def test_the_next_process_sends_what_this_one_could_not(tmp_path: Path) -> None:
    first = make_outflow(tmp_path / "s", records_max=10)
    first.add(make_records(5))
    first.add(make_records(25, begin=5))
    first.release(await first.take(5))
    await first.close()

    second = make_outflow(tmp_path / "s")
    second.add(make_records(5, begin=30))

    assert second.held == 30
    assert await write_all(second) == make_records(30, begin=5)
    await second.close()


async def test_a_full_spool_keeps_the_oldest_and_memory_goes_on_until_it_is_full_too(
    tmp_path: Path,
) -> None:
    outflow = make_outflow(tmp_path / "s", records_max=20, spool_bytes_max=4000)
    added = 0
    while outflow.has_room:
        outflow.add(make_records(1, size=100, begin=added))
        added += 1
    assert 10 <= outflow.unprotected <= 20
    with pytest.raises(FullError):
        await outflow.accept(make_records(1))

    assert [int(one.value[:8]) for one in await write_all(outflow)] == list(range(added))
    await asyncio.wait_for(outflow.room(), 20)
    outflow.add(make_records(1))
    assert outflow.unprotected == 0, "the spool takes records again"


async def test_what_is_in_memory_only_is_spooled_once_there_is_room(tmp_path: Path) -> None:
    outflow = make_outflow(tmp_path / "s", records_max=20, spool_bytes_max=4000)
    added = 0
    while outflow.has_room:
        outflow.add(make_records(1, size=100, begin=added))
        added += 1
    while outflow.unprotected:
        outflow.release(await outflow.take(1))
    held = outflow.held
    await outflow.close()

    again = make_outflow(tmp_path / "s", spool_bytes_max=4000)
    left = [int(one.value[:8]) for one in await write_all(again)]
    assert left == list(range(added - held, added))


async def test_a_disk_that_takes_nothing_costs_no_record_and_no_order(tmp_path: Path) -> None:
    outflow = make_outflow(tmp_path / "s", records_max=50)
    outflow.add(make_records(10))
    with no_file_larger_than(20):
        outflow.add(make_records(10, begin=10))
        outflow.add(make_records(10, begin=20))
    assert (outflow.held, outflow.unprotected) == (30, 20)

    outflow._retry_at_s = 0
    outflow.add(make_records(10, begin=30))
    assert outflow.unprotected == 0
    assert await write_all(outflow) == make_records(40)


async def test_what_comes_after_the_disk_was_read_to_its_end_waits_behind_what_it_lacks(
    tmp_path: Path,
) -> None:
    outflow = make_outflow(tmp_path / "s", records_max=20)
    outflow.add(make_records(10))
    outflow.add(make_records(10, begin=10))  # On disk only: half of memory is taken.
    with no_file_larger_than(20):
        outflow.add(make_records(5, begin=20))
        outflow.release(first := await outflow.take(10))
        second = await outflow.take(10)
        outflow.add(make_records(5, begin=25))
        outflow.release(second)
        rest = await write_all(outflow)

    assert first.records + second.records + rest == make_records(30)


async def test_a_damaged_segment_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    first = make_outflow(tmp_path / "s", spool_bytes_max=4000)
    for number in range(30):
        first.add(make_records(1, size=50, begin=number))
    await first.close()
    segments = sorted((tmp_path / "s").glob("*.spool"))
    assert len(segments) > 2
    segments[0].write_bytes(b"\xff" * segments[0].stat().st_size)
    second = make_outflow(tmp_path / "s", spool_bytes_max=4000)
    held = second.held
    found = [int(one.value[:8]) for one in await write_all(second)]

    assert held == 30
    assert second.lost == 30 - len(found) == int(segments[1].stem)
    assert found == list(range(second.lost, 30))
    await asyncio.wait_for(second.emptied(), 20)


async def test_what_is_accepted_is_in_kafka_or_on_the_disk_itself(tmp_path: Path) -> None:
    outflow = make_outflow(tmp_path / "s")
    running = asyncio.create_task(outflow.run())
    outflow.flowing = True
    accepting = asyncio.create_task(outflow.accept(make_records(3)))
    group = await outflow.take(5)
    assert not accepting.done()
    outflow.release(group)
    await asyncio.wait_for(accepting, 20)

    assert outflow.spool is not None
    synced = outflow.spool.synced
    outflow.flowing = False
    await asyncio.wait_for(outflow.accept(make_records(3)), 20)
    assert outflow.spool.synced == synced + 6
    assert outflow.held == 3
    running.cancel()
    await outflow.close()


async def test_without_a_spool_only_kafka_is_safe() -> None:
    outflow = make_outflow()
    accepting = [asyncio.create_task(outflow.accept(make_records(2))) for _ in range(3)]
    await asyncio.sleep(0)
    outflow.release(await outflow.take(4))
    await asyncio.wait(accepting[:2], timeout=20)
    assert [one.done() for one in accepting] == [True, True, False]

    outflow.release(await outflow.take(4))
    await asyncio.wait_for(accepting[2], 20)


async def test_what_kafka_does_not_take_gets_to_the_disk_by_itself(tmp_path: Path) -> None:
    outflow = make_outflow(tmp_path / "s", sync_s=0.02)
    running = asyncio.create_task(outflow.run())
    outflow.add(make_records(3))
    assert outflow.spool is not None
    spool = outflow.spool
    await eventually(lambda: spool.synced == 3)
    running.cancel()
    await outflow.close()


async def test_a_disk_that_fails_to_sync_does_not_let_anybody_believe_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    outflow = make_outflow(tmp_path / "s", sync_s=0.02)
    monkeypatch.setattr(os, "fsync", fail)
    running = asyncio.create_task(outflow.run())
    accepting = asyncio.create_task(outflow.accept(make_records(3)))
    await eventually(lambda: outflow.spool_errors)
    assert not accepting.done()

    outflow.release(await outflow.take(3))
    await asyncio.wait_for(accepting, 20)
    running.cancel()
    monkeypatch.undo()
    await outflow.close()


STEPS = st.lists(
    st.sampled_from(["add", "add", *["write"] * 4, "full", "free", "restart"]), max_size=40
)
# Half of the walks begin where all three parts of the line are taken.
WALKS = STEPS | STEPS.map(lambda steps: [*["add"] * 4, "full", "add", *steps])


@settings(max_examples=200, deadline=None)
@given(steps=WALKS)
@example(steps=[*["add"] * 4, "full", "add", *["write"] * 5, "add", "write", "write"])
def test_whatever_happens_records_keep_their_order_and_only_a_full_disk_can_cost_any(
    steps: list[str],
) -> None:
    with TemporaryDirectory() as name, capture_logs():
        asyncio.run(walk(Path(name), steps))


async def walk(directory: Path, steps: list[str]) -> None:
    outflow = make_outflow(directory, records_max=12, spool_bytes_max=3000)
    came = 0
    taken: Group | None = None
    sent: list[int] = []
    lost: set[int] = set()
    with limit_of_files() as limit:
        for step in steps:
            if step == "add" and outflow.has_room:
                outflow.add(make_records(3, begin=came, size=30))
                came += 3
            elif step == "write" and taken is not None:
                outflow.release(taken)
                taken = None
            elif step == "write" and outflow.held:
                taken = await outflow.take(4)
                sent += numbers(taken)
            elif step in {"full", "free"}:
                limit(20 if step == "full" else None)
                outflow._retry_at_s = 0
            elif step == "restart":
                lost |= set(range(came - outflow.unprotected, came))
                taken = None
                await outflow.close()
                outflow = make_outflow(directory, records_max=12, spool_bytes_max=3000)
        if taken is not None:
            outflow.release(taken)
        sent += [int(record.value[:8]) for record in await write_all(outflow)]
    await outflow.close()
    once = list(dict.fromkeys(sent))
    assert once == sorted(once), "the first time that each is sent, they are in order"
    assert set(range(came)) - set(once) <= lost


@contextmanager
def limit_of_files() -> Iterator[Callable[[int | None], None]]:
    """Give a function that sets how large files may be, or takes that back."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        soft = before[0] if size is None else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, before[1]))

    try:
        yield limit
    finally:
        limit(None)


def numbers(group: Group) -> list[int]:
    return [int(record.value[:8]) for record in group.records]
