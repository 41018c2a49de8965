"""When levels will be reached: straight lines, exact, and told by the edges."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.forecast import Course, Outlook, Standpoint, Window, burn_rates, forecast
from aforo_meter.domain.margin import Level, MarginState, Thresholds, assess
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros

DOLLAR = 1_000_000_000
DAY = 24 * HOUR_MICROS
START = 1_793_491_200_000_000  # 2026-11-01
PERIOD = PeriodMicros(START, START + 30 * DAY)
NOW = START + 10 * DAY
FLOORS = Thresholds(warn_below_bp=2000, throttle_below_bp=1000, block_below_bp=0, hysteresis_bp=100)
STEADY = Standpoint(  # A dollar a day, of 20 dollars.
    period=PERIOD,
    as_of_micros=NOW,
    revenue=Course(now_nanos=20 * DOLLAR),
    allowance_nanos=0,
    cogs_nanos=10 * DOLLAR,
    cogs_by_hour={START + day * DAY: DOLLAR for day in range(10)},
    thresholds=FLOORS,
    level=Level.NONE,
)


def by_period(at: Standpoint) -> Outlook:
    return next(one for one in forecast(at) if one.rate.window is Window.PERIOD)


def days(at: Standpoint) -> list[Fraction | str | None]:
    """Return after how many days each level is reached, by the period's rate."""
    found: list[Fraction | str | None] = []
    for one in by_period(at).reaches:
        if one.at_micros is None:
            found.append("reached" if one.is_reached else None)
        else:
            found.append(Fraction(one.at_micros - 1 - at.as_of_micros, DAY))
    return found


def test_levels_come_when_the_line_crosses_their_floors() -> None:
    """16, 18 and 20 dollars are 80, 90 and 100 % of 20; 10 are spent, 1 more each day."""
    assert days(STEADY) == [6, 8, 10]
    assert by_period(STEADY).rate.nanos_per_day == DOLLAR
    assert by_period(STEADY).at_end.cogs_nanos == 30 * DOLLAR
    assert by_period(STEADY).at_end.level is Level.BLOCK


def test_what_lies_beyond_the_period_is_not_in_it() -> None:
    slow = replace(STEADY, cogs_nanos=6 * DOLLAR)  # 0.60 a day: 16 after 16.7 days, 18 after 20.

    assert days(slow) == [Fraction(50, 3), None, None]
    assert by_period(slow).at_end.level is Level.WARN  # On 18, which is not above it.


def test_without_usage_nothing_is_reached() -> None:
    idle = replace(STEADY, cogs_nanos=0, cogs_by_hour={})

    for outlook in forecast(idle):
        assert [one.at_micros for one in outlook.reaches] == [None, None, None]
        assert (outlook.rate.nanos_per_day, outlook.at_end.cogs_nanos) == (0, 0)


def test_a_level_that_is_undercut_already_has_no_time() -> None:
    assert days(replace(STEADY, cogs_nanos=19 * DOLLAR, level=Level.THROTTLE))[:2] == [
        "reached",
        "reached",
    ]


