"""Prices, and what their change does, as people and as programs read them."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from aforo_admin.domain.price_changes import Change, Effect, EntryKey
from aforo_admin.readable import margin_percent_text
from aforo_admin.readable_values import instant_text, many, money
from aforo_admin.tables import table
from aforo_meter.domain.margin import Assessment
from aforo_meter.domain.prices import PriceEntry

Listed = Iterable[tuple[EntryKey, PriceEntry]]
EFFECTS_SHOWN_MAX: Final = 200
UNMOVED_SHOWN_MAX: Final = 5


def list_table(found: Listed, currency: str) -> str:
    """Return one line an entry, in the order in which prices are asked for."""
    head = ("whose", "model", "meter", "price", "from (UTC)", "for", "source", "id")
    rows = [
        (
            _whose(key),
            _model(key),
            key.meter,
            _price(entry, currency),
            _since(key),
            _when(key) or "all",
            entry.source,
            entry.price_id,
        )
        for key, entry in found
    ]
    return "\n".join(table([head, *rows])) if rows else "no entries"


def list_json(found: Listed, currency: str) -> str:
    return json.dumps([_entry_json(key, entry, currency) for key, entry in found], indent=2)


def diff_text(changed: Sequence[Change], affected: Sequence[Effect] | None, currency: str) -> str:
    """Return a line for each entry that differs, then the tenants whom that concerns."""
    marks = Counter(_mark(one) for one in changed)
    lines = [_change_line(one, currency) for one in changed]
    lines.append(f"{marks['+']} added, {marks['~']} changed, {marks['-']} removed")
    if affected is not None:
        lines += ["", *_effect_lines(affected, currency)]
    return "\n".join(lines)


def _change_line(one: Change, currency: str) -> str:
    key = one.key
    prices = [_price(entry, currency) for entry in (one.old, one.new) if entry is not None]
    when = ", ".join(filter(None, [f"from {_since(key)}", _when(key)]))
    return f"{_mark(one)} {_whose(key)} {_model(key)} {key.meter}, {when}: {' → '.join(prices)}"


def _effect_lines(affected: Sequence[Effect], currency: str) -> list[str]:
    moved = sorted(
        (one for one in affected if one.changes_level),
        key=lambda one: (-_worst(one), one.tenant_id),
    )
    whose = "1 tenant's" if len(affected) == 1 else f"{len(affected):,} tenants'"
    counts = f"{whose} usage of the current period would cost something else"
    if not moved:
        return [f"{counts}; no level would change", *_unmoved_lines(affected, currency)]
    head = ("tenant", "level", "", "margin", "", "COGS", "")
    rows = [
        (
            one.tenant_id,
            *(one.before.level.name.lower(), f"→ {one.after.level.name.lower()}"),
            *(_ratio(one.before), f"→ {_ratio(one.after)}"),
            money(one.before.cogs_nanos, currency),
            f"→ {money(one.after.cogs_nanos, currency)}{_unpriced(one)}",
        )
        for one in moved[:EFFECTS_SHOWN_MAX]
    ]
    hidden = len(moved) - len(rows)
    return [
        f"{counts}; of {len(moved)} the level would change:",
        *table([head, *rows]),
        *([f"… and {hidden} more (--json has all)"] if hidden else []),
        *(
            f"guard {guard.guard_id} of {one.tenant_id}:"
            f" {guard.before.name.lower()} → {guard.after.name.lower()}"
            for one in moved[:EFFECTS_SHOWN_MAX]
            for guard in one.guards
        ),
        *_unmoved_lines(affected, currency),
    ]


def _worst(one: Effect) -> int:
    return max([one.after.level, *(guard.after for guard in one.guards)])


def _unmoved_lines(affected: Sequence[Effect], currency: str) -> list[str]:
    """Name those who keep their level, by how much more, or less, their usage would cost."""
    unmoved = sorted(
        (one for one in affected if not one.changes_level),
        key=lambda one: (-abs(one.after.cogs_nanos - one.before.cogs_nanos), one.tenant_id),
    )
    if not unmoved:
        return []
    named = [
        f"{one.tenant_id} {money(one.before.cogs_nanos, currency)} →"
        f" {money(one.after.cogs_nanos, currency)}{_unpriced(one)}"
        for one in unmoved[:UNMOVED_SHOWN_MAX]
    ]
    hidden = len(unmoved) - len(named)
    more = f"; and {hidden:,} more (--json has all)" if hidden else ""
    return [f"COGS at the same level, {many(len(unmoved), 'tenant')}: {'; '.join(named)}{more}"]


def _unpriced(one: Effect) -> str:
    return f", {many(one.unpriced_rows, 'row')} unpriced" if one.unpriced_rows else ""


def diff_json(changed: Sequence[Change], affected: Sequence[Effect] | None, currency: str) -> str:
    """Return a document. Money is whole nanos."""
    document: dict[str, Any] = {
        "changes": [
            {
                "change": {"+": "added", "~": "changed", "-": "removed"}[_mark(one)],
                "old": one.old and _entry_json(one.key, one.old, currency),
                "new": one.new and _entry_json(one.key, one.new, currency),
            }
            for one in changed
        ]
    }
    if affected is not None:
        document["tenants"] = [
            {
                "tenant": one.tenant_id,
                "changes_level": one.changes_level,
                "before": _assessment_json(one.before),
                "after": _assessment_json(one.after),
                "unpriced_rows": one.unpriced_rows,
                "guards": [
                    {
                        "guard": guard.guard_id,
                        "before": guard.before.name.lower(),
                        "after": guard.after.name.lower(),
                    }
                    for guard in one.guards
                ],
            }
            for one in affected
        ]
    return json.dumps(document, indent=2)


def _entry_json(key: EntryKey, entry: PriceEntry, currency: str) -> dict[str, Any]:
    return {
        "precedence": key.precedence.value,
        "tenant": key.tenant_id,
        "provider": key.provider,
        "model": key.model,
        "meter": key.meter,
        "price_nanos": entry.price_nanos,
        "per_units": entry.per_units,
        "currency": currency,
        "effective_from_micros": key.effective_from_micros,
        "tier_input_tokens_from": key.tier_input_tokens_from,
        "day_from_s": key.day_from_s,
        "day_to_s": key.day_to_s,
        "source": entry.source,
        "price_id": entry.price_id,
    }


def _assessment_json(one: Assessment) -> dict[str, Any]:
    ratio = one.gross_margin_ratio
    return {
        "level": one.level.name.lower(),
        "gross_margin_ratio": None if ratio is None else str(ratio),
        "revenue_nanos": one.revenue_nanos,
        "cogs_nanos": one.cogs_nanos,
        "allowance_nanos": one.allowance_nanos,
    }


def _mark(one: Change) -> str:
    if one.old is None:
        return "+"
    return "-" if one.new is None else "~"


def _whose(key: EntryKey) -> str:
    return f"{key.precedence} {key.tenant_id}".strip()


def _model(key: EntryKey) -> str:
    return f"{key.provider or '*'}/{key.model or '*'}"


def _since(key: EntryKey) -> str:
    return instant_text(key.effective_from_micros) if key.effective_from_micros else "the beginning"


def _price(entry: PriceEntry, currency: str) -> str:
    per = f" per {entry.per_units:,}" if entry.per_units != 1 else " each"
    return f"{money(entry.price_nanos, currency)}{per}"


def _when(key: EntryKey) -> str:
    """Return for which requests, and which part of the day, an entry is; "": for all."""
    parts = []
    if key.tier_input_tokens_from:
        parts.append(f"{key.tier_input_tokens_from:,} input tokens or more")
    if (key.day_from_s, key.day_to_s) != (0, 0):
        parts.append(f"{_clock(key.day_from_s)} to {_clock(key.day_to_s)} UTC")
    return ", ".join(parts)


def _clock(second: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}"


def _ratio(one: Assessment) -> str:
    return margin_percent_text(revenue_nanos=one.revenue_nanos, cogs_nanos=one.cogs_nanos)
