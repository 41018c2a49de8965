"""Records on disk, in the order in which they came, until they are acknowledged.

A directory holds segments, each named after the number of its first record, a checkpoint with the
number of the first record that is not acknowledged, and a lock. What was appended survives the end
of the process by any means; what was synced survives a power cut. Nothing here waits or retries.
"""

import contextlib
import fcntl
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from zlib import crc32

import structlog

from aforo_meter.records import Record, encode
from aforo_meter.segments import Segment, sync_path, whole, write_all

SEGMENT_BYTES_MAX: Final = 64 * 1024 * 1024
SEGMENTS_MIN: Final = 8  # A full spool gives room back by the segment.
SUFFIX: Final = ".spool"

log = structlog.get_logger()


class SpoolError(Exception):
    """The directory can't be used; the message says why, and what to change."""


class SpoolFullError(Exception):
    """What was to be appended would exceed the spool's bound."""


@dataclass(slots=True)
class Cursor:
    """Where reading goes on: in which segment, at which byte, and which record that is."""

    first: int
    offset: int
    ordinal: int


class Spool:
    """Appended to at its end, read once from its beginning, forgotten as it is acknowledged.

    Records have ordinals that never repeat in one directory: `acknowledged` is the oldest that is
    kept, `end` the one that the next record gets.
    """

    def __init__(self, directory: Path, lock: int, *, bytes_max: int) -> None:
        self._directory = directory
        self._lock = lock
        self._entries = os.open(directory, os.O_RDONLY)  # To sync the names of new segments.
        self._new_entry = False
        self._sealed = False
        self.bytes_max = bytes_max
        self._segment_bytes = min(SEGMENT_BYTES_MAX, bytes_max // SEGMENTS_MIN)
        self._segments: deque[Segment] = deque()
        self._closing: list[int] = []  # Descriptors that a sync under way may still use.
        self._syncing = False
        self._doubtful = 0  # Records before it may not be on the disk, whatever it says later.
        self._checkpointed = -1
        self.torn_bytes = 0  # Cut off at the start.
        self.bytes = 0
        self.acknowledged = 0
        self.end = 0
        self.synced = 0
        self._recover()
        self._cursor = self._cursor_at(self.acknowledged)

    @classmethod
    def open(cls, directory: Path, *, bytes_max: int, setting: str) -> Self:
        """Take a directory, which is made if need be, and find what an earlier process left.

        Raises:
            SpoolError: It can't be written to, or another process has it.
        """
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SpoolError(
                f"the spool {directory} can't be written to: {reason}; make it a directory that "
                f"this user may write to, or change {setting}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise SpoolError(
                f"the spool {directory} is in use by process {owner}: each process needs a "
                f"directory of its own; change {setting}"
            ) from error
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            return cls(directory, lock, bytes_max=bytes_max)
        except OSError as error:
            os.close(lock)
            reason = error.strerror or str(error)
            raise SpoolError(
                f"the spool {directory} can't be used: {reason}; change {setting}"
            ) from error

    @property
    def kept(self) -> int:
        """Records that are not acknowledged."""
        return self.end - self.acknowledged

    @property
    def unread(self) -> int:
        return self.end - self._cursor.ordinal

    def append(self, records: Sequence[Record]) -> None:
        """Write records to the end: all of them, or none.

        Raises:
            SpoolFullError: There is no room within the bound.
            OSError: The disk is full, or worse.
        """
        data = encode(records)
        if self.bytes + len(data) > self.bytes_max:
            self._seal()
            raise SpoolFullError
        active = self._active(len(data))
        assert active.fd is not None, "the last segment is open"
        try:
            write_all(active.fd, data, at=active.size)
        except OSError:
            # Shorter is possible on a full disk. If not even that, what is there is no record, or
            # is written over.
            with contextlib.suppress(OSError):
                os.ftruncate(active.fd, active.size)
            self._seal()
            raise
        active.size += len(data)
        active.unsynced = True
        self.bytes += len(data)
        self.end += len(records)

    def skip(self) -> None:
        """Read nothing of what was appended up to now."""
        if self._segments:
            last = self._segments[-1]
            self._cursor = Cursor(last.first, last.size, self.end)

    def read(self, *, records_max: int) -> tuple[list[Record], int]:
        """Return the next records, at least one if any is unread, and how many were damaged.

        What can't be read in a segment is skipped to the next segment, and its file is kept.
        """
        damaged = 0
        while self.unread:
            segment = self._seat()
            upto = self._first_behind(segment)
            wanted = min(records_max, upto - self._cursor.ordinal)
            try:
                piece = whole(segment, self._cursor.offset)[:wanted]
                reason = "no whole record"
            except OSError as error:
                piece, reason = [], str(error)
            if piece:
                self._cursor.offset = piece[-1][1]
                self._cursor.ordinal += len(piece)
                return [record for record, _ in piece], damaged
            damaged += upto - self._cursor.ordinal
            self._set_aside(segment, reason)
            self._cursor = Cursor(upto, 0, upto)
        return [], damaged

    def acknowledge(self, ordinal: int) -> None:
        """Forget the records before `ordinal`."""
        self.acknowledged = ordinal
        while self._segments and self._first_behind(self._segments[0]) <= ordinal:
            if len(self._segments) == 1 and not self._sealed:
                break
            self._forget(self._segments.popleft())

    def checkpoint(self) -> None:
        """Note what is acknowledged, so that the next process does not send it again.

        Raises:
            OSError: It could not be written. The old one holds: more is sent again than need be.
        """
        if self._checkpointed == self.acknowledged:
            return
        text = str(self.acknowledged)
        fresh = self._directory / "checkpoint.new"
        fresh.write_text(f"{text} {crc32(text.encode()):08x}\n")
        fresh.replace(self._directory / "checkpoint")
        self._checkpointed = self.acknowledged

    def begin_sync(self) -> tuple[int, list[int]]:
        """Return up to which record, and the descriptors on which, `fsync` is to be called.

        Any thread may do that; `end_sync` must follow.
        """
        self._syncing = True
        unsynced = [one for one in self._segments if one.unsynced]
        for segment in unsynced:
            segment.unsynced = False
        names = [self._entries] if self._new_entry else []
        self._new_entry = False
        return self.end, [*names, *(one.fd for one in unsynced if one.fd is not None)]

    def end_sync(self, upto: int | None) -> bool:
        """Note that records before `upto` are on the disk; None: the sync failed.

        Return whether they are. After a failure the kernel forgets what it could not write, and the
        next sync succeeds without it: so nothing is believed until those records are acknowledged.
        """
        self._syncing = False
        if upto is None:
            self._doubtful = self.end
        good = upto is not None and self.acknowledged >= self._doubtful
        if good and upto is not None:
            self.synced = max(self.synced, upto)
        for fd in self._closing:
            os.close(fd)
        self._closing.clear()
        for segment in list(self._segments)[:-1]:
            if not segment.unsynced:
                self._close(segment)
        return good

    def close(self) -> None:
        """Note what is acknowledged and let go of the directory."""
        with contextlib.suppress(OSError):
            self.checkpoint()
        for segment in self._segments:
            self._close(segment)
        os.close(self._entries)
        os.close(self._lock)

    # --- Segments --------------------------------------------------------------------------------

    def _active(self, length: int) -> Segment:
        """Return the segment to append to: a new one if the last would grow too large."""
        if self._segments and not self._sealed:
            last = self._segments[-1]
            if last.fd is not None and (not last.size or last.size + length <= self._segment_bytes):
                return last
        path = self._directory / f"{self.end:020d}{SUFFIX}"
        # Truncated: what a killed process left there holds no record, or it would have been found.
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        segment = Segment(path=path, first=self.end, size=0, fd=os.open(path, flags, 0o600))
        self._segments.append(segment)
        self._sealed = False
        self._new_entry = True
        return segment

    def _seal(self) -> None:
        """Append no more to the last segment, so that its room is given back with its records."""
        self._sealed = bool(self._segments and self._segments[-1].size)

    def _first_behind(self, segment: Segment) -> int:
        """Return the ordinal of the first record behind a segment."""
        index = self._segments.index(segment)
        return self._segments[index + 1].first if index + 1 < len(self._segments) else self.end

    def _seat(self) -> Segment:
        """Return the segment with the next unread record, and move the cursor into it."""
        at = self._cursor
        segment = next(one for one in reversed(self._segments) if one.first <= at.ordinal)
        if segment.first != at.first:
            assert segment.first == at.ordinal, "what is unread is kept"
            self._cursor = Cursor(segment.first, 0, segment.first)
        return segment

    def _set_aside(self, segment: Segment, reason: str) -> None:
        """Keep a damaged file for those who want to look at it."""
        log.error("a segment of the spool is damaged", path=str(segment.path), error=reason)
        with contextlib.suppress(OSError):
            os.link(segment.path, segment.path.with_suffix(".damaged"))

    def _forget(self, segment: Segment) -> None:
        self._close(segment)
        segment.path.unlink(missing_ok=True)
        self.bytes -= segment.size

    def _close(self, segment: Segment) -> None:
        if segment.fd is None:
            return
        if self._syncing:
            self._closing.append(segment.fd)
        else:
            os.close(segment.fd)
        segment.fd = None

    # --- The start -------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Find what an earlier process left, and cut a record that it could not finish."""
        paths = sorted(self._directory.glob("[0-9]" * 20 + SUFFIX))
        for path in paths:
            self._segments.append(Segment(path, int(path.stem), path.stat().st_size))
        self.acknowledged = self._read_checkpoint()
        if self._segments:
            last = self._segments[-1]
            self.end = last.first + self._cut(last)
            if not last.size:  # Its name is the next segment's.
                self._forget(self._segments.pop())
        if self._segments:
            self.acknowledged = max(self.acknowledged, self._segments[0].first)
        # A power cut may have spared the checkpoint and not the records before it.
        self.end = max(self.end, self.acknowledged)
        self.bytes = sum(segment.size for segment in self._segments)
        self._seal()
        self.acknowledge(self.acknowledged)
        for segment in self._segments:
            sync_path(segment.path)
        self.synced = self.end

    def _cut(self, segment: Segment) -> int:
        """Cut off what is no whole record; return how many records there are."""
        count, offset = 0, 0
        while piece := whole(segment, offset):
            count += len(piece)
            offset = piece[-1][1]
        if offset < segment.size:
            self.torn_bytes = segment.size - offset
            os.truncate(segment.path, offset)
            log.warning(
                "the last record of the spool was not written to its end, and was cut off",
                path=str(segment.path),
                bytes=self.torn_bytes,
            )
            segment.size = offset
        return count

    def _cursor_at(self, ordinal: int) -> Cursor:
        if not self._segments:
            return Cursor(ordinal, 0, ordinal)
        segment = self._segments[0]
        at = Cursor(segment.first, 0, segment.first)
        while at.ordinal < ordinal and (piece := whole(segment, at.offset)):
            piece = piece[: ordinal - at.ordinal]
            at.ordinal += len(piece)
            at.offset = piece[-1][1]
        # If it is damaged before that record, reading will say so.
        return at

    def _read_checkpoint(self) -> int:
        """Return the first record that is not acknowledged; 0 if that is not known."""
        path = self._directory / "checkpoint"
        try:
            text, _, checksum = path.read_text().strip().partition(" ")
            if checksum == f"{crc32(text.encode()):08x}":
                return int(text)
        except FileNotFoundError:
            return 0
        except (ValueError, OSError) as error:
            log.debug("no checkpoint", error=str(error))
        log.warning("the spool's checkpoint is unreadable; all that is there is sent again")
        return 0
