"""Numbers, shares and dates are read exactly as written."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_admin.domain.problems import day, percent
from aforo_admin.readable_values import money
from aforo_admin.yaml_scalars import amount_nanos, flag, instant, percent_bp, units

read_amount = amount_nanos("USD")


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0", 0),
        ("2000", 2_000_000_000_000),
        ("2_000.50", 2_000_500_000_000),
        ("2000 USD", 2_000_000_000_000),
        ("0.1", 100_000_000),
        ("0.000000001", 1),
        ("0.0000000010000", 1),
        ("-5", -5_000_000_000),
    ],
)
def test_an_amount_is_read_in_nanos(text: str, nanos: int) -> None:
    assert read_amount(text) == nanos


@pytest.mark.parametrize(
    "text",
    ["", "abc", "1e3", ".5", "5.", "1,000", "1_00", "2000USDT", "\u0661", "0x10", "NaN", "9" * 65],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        read_amount(text)


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_an_amount_survives_being_written_and_read(nanos: int) -> None:
    written = money(nanos, "USD").replace(",", "")

    assert read_amount(written) == nanos
    assert Decimal(nanos) / 10**9 == Decimal(written.removesuffix(" USD"))


@pytest.mark.parametrize(
    ("text", "bp"),
    [("20%", 2000), ("20.5 %", 2050), ("0.25%", 25), ("-5%", -500), ("0%", 0), ("20.50000%", 2050)],
)
def test_a_share_is_read_in_basis_points(text: str, bp: int) -> None:
    assert percent_bp(text) == bp


@given(st.integers(min_value=-(10**6), max_value=10**4))
def test_a_share_survives_being_written_and_read(bp: int) -> None:
    assert percent_bp(percent(bp)) == bp


@pytest.mark.parametrize("text", ["20", "0.2", "20.125%", "%", "twenty%", "1e1%", "20 percent"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        percent_bp(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("5000", 5000), ("5_000", 5000), ("5k", 5000), ("20M", 20_000_000), ("1G", 10**9)],
)
def test_a_count_is_read_with_its_multiple(text: str, count: int) -> None:
    assert units(text) == count


@pytest.mark.parametrize("text", ["-1", "1.5", "5 k", "5m", "", "unlimited", "1_0"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no whole number"):
        units(text)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T09:30", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("2026-01-31 09:30:15", datetime(2026, 1, 31, 9, 30, 15, tzinfo=UTC)),
        ("2026-01-31T09:30:15.000001Z", datetime(2026, 1, 31, 9, 30, 15, 1, tzinfo=UTC)),
        ("2026-01-31T00:30+02:00", datetime(2026, 1, 30, 22, 30, tzinfo=UTC)),
    ],
)
def test_a_time_without_an_offset_is_utc(text: str, at: datetime) -> None:
    assert instant(text) == at
    assert instant(text).tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["2026", "2026-13-01", "2026-02-29", "20260131", "2026-W05-6", "1969-12-31", "tomorrow"]
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        instant(text)


@given(
    st.datetimes(
        min_value=datetime(1971, 1, 1),  # noqa: DTZ001 - hypothesis wants naive bounds.
        max_value=datetime(2999, 1, 1),  # noqa: DTZ001
        timezones=st.sampled_from(
            [UTC, timezone(timedelta(hours=-11)), timezone(timedelta(hours=5))]
        ),
    )
)
def test_an_instant_survives_being_written_and_read(at: datetime) -> None:
    assert instant(day(at.astimezone(UTC))) == at


def test_only_true_and_false_are_flags() -> None:
    assert flag("true") is True
    assert flag("false") is False
    with pytest.raises(ValueError, match='"yes" is neither true nor false'):
        flag("yes")
