"""A margin on its way through a period, beside its floors, and where it goes. Pure, exact.

Figures are basis points of what usage has to live on: revenue, or an allowance where there is none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from aforo_meter.domain.account import Account, total
from aforo_meter.domain.forecast import Instant, Outlook, Standpoint
from aforo_meter.domain.margin import BP, Assessment, Floors, MarginState
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros


@dataclass(frozen=True, slots=True)
class Point:
    at_micros: int
    left_bp: int  # What is left; below zero at a loss.


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a chart of a margin shows."""

    period: PeriodMicros
    is_revenue: bool  # Else what is left of an allowance.
    floors: Floors  # Worst first.
    so_far: tuple[Point, ...]
    ahead: tuple[Point, ...]  # From now to the period's end, if usage goes on; none: it is over.


def course_of(at: Standpoint, outlook: Outlook, *, points_max: int) -> Course | None:
    """Return the course of a tenant's margin; None: there is nothing to measure it by.

    Args:
        at: Where the margin stands.
        outlook: What follows at one of its rates.
        points_max: Of the way so far; at least 2.
    """
    passed = _assessments(at, points_max)
    is_revenue = passed[-1][1].state is MarginState.DEFINED
    if not is_revenue and not at.allowance_nanos:
        return None
    so_far = [
        Point(moment, left)
        for moment, assessment in passed
        if (left := _left_bp(assessment, is_revenue=is_revenue)) is not None
    ]
    end_bp = _left_bp(outlook.at_end, is_revenue=is_revenue)
    goes_on = at.as_of_micros < at.period.end_micros and end_bp is not None and bool(so_far)
    return Course(
        period=at.period,
        is_revenue=is_revenue,
        floors=at.thresholds.floors_bp() if is_revenue else at.thresholds.allowance_floors_bp(),
        so_far=tuple(so_far),
        ahead=(so_far[-1], Point(at.period.end_micros, end_bp or 0)) if goes_on else (),
    )


def _assessments(at: Standpoint, points_max: int) -> list[tuple[int, Assessment]]:
    """Return the margin at evenly spaced ends of hours, and now."""
    found = []
    account: Account = {}
    hours = sorted(at.account_by_hour)
    *before, now = _moments(at, points_max)
    for moment in before:
        passed = [hour for hour in hours if hour < moment]
        account = total([account, *(at.account_by_hour[hour] for hour in passed)])
        hours = hours[len(passed) :]
        found.append((moment, _assessed(at, account, moment)))
    # Whatever is known belongs to now: the last hours may have begun after the rest was confirmed.
    account = total([account, *(at.account_by_hour[hour] for hour in hours)])
    return [*found, (now, _assessed(at, account, now))]


def _moments(at: Standpoint, points_max: int) -> Sequence[int]:
    start_micros = at.period.start_micros
    end_micros = max(start_micros, min(at.as_of_micros, at.period.end_micros))
    hours = math.ceil((end_micros - start_micros) / HOUR_MICROS)
    step = max(1, math.ceil(hours / (points_max - 1)))
    return [
        *(start_micros + hour * HOUR_MICROS for hour in range(0, hours, step)),
        end_micros,
    ]


def _assessed(at: Standpoint, account: Account, moment_micros: int) -> Assessment:
    then = Instant(at_micros=moment_micros, so_far=account, recent={}, windows=Fraction(0))
    revenue_nanos = at.revenue_of(then)
    return Assessment(
        level=at.level,
        state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
        revenue_nanos=revenue_nanos,
        cogs_nanos=at.cogs_of(account),
        allowance_nanos=at.allowance_nanos,
    )


def _left_bp(assessment: Assessment, *, is_revenue: bool) -> int | None:
    base_nanos = assessment.revenue_nanos if is_revenue else assessment.allowance_nanos
    if base_nanos <= 0:
        return None
    return (base_nanos - assessment.cogs_nanos) * BP // base_nanos
