"""Windows of quotas, as the ledger's hourly rows can tell them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.domain import quotas as decision
from aforo_meter.domain.periods import PeriodMicros, micros_of
from aforo_meter.domain.quotas import Quota, WindowKind, window_of

NOW = micros_of(datetime(2026, 12, 15, 13, 45, 59, 999_999, tzinfo=UTC))
PERIOD = PeriodMicros(
    micros_of(datetime(2026, 12, 10, 8, 30, tzinfo=UTC)),
    micros_of(datetime(2027, 1, 10, 8, 30, tzinfo=UTC)),
)


def quota(window: WindowKind) -> Quota:
    return Quota(quota_id="q", meter="api.calls", window=window)


@pytest.mark.parametrize(
    ("kind", "start", "end"),
    [
        (
            WindowKind.HOUR,
            datetime(2026, 12, 15, 13, tzinfo=UTC),
            datetime(2026, 12, 15, 14, tzinfo=UTC),
        ),
        (WindowKind.DAY, datetime(2026, 12, 15, tzinfo=UTC), datetime(2026, 12, 16, tzinfo=UTC)),
        (WindowKind.MONTH, datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_windows_start_on_utc_boundaries(kind: WindowKind, start: datetime, end: datetime) -> None:
    assert window_of(quota(kind), period=PERIOD, now_micros=NOW) == PeriodMicros(
        micros_of(start), micros_of(end)
    )


def test_a_billing_period_is_the_tenants_own() -> None:
    assert window_of(quota(WindowKind.BILLING_PERIOD), period=PERIOD, now_micros=NOW) is PERIOD


def test_a_minute_is_too_short_for_hourly_rows() -> None:
    assert window_of(quota(WindowKind.MINUTE), period=PERIOD, now_micros=NOW) is None


@given(
    at=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2099, 1, 1)),  # noqa: DTZ001
    kind=st.sampled_from([WindowKind.HOUR, WindowKind.DAY, WindowKind.MONTH]),
)
def test_the_decision_sees_the_same_window(at: datetime, kind: WindowKind) -> None:
    """A figure for another window says nothing: both sides must reckon alike."""
    now_micros = micros_of(at.replace(tzinfo=UTC))
    window = window_of(quota(kind), period=PERIOD, now_micros=now_micros)
    theirs = decision.window_of(
        decision.WindowKind(kind.value),
        now_micros=now_micros,
        period_micros=(PERIOD.start_micros, PERIOD.end_micros, PERIOD.end_micros),
    )

    assert window is not None
    assert now_micros in window
    assert (window.start_micros, window.end_micros) == (
        theirs.start_s * 1_000_000,
        theirs.end_s * 1_000_000,
    )
