"""What a ledger has of some hours, and where it stood then: read as of one instant."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aforo_meter.database import Sql
from aforo_meter.domain.ledger_diff import NOTHING, DiffKey, Sum
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.rating import amount_nanos
from aforo_meter.ledger_sql import SqlLedger

ROWS: Final = (
    "SELECT c.tenant_id, c.hour_start_micros, c.meter, c.price_id, c.subscription_id, c.feature,"
    " c.provider, c.model, c.tool, c.execution_status, c.quantity_micros, p.price_nanos,"
    " p.per_units FROM charge AS c LEFT JOIN price AS p ON p.price_id = c.price_id"
    " WHERE c.hour_start_micros >= ? AND c.hour_start_micros < ?"
)
POSITIONS: Final = "SELECT partition, next_offset FROM position WHERE topic = ?"
IN_USE: Final = (
    "SELECT EXISTS (SELECT 1 FROM position) OR EXISTS (SELECT 1 FROM charge)"
    " OR EXISTS (SELECT 1 FROM seen_event)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    rows: Mapping[DiffKey, Sum]
    positions: Mapping[int, int]  # By partition: the next offset.


async def contents(ledger: SqlLedger, hours: PeriodMicros, topic: str) -> Contents:
    """Return a ledger's rows of some hours, and its positions, that belong together."""

    def work(sql: Sql) -> Contents:
        rows: dict[DiffKey, Sum] = {}
        for *key, quantity_micros, price_nanos, per_units in sql.execute(
            ROWS, (hours.start_micros, hours.end_micros)
        ):
            amount = (
                amount_nanos(quantity_micros, price_nanos=price_nanos, per_units=per_units)
                if price_nanos is not None
                else 0
            )
            name = DiffKey._make(key)
            rows[name] = rows.get(name, NOTHING).plus(Sum(quantity_micros, amount))
        positions = dict(sql.execute(POSITIONS, (topic,)).fetchall())
        return Contents(rows=rows, positions=positions)

    return await ledger.read(work)


async def is_in_use(ledger: SqlLedger) -> bool:
    """Say whether anything was ever written to a ledger."""
    return bool(await ledger.read(lambda sql: sql.execute(IN_USE).fetchone()[0]))
