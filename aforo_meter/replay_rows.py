"""What a ledger has of some hours, and where it stood then: read as of one instant.

Charges and adjustments together. What people took back is in no event: it is taken back in the
replay as well, so that it makes no difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aforo_meter.database import Sql
from aforo_meter.domain.corrections import Kind, Row
from aforo_meter.domain.ledger_diff import NOTHING, DiffKey, Sum
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.rating import ChargeKey, amount_nanos
from aforo_meter.ledger_adjusting import Adjusting, Order
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.ledger_sums import parts, whole

ROWS: Final = (
    "SELECT c.tenant_id, c.hour_start_micros, c.meter, c.price_id, c.subscription_id, c.feature,"
    " c.provider, c.model, c.tool, c.execution_status, c.quantity_micros, p.price_nanos,"
    " p.per_units FROM charge AS c LEFT JOIN price AS p ON p.price_id = c.price_id"
    " WHERE c.hour_start_micros >= ? AND c.hour_start_micros < ?"
)
ADJUSTMENTS: Final = (
    "SELECT tenant_id, hour_start_micros, meter, price_id, subscription_id, feature, provider,"
    " model, tool, execution_status, quantity_micros, cogs_nanos FROM adjustment"
    " WHERE hour_start_micros >= ? AND hour_start_micros < ?"
)
# Statements are put together from names of columns alone.
VOIDS: Final = (
    f"SELECT {', '.join(ChargeKey._fields)}, {parts('quantity_micros')}, {parts('extra_micros')}"  # noqa: S608
    f" FROM adjustment WHERE kind = '{Kind.VOID}' AND hour_start_micros >= ?"
    f" AND hour_start_micros < ? GROUP BY {', '.join(ChargeKey._fields)}"
)
USAGE_FIELDS: Final = [
    name for name in ChargeKey._fields if name not in {"price_id", "input_tokens"}
]
SAME_USAGE: Final = (
    f"SELECT {', '.join(ChargeKey._fields)} FROM charge WHERE"  # noqa: S608
    f" {' AND '.join(f'{name} = ?' for name in USAGE_FIELDS)}"
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
    voids: Mapping[ChargeKey, tuple[int, int]]  # Quantity and extra that were taken back, below 0.


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
        for *key, quantity_micros, cogs_nanos in sql.execute(
            ADJUSTMENTS, (hours.start_micros, hours.end_micros)
        ):
            name = DiffKey._make(key)
            rows[name] = rows.get(name, NOTHING).plus(Sum(quantity_micros, cogs_nanos))
        rows = {name: row for name, row in rows.items() if row != NOTHING}
        positions = dict(sql.execute(POSITIONS, (topic,)).fetchall())
        voids = {
            ChargeKey._make(row[:-4]): (whole(*row[-4:-2]), whole(*row[-2:]))
            for row in sql.execute(VOIDS, (hours.start_micros, hours.end_micros))
        }
        return Contents(rows=rows, positions=positions, voids=voids)

    return await ledger.read(work)


async def take_back(
    ledger: SqlLedger, voids: Mapping[ChargeKey, tuple[int, int]], *, now_micros: int
) -> None:
    """Take the same usage back in a ledger whose prices may be others: its own price goes first."""
    order = Order(
        kind=Kind.VOID,
        run_id="replay",
        reason="taken back in the live ledger",
        author="aforo-meter replay",
        now_micros=now_micros,
    )

    def work(sql: Sql) -> None:
        adjusting = Adjusting(sql)
        for key, (quantity_micros, extra_micros) in voids.items():
            named = [getattr(key, name) for name in USAGE_FIELDS]
            rows = [ChargeKey._make(row) for row in sql.execute(SAME_USAGE, named).fetchall()]
            left = Row(-quantity_micros, -extra_micros)
            for row in sorted(rows, key=lambda row: row.price_id != key.price_id):
                taken = adjusting.change(row, -left.quantity_micros, -left.extra_micros, order)
                left = left.plus(taken.change)
        adjusting.finish()

    await ledger.write(work)


async def is_in_use(ledger: SqlLedger) -> bool:
    """Say whether anything was ever written to a ledger."""
    return bool(await ledger.read(lambda sql: sql.execute(IN_USE).fetchone()[0]))
