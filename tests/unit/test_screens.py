"""What the admin's pages reckon and draw: exact, against fractions."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_admin.control import codes
from aforo_admin.control.recording import Source
from aforo_admin.domain.catalog import ThresholdChanges, Thresholds
from aforo_admin.domain.drawing import Axis, sparkline, tenths
from aforo_admin.domain.entitling import floor_sources, floors_in_force
from aforo_admin.domain.margin_course import course_of
from aforo_admin.domain.movers import Mover
from aforo_admin.domain.price_listing import change_bp, coming_changes, lines_of
from aforo_authz.domain.access import Reason
from aforo_meter.alerts import KINDS, TEST
from aforo_meter.domain.account import UsageKey, Used
from aforo_meter.domain.forecast import Standpoint, forecast
from aforo_meter.domain.margin import Level
from aforo_meter.domain.margin import Thresholds as Floors
from aforo_meter.domain.periods import DAY_MICROS, HOUR_MICROS, PeriodMicros
from aforo_meter.domain.prices import Precedence, PriceBook, PriceEntry, PriceList

DOLLAR = 10**9
PERIOD = PeriodMicros(0, 30 * DAY_MICROS)
KEY = UsageKey("llm.input_tokens", "chat", "openai", "gpt-4o", "", "")
TENTH = Fraction(1, 10)


def standpoint(hours: dict[int, int], *, now_micros: int, allowance_nanos: int = 0) -> Standpoint:
    """Return a margin on 100 dollars of revenue, or an allowance, with COGS by hour."""
    revenue_nanos = 0 if allowance_nanos else 100 * DOLLAR
    return Standpoint(
        period=PERIOD,
        as_of_micros=now_micros,
        account_by_hour={
            hour * HOUR_MICROS: {KEY: Used(quantity_micros=1, cogs_nanos=nanos)}
            for hour, nanos in hours.items()
        },
        revenue_at=lambda _: revenue_nanos,
        allowance_nanos=allowance_nanos,
        thresholds=Floors(),
        level=Level.NONE,
    )


usage = st.dictionaries(st.integers(0, 240), st.integers(0, 2 * DOLLAR), max_size=40)


@given(hours=usage, points_max=st.integers(2, 80))
def test_a_course_ends_where_the_margin_stands(hours: dict[int, int], points_max: int) -> None:
    at = standpoint(hours, now_micros=241 * HOUR_MICROS)

    course = course_of(at, forecast(at)[0], points_max=points_max)

    assert course is not None
    assert course.so_far[-1].left_bp == (100 * DOLLAR - sum(hours.values())) // (DOLLAR // 100)
    assert len(course.so_far) <= points_max
    lefts = [point.left_bp for point in course.so_far]
    assert lefts == sorted(lefts, reverse=True)  # Revenue is fixed here, and COGS only grow.
    moments = [point.at_micros for point in course.so_far]
    assert moments == sorted(set(moments))


def test_a_course_goes_on_to_the_periods_end() -> None:
    """A dollar an hour for 24 hours: 24 gone of 100, 24 a day more: 100 - 720 in the end."""
    at = standpoint(dict.fromkeys(range(24), DOLLAR), now_micros=DAY_MICROS)

    course = course_of(at, forecast(at)[1], points_max=61)

    assert course is not None
    assert [point.left_bp for point in course.ahead] == [7600, -62_000]
    assert course.ahead[-1].at_micros == PERIOD.end_micros


def test_without_revenue_the_allowance_is_what_is_left() -> None:
    at = standpoint({0: DOLLAR}, now_micros=DAY_MICROS, allowance_nanos=4 * DOLLAR)

    course = course_of(at, forecast(at)[0], points_max=5)

    assert course is not None
    assert (course.is_revenue, course.so_far[-1].left_bp) == (False, 7500)


def test_with_neither_there_is_no_course() -> None:
    at = replace(standpoint({0: DOLLAR}, now_micros=DAY_MICROS), revenue_at=lambda _: 0)

    assert course_of(at, forecast(at)[0], points_max=5) is None


@given(
    first=st.integers(-(10**18), 10**18),
    span=st.integers(1, 10**18),
    figure=st.integers(-(10**19), 10**19),
)
def test_a_figure_stands_within_its_axis(first: int, span: int, figure: int) -> None:
    axis = Axis(first=first, last=first + span, at_first=200, at_last=10)

    place = axis.place(figure)

    assert 10 <= place <= 200
    if first <= figure <= first + span:
        assert place == 200 - Fraction(190 * (figure - first), span)


@given(st.fractions(-1000, 1000))
def test_a_place_is_rounded_to_a_tenth(place: Fraction) -> None:
    assert abs(Fraction(tenths(place)) - place) <= TENTH / 2
    assert tenths(place) != "-0"


def test_a_line_needs_two_figures_and_bears_equal_ones() -> None:
    assert sparkline([7], width=10, height=10) == ""
    assert sparkline([7, 7], width=11, height=10) == "1,5 10,5"
    assert sparkline([0, 5, 10], width=11, height=12) == "1,10 5.5,6 10,2"


def mover(*, cogs_nanos: int, before_cogs_nanos: int) -> Mover:
    return Mover(
        tenant_id="acme",
        level=Level.NONE,
        period=PeriodMicros(30 * DAY_MICROS, 60 * DAY_MICROS),
        cogs_nanos=cogs_nanos,
        before=PeriodMicros(0, 30 * DAY_MICROS),
        before_cogs_nanos=before_cogs_nanos,
    )


def test_a_mover_costs_more_a_day_than_before() -> None:
    """60 in 10 days beside 90 in 30: 6 a day after 3."""
    one = mover(cogs_nanos=60 * DOLLAR, before_cogs_nanos=90 * DOLLAR)
    now = 40 * DAY_MICROS

    assert (one.per_day_nanos(now), one.before_per_day_nanos) == (6 * DOLLAR, 3 * DOLLAR)
    assert (one.change_nanos(now), one.change_bp(now)) == (3 * DOLLAR, 10_000)


def test_a_mover_from_nothing_has_no_share_and_a_period_that_is_over_no_more_days() -> None:
    one = mover(cogs_nanos=60 * DOLLAR, before_cogs_nanos=0)

    assert one.change_bp(40 * DAY_MICROS) is None
    assert one.per_day_nanos(90 * DAY_MICROS) == 2 * DOLLAR
    assert one.per_day_nanos(30 * DAY_MICROS) == 0


changes = st.builds(
    ThresholdChanges,
    warn_below_bp=st.none() | st.integers(2000, 3000),
    block_below_bp=st.none() | st.integers(-500, 500),
)


@given(plan=changes, deal=changes, tenant=changes)
def test_each_floor_has_the_value_of_the_rule_that_is_named_for_it(
    plan: ThresholdChanges, deal: ThresholdChanges, tenant: ThresholdChanges
) -> None:
    rules = (("plan:p", plan), ("deal:d", deal), ("tenant:t", tenant))

    floors, told = floors_in_force(Thresholds(), *rules)
    sources = floor_sources(Thresholds(), *rules)

    for name in ("warn_below_bp", "throttle_below_bp", "block_below_bp"):
        said = dict(rules).get(sources[name], Thresholds())
        assert getattr(floors, name) == getattr(said, name)
    assert set(told.split(", ")) == set(sources.values())


def entry(price_nanos: int, *, per_units: int = 1, from_micros: int = 0) -> PriceEntry:
    return PriceEntry(
        price_id=f"{price_nanos}@{from_micros}",
        meter="llm.input_tokens",
        price_nanos=price_nanos,
        per_units=per_units,
        effective_from_micros=from_micros,
    )


def test_a_price_book_is_one_line_for_what_one_price_is_of() -> None:
    later, first = entry(3, from_micros=90), entry(2, from_micros=10)
    own = PriceList(provider="openai", model="gpt-4o", entries=(later, first))
    published = PriceList(provider="openai", model="gpt-4o", entries=(entry(5),))
    book = PriceBook(version="1", currency="USD", own=(own,), built_in=(published,))

    lines = lines_of(book)

    assert [line.of.precedence for line in lines] == [Precedence.OWN, Precedence.BUILT_IN]
    assert lines[0].entries == (first, later)
    assert (lines[0].now(9), lines[0].now(10), lines[0].now(90)) == (None, first, later)
    assert coming_changes(lines, 50) == [(lines[0], later)]
    assert lines[0].matches(["gpt", "openai"])
    assert not lines[0].matches(["gpt", "claude"])


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (entry(2), entry(3), 5000),
        (entry(3, per_units=1000), entry(3, per_units=2000), -5000),
        (entry(3), entry(4), 3333),
        (entry(0), entry(7), None),
        (None, entry(7), None),
    ],
)
def test_a_price_rises_by_a_share_of_what_it_was(
    before: PriceEntry | None, after: PriceEntry, change: int | None
) -> None:
    assert change_bp(before, after) == change


def test_every_code_that_pages_show_has_words() -> None:
    assert set(codes.REASONS) == set(Reason)
    assert set(codes.SOURCES) == set(Source)
    assert set(codes.ALERTS) == {*KINDS, TEST}


def test_a_code_without_words_is_shown_as_it_is() -> None:
    assert (codes.reason("some reason"), codes.source("")) == ("some reason", "")
    assert codes.alert("of tomorrow") == "of tomorrow"
