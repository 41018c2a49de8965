"""When levels will be reached: straight lines, exact, and told by the edges."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.account import Account, UsageKey, Used
from aforo_meter.domain.forecast import (
    Instant,
    Outlook,
    RevenueAt,
    Standpoint,
    Window,
    forecast,
    windows,
)
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Level, MarginState, Thresholds, assess
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rate_card import Component, Graduated, PerUnit, RateCard, Tier
from aforo_meter.domain.revenue import revenue
from aforo_meter.domain.terms import Phase, Terms

DOLLAR = 1_000_000_000
UNIT = 1_000_000
DAY = 24 * HOUR_MICROS
START = 1_793_491_200_000_000  # 2026-11-01
PERIOD = PeriodMicros(START, START + 30 * DAY)
NOW = START + 10 * DAY
FLOORS = Thresholds(warn_below_bp=2000, throttle_below_bp=1000, block_below_bp=0, hysteresis_bp=100)


def key(feature: str = "api", meter: str = "api.calls") -> UsageKey:
    return UsageKey(meter, feature, "", "", "", "")


def spent(nanos: int, *, calls: int = 0, feature: str = "api") -> Account:
    return {key(feature): Used(quantity_micros=calls * UNIT, cogs_nanos=nanos)}


def each_day(nanos: int, *, calls: int = 0, days: int = 10) -> dict[int, Account]:
    return {START + day * DAY: spent(nanos, calls=calls) for day in range(days)}


def fixed(nanos: int) -> RevenueAt:
    return lambda _: nanos


STEADY = Standpoint(  # A dollar a day, of 20 dollars.
    period=PERIOD,
    as_of_micros=NOW,
    revenue_at=fixed(20 * DOLLAR),
    account_by_hour=each_day(DOLLAR),
    thresholds=FLOORS,
    level=Level.NONE,
)


def having_spent(nanos: int, **more: Any) -> Standpoint:  # noqa: ANN401 - of Standpoint
    return replace(STEADY, account_by_hour={START: spent(nanos)}, **more)


def by_period(at: Standpoint) -> Outlook:
    return next(one for one in forecast(at) if one.rate.window is Window.PERIOD)


def rounded(days: Fraction) -> Fraction:
    """Return days to a tenth of a second: amounts are whole nanos, and one comes each 0.1 ms."""
    return round(days, 6)


def days(at: Standpoint) -> list[Fraction | str | None]:
    """Return after how many days each level is reached, by the period's rate."""
    found: list[Fraction | str | None] = []
    for one in by_period(at).reaches:
        if one.at_micros is None:
            found.append("reached" if one.is_reached else None)
        else:
            found.append(rounded(Fraction(one.at_micros - at.as_of_micros, DAY)))
    return found


def test_levels_come_when_the_line_crosses_their_floors() -> None:
    """16, 18 and 20 dollars are 80, 90 and 100 % of 20; 10 are spent, 1 more each day."""
    assert days(STEADY) == [6, 8, 10]
    assert by_period(STEADY).rate.nanos_per_day == DOLLAR
    assert by_period(STEADY).at_end.cogs_nanos == 30 * DOLLAR
    assert by_period(STEADY).at_end.level is Level.BLOCK


def test_what_lies_beyond_the_period_is_not_in_it() -> None:
    slow = having_spent(6 * DOLLAR)  # 0.60 a day: 16 after 16.7 days, 18 after 20.

    assert days(slow) == [rounded(Fraction(50, 3)), None, None]
    assert by_period(slow).at_end.level is Level.WARN  # On 18, which is not above it.


def test_without_usage_nothing_is_reached() -> None:
    idle = replace(STEADY, account_by_hour={})

    for outlook in forecast(idle):
        assert [one.at_micros for one in outlook.reaches] == [None, None, None]
        assert (outlook.rate.nanos_per_day, outlook.at_end.cogs_nanos) == (0, 0)


def test_a_level_that_is_undercut_already_has_no_time() -> None:
    assert days(having_spent(19 * DOLLAR, level=Level.THROTTLE))[:2] == ["reached", "reached"]


