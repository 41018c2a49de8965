"""A period's usage without its hours, added up by the database. Only read.

Each row of the ledger is rounded by itself, so a sum costs what its rows do only where none of them
needs rounding: whole units, at a whole number of nanos a unit. `is_exact` says so; else the rows
are to be read. Of tenants that are far from their floors nobody needs the hours.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from aforo_admin.domain.scenario_usage import Row
from aforo_admin.domain.simulate import Recorded
from aforo_admin.ledger_periods import GIVEN, SAME_PERIOD, period_key
from aforo_admin.ledger_reading import Ask
from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.prices import NEGOTIATED_SOURCE
from aforo_meter.domain.rate_card import PerUnit
from aforo_meter.domain.rating import MICROS_PER_UNIT, amount_nanos

PERIODS_AT_ONCE: Final = 1000
KIND: Final = (
    "entry.tenant_id, entry.subscription_id, entry.period_start_micros, entry.feature,"
    " entry.meter, entry.provider, entry.model, entry.tool, entry.execution_status,"
    " price_nanos, per_units, tier_input_tokens_from, source"
)
WIDTH: Final = 13
FRACTIONS: Final = f"SUM(CASE WHEN quantity_micros % {MICROS_PER_UNIT} <> 0 THEN 1 ELSE 0 END)"
# Statements are put together from names of columns alone.
CHARGED: Final = (
    f"{GIVEN} SELECT {KIND}, SUM(quantity_micros / {MICROS_PER_UNIT}), {FRACTIONS}, 0"  # noqa: S608
    f" FROM given CROSS JOIN charge AS entry{SAME_PERIOD} GROUP BY {KIND}"
)
# The amounts in two parts: SQLite's sums end at 64 bits.
ADJUSTED: Final = (
    f"{GIVEN} SELECT {KIND}, SUM(quantity_micros / {MICROS_PER_UNIT}), {FRACTIONS},"  # noqa: S608
    f" SUM(cogs_nanos / {MICROS_PER_UNIT}), SUM(cogs_nanos % {MICROS_PER_UNIT})"
    f" FROM given CROSS JOIN adjustment AS entry{SAME_PERIOD} GROUP BY {KIND}"
)


def with_sums(ask: Ask, recorded: Sequence[Recorded]) -> Iterator[Recorded | None]:
    """Yield periods with a row for each kind of usage; None where its rows have fractions."""
    for start in range(0, len(recorded), PERIODS_AT_ONCE):
        group = recorded[start : start + PERIODS_AT_ONCE]
        rows, broken = _sums(ask, group)
        for one in group:
            key = period_key(one)
            yield None if key in broken else replace(one, rows=rows.get(key, ()))


def _sums(
    ask: Ask, group: Sequence[Recorded]
) -> tuple[dict[tuple[Any, ...], list[Row]], set[tuple[Any, ...]]]:
    values = ", ".join(["(?, ?, ?)"] * len(group))
    given = [part for one in group for part in period_key(one)]
    units: dict[tuple[Any, ...], int] = defaultdict(int)
    nanos: dict[tuple[Any, ...], int] = defaultdict(int)
    broken: set[tuple[Any, ...]] = set()
    for found in ask(CHARGED.format(values=values), given):
        kind, (charged_units, fractions, _) = tuple(found[:WIDTH]), found[WIDTH:]
        units[kind] += int(charged_units)
        nanos[kind] += _amount(kind, int(charged_units))
        if fractions:
            broken.add(kind[:3])
    for found in ask(ADJUSTED.format(values=values), given):
        kind, (adjusted_units, fractions, high, low) = tuple(found[:WIDTH]), found[WIDTH:]
        units[kind] += int(adjusted_units)
        nanos[kind] += int(high) * MICROS_PER_UNIT + int(low)
        if fractions:
            broken.add(kind[:3])
    rows: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for kind, count in units.items():
        rows[kind[:3]].append(_row(kind, count, nanos[kind]))
    return rows, broken


def _amount(kind: tuple[Any, ...], units: int) -> int:
    price_nanos, per_units = kind[9:11]
    if price_nanos is None:
        return 0
    return amount_nanos(units * MICROS_PER_UNIT, price_nanos=price_nanos, per_units=per_units)


def _row(kind: tuple[Any, ...], units: int, cogs_nanos: int) -> Row:
    _, _, start, feature, meter, provider, model, tool, status = kind[:9]
    price_nanos, per_units, tier, source = kind[9:]
    price = None
    if price_nanos is not None:
        price = PerUnit(price_nanos=price_nanos, per_units=per_units)
    return Row(
        hour_start_micros=start,
        key=UsageKey(meter, feature, provider, model, tool, status),
        quantity_micros=units * MICROS_PER_UNIT,
        cogs_nanos=cogs_nanos,
        price=price,
        input_tokens=tier or 0,
        is_negotiated=source == NEGOTIATED_SOURCE,
    )


def is_exact(before: Row, after: Row) -> bool:
    """Say whether a sum costs what its rows cost, at both prices."""
    return all(
        price is None or price.price_nanos % price.per_units == 0
        for price in (before.price, after.price)
    )
