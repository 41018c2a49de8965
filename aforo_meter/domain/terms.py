"""What rating and the margin know of one tenant: its contract and its quotas. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Final

from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Thresholds
from aforo_meter.domain.periods import Cadence, PeriodMicros, billing_period
from aforo_meter.domain.prices import PriceList
from aforo_meter.domain.quotas import Quota
from aforo_meter.domain.rate_card import RateCard, card_at

NO_SUBSCRIPTION: Final = ""  # Whose charges are kept where no contract covers the tenant.
ALWAYS_MICROS: Final = -(2**63)  # Before everything that is dated.


class RevenueBasis(StrEnum):
    """How much of what is fixed for a period counts as its revenue while it runs."""

    PERIOD = "period"  # All of it, from the first day on.
    ACCRUED = "accrued"  # What has passed of it, by the second.


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What the contract says from a date on, until the next phase begins."""

    effective_from_micros: int = ALWAYS_MICROS  # Unix time, UTC, inclusive.
    source: str = ""  # The rule that sets the fee: "plan:pro", "deal:acme-renewal".
    currency: str = "USD"  # Of its amounts.
    committed_fee_nanos: int = 0  # Per period.
    rate_cards: tuple[RateCard, ...] = ()  # Dated; none: usage brings no revenue.
    prepaid_nanos: int = 0  # Usage charges are paid from this balance first.
    prepaid_from_micros: int = ALWAYS_MICROS  # Periods that begin earlier draw nothing from it.


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRate:
    """What one unit of a currency is worth in another, from a date on until a later rate's."""

    currency: str
    to_currency: str
    rate_nanos: int  # 10^-9 of the other currency; > 0.
    effective_from_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A tenant's contract and quotas, as the last sync knew them."""

    tenant_id: str
    subscription_id: str
    plan_id: str = ""
    currency: str = "USD"
    committed_fee_nanos: int = 0  # Per period, now. Revenue goes by `phases`, where there are some.
    allowance_nanos: int = 0  # COGS per period that a contract without a fee allows; 0: no bound.
    cadence: Cadence = Cadence.MONTH
    anchor_micros: int = 0  # A period starts here; Unix time, UTC.
    thresholds: Thresholds = field(default_factory=Thresholds)
    guards: tuple[Guard, ...] = ()
    negotiated: tuple[PriceList, ...] = ()
    quotas: tuple[Quota, ...] = ()
    catalog_version: str = ""
    phases: tuple[Phase, ...] = ()  # By date.
    ended_at_micros: int | None = None  # Exclusive; Unix time, UTC. None: it has no end yet.
    former: tuple["Terms", ...] = ()  # Contracts of the tenant that have ended before this one.
    basis: RevenueBasis = RevenueBasis.PERIOD
    exchange_rates: tuple[ExchangeRate, ...] = ()

    def period_at(self, at_micros: int) -> PeriodMicros:
        """Return the billing period that an instant is in."""
        return billing_period(self.anchor_micros, self.cadence, at_micros)

    def dated_phases(self) -> tuple[Phase, ...]:
        """Return the phases; of a contract that tells none, the one that always holds."""
        return self.phases or (
            Phase(currency=self.currency, committed_fee_nanos=self.committed_fee_nanos),
        )

    def begin_of(self, period: PeriodMicros) -> int:
        """Return when a period begins for this contract: not before the contract does."""
        return max(period.start_micros, self.dated_phases()[0].effective_from_micros)

    def end_of(self, period: PeriodMicros) -> int:
        """Return when a period ends for this contract: not after the contract does."""
        if self.ended_at_micros is None:
            return period.end_micros
        return min(period.end_micros, self.ended_at_micros)

    def covered(self, period: PeriodMicros) -> Fraction:
        """Return how much of a period the contract covers."""
        covered_micros = max(0, self.end_of(period) - self.begin_of(period))
        return Fraction(covered_micros, period.end_micros - period.start_micros)

    def opening(self, period: PeriodMicros) -> Phase:
        """Return the phase in force as a period begins: its currency and rate cards hold in it."""
        begin_micros = self.begin_of(period)
        found = [p for p in self.dated_phases() if p.effective_from_micros <= begin_micros]
        return found[-1]

    def card_of(self, period: PeriodMicros) -> RateCard | None:
        """Return what a period's usage is charged by: the card in force as it begins."""
        return card_at(self.opening(period).rate_cards, self.begin_of(period))

    def phase_throughout(self, period: PeriodMicros) -> Phase | None:
        """Return the phase that holds from a period's first instant to its last, if one does."""
        if self.end_of(period) < period.end_micros:
            return None
        found = None
        for phase in self.dated_phases():
            if phase.effective_from_micros <= period.start_micros:
                found = phase
            elif phase.effective_from_micros < period.end_micros:
                return None
        return found

    def spans_of(self, period: PeriodMicros) -> list[tuple[Phase, PeriodMicros]]:
        """Return the phases that meet a period, each with its part of it."""
        phases, last_micros = self.dated_phases(), self.end_of(period)
        ends = [*(phase.effective_from_micros for phase in phases[1:]), last_micros]
        return [
            (phase, PeriodMicros(start_micros, min(end_micros, last_micros)))
            for phase, end_micros in zip(phases, ends, strict=True)
            if (start_micros := max(phase.effective_from_micros, period.start_micros))
            < min(end_micros, last_micros)
        ]

    def of_subscription(self, subscription_id: str) -> "Terms | None":
        """Return this contract, or the former one, of a subscription."""
        known = (self, *self.former)
        return next((one for one in known if one.subscription_id == subscription_id), None)

    def charging(self, subscription_id: str, at_micros: int) -> "Terms | None":
        """Return the contract that usage is charged by; None if its subscription is not known.

        It is the one that covers the time of the usage. Where none does, it is the named one.

        Args:
            subscription_id: What the usage names; "" where it names none.
            at_micros: When it occurred.
        """
        named = self.of_subscription(subscription_id) if subscription_id else self
        if named is None or not self.former:
            return named
        return next((one for one in (self, *self.former) if one.covers(at_micros)), named)

    def covers(self, at_micros: int) -> bool:
        """Is an instant between the contract's begin and its end?"""
        has_begun = self.dated_phases()[0].effective_from_micros <= at_micros
        return has_begun and (self.ended_at_micros is None or at_micros < self.ended_at_micros)
