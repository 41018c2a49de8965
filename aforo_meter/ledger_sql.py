"""The ledger in SQL. SQLite here; the statements are the portable ones."""

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.ledger import (
    Batch,
    LedgerError,
    LedgerUnavailableError,
    Partition,
    PartitionLostError,
    Place,
    Reprice,
    Standing,
    UsageQuery,
    Watch,
    Written,
)
from aforo_meter.ledger_reading import read_standing
from aforo_meter.ledger_writing import KnownPrices, Writing, columns

SCHEMA_VERSION: Final = "0003"  # The last of aforo_meter/migrations/versions.
BUSY_TIMEOUT_MS: Final = 5000

T = TypeVar("T")

POSITION = "SELECT next_offset FROM position WHERE topic = ? AND partition = ?"
SET_POSITION = (
    "INSERT INTO position (topic, partition, next_offset) VALUES (?, ?, ?)"
    " ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset"
)
# The WHERE clause is the fence: a consumer that lost the partition moves nothing.
MOVE_POSITION = (
    "INSERT INTO position (topic, partition, next_offset) VALUES (?, ?, ?)"
    " ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset"
    " WHERE position.next_offset <= ?"
)
UNPRICED_ROWS = f"SELECT {columns(ChargeKey)} FROM charge WHERE price_id = '' AND tenant_id = ?"  # noqa: S608
TENANTS = (
    "SELECT tenant_id FROM margin_state WHERE in_force = 1"
    " UNION SELECT tenant_id FROM charge WHERE price_id = ''"
)
PERIOD_COVERING = (
    "SELECT period_start_micros, period_end_micros FROM margin_state WHERE tenant_id = ?"
    " AND subscription_id = ? AND period_start_micros <= ? AND period_end_micros > ?"
)
OLD_CALLS: Final = (
    "SELECT tenant_id, decision_id FROM call WHERE keep_until_micros < ?"
    " ORDER BY keep_until_micros, tenant_id, decision_id LIMIT ?"
)
PRUNE_SEEN = (
    "DELETE FROM seen_event WHERE (tenant_id, event_id) IN"
    " (SELECT tenant_id, event_id FROM seen_event WHERE keep_until_micros < ? LIMIT ?)"
)
PRUNE_PARTS = f"DELETE FROM call_part WHERE (tenant_id, decision_id) IN ({OLD_CALLS})"  # noqa: S608
PRUNE_CALLS = f"DELETE FROM call WHERE (tenant_id, decision_id) IN ({OLD_CALLS})"  # noqa: S608


