"""The margin guard: exact floors, hysteresis on the way back, and no level without a measure."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.margin import Assessment, Level, MarginState, Thresholds, assess

FEE = 10_000_000_000  # $10
DEFAULT = Thresholds()
NANOS = st.integers(0, 2**63 - 1)
LEVELS = st.sampled_from(list(Level))


def assessed(
    cogs_nanos: int,
    *,
    revenue_nanos: int = FEE,
    allowance_nanos: int = 0,
    previous: Level = Level.NONE,
    thresholds: Thresholds = DEFAULT,
) -> Assessment:
    return assess(
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
        allowance_nanos=allowance_nanos,
        thresholds=thresholds,
        previous=previous,
    )


@pytest.mark.parametrize(
    ("cogs_nanos", "level"),
    [
        (0, Level.NONE),
        (8_000_000_000, Level.NONE),  # exactly 20 %
        (8_000_000_001, Level.WARN),
        (9_000_000_000, Level.WARN),  # exactly 10 %
        (9_000_000_001, Level.THROTTLE),
        (10_000_000_000, Level.THROTTLE),  # exactly 0 %
        (10_000_000_001, Level.BLOCK),
    ],
)
def test_a_floor_is_undercut_only_below_it(cogs_nanos: int, level: Level) -> None:
    assert assessed(cogs_nanos).level is level


def test_costs_above_the_revenue_make_a_margin_below_zero() -> None:
    """$2,000 a month against $3,200 of COGS."""
    one = assessed(3_200 * 10**9, revenue_nanos=2_000 * 10**9)

    assert str(one.gross_margin_ratio) == "-0.6000"
    assert one.level is Level.BLOCK


def test_a_level_ends_only_once_the_margin_is_well_above_its_floor() -> None:
    """The floor of warn is 20 %; with a hysteresis of 1 % it is left at 21 %: COGS of $7.90."""
    assert assessed(7_900_000_001, previous=Level.WARN).level is Level.WARN
    assert assessed(7_900_000_000, previous=Level.WARN).level is Level.NONE


def test_on_the_way_back_each_level_has_its_own_hysteresis() -> None:
    """From block at 10.5 %: above block's 0 + 1 %, not yet above throttle's 10 + 1 %."""
    assert assessed(8_950_000_000, previous=Level.BLOCK).level is Level.THROTTLE
    assert assessed(8_950_000_000, previous=Level.WARN).level is Level.WARN


def test_a_margin_that_recovers_at_once_is_free_at_once() -> None:
    assert assessed(0, previous=Level.BLOCK).level is Level.NONE


def test_without_revenue_the_margin_is_undefined_and_never_blocks() -> None:
    one = assessed(10**15, revenue_nanos=0)

    assert one.state is MarginState.UNDEFINED
    assert one.level is Level.NONE
    assert one.gross_margin_ratio is None


@pytest.mark.parametrize(
    ("cogs_nanos", "level"),
    [
        (400_000_000, Level.NONE),
        (400_000_001, Level.WARN),
        (450_000_001, Level.THROTTLE),
        (500_000_001, Level.BLOCK),
    ],
)
def test_an_allowance_has_the_same_floors_as_a_fee(cogs_nanos: int, level: Level) -> None:
    """Of $0.50: below 20 % left is above $0.40 used."""
    one = assessed(cogs_nanos, revenue_nanos=0, allowance_nanos=500_000_000)

    assert one.level is level
    assert one.state is MarginState.UNDEFINED


def test_a_fee_counts_even_where_there_is_an_allowance() -> None:
    one = assessed(500_000_000, revenue_nanos=FEE, allowance_nanos=1)

    assert (one.level, one.state) == (Level.NONE, MarginState.DEFINED)


def test_floors_can_lie_below_zero() -> None:
    deal = Thresholds(warn_below_bp=1000, throttle_below_bp=500, block_below_bp=-2000)

    assert assessed(12_000_000_000, thresholds=deal).level is Level.THROTTLE
    assert assessed(12_000_000_001, thresholds=deal).level is Level.BLOCK


@pytest.mark.parametrize(
    ("cogs_nanos", "ratio"),
    [(0, "1.0000"), (8_000_000_001, "0.1999"), (10_000_000_001, "-0.0001"), (10**19, "-999999999")],
)
def test_a_ratio_for_people_never_looks_better_than_it_is(cogs_nanos: int, ratio: str) -> None:
    assert str(assessed(cogs_nanos).gross_margin_ratio).startswith(ratio)


@given(revenue=st.integers(1, 2**63 - 1), cogs=NANOS)
def test_levels_are_those_of_exact_fractions(revenue: int, cogs: int) -> None:
    margin = Fraction(revenue - cogs, revenue)
    expected = Level.NONE
    for level, floor in ((Level.WARN, 2000), (Level.THROTTLE, 1000), (Level.BLOCK, 0)):
        if margin < Fraction(floor, 10_000):
            expected = level

    assert assessed(cogs, revenue_nanos=revenue).level is expected


@given(revenue=NANOS, allowance=NANOS, cogs=NANOS, more=NANOS, previous=LEVELS)
def test_more_cogs_never_lowers_the_level(
    revenue: int, allowance: int, cogs: int, more: int, previous: Level
) -> None:
    def level(cogs_nanos: int) -> Level:
        return assessed(
            cogs_nanos, revenue_nanos=revenue, allowance_nanos=allowance, previous=previous
        ).level

    assert level(cogs) <= level(cogs + more)


@given(revenue=NANOS, cogs=NANOS, better=LEVELS, worse=LEVELS)
def test_a_worse_past_never_makes_a_better_present(
    revenue: int, cogs: int, better: Level, worse: Level
) -> None:
    better, worse = sorted((better, worse))

    assert (
        assessed(cogs, revenue_nanos=revenue, previous=better).level
        <= assessed(cogs, revenue_nanos=revenue, previous=worse).level
    )


@given(
    revenue=NANOS,
    cogs=NANOS,
    previous=LEVELS,
    floors=st.tuples(*[st.integers(-20_000, 10_000)] * 3),
    hysteresis=st.integers(0, 5000),
)
def test_the_same_figures_again_change_nothing(
    revenue: int, cogs: int, previous: Level, floors: tuple[int, int, int], hysteresis: int
) -> None:
    block, throttle, warn = sorted(floors)
    thresholds = Thresholds(
        warn_below_bp=warn,
        throttle_below_bp=throttle,
        block_below_bp=block,
        hysteresis_bp=hysteresis,
    )
    once = assessed(cogs, revenue_nanos=revenue, previous=previous, thresholds=thresholds).level
    again = assessed(cogs, revenue_nanos=revenue, previous=once, thresholds=thresholds).level

    assert again is once
