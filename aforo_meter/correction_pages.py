"""What `rerate`, `void` and `close` say: tables for people, JSON for programs."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from aforo_meter.command_tables import columns, many, minute, money, percent, units
from aforo_meter.correction_effects import Effect
from aforo_meter.corrections import PeriodState
from aforo_meter.domain.corrections import Adjustment
from aforo_meter.domain.periods import datetime_of
from aforo_meter.ledger_adjusting import Order
from aforo_meter.rerating import Rerated
from aforo_meter.shown_events import json_text, plain
from aforo_meter.voiding import Voided

ROWS_SHOWN: Final = 50
HEAD: Final = (
    *("tenant", "period from", "rows", "COGS before", "after", "change"),
    *("margin before", "after", "level before", "after"),
)
NUMBERS: Final = frozenset(range(2, 8))


def rerated_text(done: Rerated, order: Order | None) -> str:
    lines = _effects(done.effects)
    if done.waiting:
        lines.append(f"waiting for a price: {many(done.waiting, 'row')}; consume rates them")
    if done.without:
        lines.append(f"left at their price: {many(done.without, 'row')}; none is found for them")
    return "\n".join([*lines, _last("put right", order, done.effects)])


def rerated_json(done: Rerated, order: Order | None) -> str:
    return json_text(
        {**_head(order, done.effects), "waiting_rows": done.waiting, "left_rows": done.without},
        indent=2,
    )


def voided_text(done: Voided, order: Order | None) -> str:
    if done.was_done_before:
        return "it was taken back before; nothing to do"
    quantities = [f"{meter} {units(amount)}" for meter, amount in _quantities(done.adjustments)]
    lines = [*_effects(done.effects), *([", ".join(quantities)] if quantities else [])]
    return "\n".join([*lines, _last("taken back", order, done.effects)])


def voided_json(done: Voided, order: Order | None) -> str:
    quantities = {f"{meter}": amount for meter, amount in _quantities(done.adjustments)}
    return json_text(
        {
            **_head(order, done.effects),
            "quantity_micros": quantities,
            "was_done_before": done.was_done_before,
        },
        indent=2,
    )


def closed_text(periods: Sequence[PeriodState], *, applied: bool) -> str:
    head = ("tenant", "subscription", "from", "to", "COGS")
    rows = [
        (
            *(_name(one.tenant_id), plain(one.subscription_id) or "(none)"),
            *(minute(one.period.start_micros), minute(one.period.end_micros)),
            money(one.cogs_nanos),
        )
        for one in periods[:ROWS_SHOWN]
    ]
    lines = columns([head, *rows], right=frozenset({4})) if rows else []
    if len(periods) > ROWS_SHOWN:
        lines.append(f"… and {len(periods) - ROWS_SHOWN:,} more (--json has all)")
    done = "closed" if applied else "to close (--apply)"
    last = f"{many(len(periods), 'period')} {done}" if periods else "nothing to do"
    return "\n".join([*lines, last])


def closed_json(periods: Sequence[PeriodState], *, applied: bool) -> str:
    return json_text({"applied": applied, "periods": [_period(one) for one in periods]}, indent=2)


def _effects(found: Sequence[Effect]) -> list[str]:
    rows = [
        (
            *(_name(one.before.tenant_id), minute(one.before.period.start_micros)),
            *(f"{one.rows:,}", money(one.before.cogs_nanos), money(one.cogs_nanos)),
            *(money(one.change_nanos), percent(one.margin_before), percent(one.margin_after)),
            *_levels(one),
        )
        for one in found[:ROWS_SHOWN]
    ]
    lines = columns([HEAD, *rows], right=NUMBERS) if rows else []
    if len(found) > ROWS_SHOWN:
        lines.append(f"… and {len(found) - ROWS_SHOWN:,} more (--json has all)")
    return lines + [
        f"guard {plain(guard.guard_id)} of {_name(one.before.tenant_id)}:"
        f" {guard.before.name.lower()} → {guard.after.name.lower()}"
        for one in found[:ROWS_SHOWN]
        for guard in one.guards
    ]


def _last(done: str, order: Order | None, found: Sequence[Effect]) -> str:
    rows = sum(one.rows for one in found)
    if not rows:
        return "nothing to do"
    tenants = len({one.before.tenant_id for one in found})
    what = f"{many(rows, 'row')} of {many(tenants, 'tenant')}, COGS {_signed(found)}"
    if order is None:
        return f"{what}: to be {done} (--apply --reason … --author …)"
    return f"{what}: {done}, as {order.run_id}"


def _signed(found: Iterable[Effect]) -> str:
    change_nanos = sum(one.change_nanos for one in found)
    return ("+" if change_nanos > 0 else "") + money(change_nanos)


def _levels(one: Effect) -> tuple[str, str]:
    if not one.before.in_force:
        return "-", "-"
    return one.before.level.name.lower(), "-" if one.level is None else one.level.name.lower()


def _quantities(adjustments: Iterable[Adjustment]) -> list[tuple[str, int]]:
    sums: dict[str, int] = {}
    for one in adjustments:
        sums[one.key.meter] = sums.get(one.key.meter, 0) + one.change.quantity_micros
    return sorted(sums.items())


def _head(order: Order | None, found: Sequence[Effect]) -> dict[str, Any]:
    return {
        "applied": order is not None,
        "run": None if order is None else order.run_id,
        "rows": sum(one.rows for one in found),
        "cogs_change_nanos": sum(one.change_nanos for one in found),
        "periods": [_effect(one) for one in found],
    }


def _effect(one: Effect) -> dict[str, Any]:
    before, after = _levels(one)
    return {
        **_period(one.before),
        "rows": one.rows,
        "cogs_nanos_after": one.cogs_nanos,
        "margin_before": _text(one.margin_before),
        "margin_after": _text(one.margin_after),
        "level_before": None if before == "-" else before,
        "level_after": None if after == "-" else after,
        "guards": [
            {
                "guard": guard.guard_id,
                "level_before": guard.before.name.lower(),
                "level_after": guard.after.name.lower(),
            }
            for guard in one.guards
        ],
    }


def _period(one: PeriodState) -> dict[str, Any]:
    return {
        "tenant": one.tenant_id,
        "subscription": one.subscription_id,
        "period_start": datetime_of(one.period.start_micros).isoformat(),
        "period_end": datetime_of(one.period.end_micros).isoformat(),
        "is_closed": one.is_closed,
        "cogs_nanos": one.cogs_nanos,
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _name(tenant_id: str) -> str:
    return plain(tenant_id) or "(nobody)"
