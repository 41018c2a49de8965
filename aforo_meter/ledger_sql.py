"""The ledger in SQL, on SQLite and on PostgreSQL (database.py): the statements are the same."""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

from aforo_meter.database import (
    BUSY_TIMEOUT_MS,
    DatabaseThread,
    Sql,
    Transact,
    database_of,
    migrate_advice,
    schema_version,
)
from aforo_meter.domain.ledger_schema import SCHEMA_VERSION
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
    Retention,
    Standing,
    UsageQuery,
    Watch,
    Written,
)
from aforo_meter.ledger_currency import held_currency
from aforo_meter.ledger_grouping import Waiting, take_group
from aforo_meter.ledger_memory import Memory, StaleError
from aforo_meter.ledger_pruning import look, looks
from aforo_meter.ledger_reading import read_standing
from aforo_meter.ledger_seen import LookFirstError
from aforo_meter.ledger_sums import is_above_zero, parts, whole
from aforo_meter.ledger_writing import Writing, columns

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
    " WHERE position.next_offset <= ? AND position.next_offset >= ?"
)
HOLD_POSITION = (
    "UPDATE position SET next_offset = next_offset"
    " WHERE topic = ? AND partition = ? AND next_offset = ?"
)
KEY: Final = columns(ChargeKey)
KEY_OF_A: Final = ", ".join(f"a.{name}" for name in ChargeKey._fields)
# Rows, with their adjustments, that have something left to be priced.
UNPRICED_ROWS = (
    f"SELECT {KEY} FROM (SELECT {KEY}, quantity_micros FROM charge"  # noqa: S608
    " WHERE price_id = '' AND tenant_id = ?"
    f" UNION ALL SELECT {KEY}, quantity_micros FROM adjustment"
    " WHERE price_id = '' AND tenant_id = ?) AS entry"
    f" GROUP BY {KEY} HAVING {is_above_zero('quantity_micros')}"
)
# How many these are, of all tenants: there may be many charges, and only few are adjusted.
UNPRICED_CHARGES = "SELECT COUNT(*) FROM charge WHERE price_id = ''"
UNPRICED_ADJUSTED = (
    f"SELECT {parts('a.quantity_micros')}, (SELECT c.quantity_micros FROM charge AS c WHERE "  # noqa: S608
    + " AND ".join(f"c.{name} = a.{name}" for name in ChargeKey._fields)
    + f") FROM adjustment AS a WHERE a.price_id = '' GROUP BY {KEY_OF_A}"
)
TENANTS = (
    "SELECT tenant_id FROM margin_state WHERE in_force = 1"
    " UNION SELECT tenant_id FROM charge WHERE price_id = ''"
    " UNION SELECT tenant_id FROM adjustment WHERE price_id = ''"
)
ADJUSTED = "SELECT tenant_id FROM margin_state WHERE adjusted = 1 AND in_force = 1"
CLOSE = (
    "UPDATE margin_state SET closed_at_micros = ?"
    " WHERE closed_at_micros IS NULL AND period_end_micros <= ?"
)
PERIOD_COVERING = (
    "SELECT period_start_micros, period_end_micros FROM margin_state WHERE tenant_id = ?"
    " AND subscription_id = ? AND period_start_micros <= ? AND period_end_micros > ?"
)
STALE_MAX: Final = 5


