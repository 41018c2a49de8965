"""What rating and the margin know of one tenant: its contract and its quotas. Pure."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from aforo_meter.domain.margin import Thresholds
from aforo_meter.domain.periods import Cadence, Period, period_containing
from aforo_meter.domain.prices import PriceList

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MONTH_ANCHOR_MICROS: Final = 0  # 1970-01-01: calendar months.


class WindowKind(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    BILLING_PERIOD = "billing_period"


_FIXED_MICROS: Final = {WindowKind.HOUR: 3_600_000_000, WindowKind.DAY: 86_400_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A quota whose usage the ledger tells."""

    quota_id: str
    meter: str
    window: WindowKind
    features: frozenset[str] = frozenset()  # Counts calls that need one of these; empty: all.

    def counts(self, features: Collection[str]) -> bool:
        return not self.features or not self.features.isdisjoint(features)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A tenant's contract, as the last sync knew it."""

    tenant_id: str
    subscription_id: str
    plan_id: str = ""
    currency: str = "USD"
    committed_fee_nanos: int = 0  # Per period.
    allowance_nanos: int = 0
    cadence: Cadence = Cadence.MONTH
    anchor_micros: int = MONTH_ANCHOR_MICROS
    thresholds: Thresholds = field(default_factory=Thresholds)
    negotiated: tuple[PriceList, ...] = ()
    quotas: tuple[Quota, ...] = ()
    catalog_version: str = ""

    def period_of(self, at_micros: int) -> "PeriodMicros":
        """Return the billing period that an instant is in."""
        period = period_containing(
            datetime_of(self.anchor_micros), self.cadence, datetime_of(at_micros)
        )
        return PeriodMicros.of(period)

    @property
    def revenue_nanos(self) -> int:
        """Return what the contract brings for one period: the committed fee."""
        return self.committed_fee_nanos


@dataclass(frozen=True, slots=True)
class PeriodMicros:
    """A period in Unix microseconds, half-open."""

    start_micros: int
    end_micros: int

    @classmethod
    def of(cls, period: Period) -> "PeriodMicros":
        return cls(micros_of(period.start), micros_of(period.end))


def without_contract(tenant_id: str) -> Terms:
    """Return the terms of usage that no contract covers: kept by calendar month, never a margin."""
    return Terms(tenant_id=tenant_id, subscription_id="")


def window_start_micros(quota: Quota, terms: Terms, *, now_micros: int) -> int | None:
    """Return when the quota's current window started; None if the ledger can't tell its usage.

    Rows are hourly, so a minute is too short for them.
    """
    if quota.window is WindowKind.MINUTE:
        return None
    fixed_micros = _FIXED_MICROS.get(quota.window)
    if fixed_micros is not None:
        return now_micros - now_micros % fixed_micros
    if quota.window is WindowKind.MONTH:
        now = datetime_of(now_micros)
        return micros_of(datetime(now.year, now.month, 1, tzinfo=UTC))
    return terms.period_of(now_micros).start_micros


def datetime_of(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def micros_of(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)


TermsOf = Callable[[str], Terms | None]
