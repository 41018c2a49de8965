"""A file of usage, row by row, in bounded memory; each row knows where it began and ended."""

import csv
import gzip
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

from aforo_meter.command_arguments import CommandError
from aforo_meter.domain.import_rows import (
    HeaderError,
    columns_of,
    delimiter_of,
    event_of_cells,
)
from aforo_meter.domain.ingest_values import Rejection
from aforo_meter.ingest import codec

LINE_BYTES_MAX: Final = 1024 * 1024
# Lines that one row may span: a quote that is never closed would swallow the rest of the file.
ROW_LINES_MAX: Final = 1000
CHUNK_BYTES: Final = 1024 * 1024
BOM: Final = b"\xef\xbb\xbf"
GZIP: Final = b"\x1f\x8b"


class Line(NamedTuple):
    number: int  # From 1.
    raw: bytes
    end: int  # Where the next one begins, in the unpacked file.
    whole: bool = True  # False: it is longer than any that is read; the rest was skipped.


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: an event, not yet validated, or why there is none."""

    line: int  # The first one of it.
    raw: bytes
    end: int
    last_line: int
    event: Any = None
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to go on: behind a row."""

    offset: int = 0
    line: int = 0  # The last one that was read.


class UsageFile:
    """A file of usage: CSV with a header, or JSON lines; plain or gzip.

    Raises:
        CommandError: It can't be read, or has no header that events can be read by.
    """

    def __init__(self, path: Path, kind: str = "auto") -> None:
        self.path = path
        try:
            with path.open("rb") as opened:
                self._is_gzip = opened.read(2) == GZIP
            self.size = path.stat().st_size
            with self.opened() as file:
                first = Lines(file).read()
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            raise unreadable(path, error) from error
        head = first.raw if first is not None else b""
        self.is_json = kind == "json" or (kind == "auto" and head.lstrip().startswith(b"{"))
        self.header = b""
        if not self.is_json:
            self._read_header(first)

    def opened(self) -> BinaryIO:
        raw = gzip.open(self.path, "rb") if self._is_gzip else self.path.open("rb")  # noqa: SIM115 - the caller closes it.
        return cast("BinaryIO", raw)

    def digest(self, told: Callable[[int], None]) -> str:
        """Return the SHA-256 of the file as it lies there."""
        sha256, done = hashlib.sha256(), 0
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    sha256.update(chunk)
                    done += len(chunk)
                    told(done)
        except OSError as error:
            raise unreadable(self.path, error) from error
        return sha256.hexdigest()

    def rows(self, place: Place, told: Callable[[int], None]) -> Iterator[Row]:
        """Read rows from a place on.

        Args:
            place: Behind a row that was read before; else the beginning.
            told: Called with how many bytes of the file are read, packed as it is.
        """
        start = place if place.offset else self._start
        try:
            with self.opened() as file:
                file.seek(start.offset)
                lines = Lines(file, start)
                for row in self._json_rows(lines) if self.is_json else self._csv_rows(lines):
                    yield row
                    told(self._read_bytes(file, row.end))
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            raise unreadable(self.path, error) from error

    def _read_bytes(self, file: BinaryIO, end: int) -> int:
        # How far the packed file is read is known to what lies under the unpacking alone.
        packed = getattr(file, "fileobj", None) if self._is_gzip else None
        return packed.tell() if packed is not None else end

    def _read_header(self, first: Line | None) -> None:
        text = first.raw.removeprefix(BOM).decode("utf-8", "replace") if first is not None else ""
        if first is None or not text.strip():
            raise CommandError(
                f"{self.path} is empty; it needs a header, or one JSON object a line"
            )
        self._delimiter = delimiter_of(text)
        try:
            names = next(csv.reader([text], delimiter=self._delimiter, strict=True))
            self._columns: Sequence[str] = columns_of(names)
        except (HeaderError, csv.Error) as error:
            raise CommandError(f"{self.path} line 1: {error}") from error
        self.header = first.raw
        self._start_after_header = Place(offset=first.end, line=1)

    @property
    def _start(self) -> Place:
        return Place() if self.is_json else self._start_after_header

    def _json_rows(self, lines: "Lines") -> Iterator[Row]:
        while (line := lines.read()) is not None:
            text = line.raw.removeprefix(BOM).strip() if line.number == 1 else line.raw.strip()
            if not text and line.whole:
                continue
            try:
                if not line.whole:
                    raise _too_long()
                event = codec.decode(text)
            except codec.NotJsonError as error:
                problem = str(error).removeprefix("the body is ")
                yield _bad([line], Rejection("line", f"is {problem}"))
            except Rejection as rejection:
                yield _bad([line], rejection)
            else:
                yield Row(
                    line=line.number,
                    raw=line.raw,
                    end=line.end,
                    last_line=line.number,
                    event=event,
                )

    def _csv_rows(self, lines: "Lines") -> Iterator[Row]:
        while (line := lines.read()) is not None:
            if line.whole and not line.raw.strip():
                continue
            yield self._csv_row(line, lines)

    def _csv_row(self, first: Line, lines: "Lines") -> Row:
        """Read one row. If it is bad, only its first line is: what follows may be sound."""
        taken = [first]
        try:
            event = event_of_cells(self._columns, self._cells(taken, lines), _decoded)
        except Rejection as rejection:
            if rejection.field in ("row", "line"):
                lines.push_back(taken[1:])
                taken = taken[:1]
            return _bad(taken, rejection)
        return Row(
            line=first.number,
            raw=b"".join(one.raw for one in taken),
            end=taken[-1].end,
            last_line=taken[-1].number,
            event=event,
        )

    def _cells(self, taken: list[Line], lines: "Lines") -> list[str]:
        def texts() -> Iterator[str]:
            yield _text_of(taken[0])
            while len(taken) < ROW_LINES_MAX and (line := lines.read()) is not None:
                taken.append(line)
                yield _text_of(line)

        try:
            return next(csv.reader(texts(), delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            problem = str(error)
            if "unexpected end" in problem or "field larger" in problem:
                problem = "a quote is opened and not closed"
            raise Rejection("row", f"is no CSV: {problem}") from None


class Lines:
    """Lines of a file with their numbers, bounded in length; some may be given back."""

    def __init__(self, file: BinaryIO, place: Place | None = None) -> None:
        self._file = file
        self._offset = place.offset if place is not None else 0
        self._number = place.line if place is not None else 0
        self._returned: deque[Line] = deque()

    def read(self) -> Line | None:
        """Return the next line; None at the end."""
        if self._returned:
            return self._returned.popleft()
        raw = self._file.readline(LINE_BYTES_MAX)
        if not raw:
            return None
        self._offset += len(raw)
        self._number += 1
        whole = raw.endswith(b"\n") or len(raw) < LINE_BYTES_MAX
        if not whole:
            whole = self._skip() == 0
        return Line(self._number, raw, self._offset, whole)

    def _skip(self) -> int:
        """Pass the rest of a line; return how long it was."""
        skipped = 0
        while part := self._file.readline(LINE_BYTES_MAX):
            skipped += len(part)
            if part.endswith(b"\n"):
                break
        self._offset += skipped
        return skipped

    def push_back(self, lines: Sequence[Line]) -> None:
        self._returned.extendleft(reversed(lines))


def _text_of(line: Line) -> str:
    if not line.whole:
        raise _too_long()
    try:
        return line.raw.decode()
    except UnicodeDecodeError as error:
        raise Rejection("line", f"is not UTF-8: {error.reason}") from None


def _decoded(text: str) -> Any:  # noqa: ANN401 - of JSON.
    try:
        return codec.decode(text.encode())
    except codec.NotJsonError as error:
        raise ValueError(str(error)) from error


def _too_long() -> Rejection:
    return Rejection("line", f"is longer than {LINE_BYTES_MAX} bytes")


def _bad(lines: Sequence[Line], rejection: Rejection) -> Row:
    return Row(
        line=lines[0].number,
        raw=b"".join(one.raw for one in lines),
        end=lines[-1].end,
        last_line=lines[-1].number,
        rejection=rejection,
    )


def unreadable(path: Path, error: BaseException) -> CommandError:
    if isinstance(error, FileNotFoundError):
        return CommandError(f"there is no file {path}")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CommandError(f"{path} can't be read: {reason}")


def ended(raw: bytes) -> bytes:
    """Return a row as a line of its own."""
    return raw if raw.endswith(b"\n") else raw + b"\n"
