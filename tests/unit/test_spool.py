"""What the spool keeps: over restarts, cuts, flips, full disks."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aforo_meter.records import Record
from aforo_meter.segments import sync_all
from aforo_meter.spool import Spool, SpoolError, SpoolFullError

MIB = 1024 * 1024
RECORDS = st.builds(
    Record,
    topic=st.sampled_from(["usage", "dlq", "ünïcode"]),
    key=st.none() | st.binary(max_size=20),
    value=st.binary(max_size=200),
)
BATCHES = st.lists(st.lists(RECORDS, min_size=1, max_size=8), min_size=1, max_size=12)


def open_spool(directory: Path, *, bytes_max: int = 64 * MIB) -> Spool:
    return Spool.open(directory, bytes_max=bytes_max, setting="SPOOL_DIR")


@contextmanager
def opened(directory: Path, *, bytes_max: int = 64 * MIB) -> Iterator[Spool]:
    spool = open_spool(directory, bytes_max=bytes_max)
    yield spool
    spool.close()


def make_records(count: int, *, size: int = 10, begin: int = 0) -> list[Record]:
    return [
        Record("t", b"k", b"%08d" % number + b"x" * (size - 8))
        for number in range(begin, begin + count)
    ]


def read_all(spool: Spool) -> list[Record]:
    found: list[Record] = []
    while spool.unread:
        found += spool.read(records_max=3)[0]
    return found


def segments_of(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.spool"))


@settings(max_examples=50, deadline=None)
@given(batches=BATCHES, acknowledged=st.integers(0, 100), read=st.integers(0, 100))
def test_after_a_restart_all_that_was_not_acknowledged_is_there_in_order(
    batches: list[list[Record]], acknowledged: int, read: int
) -> None:
    everything = [record for batch in batches for record in batch]
    acknowledged = min(acknowledged, len(everything))
    with TemporaryDirectory() as name:
        # Segments of a few records, so that most of this crosses from one to the next.
        with opened(Path(name), bytes_max=8000) as spool:
            for batch in batches:
                try:
                    spool.append(batch)
                except SpoolFullError:
                    everything = everything[: spool.end]
                    break
            acknowledged = min(acknowledged, spool.end)
            while spool.unread and spool.end - spool.unread < read:
                spool.read(records_max=2)
            read_now = spool.end - spool.unread
            spool.acknowledge(min(acknowledged, read_now))
        with opened(Path(name), bytes_max=8000) as again:
            assert again.kept == len(everything) - min(acknowledged, read_now)
            assert read_all(again) == everything[min(acknowledged, read_now) :]


@settings(max_examples=50, deadline=None)
@given(batches=BATCHES, data=st.data())
def test_a_cut_anywhere_costs_only_what_comes_behind_it(
    batches: list[list[Record]], data: st.DataObject
) -> None:
    everything = [record for batch in batches for record in batch]
    with TemporaryDirectory() as name:
        with opened(Path(name)) as spool:
            for batch in batches:
                spool.append(batch)
        (segment,) = segments_of(Path(name))
        content = segment.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        segment.write_bytes(content[:cut])
        with opened(Path(name)) as again:
            found = read_all(again)
            again.append(make_records(1))
            assert read_all(again) == make_records(1), "it goes on behind the cut"

    whole = 0
    with TemporaryDirectory() as name, opened(Path(name)) as spool:
        for record in everything:
            spool.append([record])
            if spool.bytes > cut:
                break
            whole += 1
    assert found == everything[:whole]


@settings(max_examples=50, deadline=None)
@given(batches=BATCHES, data=st.data())
def test_a_flipped_bit_costs_only_what_comes_behind_it_and_nothing_wrong_is_read(
    batches: list[list[Record]], data: st.DataObject
) -> None:
    everything = [record for batch in batches for record in batch]
    with TemporaryDirectory() as name:
        with opened(Path(name)) as spool:
            for batch in batches:
                spool.append(batch)
        (segment,) = segments_of(Path(name))
        content = bytearray(segment.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        segment.write_bytes(content)
        with opened(Path(name)) as again:
            found = read_all(again)

    with TemporaryDirectory() as name, opened(Path(name)) as spool:
        whole = 0
        for record in everything:
            spool.append([record])
            if spool.bytes > place:
                break
            whole += 1
    assert found == everything[:whole]


@settings(max_examples=20, deadline=None)
@given(zeros=st.integers(1, 100))
def test_zeros_that_a_power_cut_left_are_no_records(zeros: int) -> None:
    with TemporaryDirectory() as name:
        with opened(Path(name)) as spool:
            spool.append(make_records(3))
        (segment,) = segments_of(Path(name))
        segment.write_bytes(segment.read_bytes() + bytes(zeros))
        with opened(Path(name)) as again:
            assert again.torn_bytes == zeros
            assert read_all(again) == make_records(3)


@given(
    steps=st.lists(st.sampled_from(["append", "read", "acknowledge", "checkpoint", "crash"])),
)
@settings(max_examples=150, deadline=None)
def test_whatever_happened_before_a_crash_every_record_comes_at_least_once_and_in_order(
    steps: list[str],
) -> None:
    """A crash is a directory that nobody closed: the lock goes with the process.

    Records are counted from the end: one that was emptied before its checkpoint was written begins
    anew at ordinal 0.
    """
    acknowledged = appended = 0
    with TemporaryDirectory() as name:
        spool = open_spool(Path(name), bytes_max=4000)
        for step in steps:
            if step == "append":
                try:
                    spool.append(make_records(3, begin=appended))
                except SpoolFullError:
                    continue
                appended += 3
            elif step == "read":
                begin = appended - spool.unread
                found, damaged = spool.read(records_max=2)
                assert damaged == 0
                assert found == make_records(len(found), begin=begin)
            elif step == "acknowledge":
                acknowledged = max(acknowledged, appended - spool.unread)
                spool.acknowledge(spool.end - spool.unread)
            elif step == "checkpoint":
                spool.checkpoint()
            else:
                crash(spool)
                spool = open_spool(Path(name), bytes_max=4000)
        crash(spool)
        with opened(Path(name), bytes_max=4000) as last:
            found = read_all(last)
    begin = appended - len(found)
    assert begin <= acknowledged, "what was not acknowledged is there"
    assert found == make_records(len(found), begin=begin)


def crash(spool: Spool) -> None:
    """Let go of what the operating system would take from a killed process, and of no more."""
    for fd in (spool._lock, spool._entries, *[one.fd for one in spool._segments if one.fd]):
        os.close(fd)


WRITER = """
import sys
from pathlib import Path
from aforo_meter.records import Record
from aforo_meter.spool import Spool
spool = Spool.open(Path(sys.argv[1]), bytes_max=1 << 26, setting="S")
for number in range(10**9):
    spool.append([Record("t", b"k", b"%08d" % number)])
    print(number, flush=True)
