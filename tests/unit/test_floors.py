"""Where a margin stands beside its floors: the same answer as the guard's, with its reasons."""

from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.floors import cogs_max_nanos, standings
from aforo_meter.domain.margin import AllowanceThresholds, Assessment, Level, Thresholds, assess

DOLLAR = 1_000_000_000
FLOORS = Thresholds(warn_below_bp=2000, throttle_below_bp=1000, block_below_bp=0, hysteresis_bp=100)
amounts = st.integers(0, 10**15)


def assessed(
    cogs_nanos: int, *, revenue_nanos: int = 100 * DOLLAR, previous: int = 0
) -> Assessment:
    return assess(
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
        allowance_nanos=0,
        thresholds=FLOORS,
        previous=Level(previous),
    )


def test_exactly_on_a_floor_is_not_below_it() -> None:
    """80.00 of 100 is no warning, the next nano is."""
    on = standings(assessed(80 * DOLLAR), FLOORS)[0]
    below = standings(assessed(80 * DOLLAR + 1), FLOORS)[0]

    assert (on.cogs_max_nanos, on.is_undercut, on.holds) == (80 * DOLLAR, False, False)
    assert (below.is_undercut, below.ends_at_bp) == (True, 2100)


def test_what_hysteresis_holds_is_told_apart_from_what_is_undercut() -> None:
    """79.50 of 100 is a margin of 20.5 %: above the floor, and below where the level ends."""
    told = standings(assessed(79 * DOLLAR + DOLLAR // 2, previous=Level.WARN), FLOORS)

    assert [(one.level, one.is_undercut, one.is_held) for one in told] == [
        (Level.WARN, False, True),
        (Level.THROTTLE, False, False),
        (Level.BLOCK, False, False),
    ]


def test_without_revenue_and_allowance_there_are_no_floors() -> None:
    assert standings(assessed(5 * DOLLAR, revenue_nanos=0), FLOORS) == ()


@given(cogs=amounts, revenue=amounts, allowance=amounts, previous=st.sampled_from(Level))
def test_the_worst_floor_that_holds_is_the_level(
    cogs: int, revenue: int, allowance: int, previous: Level
) -> None:
    assessment = assess(
        revenue_nanos=revenue,
        cogs_nanos=cogs,
        allowance_nanos=allowance,
        thresholds=FLOORS,
        previous=previous,
    )

    holding = [one.level for one in standings(assessment, FLOORS) if one.holds]

    assert max(holding, default=Level.NONE) is assessment.level


@given(base=st.integers(1, 10**15), floor_bp=st.integers(-30_000, 9_999))
def test_one_nano_more_than_the_most_undercuts_the_floor(base: int, floor_bp: int) -> None:
    most = cogs_max_nanos(base, floor_bp)

    assert (base - most) * 10_000 >= floor_bp * base
    assert (base - most - 1) * 10_000 < floor_bp * base


def test_an_allowance_has_floors_of_its_own() -> None:
    """Of 10 dollars 8.01 are used: above 80 %, and below 90 %."""
    shares = AllowanceThresholds(warn_at_bp=8_000, throttle_at_bp=9_000, block_at_bp=10_000)
    thresholds = Thresholds(allowance=shares)
    assessment = assess(
        revenue_nanos=0,
        cogs_nanos=801 * DOLLAR // 100,
        allowance_nanos=10 * DOLLAR,
        thresholds=thresholds,
        previous=Level.NONE,
    )

    told = standings(assessment, thresholds)

    assert [one.cogs_max_nanos for one in told] == [8 * DOLLAR, 9 * DOLLAR, 10 * DOLLAR]
    assert [one.is_undercut for one in told] == [True, False, False]
    assert assessment.level is Level.WARN
