"""A statement's line in words."""

from typing import Final

from aforo_meter.command_tables import minute
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.statement import AS_ASSESSED, Line, LineKind

TEXTS: Final = {
    LineKind.DISCOUNT: "Discount",
    LineKind.MINIMUM: "Up to the agreed minimum",
    LineKind.ADJUSTMENT: "Adjustments after the period was closed",
    LineKind.PREPAID: "Paid from the prepaid balance",
}


def line_text(line: Line, period: PeriodMicros | None = None) -> str:
    """Return what a line is for.

    Args:
        line: One line.
        period: The statement's: a fee for a part of it says for which.
    """
    if line.kind is LineKind.FEE:
        return _fee_text(line, period)
    if line.kind is not LineKind.USAGE:
        return TEXTS[line.kind]
    if not line.item:
        return f"{line.meter}, no charge"
    return line.item if line.meter in ("", line.item) else f"{line.item} ({line.meter})"


def _fee_text(line: Line, period: PeriodMicros | None) -> str:
    if line.item == AS_ASSESSED:
        return "Contract revenue, as last assessed"
    text = f"Committed fee, {line.item}" if line.item else "Committed fee"
    if period is None or line.span is None or line.span == period:
        return text
    return f"{text}, {minute(line.span.start_micros)} to {minute(line.span.end_micros)}"