"""


def test_sigkill_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "spool")], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 2000:
                break
        writer.send_signal(signal.SIGKILL)
        told = int(line) + sum(1 for _ in writer.stdout)
    with opened(tmp_path / "spool") as spool:
        found = [int(record.value) for record in read_all(spool)]

    assert found == list(range(len(found)))
    assert len(found) >= told + 1


def fill(spool: Spool) -> int:
    """Append until nothing more is taken; return how many records were."""
    number = 0
    with suppress(SpoolFullError):
        while True:
            spool.append(make_records(1, size=100, begin=number))
            number += 1
    return number


def test_a_full_spool_takes_nothing_and_goes_on_when_its_oldest_are_acknowledged(
    tmp_path: Path,
) -> None:
    with opened(tmp_path / "s", bytes_max=10_000) as spool:
        kept = fill(spool)
        assert spool.bytes <= 10_000
        assert kept >= 60
        assert [record.value[:8] for record in read_all(spool)] == [
            b"%08d" % number for number in range(kept)
        ], "the oldest are kept"
        spool.acknowledge(kept // 2)
        spool.append(make_records(1, size=100, begin=kept))
        assert sum(path.stat().st_size for path in segments_of(tmp_path / "s")) == spool.bytes


def test_what_the_disk_could_not_take_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit for the size of a file, as a full disk: the first part of a record is written."""
    with opened(tmp_path / "s") as spool:
        spool.append(make_records(10))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (spool.bytes + 20, before[1]))
        try:
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                spool.append(make_records(10, begin=10))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert spool.kept == 10
        spool.append(make_records(10, begin=20))
        assert read_all(spool) == [*make_records(10), *make_records(10, begin=20)]
    with opened(tmp_path / "s") as again:
        assert again.torn_bytes == 0
        assert again.kept == 20


