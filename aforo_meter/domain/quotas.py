"""Quotas, as the ledger can tell their usage: which window a moment is in. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aforo_meter.domain.margin import BP
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros, calendar_month


class WindowKind(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    BILLING_PERIOD = "billing_period"


# A quota's meter that nothing measures: what usage has cost, in nanos of the prices' currency.
COGS: Final = "money.cogs"

_FIXED_MICROS: Final = {WindowKind.HOUR: HOUR_MICROS, WindowKind.DAY: 24 * HOUR_MICROS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A quota of a tenant's policy. What follows from its limit is the decision's business."""

    quota_id: str
    meter: str
    window: WindowKind
    features: frozenset[str] = frozenset()  # Counts calls that need one of these; empty: all.
    limit_units: int = 0
    soft: bool = False  # Over the limit the call passes.

    def reached_bp(self, used_units: int, thresholds_bp: Iterable[int]) -> list[int]:
        """Return the thresholds, in 1/100 of a percent of the limit, that usage has reached."""
        if self.limit_units <= 0:
            return []  # Nothing may be used: that is no quota to run out of.
        return [bp for bp in thresholds_bp if used_units * BP >= bp * self.limit_units]


def window_of(quota: Quota, *, period: PeriodMicros, now_micros: int) -> PeriodMicros | None:
    """Return the quota's current window; None if the ledger can't tell its usage.

    Rows of the ledger are hourly, so a minute is too short for them.

    Args:
        quota: The quota.
        period: The tenant's current billing period.
        now_micros: Unix time in microseconds, UTC.
    """
    if quota.window is WindowKind.MINUTE:
        return None
    if quota.window is WindowKind.BILLING_PERIOD:
        return period
    if quota.window is WindowKind.MONTH:
        return calendar_month(now_micros)
    length_micros = _FIXED_MICROS[quota.window]
    start_micros = now_micros - now_micros % length_micros
    return PeriodMicros(start_micros, start_micros + length_micros)
