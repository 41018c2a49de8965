"""Where a margin stands beside each of its floors: what a level is explained with. Pure, exact."""

from dataclasses import dataclass

from aforo_meter.domain.margin import BP, Assessment, Level, Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One floor, and the margin beside it."""

    level: Level  # What undercutting it leads to.
    floor_bp: int
    cogs_max_nanos: int  # The most COGS that is not below the floor.
    is_undercut: bool
    is_held: bool  # Not below it any more, and not far enough above it to end the level.
    ends_at_bp: int  # From which margin on the level ends, once it is reached.

    @property
    def holds(self) -> bool:
        """Return whether the level follows from this floor, or a worse one does."""
        return self.is_undercut or self.is_held


def standings(assessment: Assessment, thresholds: Thresholds) -> tuple[Standing, ...]:
    """Return the margin beside each floor, the first to be reached first.

    Without revenue it is what is left of the allowance; without that too, there are no floors.
    """
    base_nanos = assessment.revenue_nanos or assessment.allowance_nanos
    if base_nanos <= 0:
        return ()
    of_margin = assessment.revenue_nanos > 0
    floors_bp = thresholds.floors_bp() if of_margin else thresholds.allowance_floors_bp()
    found = []
    for level, floor_bp in reversed(floors_bp):
        ends_at_bp = floor_bp + thresholds.hysteresis_bp
        is_undercut = assessment.cogs_nanos > cogs_max_nanos(base_nanos, floor_bp)
        is_below_end = assessment.cogs_nanos > cogs_max_nanos(base_nanos, ends_at_bp)
        found.append(
            Standing(
                level=level,
                floor_bp=floor_bp,
                cogs_max_nanos=cogs_max_nanos(base_nanos, floor_bp),
                is_undercut=is_undercut,
                is_held=not is_undercut and is_below_end and level <= assessment.level,
                ends_at_bp=ends_at_bp,
            )
        )
    return tuple(found)


def cogs_max_nanos(base_nanos: int, floor_bp: int) -> int:
    """Return the most COGS with which a margin is not below a floor.

    (base - COGS) / base < floor is COGS > base * (1 - floor); COGS is whole, so rounding the right
    side down changes nothing.
    """
    return base_nanos * (BP - floor_bp) // BP