def test_a_damaged_segment_costs_no_other_and_is_kept_for_a_look(tmp_path: Path) -> None:
    with opened(tmp_path / "s", bytes_max=16_000) as spool:
        for number in range(60):
            spool.append(make_records(1, size=100, begin=number))
    first, second, *_ = segments_of(tmp_path / "s")
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    behind = int(second.stem)
    with opened(tmp_path / "s", bytes_max=16_000) as again:
        numbers, damaged = [], 0
        while again.unread:
            found, lost = again.read(records_max=5)
            numbers += [int(record.value[:8]) for record in found]
            damaged += lost

    assert damaged > 0
    assert numbers == [*range(behind - damaged), *range(behind, 60)]
    assert first.with_suffix(".damaged").read_bytes() == content


def test_a_broken_checkpoint_means_that_more_is_sent_again(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as spool:
        spool.append(make_records(5))
        spool.read(records_max=3)
        spool.acknowledge(3)
    (tmp_path / "s" / "checkpoint").write_text("4 00000000\n")
    with opened(tmp_path / "s") as again:
        assert read_all(again) == make_records(5)


def test_a_checkpoint_ahead_of_what_a_power_cut_spared_does_not_hide_new_records(
    tmp_path: Path,
) -> None:
    with opened(tmp_path / "s") as spool:
        spool.append(make_records(5))
        spool.skip()
        spool.acknowledge(5)
    for path in segments_of(tmp_path / "s"):
        path.write_bytes(b"")
    with opened(tmp_path / "s") as again:
        again.append(make_records(2))
    with opened(tmp_path / "s") as last:
        assert read_all(last) == make_records(2)


def test_what_is_acknowledged_leaves_no_files(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as spool:
        spool.append(make_records(5))
        spool.skip()
        spool.acknowledge(5)
    with opened(tmp_path / "s") as again:
        assert segments_of(tmp_path / "s") == []
        assert (again.kept, again.bytes) == (0, 0)


def test_a_record_larger_than_a_segment_and_than_a_piece_is_kept(tmp_path: Path) -> None:
    large = Record("t", None, b"x" * (3 * MIB))
    with opened(tmp_path / "s", bytes_max=8 * MIB) as spool:
        spool.append([*make_records(1), large, *make_records(1, begin=1)])
    with opened(tmp_path / "s", bytes_max=8 * MIB) as again:
        assert read_all(again) == [*make_records(1), large, *make_records(1, begin=1)]


def test_a_sync_covers_what_was_appended_before_it(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as spool:
        spool.append(make_records(5))
        upto, fds = spool.begin_sync()
        spool.append(make_records(5, begin=5))
        sync_all(fds)
        spool.end_sync(upto)
        assert spool.synced == 5
        upto, fds = spool.begin_sync()
        assert upto == 10
        assert fds, "what came in between is not forgotten"
        spool.end_sync(10)


def test_two_processes_can_not_share_a_directory(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "s"),
        pytest.raises(SpoolError, match=f"in use by process {os.getpid()}.*change SPOOL_DIR"),
    ):
        open_spool(tmp_path / "s")


@pytest.mark.parametrize("place", ["file/spool", "nowhere/spool"])
def test_a_directory_that_can_not_be_used_is_a_clear_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"can't be written to: .*change SPOOL_DIR"):
        open_spool(tmp_path / place)
