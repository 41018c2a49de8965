"""A forecast as people read it, and as programs do."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aforo_meter.command_tables import columns, minute, money
from aforo_meter.domain.forecast import Outlook, Reach, Standpoint, Window
from aforo_meter.domain.margin import Assessment
from aforo_meter.explain_json import period_json
from aforo_meter.shown_events import plain
from aforo_meter.shown_values import LEVELS, instant, margin, percent_bp, span

WINDOWS: Final = {Window.LAST_DAY: "last 24 hours", Window.PERIOD: "period so far"}
NEVER: Final = "not in this period"
REACHED: Final = "reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What is to be expected of one margin."""

    at: Standpoint
    outlooks: tuple[Outlook, ...]  # By the last day's rate, and by the period's.

    @property
    def guard_id(self) -> str:
        """Whose margin it is; "": the tenant's."""
        return self.at.guard.guard_id if self.at.guard is not None else ""

    @property
    def first_at_micros(self) -> int | None:
        """When the next level is reached by the last day's rate; None: not in this period."""
        return next(
            (reach.at_micros for reach in self.outlooks[0].reaches if reach.at_micros), None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is to be expected of one tenant's period."""

    tenant_id: str
    subscription_id: str
    currency: str
    margins: tuple[Prospect, ...]  # The tenant's own, then those of its guards.


def as_text(told: Forecast) -> str:
    """Return lines for a terminal."""
    at = told.margins[0].at
    return "\n".join(
        [
            f"tenant     {plain(told.tenant_id)}, subscription {plain(told.subscription_id)}",
            f"period     {span(at.period)}",
            f"as of      {minute(at.as_of_micros)} UTC: until then all usage is counted",
            *(line for one in told.margins for line in _margin_lines(one, told.currency)),
            "If usage goes on as in the column's time, at today's prices and rate card.",
        ]
    )


def _margin_lines(told: Prospect, currency: str) -> list[str]:
    at = told.at
    head = ("", *(WINDOWS[one.rate.window] for one in told.outlooks))
    rows = [
        ("usage since", *(f"{minute(one.rate.span.start_micros)} UTC" for one in told.outlooks)),
        (
            "burn rate",
            *(f"{money(one.rate.nanos_per_day)} {currency} a day" for one in told.outlooks),
        ),
        *_reach_rows(told.outlooks),
        ("revenue at the end", *(money(one.at_end.revenue_nanos) for one in told.outlooks)),
        ("COGS at the end", *(money(one.at_end.cogs_nanos) for one in told.outlooks)),
        ("margin at the end", *(margin(one.at_end) for one in told.outlooks)),
        ("level at the end", *(LEVELS[one.at_end.level] for one in told.outlooks)),
    ]
    now = at.assessment
    return [
        *([f"\nguard      {plain(told.guard_id)}"] if told.guard_id else []),
        f"level      {LEVELS[at.level]}",
        f"margin     {margin(now)}, {_base(now)}{money(now.cogs_nanos)} COGS, in {currency}",
        "",
        *columns([head, *rows], right=()),
        "",
    ]


def _base(now: Assessment) -> str:
    found = ""
    if now.revenue_nanos:
        found += f"{money(now.revenue_nanos)} revenue, "
    if now.allowance_nanos:
        found += f"allowance {money(now.allowance_nanos)}, "
    return found or "no revenue and no allowance, so no floor applies, "


def _reach_rows(outlooks: Sequence[Outlook]) -> list[tuple[str, ...]]:
    return [
        (
            f"{LEVELS[reaches[0].level]}, below {percent_bp(reaches[0].floor_bp)}",
            *(_reach(one) for one in reaches),
        )
        for reaches in zip(*(one.reaches for one in outlooks), strict=True)
    ]


def _reach(reach: Reach) -> str:
    if reach.is_reached:
        return REACHED
    return f"{minute(reach.at_micros)} UTC" if reach.at_micros else NEVER


def as_list(told: Sequence[Forecast], without_contract: int) -> str:
    """Return one line a tenant or guard, those whose next level comes first, first.

    Args:
        told: Of each tenant.
        without_contract: How many are left out, because they have none.
    """
    ordered = sorted(
        ((one, each) for each in told for one in each.margins),
        key=lambda pair: (
            pair[0].first_at_micros is None,
            pair[0].first_at_micros or 0,
            -pair[0].at.level,
            pair[1].tenant_id,
            pair[0].guard_id,
        ),
    )
    head = ("tenant", "level", "margin", "a day", "", *("warn", "throttle", "block"), "at the end")
    rows = [
        (
            *(_whose(each, one), one.at.level.name.lower(), margin(one.at.assessment)),
            *(money(one.outlooks[0].rate.nanos_per_day), each.currency),
            *(_reach(reach) for reach in one.outlooks[0].reaches or ()),
            *(() if one.outlooks[0].reaches else ("-", "-", "-")),
            margin(one.outlooks[0].at_end),
        )
        for one, each in ordered
    ]
    return "\n".join(
        [
            *columns([head, *rows], right={2, 3, 8}),
            "By the rate of the last 24 hours; times are UTC.",
            *_left_out(without_contract),
        ]
    )


def _left_out(count: int) -> list[str]:
    if not count:
        return []
    whose = "1 tenant is" if count == 1 else f"{count:,} tenants are"
    return [f"{whose} left out: without a contract there is no floor to reach."]


def _whose(told: Forecast, one: Prospect) -> str:
    return plain(f"{told.tenant_id}: {one.guard_id}" if one.guard_id else told.tenant_id)


def as_json(told: Forecast) -> dict[str, Any]:
    """Return a document. Money is whole nanos."""
    own, *guards = told.margins
    at = own.at
    return {
        "tenant": told.tenant_id,
        "subscription": told.subscription_id,
        "currency": told.currency,
        "period": period_json(at.period),
        "as_of": instant(at.as_of_micros),
        **_prospect_json(own),
        "guards": [{"guard": one.guard_id, **_prospect_json(one)} for one in guards],
    }


def _prospect_json(one: Prospect) -> dict[str, Any]:
    return {
        "level": one.at.level.name.lower(),
        "margin": _margin_json(one.at.assessment),
        "outlooks": {each.rate.window.value: _outlook_json(each) for each in one.outlooks},
    }


def dumps(document: object) -> str:
    return json.dumps(document, indent=2)


def _outlook_json(one: Outlook) -> dict[str, Any]:
    return {
        "usage_since": instant(one.rate.span.start_micros),
        "cogs_nanos_per_day": one.rate.nanos_per_day,
        "levels": {reach.level.name.lower(): _reach_json(reach) for reach in one.reaches},
        "at_end": {"level": one.at_end.level.name.lower(), **_margin_json(one.at_end)},
    }


def _reach_json(reach: Reach) -> dict[str, Any]:
    return {
        "floor_bp": reach.floor_bp,
        "reached": reach.is_reached,
        "at": instant(reach.at_micros) if reach.at_micros else None,
    }


def _margin_json(assessment: Assessment) -> dict[str, Any]:
    ratio = assessment.gross_margin_ratio
    return {
        "gross_margin_ratio": None if ratio is None else str(ratio),
        "revenue_nanos": assessment.revenue_nanos,
        "cogs_nanos": assessment.cogs_nanos,
        "allowance_nanos": assessment.allowance_nanos,
    }
