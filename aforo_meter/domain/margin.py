"""The margin guard: revenue and COGS → how close a tenant is to its floors. Pure, exact."""

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from enum import IntEnum, StrEnum
from typing import Final

BP: Final = 10_000  # Basis points in one.


class Level(IntEnum):
    """How close the margin is to its floors. Ordered: higher is worse."""

    NONE = 0
    WARN = 1
    THROTTLE = 2
    BLOCK = 3


class MarginState(StrEnum):
    DEFINED = "defined"
    UNDEFINED = "undefined"  # No revenue: a ratio would have no meaning, and is never 0 %.


Floors = tuple[tuple[Level, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowanceThresholds:
    """Shares of an allowance in basis points, compared strictly: exactly at one is not above it."""

    warn_at_bp: int
    throttle_at_bp: int
    block_at_bp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Floors in basis points, compared strictly: exactly on a floor is not below it."""

    warn_below_bp: int = 2000
    throttle_below_bp: int = 1000
    block_below_bp: int = 0
    hysteresis_bp: int = 100  # How far above a floor the margin must rise before its level ends.
    # Where revenue, or the number of the period's metered calls, is below these, there is too
    # little to go by: the level is at most WARN.
    act_from_revenue_nanos: int = 0
    act_from_calls: int = 0
    allowance: AllowanceThresholds | None = None  # None: what the floors leave of it.
    source: str = "default"

    def floors_bp(self) -> Floors:
        """Return the floors of a margin, worst first."""
        return (
            (Level.BLOCK, self.block_below_bp),
            (Level.THROTTLE, self.throttle_below_bp),
            (Level.WARN, self.warn_below_bp),
        )

    def allowance_floors_bp(self) -> Floors:
        """Return the floors of what is left of an allowance, worst first."""
        if self.allowance is None:
            return self.floors_bp()
        return (
            (Level.BLOCK, BP - self.allowance.block_at_bp),
            (Level.THROTTLE, BP - self.allowance.throttle_at_bp),
            (Level.WARN, BP - self.allowance.warn_at_bp),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the guard says of one tenant in one period."""

    level: Level
    state: MarginState
    revenue_nanos: int
    cogs_nanos: int
    allowance_nanos: int

    @property
    def gross_margin_ratio(self) -> Decimal | None:
        """Return (revenue − COGS) / revenue to four places, for people; None if undefined.

        Rounded down: a margin below a floor never looks as if it were on it.
        """
        if self.revenue_nanos == 0:
            return None
        left = Decimal(self.revenue_nanos - self.cogs_nanos)
        return (left / self.revenue_nanos).quantize(Decimal("0.0001"), rounding=ROUND_FLOOR)


def assess(
    *,
    revenue_nanos: int,
    cogs_nanos: int,
    allowance_nanos: int,
    thresholds: Thresholds,
    previous: Level,
    calls: int | None = None,
) -> Assessment:
    """Return the level of a margin.

    A contract with a COGS allowance has that to live on at least: a level begins only where both
    the margin, if there is revenue, and what is left of the allowance are below their floors for
    it. So more revenue never makes a level worse. With neither there is no level.

    Args:
        revenue_nanos: What the contract brings for the period; >= 0.
        cogs_nanos: What serving the tenant cost in the period so far.
        allowance_nanos: COGS that a plan without a fee may cause; 0: none was granted.
        thresholds: The floors in force.
        previous: The level so far: to leave it, the margin must rise by the hysteresis.
        calls: How many were metered in the period; None: not counted, taken as enough.
    """
    bases = bases_of(revenue_nanos, allowance_nanos, thresholds)
    level = _level(bases, cogs_nanos, thresholds.hysteresis_bp, previous)
    if _is_too_little(revenue_nanos, allowance_nanos, calls, thresholds):
        level = min(level, Level.WARN)
    return assessment(
        level,
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
        allowance_nanos=allowance_nanos,
    )


def assessment(
    level: Level, *, revenue_nanos: int, cogs_nanos: int, allowance_nanos: int
) -> Assessment:
    """Return what is said of a tenant whose level is known."""
    return Assessment(
        level=level,
        state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
        allowance_nanos=allowance_nanos,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What usage has to live on, and the floors of what is left of it."""

    nanos: int
    floors_bp: Floors  # Worst first.
    is_revenue: bool  # Else it is an allowance.

    def floor_bp(self, level: Level) -> int:
        return dict(self.floors_bp)[level]

    def is_below(self, floor_bp: int, cogs_nanos: int) -> bool:
        # left / base < floor, without dividing: exact at any size.
        return (self.nanos - cogs_nanos) * BP < floor_bp * self.nanos


def bases_of(revenue_nanos: int, allowance_nanos: int, thresholds: Thresholds) -> tuple[Base, ...]:
    """Return what COGS is measured against: a level needs all of them to be below its floor.

    Revenue that is too little to act on says nothing where there is an allowance: an amount.
    """
    found = []
    if revenue_nanos > 0 and (
        not allowance_nanos or revenue_nanos >= thresholds.act_from_revenue_nanos
    ):
        found.append(Base(nanos=revenue_nanos, floors_bp=thresholds.floors_bp(), is_revenue=True))
    if allowance_nanos > 0:
        floors_bp = thresholds.allowance_floors_bp()
        found.append(Base(nanos=allowance_nanos, floors_bp=floors_bp, is_revenue=False))
    return tuple(found)


def _level(bases: tuple[Base, ...], cogs_nanos: int, hysteresis_bp: int, previous: Level) -> Level:
    if not bases:
        return Level.NONE
    for level in (Level.BLOCK, Level.THROTTLE, Level.WARN):
        held_bp = hysteresis_bp if level <= previous else 0
        if all(base.is_below(base.floor_bp(level) + held_bp, cogs_nanos) for base in bases):
            return level
    return Level.NONE


def _is_too_little(
    revenue_nanos: int, allowance_nanos: int, calls: int | None, thresholds: Thresholds
) -> bool:
    """Say whether a level would rest on too little to turn anybody away by it."""
    if calls is not None and calls < thresholds.act_from_calls:
        return True
    # An allowance is an amount, no ratio: it needs no revenue to be exceeded.
    return 0 < revenue_nanos < thresholds.act_from_revenue_nanos and not allowance_nanos
