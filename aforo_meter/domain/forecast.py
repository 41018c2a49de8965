"""Burn rate → when each level will be reached, and what a period will end with. Pure, exact.

Usage goes on as it was, in a straight line, and COGS with it. What it brings is reckoned by the
rate card from the usage that there will be, so a tier, a minimum or a discount bends that line.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import Final

from aforo_meter.domain.account import Account, UsageKey, Used, total
from aforo_meter.domain.guards import Guard, calls_in
from aforo_meter.domain.margin import Assessment, Level, MarginState, Thresholds, assess
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros

DAY_MICROS: Final = 24 * HOUR_MICROS
UNUSED: Final = Used()


class Window(StrEnum):
    """By which usage a rate is reckoned."""

    LAST_DAY = "last_24_hours"  # 23 whole hours and the one that runs: the ledger keeps hours.
    PERIOD = "period_so_far"


@dataclass(frozen=True, kw_only=True)
class Instant:
    """A time to come, with all that will have been used by then."""

    at_micros: int
    so_far: Account
    recent: Account  # What was used in the window that usage goes on as.
    windows: Fraction  # How many times that comes until then.

    @cached_property
    def account(self) -> Account:
        """Quantities alone, each rounded down to a millionth of a unit."""
        return {
            key: Used(quantity_micros=self._quantity_micros(key))
            for key in self.so_far.keys() | self.recent.keys()
        }

    def _quantity_micros(self, key: UsageKey) -> int:
        grown = self.recent.get(key, UNUSED).quantity_micros * self.windows
        return max(0, self.so_far.get(key, UNUSED).quantity_micros + math.floor(grown))


# What the contract brings by an instant, in nanos of the margin's currency.
RevenueAt = Callable[[Instant], int]


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
    """When a level is reached: the first instant at which the ledger would assess it."""

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
    """Where a margin stands in a period, and what its level goes by."""

    period: PeriodMicros
    as_of_micros: int  # Until when usage is known.
    account_by_hour: Mapping[int, Account]  # Of all usage, by the starts of its hours.
    revenue_at: RevenueAt  # Of the contract.
    allowance_nanos: int = 0  # What COGS may come to, whatever the revenue is.
    thresholds: Thresholds
    level: Level
    guard: Guard | None = None  # Whose margin it is; None: the tenant's.

    @property
    def assessment(self) -> Assessment:
        """Return the margin as it is now."""
        so_far = total(self.account_by_hour.values())
        now = Instant(at_micros=self.as_of_micros, so_far=so_far, recent={}, windows=Fraction(0))
        revenue_nanos = self.revenue_of(now)
        return Assessment(
            level=self.level,
            state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
            revenue_nanos=revenue_nanos,
            cogs_nanos=self.cogs_of(so_far),
            allowance_nanos=self.allowance_nanos,
        )

    def revenue_of(self, then: Instant) -> int:
        contract_nanos = self.revenue_at(then)
        return contract_nanos if self.guard is None else self.guard.revenue_of(contract_nanos)

    def cogs_of(self, account: Account) -> int:
        if self.guard is not None:
            return self.guard.cogs_of(account)
        return sum(used.cogs_nanos for used in account.values())

    def calls_of(self, account: Account) -> int:
        return calls_in(account, account) if self.guard is None else self.guard.calls_of(account)


def forecast(at: Standpoint) -> tuple[Outlook, ...]:
    """Return what follows from the last day's rate, and from that of the period so far."""
    so_far = total(at.account_by_hour.values())
    found = []
    for window, span in windows(at).items():
        recent = so_far if window is Window.PERIOD else _within(at.account_by_hour, span)
        rate = BurnRate(window=window, span=span, cogs_nanos=at.cogs_of(recent))
        found.append(_outlook(_Course(at, rate, so_far, recent)))
    return tuple(found)


def windows(at: Standpoint) -> dict[Window, PeriodMicros]:
    """Return both spans of time. A period that is younger than a day has one of them twice."""
    end_micros = min(at.as_of_micros, at.period.end_micros)
    hour_micros = end_micros - end_micros % HOUR_MICROS
    day_start = max(at.period.start_micros, hour_micros - DAY_MICROS + HOUR_MICROS)
    return {
        Window.LAST_DAY: PeriodMicros(day_start, end_micros),
        Window.PERIOD: PeriodMicros(at.period.start_micros, end_micros),
    }


def _within(account_by_hour: Mapping[int, Account], span: PeriodMicros) -> Account:
    return total(
        account
        for hour, account in account_by_hour.items()
        if hour + HOUR_MICROS > span.start_micros
    )


class _Course:
    """A margin on its way: what the ledger would say of it at each instant to come."""

    def __init__(self, at: Standpoint, rate: BurnRate, so_far: Account, recent: Account) -> None:
        self.at = at
        self.rate = rate
        self._so_far = so_far
        self._recent = recent
        self._cogs_nanos = at.cogs_of(so_far)
        self._known: dict[int, Assessment] = {}

    def after(self, span_micros: int) -> Assessment:
        """Return the margin after a while, its level as if nothing were assessed until then."""
        if span_micros not in self._known:
            self._known[span_micros] = self._assess(span_micros)
        return self._known[span_micros]

    def first_micros(self, level: Level) -> int | None:
        """Return after which time a level is reached; None: not in the period.

        The first day to come that ends with it is found, and in that day the instant.
        """
        left_micros = self.at.period.end_micros - self.at.as_of_micros
        before_micros = 0
        while before_micros < left_micros - 1:
            micros = min(before_micros + DAY_MICROS, left_micros - 1)
            if self.after(micros).level >= level:
                return self._first_between(before_micros, micros, level)
            before_micros = micros
        return None

    def _first_between(self, before_micros: int, micros: int, level: Level) -> int:
        while micros - before_micros > 1:
            middle = (before_micros + micros) // 2
            if self.after(middle).level >= level:
                micros = middle
            else:
                before_micros = middle
        return micros

    def _assess(self, span_micros: int) -> Assessment:
        at = self.at
        length_micros = self.rate.span.end_micros - self.rate.span.start_micros
        then = Instant(
            at_micros=at.as_of_micros + span_micros,
            so_far=self._so_far,
            recent=self._recent,
            windows=Fraction(span_micros, length_micros) if length_micros > 0 else Fraction(0),
        )
        return assess(
            revenue_nanos=at.revenue_of(then),
            cogs_nanos=round(self._cogs_nanos + self.rate.nanos_per_micro * span_micros),
            allowance_nanos=at.allowance_nanos,
            thresholds=at.thresholds,
            previous=at.level,
            calls=at.calls_of(then.account) if at.thresholds.act_from_calls else None,
        )


def _outlook(course: _Course) -> Outlook:
    at = course.at
    at_end = course.after(max(0, at.period.end_micros - at.as_of_micros))
    floors_bp = at.thresholds.floors_bp()
    if not at_end.revenue_nanos:
        floors_bp = at.thresholds.allowance_floors_bp()
    reaches: tuple[Reach, ...] = ()
    if at_end.revenue_nanos or at.allowance_nanos:
        reaches = tuple(_reach(course, level, floor_bp) for level, floor_bp in reversed(floors_bp))
    return Outlook(rate=course.rate, reaches=reaches, at_end=at_end)


def _reach(course: _Course, level: Level, floor_bp: int) -> Reach:
    is_reached = max(course.after(0).level, course.at.level) >= level
    span_micros = None if is_reached else course.first_micros(level)
    at_micros = None if span_micros is None else course.at.as_of_micros + span_micros
    return Reach(level=level, floor_bp=floor_bp, is_reached=is_reached, at_micros=at_micros)
