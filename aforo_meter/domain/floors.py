"""Where a margin stands beside each of its floors: what a level is explained with. Pure, exact."""

from dataclasses import dataclass

from aforo_meter.domain.margin import BP, Assessment, Base, Level, Thresholds, bases_of


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

    Where revenue and an allowance both count, each level goes by the one that lets more COGS pass.
    With neither there are no floors.
    """
    bases = bases_of(assessment.revenue_nanos, assessment.allowance_nanos, thresholds)
    if not bases:
        return ()
    cogs_nanos = assessment.cogs_nanos
    found = []
    for level in (Level.WARN, Level.THROTTLE, Level.BLOCK):
        base = decisive(bases, level)
        floor_bp = base.floor_bp(level)
        is_undercut = base.is_below(floor_bp, cogs_nanos)
        is_below_end = all(
            one.is_below(one.floor_bp(level) + thresholds.hysteresis_bp, cogs_nanos)
            for one in bases
        )
        found.append(
            Standing(
                level=level,
                floor_bp=floor_bp,
                cogs_max_nanos=cogs_max_nanos(base.nanos, floor_bp),
                is_undercut=is_undercut,
                is_held=not is_undercut and is_below_end and level <= assessment.level,
                ends_at_bp=floor_bp + thresholds.hysteresis_bp,
            )
        )
    return tuple(found)


def decisive(bases: tuple[Base, ...], level: Level) -> Base:
    """Return the base that lets the most COGS pass before a level begins."""
    return max(bases, key=lambda base: base.nanos * (BP - base.floor_bp(level)))


def cogs_max_nanos(base_nanos: int, floor_bp: int) -> int:
    """Return the most COGS with which a margin is not below a floor.

    (base - COGS) / base < floor is COGS > base * (1 - floor); COGS is whole, so rounding the right
    side down changes nothing.
    """
    return base_nanos * (BP - floor_bp) // BP
