"""What a simulation found, as people and as programs read it."""

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from aforo_admin.domain.levels_over_time import Step
from aforo_admin.domain.scenario import CostChange, ModelSwap
from aforo_admin.domain.simulate import Comparison, Figures, Outcome
from aforo_admin.readable import margin_percent_text
from aforo_admin.readable_values import instant_text, many, money
from aforo_admin.tables import table

TENANTS_SHOWN: Final = 50
NAMES_SHOWN: Final = 10  # In one remark.
HEAD: Final = ("", "recorded", "same usage", "acted on")


def sides(outcome: Outcome) -> tuple[Figures, Figures, Figures]:
    return outcome.recorded, outcome.replayed, outcome.acted


def totals(found: Comparison) -> tuple[Figures, Figures, Figures]:
    return (
        found.total(lambda one: one.recorded),
        found.total(lambda one: one.replayed),
        found.total(lambda one: one.acted),
    )


def comparison_text(found: Comparison, *, shown: int = TENANTS_SHOWN) -> str:
    """Return the sums side by side, then the tenants that something changes for."""
    moved = in_order(found)
    lines = [*table([HEAD, *figures_rows(totals(found), found.currency)]), ""]
    lines.append(
        f"{many(len(found.outcomes), 'period')} looked at; something changes for {len(moved)}"
    )
    if moved:
        lines += ["", *_tenant_table(moved[:shown], found.currency)]
    if len(moved) > shown:
        lines.append(f"… and {len(moved) - shown} more: --show {len(moved)}, or --json")
    lines += [f"{name}: no level is reckoned: {why}" for name, why in found.left_out]
    if told := remarks(found):
        lines += ["", *told]
    return "\n".join(lines)


def in_order(found: Comparison) -> list[Outcome]:
    """Return what changes: worse levels first, then by how much COGS and revenue move."""
    return sorted(
        (one for one in found.outcomes if one.is_changed),
        key=lambda one: (
            -abs(max(one.replayed.level, one.acted.level) - one.recorded.level),
            -_moved_nanos(one),
            one.tenant_id,
        ),
    )


def _moved_nanos(one: Outcome) -> int:
    return abs(one.replayed.cogs_nanos - one.recorded.cogs_nanos) + abs(
        one.replayed.revenue_nanos - one.recorded.revenue_nanos
    )


def figures_rows(
    three: tuple[Figures, Figures, Figures],
    currency: str,
    write: Callable[[int, str], str] = money,
) -> list[tuple[str, str, str, str]]:
    """Return a line for each figure, its three sides beside each other.

    Args:
        three: The record, the same usage, and what would have been acted on.
        currency: Of all amounts.
        write: How an amount is written: to the last nano, unless something else is said.
    """
    return [
        ("revenue", *_of(three, lambda one: write(one.revenue_nanos, currency))),
        ("COGS", *_of(three, lambda one: write(one.cogs_nanos, currency))),
        ("margin", *_of(three, margin_text)),
        ("warned calls", *_of(three, lambda one: f"{one.calls.warned:,}")),
        ("calls throttled by margin", *_of(three, lambda one: f"{one.calls.throttled:,}")),
        ("calls blocked by margin", *_of(three, lambda one: f"{one.calls.blocked:,}")),
    ]


def _of(three: tuple[Figures, Figures, Figures], write: Any) -> tuple[str, str, str]:  # noqa: ANN401 - of each.
    first, second, third = map(write, three)
    return first, second, third


def margin_text(figures: Figures) -> str:
    return margin_percent_text(revenue_nanos=figures.revenue_nanos, cogs_nanos=figures.cogs_nanos)


def level_text(figures: Figures) -> str:
    return figures.level.name.lower()


def estimated_text(outcome: Outcome) -> str:
    """Return the share of COGS that is estimated."""
    ratio = outcome.estimated_ratio
    return f"{ratio * 100:.2f} %" if ratio else "none"


def _tenant_table(moved: list[Outcome], currency: str) -> list[str]:
    head = ("tenant", "level", "", "margin", "", "COGS", "", "blocked by margin", "", "estimated")
    rows = [
        (
            one.tenant_id,
            *_pair(level_text(one.recorded), level_text(one.acted)),
            *_pair(margin_text(one.recorded), margin_text(one.acted)),
            *_pair(money(one.recorded.cogs_nanos, currency), money(one.acted.cogs_nanos, currency)),
            *_pair(f"{one.recorded.calls.blocked:,}", f"{one.acted.calls.blocked:,}"),
            estimated_text(one),
        )
        for one in moved
    ]
    return table([head, *rows])


