"""Tenants with their running periods, the worst first: what the list of margins shows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aforo_meter.database import Sql
from aforo_meter.domain.margin import Assessment, Level, MarginState
from aforo_meter.domain.periods import PeriodMicros

ROWS: Final = (
    "SELECT tenant_id, period_start_micros, period_end_micros, level, level_since_micros,"
    " COALESCE(revenue_nanos, 0), cogs_nanos, COALESCE(allowance_nanos, 0), unpriced_rows, currency"
    " FROM margin_state WHERE in_force = 1{where}"
    " ORDER BY level DESC, tenant_id LIMIT ? OFFSET ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantMargin:
    tenant_id: str
    period: PeriodMicros
    level_since_micros: int | None
    assessment: Assessment
    unpriced_rows: int
    currency: str


def read_margins(
    sql: Sql, *, level: Level | None, begins: str, count_max: int, skipped: int
) -> Sequence[TenantMargin]:
    """Return some of them.

    Args:
        sql: The ledger.
        level: Only those at this level.
        begins: Only those whose id begins like this.
        count_max: How many at most.
        skipped: How many come before.
    """
    where, values = "", list[Any]()
    if level is not None:
        where += " AND level = ?"
        values.append(int(level))
    if begins:
        where += " AND tenant_id LIKE ? ESCAPE '!'"
        values.append(re.sub("([!%_])", r"!\1", begins) + "%")
    rows = sql.execute(ROWS.format(where=where), [*values, count_max, skipped])
    return [_margin(*row) for row in rows]


def _margin(tenant_id: str, *row: Any) -> TenantMargin:
    start_micros, end_micros, level, since_micros, revenue_nanos, cogs_nanos, *rest = row
    allowance_nanos, unpriced_rows, currency = rest
    return TenantMargin(
        tenant_id=tenant_id,
        period=PeriodMicros(start_micros, end_micros),
        level_since_micros=since_micros,
        assessment=Assessment(
            level=Level(level),
            state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
            revenue_nanos=revenue_nanos,
            cogs_nanos=cogs_nanos,
            allowance_nanos=allowance_nanos,
        ),
        unpriced_rows=unpriced_rows,
        currency=currency or "",
    )
