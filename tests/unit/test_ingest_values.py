"""Quantities and times, exactly: laws over all of them, and the cases at their edges."""

import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.ingest_values import (
    Rejection,
    occurred_micros,
    quantity_micros,
    utf16_units,
)
from tests.ingest_samples import NOW, NOW_MICROS, read

UNIT = 1_000_000
MOST = 99_999_999_999_999


@given(st.decimals(min_value="0.000001", max_value=MOST, allow_nan=False, allow_infinity=False))
def test_a_quantity_is_rounded_half_to_even_at_the_sixth_decimal(value: Decimal) -> None:
    exact = Fraction(value) * UNIT
    # round() of a Fraction is half to even, and knows nothing of Decimal.
    if round(exact) == 0:
        return
    assert quantity_micros(value) == round(exact)


@given(st.integers(1, MOST))
def test_a_whole_quantity_is_itself_however_it_is_written(value: int) -> None:
    assert quantity_micros(value) == value * UNIT
    assert quantity_micros(Decimal(value)) == value * UNIT
    assert quantity_micros(Decimal(f"{value}.000000")) == value * UNIT


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0.000001", 1),
        ("0.0000015", 2),
        ("0.0000025", 2),
        ("0.00000051", 1),
        ("1e3", 1000 * UNIT),
        ("1.5E-5", 15),
        ("99999999999999.999999", MOST * UNIT + 999_999),
        ("99999999999999.9999994", MOST * UNIT + 999_999),
        ("1." + "0" * 10_000 + "1", UNIT),
    ],
)
def test_a_quantity_in_millionths(text: str, micros: int) -> None:
    assert quantity_micros(Decimal(text)) == micros


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (0, "must be above 0"),
        (-1, "must be above 0"),
        (Decimal("-0.0"), "must be above 0"),
        (Decimal("NaN"), "must be above 0"),
        (Decimal("Infinity"), "must be above 0"),
        (Decimal("0.0000005"), "rounds to 0"),
        (Decimal("1E-999999999"), "rounds to 0"),
        (10**14, "at most 14 integer digits"),
        (10**4000, "at most 14 integer digits"),
        (Decimal("1E+999999999"), "at most 14 integer digits"),
        (Decimal("99999999999999.9999995"), "at most 14 integer digits"),
        (True, "must be a number"),
        ("1", "must be a number"),
        ([], "must be a number"),
        ({}, "must be a number"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_quantity_that_is_refused_names_the_limit(value: object, problem: str) -> None:
    with pytest.raises(Rejection, match=f"quantity: {problem}"):
        quantity_micros(value)


@given(
    st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1)),  # noqa: DTZ001
    st.integers(-23 * 60, 23 * 60),
    st.integers(0, 9),
)
def test_an_instant_is_the_same_in_every_offset_and_precision(
    local: datetime, offset_minutes: int, digits: int
) -> None:
    offset = timedelta(minutes=offset_minutes)
    sign, (hours, minutes) = "+" if offset_minutes >= 0 else "-", divmod(abs(offset_minutes), 60)
    nanos = f"{local.microsecond * 1000 + 789:09d}"[:digits]
    text = local.strftime("%Y-%m-%dT%H:%M:%S") + (f".{nanos}" if digits else "")
    text = re.sub(r"^(\d{1,3})-", lambda found: found[1].zfill(4) + "-", text)

    expected = (
        local.replace(microsecond=int(nanos.ljust(9, "0")[:6]), tzinfo=UTC) - offset
    ) - datetime(1970, 1, 1, tzinfo=UTC)

    for colon in (":", ""):
        told = f"{text}{sign}{hours:02d}{colon}{minutes:02d}"
        assert occurred_micros(told) == expected // timedelta(microseconds=1)


@given(st.decimals(min_value=0, max_value=4_000_000_000, places=9))
def test_unix_seconds_are_exact_to_the_microsecond(seconds: Decimal) -> None:
    assert occurred_micros(seconds) == int(Fraction(seconds) * UNIT)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-26T12:00:00Z",
        "2026-11-26t12:00z",
        "2026-11-26T12:00:00.000000000",
        "2026-11-26T12:00",
    ],
)
def test_seconds_and_offset_may_be_missing(text: str) -> None:
    assert occurred_micros(text) == NOW_MICROS


@pytest.mark.parametrize(
    "value",
    [
        *("", "now", "2026-11-26", "2026-11-26 12:00:00Z", "26.11.2026", "2026-11-26T12Z"),
        *("2026-11-26T12:00:00.1234567890Z", "2026-11-26T12:00:00+1", "+2026-11-26T12:00:00Z"),
        *("2026-02-30T12:00:00Z", "2026-11-26T24:00:00Z", "2026-11-26T12:00:60Z"),
        *("٢٠٢٦-11-26T12:00:00Z", "2026-11-26T12:00:00Z\n", "0001-01-01T00:00:00+23:59"),
        *(True, [], {}, 10**30, Decimal("1E+999999999"), Decimal("NaN")),
    ],
    ids=lambda value: str(value)[:32],
)
def test_what_is_no_time_is_refused_by_name(value: object) -> None:
    with pytest.raises(Rejection, match="occurredAt: "):
        read(occurredAt=value)


@pytest.mark.parametrize(
    ("age", "late"),
    [
        (timedelta(minutes=-5), False),
        (timedelta(0), False),
        (timedelta(days=1), False),
        (timedelta(days=1, microseconds=1), True),
        (timedelta(days=90), True),
    ],
    ids=str,
)
def test_an_event_within_the_window_is_taken_and_flagged_if_it_is_late(
    age: timedelta, *, late: bool
) -> None:
    assert read(occurredAt=(NOW - age).isoformat()).late is late


@pytest.mark.parametrize(
    ("age", "problem"),
    [
        (timedelta(minutes=-5, microseconds=-1), "at most 5 minutes ahead"),
        (timedelta(days=90, microseconds=1), "at most 90 days old"),
        (timedelta(days=30_000), "at most 90 days old"),
    ],
    ids=str,
)
def test_an_event_outside_of_the_window_is_refused(age: timedelta, problem: str) -> None:
    with pytest.raises(Rejection, match=f"occurredAt: {problem}"):
        read(occurredAt=(NOW - age).isoformat())


@given(st.text())
def test_a_text_is_as_long_as_its_utf16(text: str) -> None:
    assert utf16_units(text) == len(text.encode("utf-16-le", "surrogatepass")) // 2


def test_a_quantity_of_an_event_is_rounded_once() -> None:
    value = Decimal("2.0000005")

    assert read(quantity=value).measures == (
        ("api.calls", int(value.quantize(Decimal("1E-6"), ROUND_HALF_EVEN) * UNIT)),
    )