def _pair(before: str, after: str) -> tuple[str, str]:
    return before, f"→ {after}"


def remarks(found: Comparison) -> list[str]:
    """Return what a reader of the figures must know of them; who was left out is told apart."""
    lines = []
    if reckoned := _named(one for one in found.outcomes if one.is_reckoned):
        lines.append(
            f"{reckoned}: never assessed, since usage arrived when the period was over; what is"
            " recorded of revenue, margin and level is reckoned by the contract known now"
        )
    if drifted := _named(one for one in found.outcomes if one.drift_nanos):
        lines.append(
            f"{drifted}: the catalog reckons another revenue than was"
            " recorded; only what the changes add to it is told"
        )
    unpriced = sum(one.unpriced_rows for one in found.outcomes)
    if unpriced:
        lines.append(f"{many(unpriced, 'row')} would have no price, and cost nothing until then")
    return [*lines, *(f"no recorded usage here is of {_idle(each)}" for each in found.idle)]


def _idle(change: CostChange | ModelSwap) -> str:
    if isinstance(change, ModelSwap):
        names = _names(change.provider, change.model)
        return f"{names}: nothing becomes {change.to_model}"
    names = _names(change.provider, change.model, change.meter) or "anything"
    return f"{names}: its change of costs does nothing"


def _names(*names: str) -> str:
    return " ".join(name for name in names if name)


def _named(outcomes: Iterable[Outcome]) -> str:
    names = list(dict.fromkeys(one.tenant_id for one in outcomes))
    shown = ", ".join(names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def comparison_json(found: Comparison) -> str:
    return json.dumps(comparison_written(found), indent=2)


def comparison_written(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON has it: amounts in nanos, times as text."""
    recorded, replayed, acted = totals(found)
    return {
        "currency": found.currency,
        "totals": {
            "recorded": _sum_written(recorded),
            "replayed": _sum_written(replayed),
            "acted": _sum_written(acted),
        },
        "tenants": [outcome_written(one) for one in found.outcomes],
        "left_out": [{"tenant": name, "why": why} for name, why in found.left_out],
        "remarks": remarks(found),
    }


def summary_written(found: Comparison) -> dict[str, Any]:
    """Return the sums alone: what is kept with a scenario."""
    whole = comparison_written(found)
    changed = sum(one.is_changed for one in found.outcomes)
    return {
        "currency": whole["currency"],
        "totals": whole["totals"],
        "periods": len(found.outcomes),
        "changed": changed,
    }


def outcome_written(one: Outcome) -> dict[str, Any]:
    return {
        "tenant": one.tenant_id,
        "subscription": one.subscription_id,
        "period_start": instant_text(one.period.start_micros),
        "period_end": instant_text(one.period.end_micros),
        "recorded": _figures_written(one.recorded),
        "replayed": _figures_written(one.replayed),
        "acted": _figures_written(one.acted),
        "avoided_nanos": one.avoided_nanos,
        "added_nanos": one.added_nanos,
        "estimated_ratio": str(one.estimated_ratio),
        "unpriced_rows": one.unpriced_rows,
        "drift_nanos": one.drift_nanos,
        "assessed": not one.is_reckoned,
    }


def _sum_written(figures: Figures) -> dict[str, Any]:
    ratio = figures.margin_ratio
    return {
        "revenue_nanos": figures.revenue_nanos,
        "cogs_nanos": figures.cogs_nanos,
        "gross_margin_ratio": None if ratio is None else str(ratio),
        "warned_calls": figures.calls.warned,
        "throttled_calls": figures.calls.throttled,
        "blocked_calls": figures.calls.blocked,
    }


def _figures_written(figures: Figures) -> dict[str, Any]:
    return {
        **_sum_written(figures),
        "level": level_text(figures),
        "levels": [_step_written(step) for step in figures.steps],
    }


def _step_written(step: Step) -> dict[str, str]:
    return {"at": instant_text(step.at_micros), "level": step.level.name.lower()}