class SqlLedger:
    """One connection that writes and one that reads, each on a thread of its own.

    Neither holds up the event loop, and a long question does not hold up a commit.
    """

    def __init__(self, ledger_url: str, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        self._url = ledger_url
        self._busy_timeout_s = busy_timeout_ms / 1000
        self._path = Path(ledger_url.removeprefix("sqlite:///"))
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-write")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-read")
        self._prices = KnownPrices()

    async def __aenter__(self) -> Self:
        """Open the ledger.

        Raises:
            LedgerError: There is none, or it has another schema version.
            LedgerUnavailableError: It does not answer.
        """
        try:
            await self._open()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _open(self) -> None:
        if not self._path.is_file():
            raise LedgerError(f"there is no ledger at {self._path}; {self._advice}")
        self._writer = await _in(self._write_thread, self._connect)
        self._reader = await _in(self._read_thread, self._connect)
        version = await self.read(_schema_version)
        if version != SCHEMA_VERSION:
            raise LedgerError(
                f"the ledger at {self._path} has schema {version or '(none)'}, and this version"
                f" needs {SCHEMA_VERSION}; {self._advice}"
            )

    async def __aexit__(self, *_: object) -> None:
        for thread, name in ((self._write_thread, "_writer"), (self._read_thread, "_reader")):
            connection: sqlite3.Connection | None = getattr(self, name, None)
            if connection is not None:
                await _in(thread, connection.close)
            thread.shutdown()

    @property
    def _advice(self) -> str:
        return f"run: aforo-meter migrate --ledger-url {self._url}"

    def _connect(self) -> sqlite3.Connection:
        # Never created here: an empty ledger would start at the first record again.
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,  # Transactions are begun and ended in `_transact`.
            check_same_thread=False,  # Closed from the loop's thread if opening failed.
        )
        connection.execute("PRAGMA foreign_keys = ON")
        # In WAL mode a power cut may take the last commits with it, whole ones: charges and
        # position together, so Kafka delivers them again.
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    async def next_offset(self, partition: Partition) -> int | None:
        row = await self.read(lambda sql: sql.execute(POSITION, partition).fetchone())
        return None if row is None else int(row[0])

    async def set_offset(self, partition: Partition, next_offset: int) -> None:
        await self.write(lambda sql: sql.execute(SET_POSITION, (*partition, next_offset)))

    async def apply(self, batch: Batch) -> Written:
        def work(sql: sqlite3.Connection) -> Writing:
            moved = sql.execute(
                MOVE_POSITION, (*batch.partition, batch.next_offset, batch.first_offset)
            )
            if moved.rowcount != 1:
                raise PartitionLostError(
                    f"{batch.partition.topic}/{batch.partition.number} is past offset"
                    f" {batch.first_offset}: another consumer has it"
                )
            writing = Writing(sql, self._prices, batch.currency, now_micros=batch.now_micros)
            writing.post(batch.rated, batch.retention)
            writing.assess(batch.watches)
            return writing

        return await self._written(work)

    async def reassess(
        self, place: Place, watches: Mapping[str, Watch], *, now_micros: int
    ) -> Written:
        def work(sql: sqlite3.Connection) -> Writing:
            _require_place(sql, place)
            writing = Writing(sql, self._prices, "", now_micros=now_micros)
            writing.assess(watches)
            return writing

        return await self._written(work)

    async def reprice(
        self, place: Place, reprice: Reprice, watches: Mapping[str, Watch], *, now_micros: int
    ) -> Written:
        def work(sql: sqlite3.Connection) -> Writing:
            _require_place(sql, place)
            writing = Writing(sql, self._prices, reprice.currency, now_micros=now_micros)
            writing.reprice(reprice.moves)
            writing.assess(watches)
            return writing

        return await self._written(work)

    async def unpriced(self, tenant_id: str) -> Sequence[ChargeKey]:
        rows = await self.read(lambda sql: sql.execute(UNPRICED_ROWS, (tenant_id,)).fetchall())
        return [ChargeKey._make(row) for row in rows]

    async def unpriced_rows(self) -> int:
        query = "SELECT COUNT(*) FROM charge WHERE price_id = ''"
        (count,) = await self.read(lambda sql: sql.execute(query).fetchone())
        return int(count)

    async def tenants(self) -> Sequence[str]:
        return await self.read(lambda sql: [row[0] for row in sql.execute(TENANTS)])

    async def standings(
        self, queries: Mapping[str, Sequence[UsageQuery]]
    ) -> Mapping[str, Standing]:
        def work(sql: sqlite3.Connection) -> dict[str, Standing]:
            found = ((name, read_standing(sql, name, asked)) for name, asked in queries.items())
            return {name: standing for name, standing in found if standing is not None}

        return await self.read(work)

    async def period_covering(
        self, tenant_id: str, subscription_id: str, at_micros: int
    ) -> PeriodMicros | None:
        values = (tenant_id, subscription_id, at_micros, at_micros)
        row = await self.read(lambda sql: sql.execute(PERIOD_COVERING, values).fetchone())
        return None if row is None else PeriodMicros(*row)

    async def prune(self, *, now_micros: int, rows_max: int) -> int:
        values = (now_micros, rows_max)

        def work(sql: sqlite3.Connection) -> int:
            sql.execute(PRUNE_PARTS, values)
            calls = sql.execute(PRUNE_CALLS, values).rowcount
            return max(calls, sql.execute(PRUNE_SEEN, values).rowcount)

        return await self.write(work)

    async def _written(self, work: Callable[[sqlite3.Connection], Writing]) -> Written:
        writing = await self.write(work)
        self._prices.update(writing.new_prices)  # They are committed now.
        return writing.written()

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work in a transaction that may write: for the ports beside this one."""
        return await _in(self._write_thread, lambda: _transact(self._writer, "IMMEDIATE", work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work that sees all as of one instant, and holds up no commit."""
        return await _in(self._read_thread, lambda: _transact(self._reader, "DEFERRED", work))


def _transact(
    connection: sqlite3.Connection, mode: str, work: Callable[[sqlite3.Connection], T]
) -> T:
    try:
        connection.execute(f"BEGIN {mode}")
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


async def _in(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    # If the caller is cancelled the thread goes on, and the next call waits its turn behind it.
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(thread, functools.partial(_translated, work))


def _translated(work: Callable[[], T]) -> T:
    try:
        return work()
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise  # A mistake of ours.
    except sqlite3.DatabaseError as error:
        raise LedgerUnavailableError(f"{type(error).__name__}: {error}") from error


def _require_place(sql: sqlite3.Connection, place: Place) -> None:
    row: Any = sql.execute(POSITION, place.partition).fetchone()
    if row is None or row[0] != place.next_offset:
        raise PartitionLostError(
            f"{place.partition.topic}/{place.partition.number} stands at"
            f" {None if row is None else row[0]}, not {place.next_offset}"
        )


def _schema_version(sql: sqlite3.Connection) -> str | None:
    exists = "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
    if sql.execute(exists).fetchone() is None:
        return None
    row = sql.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])
