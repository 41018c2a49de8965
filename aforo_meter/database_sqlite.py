"""A ledger in a file: SQLite, in WAL mode (the migration sets that)."""

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from aforo_meter.database import Column, Sql
from aforo_meter.domain.seen import KEY_BYTES
from aforo_meter.ledger import LedgerUnavailableError

PREFIX: Final = "sqlite:///"
CACHE_KIB: Final = 64 * 1024  # Of each connection, at most.
# Some 64 MB: what is written again and again goes from the log into the file once in a while.
CHECKPOINT_PAGES: Final = 16_000
VALUES_MAX: Final = 32_000  # SQLite takes 32,766 in a statement.
STATEMENTS_MAX: Final = 40  # Kept prepared: those with many values take up to 1 MB each.

GIVEN_KEYS: Final = (
    "(WITH RECURSIVE at (number) AS"  # noqa: S608 - our own number.
    " (SELECT 0 UNION ALL SELECT number + 1 FROM at WHERE number < ? - 1)"
    f" SELECT substr(?, 1 + {KEY_BYTES} * number, {KEY_BYTES}) AS event_key FROM at) AS given"
)

T = TypeVar("T")


def path_of(ledger_url: str) -> Path:
    return Path(ledger_url.removeprefix(PREFIX))


class SqliteDatabase:
    errors: tuple[type[Exception], ...] = (LedgerUnavailableError, sqlite3.Error)
    has_table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"

    def __init__(self, ledger_url: str, *, busy_timeout_ms: int, only_reads: bool) -> None:
        self.url = ledger_url
        self._path = path_of(ledger_url)
        self.name = str(self._path)
        self._busy_timeout_s = busy_timeout_ms / 1000
        self._mode = "ro" if only_reads else "rw"

    @property
    def identity(self) -> tuple[object, ...]:
        with contextlib.suppress(OSError):
            found = self._path.stat()
            return ("sqlite", found.st_dev, found.st_ino)
        return ("sqlite", self._path.resolve())

    @property
    def is_missing(self) -> bool:
        return not self._path.is_file()

    def connect(self) -> "SqliteConnection":
        with _translated():
            raw = sqlite3.connect(
                f"{self._path.as_uri()}?mode={self._mode}",
                uri=True,
                timeout=self._busy_timeout_s,
                isolation_level=None,  # Transactions are begun and ended in `transact`.
                cached_statements=STATEMENTS_MAX,
            )
            raw.execute("PRAGMA foreign_keys = ON")
            # In WAL mode a power cut may take the last commits with it, whole ones: charges and
            # position together, so Kafka delivers them again.
            raw.execute("PRAGMA synchronous = NORMAL")
            raw.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            raw.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        return SqliteConnection(raw)


class SqliteConnection:
    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw
        self._sql = SqliteStatements(raw)

    def transact(self, work: Callable[[Sql], T], *, writes: bool) -> T:
        with _translated():
            try:
                # Who writes has the database for himself from the start: nothing to do again.
                self._raw.execute("BEGIN IMMEDIATE" if writes else "BEGIN DEFERRED")
                result = work(self._sql)
                self._raw.execute("COMMIT")
            except BaseException:
                if self._raw.in_transaction:
                    self._raw.execute("ROLLBACK")
                raise
            return result

    def close(self) -> None:
        self._raw.close()


class SqliteStatements:
    or_rollback = " OR ROLLBACK"

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.execute = raw.execute
        self.executemany = raw.executemany

    def given(self, **columns: Column) -> tuple[str, Sequence[Any]]:
        rows = list(zip(*columns.values(), strict=True))
        width = len(columns)
        # Statements are put together from our own names alone.
        if len(rows) * width <= VALUES_MAX:
            names = ", ".join(f"column{at + 1} AS {name}" for at, name in enumerate(columns))
            row = f"({', '.join('?' * width)})"
            table = f"(SELECT {names} FROM (VALUES {', '.join([row] * len(rows))})) AS given"  # noqa: S608
            return table, list(itertools.chain.from_iterable(rows))
        # Four times as slow, and without a bound.
        names = ", ".join(
            f"json_extract(value, '$[{at}]') AS {name}" for at, name in enumerate(columns)
        )
        return f"(SELECT {names} FROM json_each(?)) AS given", (json.dumps(rows),)  # noqa: S608

    def given_keys(self, keys: Sequence[bytes]) -> tuple[str, Sequence[Any]]:
        return GIVEN_KEYS, (len(keys), b"".join(keys))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise  # A mistake of ours.
    except sqlite3.DatabaseError as error:
        raise LedgerUnavailableError(f"{type(error).__name__}: {error}") from error
