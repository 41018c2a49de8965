"""The database under a ledger, SQLite or PostgreSQL: one way to connect, to transact and to fail.

Statements are written once, in words that both understand, with `?` or `:name` for values.
What differs beyond that is in database_sqlite.py and database_postgres.py.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

BUSY_TIMEOUT_MS: Final = 5000  # How long to wait for a lock of somebody else's.

T = TypeVar("T")
Values = Sequence[Any] | Mapping[str, Any]
Column = Sequence[str] | Sequence[int]


class Cursor(Protocol):
    """What came of a statement. Rows are tuples."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...  # noqa: ANN401 - whatever was asked for.
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Sql(Protocol):
    """A connection as work within a transaction sees it."""

    # Goes behind UPDATE and INSERT where many rows are written: what fails takes the transaction
    # with it. It does so in any case, but SQLite would be ready to go on: it would copy each page
    # before it changes it, which takes three times as long as changing it.
    or_rollback: str

    def execute(self, statement: str, values: Values = (), /) -> Cursor: ...

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Cursor: ...

    def given(self, **columns: Column) -> tuple[str, Sequence[Any]]:
        """Return a table `given` of values for a FROM, and what the statement takes for it.

        One statement then finds the rows of many keys. Columns are of one length, each all of
        texts or all of integers.
        """

    def given_keys(self, keys: Sequence[bytes]) -> tuple[str, Sequence[Any]]:
        """Return the same of digests: one column `event_key`. There is at least one.

        They go in as one value, so that none of them costs a step in Python.
        """


class Connection(Protocol):
    def transact(self, work: Callable[[Sql], T], *, writes: bool) -> T:
        """Do some work in a transaction, or none of it.

        It sees all as of one instant, and nobody else writes what it writes. It may be done more
        than once: where others were faster, it begins again.

        Raises:
            LedgerUnavailableError: The database is away, locked or full.
        """

    def close(self) -> None: ...


Transact = Callable[[Callable[[Sql], Any], bool], Any]  # Some work; does it write?


class Database(Protocol):
    name: str  # For people: it holds no password.
    url: str  # As it may be shown: it holds no password.
    errors: tuple[type[Exception], ...]  # Whatever it fails with, here and in its driver.
    has_table: str  # A statement that finds a row if there is a table of this name.

    @property
    def identity(self) -> tuple[object, ...]:
        """Name the database however its URL is written, as far as can be told without asking it."""

    @property
    def is_missing(self) -> bool:
        """Is it known not to be there, without asking it?"""

    def connect(self) -> Connection:
        """Open a connection. It never makes a database: an empty ledger would start anew.

        Raises:
            LedgerUnavailableError: It does not answer.
        """


def database_of(
    ledger_url: str, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS, only_reads: bool = False
) -> Database:
    """Return the database that a ledger's URL names; nothing is opened yet.

    Raises:
        LedgerError: The URL can't be read.
    """
    if ledger_url.startswith("sqlite:"):
        from aforo_meter.database_sqlite import SqliteDatabase  # noqa: PLC0415

        return SqliteDatabase(ledger_url, busy_timeout_ms=busy_timeout_ms, only_reads=only_reads)
    from aforo_meter.database_postgres import PostgresDatabase  # noqa: PLC0415 - its driver.

    return PostgresDatabase(ledger_url, busy_timeout_ms=busy_timeout_ms, only_reads=only_reads)


def schema_version(database: Database, sql: Sql) -> str | None:
    """Return which migration was the last; None if there was none yet."""
    if sql.execute(database.has_table, ("alembic_version",)).fetchone() is None:
        return None
    row = sql.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def migrate_advice(database: Database) -> str:
    return f"run: aforo-meter migrate --ledger-url {database.url}"


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    url = re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1@", url)
    return re.sub(r"([?&])(ssl)?password=[^&]*&?", r"\1", url).rstrip("?&")


class DatabaseThread:
    """A connection on a thread of its own: nothing that it waits for holds up the event loop.

    It is opened with the first work. After an error of the database it is opened anew.
    """

    def __init__(
        self, database: Database, name: str, *, opened: Callable[[], None] = lambda: None
    ) -> None:
        """Remember the wiring.

        Args:
            database: What to connect to.
            name: Of the thread.
            opened: Called with each new connection: what was known of the database may be wrong.
        """
        self._database = database
        self._opened = opened
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: Connection | None = None

    def begin(self, work: Callable[[Sql], T], *, writes: bool) -> asyncio.Future[T]:
        """Start a transaction, and return at once what will come of it."""
        return self.run(lambda transact: transact(work, writes))

    def run(self, job: Callable[[Transact], T]) -> asyncio.Future[T]:
        """Start a job that may have several transactions, and go on from what came of them.

        If its caller is cancelled the thread goes on, and the next job waits its turn behind it.
        """
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._thread, job, self._transact)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def abandon(self) -> None:
        """Let go of the thread without waiting for what it waits for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _transact(self, work: Callable[[Sql], Any], writes: bool) -> Any:  # noqa: ANN401, FBT001
        if self._connection is None:
            self._connection = self._database.connect()
            self._opened()
        try:
            return self._connection.transact(work, writes=writes)
        except self._database.errors:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
