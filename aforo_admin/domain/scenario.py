"""What if: changes to think of, as data. What they do is in `simulate.py`.

Shares are basis points, amounts nanos, prices nanos for a number of units: nothing is a float.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Final

from aforo_admin.domain.catalog import Deal, ThresholdChanges
from aforo_meter.domain.rate_card import FULL_BP, PerUnit

UNCHANGED: Final = Fraction(1)


def factor_of(percent_bp: int) -> Fraction:
    """Return what a change by a share multiplies by: 2000 is by 6/5."""
    return Fraction(FULL_BP + percent_bp, FULL_BP)


def times(price: PerUnit, factor: Fraction) -> PerUnit:
    """Return a price times a factor, exactly: what has no whole nanos is said for more units."""
    exact = Fraction(price.price_nanos, price.per_units) * factor
    whole = exact * price.per_units
    if whole.denominator == 1:
        return PerUnit(price_nanos=whole.numerator, per_units=price.per_units)
    return PerUnit(price_nanos=exact.numerator, per_units=exact.denominator)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostChange:
    """Another price that we pay, from the period's first hour on. Of the two one is said.

    Where several changes cover a usage, they are made in turn.
    """

    provider: str = ""  # Lower case; empty: any.
    model: str = ""  # Empty: any. A `*` at its start or end stands for anything.
    meter: str = ""  # Empty: any.
    percent_bp: int | None = None
    price: PerUnit | None = None
    negotiated: bool = False  # Also where a tenant has prices of its own.


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """Another price that a plan charges for usage. Of the two one is said."""

    plan_id: str
    component_id: str = ""  # Of its rate card; empty: all.
    percent_bp: int | None = None
    price: PerUnit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeChange:
    """Another committed fee of a plan. Of the two one is said."""

    plan_id: str
    percent_bp: int | None = None
    fee_nanos: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorChange:
    """Other thresholds: of a plan, or of a tenant; of neither: the catalog's."""

    plan_id: str = ""
    tenant_id: str = ""
    thresholds: ThresholdChanges


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSwap:
    """All usage of one model, at another's prices."""

    model: str  # A `*` at its start or end stands for anything.
    to_model: str
    provider: str = ""  # Empty: any.
    to_provider: str = ""  # Empty: that of the usage.


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """More usage, or less. Where several cover a usage, they are multiplied."""

    percent_bp: int
    tenant_id: str = ""  # Empty: all.
    feature: str = ""  # Empty: all.


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftChoice:
    """A version of a plan that is not in force, instead of the one that is."""

    plan_id: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DealChange:
    """A deal with a tenant; one with the same id is replaced."""

    tenant_id: str
    deal: Deal


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Which recorded time is played again, for whom, and with what changed."""

    month: str = ""  # As 2026-11: the billing period that its last instant is in. Empty: the
    # period in force.
    tenants: tuple[str, ...] = ()  # Empty: all.
    costs: tuple[CostChange, ...] = ()
    prices: tuple[PriceChange, ...] = ()
    fees: tuple[FeeChange, ...] = ()
    floors: tuple[FloorChange, ...] = ()
    swaps: tuple[ModelSwap, ...] = ()
    growths: tuple[Growth, ...] = ()
    drafts: tuple[DraftChoice, ...] = ()
    deals: tuple[DealChange, ...] = ()

    @property
    def touches_usage(self) -> bool:
        """Does it change what usage costs, or how much there is?"""
        return bool(self.costs or self.swaps or self.growths)

    @property
    def heeds_hours(self) -> bool:
        """Does what it makes of a usage depend on its hour, or on how its rows are rounded?"""
        return bool(self.swaps or self.growths)

    def unmet(self, met: Collection[CostChange | ModelSwap]) -> tuple[CostChange | ModelSwap, ...]:
        """Return the changes of what usage costs that are not among these."""
        named: tuple[CostChange | ModelSwap, ...] = (*self.costs, *self.swaps)
        return tuple(each for each in named if each not in met)

    def with_more(self, more: "Scenario") -> "Scenario":
        """Return all changes of both; a month or tenants that the other says hold."""
        lists = {
            each.name: getattr(self, each.name) + getattr(more, each.name)
            for each in fields(self)
            if each.name not in {"month", "tenants"}
        }
        return Scenario(
            month=more.month or self.month, tenants=more.tenants or self.tenants, **lists
        )
