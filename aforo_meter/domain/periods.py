"""Billing periods: the anniversaries of an anchor, half-open. Pure."""

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

HOUR_MICROS: Final = 3_600_000_000
DAY_MICROS: Final = 24 * HOUR_MICROS
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Cadence(StrEnum):
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    start: datetime  # Inclusive.
    end: datetime  # Exclusive: the next period starts here.


@dataclass(frozen=True, slots=True)
class PeriodMicros:
    """A half-open span of time in Unix microseconds, UTC: what the ledger and the wire hold."""

    start_micros: int
    end_micros: int

    def __contains__(self, at_micros: int) -> bool:
        return self.start_micros <= at_micros < self.end_micros


_MONTHS = {Cadence.MONTH: 1, Cadence.YEAR: 12}
_DAYS_OF_EVERY_MONTH = 28


def period_containing(anchor: datetime, cadence: Cadence, at: datetime) -> Period:
    """Return the billing period that an instant is in.

    Every boundary is worked out from the anchor, so that one on the 31st comes back to the 31st
    after a shorter month: Jan 31, Feb 28, Mar 31. Periods reach back before the anchor too.

    Args:
        anchor: When some period starts. Aware UTC.
        cadence: How long a period is.
        at: Aware UTC.
    """
    months = _MONTHS[cadence]
    count = ((at.year - anchor.year) * 12 + at.month - anchor.month) // months
    boundary = _months_after(anchor, count * months)
    if boundary > at:  # In the boundary's month, but before its day.
        return Period(start=_months_after(anchor, (count - 1) * months), end=boundary)
    return Period(start=boundary, end=_months_after(anchor, (count + 1) * months))


def _months_after(anchor: datetime, months: int) -> datetime:
    years, month0 = divmod(anchor.month - 1 + months, 12)
    year = anchor.year + years
    day = anchor.day
    if day > _DAYS_OF_EVERY_MONTH:
        day = min(day, calendar.monthrange(year, month0 + 1)[1])
    return anchor.replace(year=year, month=month0 + 1, day=day)


def billing_period(anchor_micros: int, cadence: Cadence, at_micros: int) -> PeriodMicros:
    """Return the billing period that an instant is in; everything in Unix microseconds."""
    period = period_containing(datetime_of(anchor_micros), cadence, datetime_of(at_micros))
    return PeriodMicros(micros_of(period.start), micros_of(period.end))


def calendar_month(at_micros: int) -> PeriodMicros:
    """Return the month that an instant is in, UTC."""
    return billing_period(0, Cadence.MONTH, at_micros)


def datetime_of(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def micros_of(instant: datetime) -> int:
    """Return Unix time in microseconds, exactly: timestamp() would go through a float."""
    return (instant - EPOCH) // timedelta(microseconds=1)
