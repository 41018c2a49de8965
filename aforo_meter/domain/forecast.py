"""Burn rate → when each level will be reached, and what a period will end with. Pure, exact.

Usage goes on as it was: COGS grows in a straight line. What a rate card would bring for usage to
come is not foreseen, so that a level is rather told too early.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from aforo_meter.domain.margin import (
    BP,
    Assessment,
    Level,
    MarginState,
    Thresholds,
    assess,
    bases_of,
)
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros

DAY_MICROS: Final = 24 * HOUR_MICROS


class Window(StrEnum):
    """By which usage a rate is reckoned."""

    LAST_DAY = "last_24_hours"  # 23 whole hours and the one that runs: the ledger keeps hours.
    PERIOD = "period_so_far"


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """An amount that grows in a straight line."""

    now_nanos: int
    nanos_per_micro: Fraction = Fraction(0)  # Nanos of money for each microsecond.

    def after(self, span_micros: int) -> int:
        """Return the amount after a while, rounded half to even."""
        return round(self.now_nanos + self.nanos_per_micro * span_micros)


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnRate:
    """What usage cost in a span of time."""

    window: Window
    span: PeriodMicros
    cogs_nanos: int

    @property
    def nanos_per_micro(self) -> Fraction:
        span_micros = self.span.end_micros - self.span.start_micros
        return Fraction(self.cogs_nanos, span_micros) if span_micros > 0 else Fraction(0)

    @property
    def nanos_per_day(self) -> int:
        return round(self.nanos_per_micro * DAY_MICROS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """When a level is reached: the first instant at which its floor is undercut."""

    level: Level
    floor_bp: int
    is_reached: bool
    at_micros: int | None  # None: not in this period, or it is reached already.


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What follows if usage goes on at one rate."""

    rate: BurnRate
    reaches: tuple[Reach, ...]  # The first floor first; none without revenue and allowance.
    at_end: Assessment


@dataclass(frozen=True, slots=True, kw_only=True)
class Standpoint:
    """Where a period stands, and what its level goes by."""

    period: PeriodMicros
    as_of_micros: int  # Until when usage is known.
    revenue: Course
    allowance_nanos: int  # What COGS may come to, whatever the revenue is.
    cogs_nanos: int
    cogs_by_hour: Mapping[int, int]
    thresholds: Thresholds
    level: Level

    @property
    def assessment(self) -> Assessment:
        """Return the margin as it is now."""
        revenue_nanos = self.revenue.now_nanos
        return Assessment(
            level=self.level,
            state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
            revenue_nanos=revenue_nanos,
            cogs_nanos=self.cogs_nanos,
            allowance_nanos=self.allowance_nanos,
        )


def forecast(at: Standpoint) -> tuple[Outlook, ...]:
    """Return what follows from the last day's rate, and from that of the period so far."""
    return tuple(_outlook(at, rate) for rate in burn_rates(at))


def burn_rates(at: Standpoint) -> tuple[BurnRate, ...]:
    """Return both rates. A period that is younger than a day has one rate twice."""
    end_micros = min(at.as_of_micros, at.period.end_micros)
    hour_micros = end_micros - end_micros % HOUR_MICROS
    day_start = max(at.period.start_micros, hour_micros - DAY_MICROS + HOUR_MICROS)
    recent_nanos = sum(
        nanos for hour, nanos in at.cogs_by_hour.items() if hour + HOUR_MICROS > day_start
    )
    return (
        BurnRate(
            window=Window.LAST_DAY,
            span=PeriodMicros(day_start, end_micros),
            cogs_nanos=recent_nanos,
        ),
        BurnRate(
            window=Window.PERIOD,
            span=PeriodMicros(at.period.start_micros, end_micros),
            cogs_nanos=at.cogs_nanos,
        ),
    )


def _outlook(at: Standpoint, rate: BurnRate) -> Outlook:
    cogs = Course(now_nanos=at.cogs_nanos, nanos_per_micro=rate.nanos_per_micro)
    left_micros = max(0, at.period.end_micros - at.as_of_micros)
    revenue_nanos, cogs_nanos = at.revenue.after(left_micros), cogs.after(left_micros)
    at_end = assess(
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
        allowance_nanos=at.allowance_nanos,
        thresholds=at.thresholds,
        previous=at.level,
    )
    bases = bases_of(revenue_nanos, at.allowance_nanos, at.thresholds)
    allowance = Course(now_nanos=at.allowance_nanos)
    reaches = tuple(
        max(
            (
                _reach(
                    at,
                    level,
                    base.floor_bp(level),
                    base=at.revenue if base.is_revenue else allowance,
                    cogs=cogs,
                )
                for base in bases
            ),
            key=_lateness,
        )
        for level in (Level.WARN, Level.THROTTLE, Level.BLOCK)
        if bases
    )
    return Outlook(rate=rate, reaches=reaches, at_end=at_end)


def _lateness(reach: Reach) -> tuple[bool, bool, int]:
    """Order reaches of one level: it begins with the last of what it is measured by."""
    return (not reach.is_reached, reach.at_micros is None, reach.at_micros or 0)


def _reach(at: Standpoint, level: Level, floor_bp: int, *, base: Course, cogs: Course) -> Reach:
    """Return when COGS exceeds its share of the base: two straight lines that cross once."""
    share_bp = BP - floor_bp
    beyond = cogs.now_nanos * BP - base.now_nanos * share_bp
    closing = cogs.nanos_per_micro * BP - base.nanos_per_micro * share_bp
    is_reached = beyond > 0 or level <= at.level
    at_micros = None
    if not is_reached and closing > 0:
        # At the crossing the margin is on the floor; a microsecond later it is below.
        at_micros = at.as_of_micros + int(-beyond // closing) + 1
        if at_micros >= at.period.end_micros:
            at_micros = None
    return Reach(level=level, floor_bp=floor_bp, is_reached=is_reached, at_micros=at_micros)
