"""What rating and the margin know of one tenant: its contract and its quotas. Pure."""

from dataclasses import dataclass, field
from typing import Final

from aforo_meter.domain.margin import Thresholds
from aforo_meter.domain.periods import Cadence, PeriodMicros, billing_period
from aforo_meter.domain.prices import PriceList
from aforo_meter.domain.quotas import Quota

NO_SUBSCRIPTION: Final = ""  # Whose charges are kept where no contract covers the tenant.


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A tenant's contract and quotas, as the last sync knew them."""

    tenant_id: str
    subscription_id: str
    plan_id: str = ""
    currency: str = "USD"
    committed_fee_nanos: int = 0  # Per period.
    allowance_nanos: int = 0  # COGS per period that a contract without a fee allows; 0: no bound.
    cadence: Cadence = Cadence.MONTH
    anchor_micros: int = 0  # A period starts here; Unix time, UTC.
    thresholds: Thresholds = field(default_factory=Thresholds)
    negotiated: tuple[PriceList, ...] = ()
    quotas: tuple[Quota, ...] = ()
    catalog_version: str = ""

    def period_at(self, at_micros: int) -> PeriodMicros:
        """Return the billing period that an instant is in."""
        return billing_period(self.anchor_micros, self.cadence, at_micros)
