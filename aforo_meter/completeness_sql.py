"""What was decided and logged, in SQL. What was logged is written with the charges."""

from collections.abc import Iterable, Sequence
from typing import Final

from aforo_meter.alerts import Alert
from aforo_meter.completeness import Decided, ScoreQuery
from aforo_meter.database import Sql
from aforo_meter.domain.completeness import (
    FILLED,
    PASSED,
    Basis,
    Compared,
    Kind,
    Score,
    Sum,
)
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.ledger_sums import is_above_zero, parts, whole
from aforo_meter.outbox_writing import leave

# Absolute totals: however many consumers read them, and however often, they come to the same.
KEEP = (
    "INSERT INTO decided (hour_start_micros, tenant_id, feature, outcome, process, decisions)"
    " VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (hour_start_micros, tenant_id, feature, outcome, process)"
    " DO UPDATE SET decisions = excluded.decisions WHERE excluded.decisions > decided.decisions"
)
BOTH: Final = (
    "SELECT tenant_id, feature, hour_start_micros, outcome, decisions AS decided, 0 AS logged"
    " FROM decided WHERE hour_start_micros >= :start AND hour_start_micros < :end{of_tenant}"
    " UNION ALL SELECT tenant_id, feature, hour_start_micros, outcome, 0, calls"
    " FROM logged WHERE hour_start_micros >= :start AND hour_start_micros < :end{of_tenant}"
)
# Statements are put together from these constants alone.
COMPARED: Final = (
    "SELECT tenant_id, feature, hour_start_micros, outcome, SUM(decided) AS decided,"  # noqa: S608
    f" SUM(logged) AS logged FROM ({BOTH}) AS beside"
    " GROUP BY tenant_id, feature, hour_start_micros, outcome"
)
OF_ALL = COMPARED.format(of_tenant="")
OF_TENANT = COMPARED.format(of_tenant=" AND tenant_id = :tenant_id")
TENANT_HOURS = (
    "SELECT tenant_id, hour_start_micros, SUM(decided), SUM(logged),"  # noqa: S608
    " SUM(CASE WHEN decided > logged THEN decided - logged ELSE 0 END)"
    f" FROM ({OF_ALL}) AS compared WHERE outcome <> '{FILLED}'"
    " GROUP BY tenant_id, hour_start_micros ORDER BY hour_start_micros, tenant_id"
)
SUMMED: Final = (
    "SELECT subscription_id, provider, model, tool, meter, quantity_micros, extra_micros"
    " FROM {table} WHERE tenant_id = ? AND feature = ? AND hour_start_micros >= ?"
    " AND hour_start_micros < ?"
)
CALLS_LET_PASS = (
    "SELECT COALESCE(SUM(calls), 0) FROM logged WHERE tenant_id = ? AND feature = ?"  # noqa: S608
    " AND hour_start_micros >= ? AND hour_start_micros < ?"
    f" AND outcome IN ({', '.join(repr(name) for name in sorted({*PASSED, FILLED}))})"
)
# With adjustments: what was taken back is no usage to reckon by.
SUMS = (
    "SELECT subscription_id, provider, model, tool, meter,"  # noqa: S608
    f" {parts('quantity_micros')}, {parts('extra_micros')}"
    f" FROM ({' UNION ALL '.join(SUMMED.format(table=table) for table in ('charge', 'adjustment'))}"
    ") AS entry GROUP BY subscription_id, provider, model, tool, meter"
    f" HAVING {is_above_zero('quantity_micros')}"
)
# What came over HTTP, or from files, names no features: its charges can't be told from those of
# calls that need none.
REPORTED = "SELECT 1 FROM reporting_tenant WHERE tenant_id = ?"
PRUNE = tuple(
    f"DELETE FROM {table} WHERE ({key}) IN"  # noqa: S608
    f" (SELECT {key} FROM {table} WHERE hour_start_micros < ? LIMIT ?)"
    for table, key in (
        ("decided", "hour_start_micros, tenant_id, feature, outcome, process"),
        ("logged", "hour_start_micros, tenant_id, feature, outcome"),
    )
)


class SqlCompleteness:
    """On the connections of an open ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def keep_decided(self, rows: Iterable[Decided]) -> None:
        values = list(rows)
        await self._ledger.write(lambda sql: sql.executemany(KEEP, values))

    async def compared(self, query: ScoreQuery) -> Sequence[Compared]:
        statement = OF_ALL if query.tenant_id is None else OF_TENANT
        values = {
            "start": query.hours.start_micros,
            "end": query.hours.end_micros,
            "tenant_id": query.tenant_id,
        }
        rows = await self._ledger.read(lambda sql: sql.execute(statement, values).fetchall())
        return [Compared._make(row) for row in rows]

    async def tenant_hours(self, hours: PeriodMicros) -> Sequence[Score]:
        values = {"start": hours.start_micros, "end": hours.end_micros}
        rows = await self._ledger.read(lambda sql: sql.execute(TENANT_HOURS, values).fetchall())
        return [
            Score(
                tenant_id=tenant_id,
                hour_start_micros=hour_start_micros,
                decided=decided,
                logged=logged,
                missing=missing,
            )
            for tenant_id, hour_start_micros, decided, logged, missing in rows
        ]

    async def basis(self, tenant_id: str, feature: str, hours: PeriodMicros) -> Basis:
        values = (tenant_id, feature, hours.start_micros, hours.end_micros)

        def work(sql: Sql) -> Basis:
            if not feature and sql.execute(REPORTED, (tenant_id,)).fetchone() is not None:
                return Basis()
            (calls,) = sql.execute(CALLS_LET_PASS, values).fetchone()
            return Basis(
                calls=calls,
                sums=[
                    Sum(Kind(*row[:4]), row[4], whole(*row[5:7]), whole(*row[7:]))
                    for row in sql.execute(SUMS, values * 2)
                ],
            )

        return await self._ledger.read(work)

    async def leave(self, tenant_id: str, alert: Alert, *, now_micros: int) -> bool:
        return await self._ledger.write(
            lambda sql: leave(sql, tenant_id, alert, now_micros=now_micros)
        )

    async def prune(self, *, before_micros: int, rows_max: int) -> int:
        values = (before_micros, rows_max)
        return await self._ledger.write(
            lambda sql: max(sql.execute(statement, values).rowcount for statement in PRUNE)
        )
