"""A period's rows, read once: what they cost, line by line, and what was used hour by hour."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aforo_meter.database import Sql
from aforo_meter.domain.account import Account, UsageKey, Used
from aforo_meter.domain.inquiry import CostLine, KeptPrice
from aforo_meter.domain.rating import amount_nanos

NAMES: Final = (
    "hour_start_micros, meter, feature, provider, model, tool, execution_status, price_id"
)
PERIOD: Final = "WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
CHARGES = f"SELECT {NAMES}, quantity_micros, estimated_micros FROM charge {PERIOD}"  # noqa: S608
ADJUSTMENTS = f"SELECT {NAMES}, quantity_micros, cogs_nanos FROM adjustment {PERIOD}"  # noqa: S608
# There are few, and many rows at each: those are read without them.
PRICES = (
    "SELECT price_id, price_nanos, per_units, currency, effective_from_micros,"
    " tier_input_tokens_from, source FROM price JOIN {given} USING (price_id)"
)
_PRICE_FIELDS: Final = (
    *("price_id", "price_nanos", "per_units", "currency", "effective_from_micros"),
    *("tier_input_tokens_from", "source"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodUsage:
    """The same rows, added up in two ways."""

    costs: tuple[CostLine, ...]  # The most expensive first.
    account_by_hour: Mapping[int, Account]  # By the starts of hours.


class _Kind(NamedTuple):
    meter: str
    provider: str
    model: str
    price_id: str


@dataclass(slots=True)
class _Line:
    quantity_micros: int = 0
    estimated_micros: int = 0
    cogs_nanos: int = 0
    rows: int = 0


@dataclass(slots=True)
class _Sums:
    lines: dict[_Kind, _Line] = field(default_factory=dict)
    hours: dict[int, dict[UsageKey, Used]] = field(default_factory=dict)

    def add(self, names: Sequence[Any], used: Used, *, rows: int) -> None:
        hour_start_micros, meter, feature, provider, model, tool, status, price_id = names
        account = self.hours.setdefault(hour_start_micros, {})
        key = UsageKey(meter, feature, provider, model, tool, status)
        account[key] = account[key].plus(used) if key in account else used
        line = self.lines.setdefault(_Kind(meter, provider, model, price_id), _Line())
        line.quantity_micros += used.quantity_micros
        line.estimated_micros += used.estimated_micros
        line.cogs_nanos += used.cogs_nanos
        line.rows += rows


def read_usage(
    sql: Sql, tenant_id: str, subscription_id: str, period_start_micros: int
) -> PeriodUsage:
    """Add up a period's rows, with their adjustments.

    Each row's amount is rounded by itself, and their sum is the margin's COGS.
    """
    period = (tenant_id, subscription_id, period_start_micros)
    charges = sql.execute(CHARGES, period).fetchall()
    adjustments = sql.execute(ADJUSTMENTS, period).fetchall()
    prices = _prices(sql, {row[7] for rows in (charges, adjustments) for row in rows})
    sums = _Sums()
    _add_charges(sums, charges, prices)
    for *names, quantity_micros, cogs_nanos in adjustments:
        unpriced_micros = 0 if names[7] else quantity_micros
        sums.add(names, Used(quantity_micros, cogs_nanos, 0, unpriced_micros), rows=0)
    return PeriodUsage(costs=_costs(sums.lines, prices), account_by_hour=sums.hours)


def _add_charges(
    sums: _Sums, charges: Iterable[Sequence[Any]], prices: Mapping[str, KeptPrice]
) -> None:
    for *names, quantity_micros, estimated_micros in charges:
        price = prices.get(names[7])
        if price is None:
            used = Used(quantity_micros, 0, estimated_micros, quantity_micros)
        else:
            cogs_nanos = amount_nanos(
                quantity_micros, price_nanos=price.price_nanos, per_units=price.per_units
            )
            used = Used(quantity_micros, cogs_nanos, estimated_micros, 0)
        sums.add(names, used, rows=1)


def _prices(sql: Sql, price_ids: Iterable[str]) -> dict[str, KeptPrice]:
    wanted = sorted(filter(None, price_ids))  # What has none is unpriced.
    if not wanted:
        return {}
    given, values = sql.given(price_id=wanted)
    rows = sql.execute(PRICES.format(given=given), values)
    return {row[0]: KeptPrice(**dict(zip(_PRICE_FIELDS, row, strict=True))) for row in rows}


def _costs(sums: Mapping[_Kind, _Line], prices: Mapping[str, KeptPrice]) -> tuple[CostLine, ...]:
    lines = [
        CostLine(
            meter=kind.meter,
            provider=kind.provider,
            model=kind.model,
            price=prices.get(kind.price_id),
            quantity_micros=line.quantity_micros,
            # What was taken back since may have been estimated, or not: nobody knows.
            estimated_micros=max(0, min(line.estimated_micros, line.quantity_micros)),
            cogs_nanos=line.cogs_nanos,
            rows=line.rows,
        )
        for kind, line in sums.items()
        if line.quantity_micros or line.cogs_nanos
    ]
    lines.sort(key=lambda line: (-line.cogs_nanos, line.meter, line.provider, line.model))
    return tuple(lines)