def test_a_level_that_hysteresis_holds_is_reached() -> None:
    """15.90 of 20 is 20.5 %: above the floor, and its level is in force still."""
    held = having_spent(159 * DOLLAR // 10, level=Level.WARN)

    assert days(held)[0] == "reached"
    assert days(replace(held, level=Level.NONE))[0] == rounded(Fraction(10, 159))


def test_without_revenue_the_allowance_is_what_runs_out() -> None:
    trial = replace(STEADY, revenue_at=fixed(0), allowance_nanos=12 * DOLLAR)

    outlook = by_period(trial)
    assert days(trial) == ["reached", Fraction(4, 5), 2]
    assert outlook.at_end.state is MarginState.UNDEFINED
    assert outlook.at_end.gross_margin_ratio is None


def test_without_revenue_and_allowance_there_is_no_level_to_reach() -> None:
    outlook = by_period(replace(STEADY, revenue_at=fixed(0)))

    assert (outlook.reaches, outlook.at_end.level) == ((), Level.NONE)


def test_revenue_that_accrues_moves_the_crossing() -> None:
    """15 + 0.5 d of revenue against 10 + d of COGS: 80 % of it is met after 10/3 days."""

    def accrued(then: Instant) -> int:
        return 15 * DOLLAR + (then.at_micros - NOW) * DOLLAR // (2 * DAY)

    assert days(replace(STEADY, revenue_at=accrued))[0] == rounded(Fraction(10, 3))
    assert by_period(replace(STEADY, revenue_at=accrued)).at_end.revenue_nanos == 25 * DOLLAR


def test_the_last_day_is_23_hours_and_the_one_that_runs() -> None:
    at = replace(STEADY, as_of_micros=NOW + HOUR_MICROS // 2)

    recent, whole = (one.rate for one in forecast(at))

    assert recent.span == PeriodMicros(NOW - 23 * HOUR_MICROS, NOW + HOUR_MICROS // 2)
    assert recent.cogs_nanos == 0  # The last dollar is of the day's first hour.
    assert whole.span == PeriodMicros(START, NOW + HOUR_MICROS // 2)


def test_a_young_period_knows_no_day_before_it() -> None:
    young = having_spent(DOLLAR, as_of_micros=START + HOUR_MICROS)
    just_begun = replace(STEADY, as_of_micros=START, account_by_hour={})

    assert set(windows(young).values()) == {PeriodMicros(START, START + HOUR_MICROS)}
    assert [one.rate.nanos_per_micro for one in forecast(just_begun)] == [0, 0]


def test_a_period_that_begins_within_an_hour_counts_that_hour() -> None:
    begins = START + HOUR_MICROS // 2
    at = replace(
        STEADY,
        period=PeriodMicros(begins, PERIOD.end_micros),
        as_of_micros=begins + HOUR_MICROS,
        account_by_hour={START: spent(DOLLAR), START + HOUR_MICROS: spent(DOLLAR)},
    )

    assert forecast(at)[0].rate.cogs_nanos == 2 * DOLLAR


@given(
    cogs=st.integers(0, 10**12),
    base=st.integers(0, 10**12),
    accrues=st.fractions(0, 1000),
    now=st.integers(START, PERIOD.end_micros - 1),
)
def test_a_floor_is_undercut_at_the_time_told_and_not_before(
    cogs: int, base: int, accrues: Fraction, now: int
) -> None:
    def earned(span_micros: int) -> int:
        return round(base + accrues * span_micros)

    at = having_spent(cogs, as_of_micros=now, revenue_at=lambda then: earned(then.at_micros - now))
    outlook = by_period(at)

    def is_undercut(floor_bp: int, span_micros: int) -> bool:
        spent = round(cogs + outlook.rate.nanos_per_micro * span_micros)
        left = earned(span_micros) - spent
        return earned(span_micros) > 0 and left * 10_000 < floor_bp * earned(span_micros)

    for reach in outlook.reaches:
        if reach.at_micros is not None:
            assert is_undercut(reach.floor_bp, reach.at_micros - now)
            assert not is_undercut(reach.floor_bp, reach.at_micros - now - 1)
        elif not reach.is_reached:
            assert not is_undercut(reach.floor_bp, PERIOD.end_micros - 1 - now)


def by_card(*components: Component) -> RevenueAt:
    """Return what usage brings by a rate card, as the ledger reckons it."""
    phase = Phase(rate_cards=(RateCard(effective_from_micros=0, components=components),))
    terms = Terms(tenant_id="acme", subscription_id="sub-1", phases=(phase,))

    def revenue_at(then: Instant) -> int:
        return revenue(
            terms, then.account, period=PERIOD, now_micros=then.at_micros, book_currency="USD"
        ).book_nanos

    return revenue_at


def test_a_steady_margin_of_usage_that_pays_for_itself_reaches_no_floor() -> None:
    """A hundred calls a day at 0.02 bring 2 dollars, and cost one: 50 %, to the end."""
    calls = Component(
        component_id="calls", meter="api.calls", pricing=PerUnit(price_nanos=DOLLAR // 50)
    )
    at = replace(STEADY, account_by_hour=each_day(DOLLAR, calls=100), revenue_at=by_card(calls))

    assert [one.rate.cogs_nanos for one in forecast(at)] == [0, 10 * DOLLAR]
    for outlook in forecast(replace(at, as_of_micros=NOW - HOUR_MICROS)):
        assert [(one.is_reached, one.at_micros) for one in outlook.reaches] == [(False, None)] * 3
        assert outlook.at_end.gross_margin_ratio is not None
        assert 0.49 < outlook.at_end.gross_margin_ratio < 0.51
    assert by_period(at).at_end.revenue_nanos == 60 * DOLLAR


def test_a_tier_that_pays_less_is_seen_when_usage_comes_to_it() -> None:
    """A call costs 0.01 and brings 0.02, or beyond 1,500 of them 0.008.

    c calls beyond bring 30 + 0.008 c, and cost 15 + 0.01 c: that is 80 % at c = 2,500, on day 20,
    and 90 % at c = 30,000 / 7, on day 405 / 14; it is 100 % at c = 7,500, in another period.
    """
    tiers = (
        Tier(up_to_units=1_500, price=PerUnit(price_nanos=DOLLAR // 50)),
        Tier(up_to_units=None, price=PerUnit(price_nanos=DOLLAR // 125)),
    )
    calls = Component(component_id="calls", meter="api.calls", pricing=Graduated(tiers=tiers))
    at = replace(STEADY, account_by_hour=each_day(2 * DOLLAR, calls=200), revenue_at=by_card(calls))

    assert days(at) == [10, rounded(Fraction(265, 14)), None]
    assert by_period(at).at_end.revenue_nanos == 66 * DOLLAR


def test_a_guard_is_forecast_by_its_own_usage_and_revenue() -> None:
    """Chat costs 1 of 2 dollars a day and has half of 40: 16 of 20 are spent on day 16."""
    chat = Guard(guard_id="chat", features=frozenset({"chat"}), revenue_share_bp=5000)
    both: Mapping[int, Account] = {
        hour: {**spent(DOLLAR), **spent(DOLLAR, feature="chat")} for hour in each_day(0)
    }
    at = replace(STEADY, account_by_hour=both, revenue_at=fixed(40 * DOLLAR))

    assert days(replace(at, guard=chat)) == [6, 8, 10]
    assert by_period(replace(at, guard=chat)).at_end.revenue_nanos == 20 * DOLLAR


def test_with_too_few_calls_to_act_on_only_a_warning_comes() -> None:
    """20 calls a day are 600 at the end; 500 are there on day 25."""
    few = replace(
        STEADY,
        account_by_hour=each_day(DOLLAR, calls=20),
        thresholds=replace(FLOORS, act_from_calls=500),
    )

    assert days(few)[0] == 6
    assert [one.at_micros for one in by_period(few).reaches[1:]] == [NOW + 15 * DAY] * 2


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
