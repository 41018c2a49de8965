"""Levels, margins, shares and times as people read them; amounts as programs do, exact."""

from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Final

from aforo_meter.command_tables import minute, money, units
from aforo_meter.domain.margin import Assessment, Level
from aforo_meter.domain.periods import PeriodMicros, datetime_of

LEVELS: Final = {
    Level.NONE: "none",
    Level.WARN: "warn (L1)",
    Level.THROTTLE: "throttle (L2)",
    Level.BLOCK: "block (L3)",
}


def exact_amount(nanos: int) -> str:
    """Return an amount for programs: 1234.50, 0.000125."""
    return money(nanos).replace(",", "")


def exact_units(quantity_micros: int) -> str:
    """Return a quantity for programs: 1234.5."""
    return units(quantity_micros).replace(",", "")


def share(part: int, whole: int) -> str:
    """Return what part of a whole is, in percent: 12.34 %, rounded down."""
    return percent_bp(int(Fraction(part, whole) * 10_000)) if whole else "-"


def percent_bp(bp: int) -> str:
    """Return basis points as percent: 20 %, 12.34 %, -60 %."""
    hundredths = f"{Decimal(bp) / 100:.2f}".removesuffix(".00")
    return f"{hundredths} %"


def margin(assessment: Assessment) -> str:
    """Return a margin, rounded down to hundredths of a percent; undefined is never 0 %."""
    ratio = assessment.gross_margin_ratio
    if ratio is None:
        return "undefined"
    return f"{(ratio * 100).quantize(Decimal('0.01'), rounding=ROUND_FLOOR)} %"


def instant(micros: int) -> str:
    """Return an instant for programs: ISO 8601, UTC."""
    return datetime_of(micros).isoformat().replace("+00:00", "Z")


def span(period: PeriodMicros) -> str:
    return f"{minute(period.start_micros)} to {minute(period.end_micros)} UTC"


def age(at_micros: int, now_micros: int) -> str:
    """Return how long ago an instant was: 3 s ago, 2 h 5 min ago."""
    seconds = (now_micros - at_micros) // 1_000_000
    if seconds < 0:
        return f"{-seconds} s ahead of this clock"
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    told = [f"{count} {unit}" for count, unit in parts if count][:2]
    return f"{' '.join(told) or '0 s'} ago"
