"""Billing periods follow the calendar from their anchor and leave no instant out."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.periods import Cadence, Period, period_containing


def utc(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        (utc(2026, 1, 31), utc(2026, 1, 31), utc(2026, 2, 28)),
        (utc(2026, 2, 27, 23), utc(2026, 1, 31), utc(2026, 2, 28)),
        (utc(2026, 2, 28), utc(2026, 2, 28), utc(2026, 3, 31)),
        (utc(2026, 3, 30), utc(2026, 2, 28), utc(2026, 3, 31)),
        (utc(2026, 3, 31), utc(2026, 3, 31), utc(2026, 4, 30)),
        (utc(2028, 2, 29), utc(2028, 2, 29), utc(2028, 3, 31)),
        (utc(2025, 12, 31), utc(2025, 12, 31), utc(2026, 1, 31)),
        (utc(2025, 12, 30), utc(2025, 11, 30), utc(2025, 12, 31)),
    ],
)
def test_a_month_that_began_on_the_31st_comes_back_to_the_31st(
    at: datetime, start: datetime, end: datetime
) -> None:
    assert period_containing(utc(2026, 1, 31), Cadence.MONTH, at) == Period(start=start, end=end)


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        (utc(2025, 6, 1), utc(2025, 2, 28), utc(2026, 2, 28)),
        (utc(2028, 2, 28, 23), utc(2027, 2, 28), utc(2028, 2, 29)),
        (utc(2028, 2, 29), utc(2028, 2, 29), utc(2029, 2, 28)),
        (utc(2100, 2, 28), utc(2100, 2, 28), utc(2101, 2, 28)),  # 2100 is no leap year.
    ],
)
def test_a_year_that_began_on_a_leap_day_ends_on_the_28th_and_comes_back_to_the_29th(
    at: datetime, start: datetime, end: datetime
) -> None:
    assert period_containing(utc(2024, 2, 29), Cadence.YEAR, at) == Period(start=start, end=end)


instants = st.datetimes(
    min_value=datetime(1971, 1, 1),  # noqa: DTZ001 - hypothesis wants naive bounds.
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(anchor=instants, at=instants, cadence=st.sampled_from(Cadence))
def test_every_instant_is_in_exactly_the_period_that_contains_it(
    anchor: datetime, at: datetime, cadence: Cadence
) -> None:
    period = period_containing(anchor, cadence, at)

    assert period.start <= at < period.end
    assert period_containing(anchor, cadence, period.end).start == period.end
    before = period_containing(anchor, cadence, period.start - timedelta(microseconds=1))
    assert before.end == period.start
