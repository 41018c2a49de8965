"""Billing periods: the anniversaries of an anchor, half-open. Pure."""

import calendar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Cadence(StrEnum):
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    start: datetime  # Inclusive.
    end: datetime  # Exclusive: the next period starts here.


_MONTHS = {Cadence.MONTH: 1, Cadence.YEAR: 12}


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
    if _months_after(anchor, count * months) > at:
        count -= 1  # In the boundary's month, but before its day.
    return Period(
        start=_months_after(anchor, count * months),
        end=_months_after(anchor, (count + 1) * months),
    )


def _months_after(anchor: datetime, months: int) -> datetime:
    years, month0 = divmod(anchor.month - 1 + months, 12)
    year = anchor.year + years
    last_day = calendar.monthrange(year, month0 + 1)[1]
    return anchor.replace(year=year, month=month0 + 1, day=min(anchor.day, last_day))
