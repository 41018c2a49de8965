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


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Floors in basis points, compared strictly: exactly on a floor is not below it."""

    warn_below_bp: int = 2000
    throttle_below_bp: int = 1000
    block_below_bp: int = 0
    hysteresis_bp: int = 100  # How far above a floor the margin must rise before its level ends.
    source: str = "default"

    def floors_bp(self) -> tuple[tuple[Level, int], ...]:
        """Return the floors, worst first."""
        return (
            (Level.BLOCK, self.block_below_bp),
            (Level.THROTTLE, self.throttle_below_bp),
            (Level.WARN, self.warn_below_bp),
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
) -> Assessment:
    """Return the level of a margin.

    Without revenue the level comes from what is left of the COGS allowance, with the same floors;
    without an allowance either there is none.

    Args:
        revenue_nanos: What the contract brings for the period; >= 0.
        cogs_nanos: What serving the tenant cost in the period so far.
        allowance_nanos: COGS that a plan without revenue may cause; 0: no bound.
        thresholds: The floors in force.
        previous: The level so far: to leave it, the margin must rise by the hysteresis.
    """
    base_nanos = revenue_nanos or allowance_nanos
    level = Level.NONE
    if base_nanos > 0:
        level = _level(base_nanos, base_nanos - cogs_nanos, thresholds, previous)
    return Assessment(
        level=level,
        state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
        allowance_nanos=allowance_nanos,
    )


def _level(base_nanos: int, left_nanos: int, thresholds: Thresholds, previous: Level) -> Level:
    for level, floor_bp in thresholds.floors_bp():
        held_bp = thresholds.hysteresis_bp if level <= previous else 0
        # left / base < floor, without dividing: exact at any size.
        if left_nanos * BP < (floor_bp + held_bp) * base_nanos:
            return level
    return Level.NONE
