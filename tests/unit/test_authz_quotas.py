import calendar
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.domain.quotas import SECOND_MICROS, Standing, Window, WindowKind, window_of
from tests.authz_samples import PERIOD, make_quota, micros

MOMENTS = st.integers(micros("2000-01-01"), micros("2100-01-01"))
DAY_MICROS = 86_400 * SECOND_MICROS
PERIODS = st.tuples(
    MOMENTS, st.integers(SECOND_MICROS, 400 * DAY_MICROS), st.integers(0, 400 * DAY_MICROS)
).map(lambda each: (each[0], each[0] + each[1], each[0] + each[1] + each[2]))


def window(kind: WindowKind, at: str) -> tuple[str, str]:
    found = window_of(kind, now_micros=micros(at), period_micros=PERIOD)
    start, end = (datetime.fromtimestamp(s, tz=UTC) for s in (found.start_s, found.end_s))
    return start.isoformat(sep=" ")[:16], end.isoformat(sep=" ")[:16]


@pytest.mark.parametrize(
    ("kind", "at", "start", "end"),
    [
        ("minute", "2026-03-15 12:34:56.789", "2026-03-15 12:34", "2026-03-15 12:35"),
        ("minute", "2026-03-15 12:35", "2026-03-15 12:35", "2026-03-15 12:36"),
        ("hour", "2026-03-15 23:59:59.999999", "2026-03-15 23:00", "2026-03-16 00:00"),
        ("day", "2026-02-28 12:00", "2026-02-28 00:00", "2026-03-01 00:00"),
        ("day", "2028-02-28 12:00", "2028-02-28 00:00", "2028-02-29 00:00"),
        ("month", "2026-02-28 23:59:59", "2026-02-01 00:00", "2026-03-01 00:00"),
        ("month", "2028-02-29 23:59:59", "2028-02-01 00:00", "2028-03-01 00:00"),
        ("month", "2026-12-31 23:59:59", "2026-12-01 00:00", "2027-01-01 00:00"),
        ("month", "2027-01-01 00:00", "2027-01-01 00:00", "2027-02-01 00:00"),
        ("billing_period", "2026-03-10 00:00", "2026-03-10 00:00", "2026-04-10 00:00"),
        ("billing_period", "2026-04-09 23:59:59", "2026-03-10 00:00", "2026-04-10 00:00"),
    ],
)
def test_windows_start_on_utc_boundaries_or_with_the_billing_period(
    kind: str, at: str, start: str, end: str
) -> None:
    assert window(WindowKind(kind), at) == (start, end)


def test_a_sync_that_is_late_by_less_than_a_period_changes_nothing() -> None:
    assert window(WindowKind.BILLING_PERIOD, "2026-04-10") == (
        "2026-04-10 00:00",
        "2026-05-10 00:00",
    )


def test_while_the_sync_is_away_for_longer_periods_go_on_as_long_as_the_last_one() -> None:
    """The last one known has 30 days, April 10 to May 10."""
    assert window(WindowKind.BILLING_PERIOD, "2026-05-10") == (
        "2026-05-10 00:00",
        "2026-06-09 00:00",
    )
    assert window(WindowKind.BILLING_PERIOD, "2026-06-09") == (
        "2026-06-09 00:00",
        "2026-07-09 00:00",
    )


@given(
    kind=st.sampled_from(WindowKind),
    now_micros=MOMENTS,
    period=PERIODS,
)
def test_windows_are_half_open_and_contiguous(
    kind: WindowKind, now_micros: int, period: tuple[int, int, int]
) -> None:
    now_micros = max(now_micros, period[0])
    found = window_of(kind, now_micros=now_micros, period_micros=period)

    def at(second: int) -> Window:
        return window_of(kind, now_micros=second * SECOND_MICROS, period_micros=period)

    assert found.start_s * SECOND_MICROS <= now_micros < found.end_s * SECOND_MICROS
    assert at(found.end_s - 1) == found
    assert at(found.end_s).start_s == found.end_s
    assert at(found.end_s) != found


@given(now_micros=MOMENTS)
def test_a_month_has_as_many_days_as_the_calendar_says(now_micros: int) -> None:
    found = window_of(WindowKind.MONTH, now_micros=now_micros, period_micros=PERIOD)
    start = datetime.fromtimestamp(found.start_s, tz=UTC)

    assert (found.end_s - found.start_s) // 86_400 == calendar.monthrange(start.year, start.month)[
        1
    ]


@pytest.mark.parametrize(
    ("after_s", "seconds"),
    [(0.0, 60), (0.000001, 60), (0.999999, 60), (1.0, 59), (59.0, 1), (59.999999, 1), (60.0, 0)],
)
def test_seconds_left_are_rounded_up(after_s: float, seconds: int) -> None:
    standing = Standing(
        quota=make_quota(), window=Window(start_s=600, end_s=660), used_units=0, exceeded=False
    )

    assert standing.seconds_left(round((600 + after_s) * SECOND_MICROS)) == seconds


def test_what_is_left_is_never_less_than_nothing() -> None:
    standing = Standing(
        quota=make_quota(limit_units=10),
        window=Window(start_s=0, end_s=60),
        used_units=14,
        exceeded=True,
    )

    assert standing.remaining_units == 0


@pytest.mark.parametrize(
    ("of_quota", "of_call", "counts"),
    [
        ([], [], True),
        ([], ["chat"], True),
        (["chat"], ["chat", "search"], True),
        (["chat", "images"], ["images"], True),
        (["chat"], ["search"], False),
        (["chat"], [], False),
    ],
)
def test_a_quota_counts_calls_that_need_one_of_its_features(
    of_quota: list[str], of_call: list[str], *, counts: bool
) -> None:
    assert make_quota(features=of_quota).counts(of_call) is counts
