"""What a contract brings, and which period an instant is in."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.periods import Cadence, PeriodMicros, calendar_month, micros_of
from aforo_meter.domain.revenue import revenue_nanos
from aforo_meter.domain.terms import Terms

ANCHOR = micros_of(datetime(2026, 1, 31, 6, tzinfo=UTC))
INSTANTS = st.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001
    max_value=datetime(2099, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def terms(*, fee_nanos: int = 0, cadence: Cadence = Cadence.MONTH) -> Terms:
    return Terms(
        tenant_id="acme",
        subscription_id="sub-1",
        committed_fee_nanos=fee_nanos,
        cadence=cadence,
        anchor_micros=ANCHOR,
    )


def test_the_committed_fee_of_the_whole_period_counts_from_its_first_day() -> None:
    assert revenue_nanos(terms(fee_nanos=10**10)) == 10**10


def test_no_fee_is_no_revenue() -> None:
    assert revenue_nanos(terms()) == 0


def test_periods_are_counted_from_the_anchor_to_the_microsecond() -> None:
    end = micros_of(datetime(2026, 2, 28, 6, tzinfo=UTC))

    assert terms().period_at(end - 1) == PeriodMicros(ANCHOR, end)
    assert terms().period_at(end).start_micros == end


@given(at=INSTANTS, cadence=st.sampled_from(Cadence))
def test_every_instant_is_in_the_period_that_is_found_for_it(
    at: datetime, cadence: Cadence
) -> None:
    assert micros_of(at) in terms(cadence=cadence).period_at(micros_of(at))


@given(at=INSTANTS)
def test_a_calendar_month_starts_on_the_first(at: datetime) -> None:
    month = calendar_month(micros_of(at))

    assert month.start_micros == micros_of(datetime(at.year, at.month, 1, tzinfo=UTC))
    assert micros_of(at) in month
