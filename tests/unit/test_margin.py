"""The margin guard: exact floors, hysteresis on the way back, and no level without a measure."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.margin import (
    AllowanceThresholds,
    Assessment,
    Level,
    MarginState,
    Thresholds,
    assess,
)

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
    calls: int | None = None,
) -> Assessment:
    return assess(
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
        allowance_nanos=allowance_nanos,
        thresholds=thresholds,
        previous=previous,
        calls=calls,
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


@pytest.mark.parametrize(
    ("cents", "level"),
    [
        (80_00, Level.NONE),
        (80_01, Level.WARN),
        (90_00, Level.WARN),
        (90_01, Level.THROTTLE),
        (100_00, Level.THROTTLE),
        (100_01, Level.BLOCK),
    ],
)
def test_a_cent_makes_the_difference(cents: int, level: Level) -> None:
    """Of $100: costs of $80.00 leave 20 %, which is no warning; $80.01 leave 19.99 %."""
    assert assessed(cents * 10_000_000, revenue_nanos=100 * 10**9).level is level


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


OWN_LEVELS = Thresholds(
    allowance=AllowanceThresholds(warn_at_bp=5000, throttle_at_bp=7500, block_at_bp=12_000)
)


@pytest.mark.parametrize(
    ("cogs_nanos", "level"),
    [
        (1_000_000_000, Level.NONE),  # exactly half of $2
        (1_000_000_001, Level.WARN),
        (1_500_000_000, Level.WARN),  # exactly three quarters
        (1_500_000_001, Level.THROTTLE),
        (2_400_000_000, Level.THROTTLE),  # exactly 120 %
        (2_400_000_001, Level.BLOCK),
    ],
)
def test_an_allowance_can_have_levels_of_its_own(cogs_nanos: int, level: Level) -> None:
    one = assessed(
        cogs_nanos, revenue_nanos=0, allowance_nanos=2_000_000_000, thresholds=OWN_LEVELS
    )

    assert one.level is level
    assert one.state is MarginState.UNDEFINED


def test_an_allowances_levels_end_with_the_same_hysteresis() -> None:
    """Throttled above 75 % of $2, until no more than 74 % are used: after a correction."""
    base = {"revenue_nanos": 0, "allowance_nanos": 2_000_000_000, "thresholds": OWN_LEVELS}

    held = assessed(1_480_000_001, previous=Level.THROTTLE, **base)  # type: ignore[arg-type]
    freed = assessed(1_480_000_000, previous=Level.THROTTLE, **base)  # type: ignore[arg-type]

    assert (held.level, freed.level) == (Level.THROTTLE, Level.WARN)


def test_levels_of_an_allowance_say_nothing_of_a_margin() -> None:
    assert assessed(8_000_000_000, thresholds=OWN_LEVELS).level is Level.NONE
    assert assessed(8_000_000_001, thresholds=OWN_LEVELS).level is Level.WARN


@pytest.mark.parametrize(
    ("revenue_nanos", "level"),
    [(49_999_999_999, Level.WARN), (50_000_000_000, Level.BLOCK)],
)
def test_with_too_little_revenue_nobody_is_turned_away(revenue_nanos: int, level: Level) -> None:
    careful = Thresholds(act_from_revenue_nanos=50_000_000_000)

    one = assessed(60_000_000_000, revenue_nanos=revenue_nanos, thresholds=careful)

    assert one.level is level


@pytest.mark.parametrize(
    ("calls", "level"),
    [(0, Level.WARN), (999, Level.WARN), (1000, Level.BLOCK), (None, Level.BLOCK)],
)
def test_with_too_few_calls_nobody_is_turned_away(calls: int | None, level: Level) -> None:
    careful = Thresholds(act_from_calls=1000)

    assert assessed(11_000_000_000, thresholds=careful, calls=calls).level is level


def test_a_minimum_makes_no_warning_where_there_is_none() -> None:
    careful = Thresholds(act_from_revenue_nanos=10**15, act_from_calls=10**9)

    assert assessed(8_000_000_000, thresholds=careful, calls=0).level is Level.NONE


def test_an_allowance_needs_no_revenue_to_act_but_the_calls_that_are_asked_for() -> None:
    by_revenue = Thresholds(act_from_revenue_nanos=10**12)
    by_calls = Thresholds(act_from_calls=2)

    def level(thresholds: Thresholds) -> Level:
        return assessed(3, revenue_nanos=0, allowance_nanos=2, thresholds=thresholds, calls=1).level

    assert (level(by_revenue), level(by_calls)) == (Level.BLOCK, Level.WARN)


@pytest.mark.parametrize(
    ("revenue_nanos", "cogs_nanos", "level"),
    [
        (0, 20, Level.NONE),
        (1, 20, Level.NONE),  # The first overage takes nothing of the allowance away.
        (49, 40, Level.NONE),  # 80 % of the allowance, and not more.
        (49, 41, Level.WARN),
        (49, 50, Level.THROTTLE),  # A loss, within what was granted.
        (49, 51, Level.BLOCK),
        (50, 50, Level.THROTTLE),
        (51, 51, Level.THROTTLE),
        (51, 52, Level.BLOCK),
        (100, 80, Level.NONE),
        (100, 81, Level.WARN),  # Beyond the allowance the margin alone decides.
    ],
)
def test_an_allowance_is_the_least_that_usage_has_to_live_on(
    revenue_nanos: int, cogs_nanos: int, level: Level
) -> None:
    one = assessed(cogs_nanos, revenue_nanos=revenue_nanos, allowance_nanos=50)

    assert one.level is level


def test_revenue_that_is_too_little_to_act_on_leaves_an_allowance_to_decide() -> None:
    by_revenue = Thresholds(act_from_revenue_nanos=10)

    def level(revenue_nanos: int, allowance_nanos: int) -> Level:
        return assessed(
            51,
            revenue_nanos=revenue_nanos,
            allowance_nanos=allowance_nanos,
            thresholds=by_revenue,
        ).level

    assert (level(0, 50), level(9, 50), level(10, 50)) == (Level.BLOCK,) * 3
    assert (level(9, 51), level(9, 0)) == (Level.THROTTLE, Level.WARN)


OWN_OR_DEFAULT = st.sampled_from([DEFAULT, OWN_LEVELS, Thresholds(act_from_revenue_nanos=5)])


@given(
    revenue=st.integers(0, 200),
    more=st.integers(1, 200),
    allowance=st.integers(1, 200),
    cogs=st.integers(0, 400),
    thresholds=OWN_OR_DEFAULT,
    previous=LEVELS,
)
def test_with_an_allowance_more_revenue_never_makes_a_level_worse(
    *,
    revenue: int,
    more: int,
    allowance: int,
    cogs: int,
    thresholds: Thresholds,
    previous: Level,
) -> None:
    def level(revenue_nanos: int) -> Level:
        return assessed(
            cogs,
            revenue_nanos=revenue_nanos,
            allowance_nanos=allowance,
            thresholds=thresholds,
            previous=previous,
        ).level

    assert level(revenue + more) <= level(revenue)


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
    least_calls=st.integers(0, 2),
)
def test_the_same_figures_again_change_nothing(
    *,
    revenue: int,
    cogs: int,
    previous: Level,
    floors: tuple[int, int, int],
    hysteresis: int,
    least_calls: int,
) -> None:
    block, throttle, warn = sorted(floors)
    thresholds = Thresholds(
        warn_below_bp=warn,
        throttle_below_bp=throttle,
        block_below_bp=block,
        hysteresis_bp=hysteresis,
        act_from_calls=least_calls,
    )

    def level(before: Level) -> Level:
        return assessed(
            cogs, revenue_nanos=revenue, previous=before, thresholds=thresholds, calls=1
        ).level

    once = level(previous)
    again = level(once)

    assert again is once
