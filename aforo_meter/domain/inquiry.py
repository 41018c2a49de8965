"""What the ledger has of one tenant in one billing period, as people ask for it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from aforo_meter.domain.account import Account, total
from aforo_meter.domain.margin import Assessment, Level, MarginState
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.prices import Precedence, precedence_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodState:
    """Totals and level of a period. What is None was never assessed: no contract was known."""

    tenant_id: str
    subscription_id: str
    period: PeriodMicros
    in_force: bool  # Its level is the tenant's now.
    level: Level
    level_since_micros: int | None
    revenue_nanos: int | None
    allowance_nanos: int | None
    cogs_nanos: int
    estimated_cogs_nanos: int  # The part of them that rests on estimated usage.
    unpriced_rows: int
    currency: str | None  # Of the margin's figures.
    contract_currency: str | None
    contract_revenue_nanos: int | None  # The revenue in the contract's own currency.
    catalog_version: str | None
    price_book_version: str | None
    assessed_at_micros: int | None
    closed_at_micros: int | None = None  # From then on it takes adjustments alone.

    @property
    def assessment(self) -> Assessment:
        """Return the figures that the level goes by; without a contract there is no revenue."""
        revenue_nanos = self.revenue_nanos or 0
        return Assessment(
            level=self.level,
            state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
            revenue_nanos=revenue_nanos,
            cogs_nanos=self.cogs_nanos,
            allowance_nanos=self.allowance_nanos or 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPrice:
    """A price as it was when the ledger first used it."""

    price_id: str
    price_nanos: int  # For `per_units`.
    per_units: int
    currency: str
    effective_from_micros: int
    tier_input_tokens_from: int
    source: str

    @property
    def precedence(self) -> Precedence:
        return precedence_of(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """What one meter of one model came to, at one price: a sum of the ledger's rows."""

    meter: str
    provider: str
    model: str
    price: KeptPrice | None  # None: unpriced.
    quantity_micros: int
    estimated_micros: int  # The part of the quantity that is estimated.
    cogs_nanos: int  # The sum of the rows' amounts, each rounded by itself; 0 if unpriced.
    rows: int


class Adjusted(NamedTuple):
    """What somebody corrected in one go: rows beside the charges, which stay as they were."""

    at_micros: int
    kind: str
    author: str
    reason: str
    rows: int
    cogs_nanos: int  # What it changed.


class Intervention(NamedTuple):
    outcome: str
    reason: str
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState:
    """A guard's level and figures in a period, as last assessed."""

    guard_id: str
    in_force: bool  # The contract has it, and its level is the guard's now.
    level: Level
    level_since_micros: int | None
    revenue_nanos: int  # Of the margin's currency, as COGS are.
    cogs_nanos: int

    @property
    def assessment(self) -> Assessment:
        return Assessment(
            level=self.level,
            state=MarginState.DEFINED if self.revenue_nanos else MarginState.UNDEFINED,
            revenue_nanos=self.revenue_nanos,
            cogs_nanos=self.cogs_nanos,
            allowance_nanos=0,
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that the ledger has of one period, as of one instant."""

    state: PeriodState
    costs: tuple[CostLine, ...] = ()  # The most expensive first.
    interventions: tuple[Intervention, ...] = ()
    adjusted: tuple[Adjusted, ...] = ()  # The first one first.
    # Of a closed period that was adjusted since: the account as it was closed.
    account_at_close: Account | None = None
    # What rate cards and guards tell apart, in each hour, by its start.
    account_by_hour: Mapping[int, Account] = field(default_factory=dict)
    guards: tuple[GuardState, ...] = ()  # Of guards that were assessed in it, by id.
    # Of a subscription with a prepaid balance: its earlier periods, which have drawn on it.
    accounts_before: Mapping[PeriodMicros, Account] = field(default_factory=dict)
    other_subscriptions: tuple[str, ...] = ()  # Of the same tenant, in the same time.

    @cached_property
    def account(self) -> Account:
        """All that was used in the period."""
        return total(self.account_by_hour.values())

    def units_by_meter(self) -> dict[str, "Units"]:
        """Add up what was used, whatever it cost."""
        found: dict[str, Units] = {}
        for line in self.costs:
            before = found.get(line.meter, Units(0, 0, 0))
            found[line.meter] = Units(
                before.quantity_micros + line.quantity_micros,
                before.estimated_micros + line.estimated_micros,
                before.unpriced_micros + (line.quantity_micros if line.price is None else 0),
            )
        return dict(sorted(found.items()))


class Units(NamedTuple):
    """How much of a meter was used, and which parts of that are estimated, or unpriced."""

    quantity_micros: int
    estimated_micros: int
    unpriced_micros: int
