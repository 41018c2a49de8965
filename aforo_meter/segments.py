"""One file of the spool: writing to it, reading whole records from it, bringing it to the disk."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aforo_meter.records import Record, TornError, decode, size_at

READ_BYTES: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class Segment:
    """One file. `fd` is open as long as it may have to be synced."""

    path: Path
    first: int
    size: int
    fd: int | None = None
    unsynced: bool = False


def sync_all(fds: Sequence[int]) -> None:
    """Bring files to the disk; for a thread of its own, it may take seconds."""
    for fd in fds:
        os.fsync(fd)


def sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes, *, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:] if done else data, at + done)


def whole(segment: Segment, offset: int) -> list[tuple[Record, int]]:
    """Return whole records from a byte of a segment on, each with the byte behind it.

    They are those of a piece of the file, or one if it is larger; none if what stands there is no
    record.
    """
    with segment.path.open("rb", buffering=0) as file:
        left = segment.size - offset
        data = os.pread(file.fileno(), min(READ_BYTES, left), offset)
        size = size_at(data)
        if size is not None and len(data) < size <= left:
            data = os.pread(file.fileno(), size, offset)
    found: list[tuple[Record, int]] = []
    # A record that is not whole may go on in the next piece; if not, nothing will be found there.
    with contextlib.suppress(TornError):
        found.extend((record, offset + behind) for record, behind in decode(data))
    return found