def test_a_level_that_hysteresis_holds_is_reached() -> None:
    """15.90 of 20 is 20.5 %: above the floor, and its level is in force still."""
    held = replace(STEADY, cogs_nanos=159 * DOLLAR // 10, level=Level.WARN)

    assert days(held)[0] == "reached"
    assert days(replace(held, level=Level.NONE))[0] == Fraction(10 * DAY // 159, DAY)


def test_without_revenue_the_allowance_is_what_runs_out() -> None:
    trial = replace(STEADY, revenue=Course(now_nanos=0), allowance_nanos=12 * DOLLAR)

    outlook = by_period(trial)
    assert days(trial) == ["reached", Fraction(4, 5), 2]
    assert outlook.at_end.state is MarginState.UNDEFINED
    assert outlook.at_end.gross_margin_ratio is None


def test_without_revenue_and_allowance_there_is_no_level_to_reach() -> None:
    outlook = by_period(replace(STEADY, revenue=Course(now_nanos=0)))

    assert (outlook.reaches, outlook.at_end.level) == ((), Level.NONE)


def test_revenue_that_accrues_moves_the_crossing() -> None:
    """15 + 0.5 d of revenue against 10 + d of COGS: 80 % of it is met after 10/3 days."""
    accrued = Course(now_nanos=15 * DOLLAR, nanos_per_micro=Fraction(DOLLAR, 2 * DAY))

    assert days(replace(STEADY, revenue=accrued))[0] == Fraction(10, 3)
    assert by_period(replace(STEADY, revenue=accrued)).at_end.revenue_nanos == 25 * DOLLAR


def test_the_last_day_is_23_hours_and_the_one_that_runs() -> None:
    at = replace(STEADY, as_of_micros=NOW + HOUR_MICROS // 2)

    recent, whole = burn_rates(at)

    assert recent.span == PeriodMicros(NOW - 23 * HOUR_MICROS, NOW + HOUR_MICROS // 2)
    assert recent.cogs_nanos == 0  # The last dollar is of the day's first hour.
    assert whole.span == PeriodMicros(START, NOW + HOUR_MICROS // 2)


def test_a_young_period_knows_no_day_before_it() -> None:
    young = replace(STEADY, as_of_micros=START + HOUR_MICROS, cogs_by_hour={START: DOLLAR})
    just_begun = replace(STEADY, as_of_micros=START, cogs_nanos=0, cogs_by_hour={})

    assert {one.span for one in burn_rates(young)} == {PeriodMicros(START, START + HOUR_MICROS)}
    assert [one.nanos_per_micro for one in burn_rates(just_begun)] == [0, 0]


def test_a_period_that_begins_within_an_hour_counts_that_hour() -> None:
    begins = START + HOUR_MICROS // 2
    at = replace(
        STEADY,
        period=PeriodMicros(begins, PERIOD.end_micros),
        as_of_micros=begins + HOUR_MICROS,
        cogs_by_hour={START: DOLLAR, START + HOUR_MICROS: DOLLAR},
    )

    assert burn_rates(at)[0].cogs_nanos == 2 * DOLLAR


@given(
    cogs=st.integers(0, 10**12),
    revenue=st.integers(0, 10**12),
    accrues=st.fractions(0, 1000),
    now=st.integers(START, PERIOD.end_micros - 1),
)
def test_a_floor_is_undercut_at_the_time_told_and_not_before(
    cogs: int, revenue: int, accrues: Fraction, now: int
) -> None:
    at = replace(
        STEADY,
        cogs_nanos=cogs,
        revenue=Course(now_nanos=revenue, nanos_per_micro=accrues),
        as_of_micros=now,
    )
    outlook = by_period(at)

    def is_undercut(floor_bp: int, span_micros: int) -> bool:
        spent = cogs + outlook.rate.nanos_per_micro * span_micros
        earned = revenue + accrues * span_micros
        return (earned - spent) * 10_000 < floor_bp * earned

    for reach in outlook.reaches:
        if reach.at_micros is not None:
            assert is_undercut(reach.floor_bp, reach.at_micros - now)
            assert not is_undercut(reach.floor_bp, reach.at_micros - now - 1)
        elif not reach.is_reached:
            assert not is_undercut(reach.floor_bp, PERIOD.end_micros - 1 - now)


def test_the_end_is_assessed_as_the_ledger_would() -> None:
    expected = assess(
        revenue_nanos=20 * DOLLAR,
        cogs_nanos=30 * DOLLAR,
        allowance_nanos=0,
        thresholds=FLOORS,
        previous=Level.NONE,
    )

    assert by_period(STEADY).at_end == expected


@pytest.mark.parametrize("as_of", [PERIOD.end_micros, PERIOD.end_micros + DAY])
def test_a_period_that_is_over_ends_as_it_is(as_of: int) -> None:
    outlook = by_period(replace(STEADY, as_of_micros=as_of))

    assert outlook.at_end.cogs_nanos == 10 * DOLLAR
    assert [one.at_micros for one in outlook.reaches] == [None, None, None]