class SqlLedger:
    """One connection that writes and one that reads, each on a thread of its own.

    Neither holds up the event loop, and a long question does not hold up a commit.
    """

    def __init__(self, ledger_url: str, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        """Remember the wiring.

        Raises:
            LedgerError: The URL can't be read.
        """
        self._memory = Memory()
        self._waiting: deque[Waiting] = deque()
        self._pruned_to = b""  # Ids of events up to this key were looked at.
        self._noted = 0  # Events since they were.
        self._database = database_of(ledger_url, busy_timeout_ms=busy_timeout_ms)
        # After a while away all may be otherwise: it may be another server, with an older state.
        self._writer = DatabaseThread(self._database, "ledger-write", opened=self._memory.forget)
        self._reader = DatabaseThread(self._database, "ledger-read")

    async def __aenter__(self) -> Self:
        """Open the ledger.

        Raises:
            LedgerError: There is none, or it has another schema version.
            LedgerUnavailableError: It does not answer.
        """
        try:
            await self._require_schema()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _require_schema(self) -> None:
        place, advice = self._database.name, migrate_advice(self._database)
        if self._database.is_missing:
            raise LedgerError(f"there is no ledger at {place}; {advice}")
        version = await self.read(lambda sql: schema_version(self._database, sql))
        if version != SCHEMA_VERSION:
            raise LedgerError(
                f"the ledger at {place} has schema {version or '(none)'}, and this version"
                f" needs {SCHEMA_VERSION}; {advice}"
            )

    async def __aexit__(self, *_: object) -> None:
        await self._writer.close()
        await self._reader.close()

    async def next_offset(self, partition: Partition) -> int | None:
        row = await self.read(lambda sql: sql.execute(POSITION, partition).fetchone())
        return None if row is None else int(row[0])

    async def set_offset(self, partition: Partition, next_offset: int) -> None:
        await self.write(lambda sql: sql.execute(SET_POSITION, (*partition, next_offset)))

    async def apply(self, batch: Batch) -> Written:
        mine = Waiting(batch)
        self._waiting.append(mine)
        try:
            await self._writer.run(functools.partial(self._apply, mine))
        except BaseException:
            with contextlib.suppress(ValueError):
                self._waiting.remove(mine)  # Nobody waits for it any more.
            raise
        return mine.result()

    async def reassess(
        self, place: Place, watches: Mapping[str, Watch], *, now_micros: int
    ) -> Written:
        def work(sql: Sql) -> Writing:
            require_place(sql, place)
            writing = Writing(sql, self._memory, "", now_micros=now_micros)
            writing.assess(watches)
            return writing

        return await self._written(work)

    async def reprice(
        self, place: Place, reprice: Reprice, watches: Mapping[str, Watch], *, now_micros: int
    ) -> Written:
        def work(sql: Sql) -> Writing:
            require_place(sql, place)
            writing = Writing(sql, self._memory, reprice.currency, now_micros=now_micros)
            writing.reprice(reprice.moves)
            writing.assess(watches)
            return writing

        return await self._written(work)

    async def unpriced(self, tenant_id: str) -> Sequence[ChargeKey]:
        values = (tenant_id, tenant_id)
        rows = await self.read(lambda sql: sql.execute(UNPRICED_ROWS, values).fetchall())
        return [ChargeKey._make(row) for row in rows]

    async def unpriced_rows(self) -> int:
        def work(sql: Sql) -> int:
            (count,) = sql.execute(UNPRICED_CHARGES).fetchone()
            for *change, charged_micros in sql.execute(UNPRICED_ADJUSTED):
                waits = whole(*change) + (charged_micros or 0) > 0
                count += waits - (charged_micros is not None)
            return int(count)

        return await self.read(work)

    async def tenants(self) -> Sequence[str]:
        return await self.read(lambda sql: [row[0] for row in sql.execute(TENANTS)])

    async def adjusted(self) -> Sequence[str]:
        return await self.read(lambda sql: [row[0] for row in sql.execute(ADJUSTED)])

    async def close(
        self, *, ended_by_micros: int, now_micros: int, tenant_id: str | None = None
    ) -> int:
        query = CLOSE + ("" if tenant_id is None else " AND tenant_id = ?")
        values = (now_micros, ended_by_micros, *([] if tenant_id is None else [tenant_id]))
        return await self.write(lambda sql: sql.execute(query, values).rowcount)

    async def standings(
        self, queries: Mapping[str, Sequence[UsageQuery]]
    ) -> Mapping[str, Standing]:
        def work(sql: Sql) -> dict[str, Standing]:
            found = ((name, read_standing(sql, name, asked)) for name, asked in queries.items())
            return {name: standing for name, standing in found if standing is not None}

        return await self.read(work)

    async def currency(self) -> str:
        return await self.read(held_currency)

    async def period_covering(
        self, tenant_id: str, subscription_id: str, at_micros: int
    ) -> PeriodMicros | None:
        values = (tenant_id, subscription_id, at_micros, at_micros)
        row = await self.read(lambda sql: sql.execute(PERIOD_COVERING, values).fetchone())
        return None if row is None else PeriodMicros(*row)

    async def prune(self, *, now_micros: int, rows_max: int, retention: Retention) -> int:
        due, self._noted = looks(events=self._noted, rows_max=rows_max), 0
        forgotten = 0
        for _ in range(due):  # Each by itself: what is to be counted does not wait for all of them.
            work = functools.partial(
                look,
                after=self._pruned_to,
                now_micros=now_micros,
                rows_max=rows_max,
                kept_days=retention.gateway_days,
            )
            found = await self.write(work)
            self._pruned_to = found.after
            forgotten += found.forgotten
            if found.is_last:
                break
        return forgotten

    def _apply(self, mine: Waiting, transact: Transact) -> None:
        """Apply a batch, and with it the others that wait. On the thread that writes.

        A transaction costs some milliseconds, whatever is in it.
        """
        if mine.is_done or not self._waiting:
            return
        group = take_group(self._waiting)
        try:
            self._apply_together(group, transact)
        except LedgerUnavailableError as error:
            for one in group:
                one.fail(error)
        except Exception as error:  # noqa: BLE001 - each is given its own.
            if len(group) == 1:
                mine.fail(error)
                return
            for one in group:
                try:
                    self._apply_together([one], transact)
                except Exception as own:  # noqa: BLE001 - it raises where it is waited for.
                    one.fail(own)

    def _apply_together(self, group: Sequence[Waiting], transact: Transact) -> None:
        """Apply batches in one transaction, or none of them."""
        first = group[0].batch

        def work(sql: Sql, *, look_first: bool = False) -> Writing:
            writing = Writing(sql, self._memory, first.currency, now_micros=first.now_micros)
            for one in group:
                _move_position(sql, one.batch)
                one.posted = writing.post(one.batch.rated, first.retention, look_first=look_first)
            writing.assess(
                {name: watch for one in group for name, watch in one.batch.watches.items()}
            )
            return writing

        try:
            writing = self._write(work, transact)
        except LookFirstError:
            writing = self._write(functools.partial(work, look_first=True), transact)
        self._noted += writing.noted
        written = writing.written()
        for one in group:
            one.succeed(written)

    async def _written(self, work: Callable[[Sql], Writing]) -> Written:
        return await self._writer.run(lambda transact: self._write(work, transact).written())

    def _write(self, work: Callable[[Sql], Writing], transact: Transact) -> Writing:
        """Do some work in a transaction, with what is remembered. On the thread that writes."""

        def finished(sql: Sql) -> Writing:
            writing = work(sql)
            writing.finish()
            return writing

        for _ in range(STALE_MAX):
            try:
                writing: Writing = transact(finished, True)  # noqa: FBT003
            except StaleError:
                self._memory.forget()
            else:
                writing.remember()  # The next transaction needs what this one has changed.
                return writing
        raise LedgerUnavailableError("others write what this process remembers, each time")

    async def write(self, work: Callable[[Sql], T]) -> T:
        """Do some work in a transaction that may write: for the ports beside this one."""
        return await self._writer.begin(work, writes=True)

    async def read(self, work: Callable[[Sql], T]) -> T:
        """Do some work that sees all as of one instant, and holds up no commit."""
        return await self._reader.begin(work, writes=False)


def _move_position(sql: Sql, batch: Batch) -> None:
    offsets = (batch.next_offset, batch.first_offset, batch.stands_at)
    if sql.execute(MOVE_POSITION, (*batch.partition, *offsets)).rowcount != 1:
        row: Any = sql.execute(POSITION, batch.partition).fetchone()
        past = row is not None and row[0] > batch.first_offset
        raise PartitionLostError(
            f"{batch.partition.topic}/{batch.partition.number} is "
            + (
                f"past offset {batch.first_offset}: another consumer has it"
                if past
                else f"before offset {batch.stands_at}: the ledger has lost what was written to it"
            )
        )


def require_place(sql: Sql, place: Place) -> None:
    """Refuse to write for a partition that another consumer has.

    Raises:
        PartitionLostError: It has, by the stored position.
    """
    # It is written as it is: so nobody else can move it before the end of the transaction.
    if sql.execute(HOLD_POSITION, (*place.partition, place.next_offset)).rowcount != 1:
        row: Any = sql.execute(POSITION, place.partition).fetchone()
        raise PartitionLostError(
            f"{place.partition.topic}/{place.partition.number} stands at"
            f" {None if row is None else row[0]}, not {place.next_offset}"
        )
