"""What we charge: dated rate cards, and which part of one a usage is charged by. Pure.

Quantities are exact fractions of units, amounts exact fractions of nanos; `charging.py` rounds.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.usage import MICROS_PER_UNIT

NANOS_PER_UNIT: Final = 10**9  # Of a currency.
FULL_BP: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PerUnit:
    price_nanos: int  # For `per_units`.
    per_units: int = 1

    def nanos(self, units: Fraction) -> Fraction:
        return units * self.price_nanos / self.per_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Blocks of units: one that is begun is charged whole."""

    price_nanos: int
    package_units: int

    def nanos(self, units: Fraction) -> Fraction:
        return Fraction(math.ceil(units / self.package_units) * self.price_nanos)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percent:
    """A share of an amount of money, which is itself what the meter counts, in whole units."""

    rate_bp: int

    def nanos(self, units: Fraction) -> Fraction:
        return units * NANOS_PER_UNIT * self.rate_bp / FULL_BP


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    up_to_units: int | None  # Inclusive. None: the last tier has no end.
    price: PerUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduated:
    """Each unit at the price of the tier that it falls into."""

    tiers: tuple[Tier, ...]  # Ascending.

    def nanos(self, units: Fraction) -> Fraction:
        total, below = Fraction(0), Fraction(0)
        for tier in self.tiers:
            top = units if tier.up_to_units is None else min(units, Fraction(tier.up_to_units))
            if top <= below:
                break
            total += tier.price.nanos(top - below)
            below = top
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """All units at the price of the tier that their sum falls into."""

    tiers: tuple[Tier, ...]  # Ascending.

    def nanos(self, units: Fraction) -> Fraction:
        for tier in self.tiers:
            if tier.up_to_units is None or units <= tier.up_to_units:
                return tier.price.nanos(units)
        raise AssertionError("the last tier has no end")


Pricing = PerUnit | Package | Percent | Graduated | Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount:
    """Less, for periods that begin in [effective_from, effective_until)."""

    percent_bp: int = 0
    amount_nanos: int = 0  # Of a whole period; one of the two is 0.
    effective_from_micros: int = 0
    effective_until_micros: int | None = None  # None: for good.

    def holds_at(self, at_micros: int) -> bool:
        return self.effective_from_micros <= at_micros and (
            self.effective_until_micros is None or at_micros < self.effective_until_micros
        )


class Dimension(StrEnum):
    FEATURE = "feature"
    PROVIDER = "provider"
    MODEL = "model"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiplier:
    """How many units one unit counts as, where a dimension has this value."""

    dimension: Dimension
    value: str  # As in `Selection`.
    factor_micros: int  # 10^-6: 1_500_000 is one and a half.


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which usage is meant. Nothing said of a dimension: any.

    Capital letters make no difference; a `*` at the start or end of a name stands for anything.
    """

    features: tuple[str, ...] = ()  # Usage of calls that need one of these.
    providers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()

    def covers(self, key: UsageKey) -> bool:
        wanted = (
            (Dimension.FEATURE, self.features),
            (Dimension.PROVIDER, self.providers),
            (Dimension.MODEL, self.models),
            (Dimension.TOOL, self.tools),
        )
        return all(
            not names or any(has_value(key, dimension, name) for name in names)
            for dimension, names in wanted
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One line of a rate card. Usage that several could charge is charged by the first of them."""

    component_id: str
    meter: str = ""  # Empty: a flat fee alone.
    selection: Selection = Selection()
    pricing: Pricing | None = None  # None: a flat fee alone.
    flat_nanos: int = 0  # Of a whole period.
    included_units: int = 0  # In a whole period.
    minimum_nanos: int = 0  # Of a whole period, used or not.
    discounts: tuple[Discount, ...] = ()
    multipliers: tuple[Multiplier, ...] = ()
    outcome_weights: tuple[tuple[str, int], ...] = ()  # By execution status; in 10^-6.

    def takes(self, key: UsageKey) -> bool:
        return self.pricing is not None and key.meter == self.meter and self.selection.covers(key)

    def units_per_unit(self, key: UsageKey) -> Fraction:
        """Return how many units one of this kind counts as: multipliers and outcome together.

        Of several multipliers for one dimension the first that fits holds; those of different
        dimensions are multiplied.
        """
        factor = Fraction(dict(self.outcome_weights).get(key.execution_status, MICROS_PER_UNIT))
        found: dict[Dimension, int] = {}
        for each in self.multipliers:
            if each.dimension not in found and has_value(key, each.dimension, each.value):
                found[each.dimension] = each.factor_micros
        for factor_micros in found.values():
            factor *= Fraction(factor_micros, MICROS_PER_UNIT)
        return factor / MICROS_PER_UNIT


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCard:
    """What is charged for usage, from a date on. Never edited: a change is a further one."""

    effective_from_micros: int  # Unix time, UTC, inclusive.
    components: tuple[Component, ...] = ()
    discounts: tuple[Discount, ...] = ()  # On the sum of the components' lines.
    minimum_nanos: int = 0  # Of that sum, less discounts, in a whole period.


def card_at(cards: Iterable[RateCard], at_micros: int) -> RateCard | None:
    """Return the card in force at an instant, if there is one."""
    begun = [card for card in cards if card.effective_from_micros <= at_micros]
    return max(begun, key=lambda card: card.effective_from_micros, default=None)


_VALUES: Final[Mapping[Dimension, Callable[[UsageKey], list[str]]]] = {
    Dimension.FEATURE: lambda key: key.feature.split(","),
    Dimension.PROVIDER: lambda key: [key.provider],
    Dimension.MODEL: lambda key: [key.model],
    Dimension.TOOL: lambda key: [key.tool],
}


def has_value(key: UsageKey, dimension: Dimension, wanted: str) -> bool:
    return any(_is_named(value, wanted) for value in _VALUES[dimension](key))


def _is_named(value: str, wanted: str) -> bool:
    value, wanted = value.lower(), wanted.lower()
    if not value:
        return False  # A name with a `*` is none of what has no name.
    text = wanted.strip("*")
    if wanted.startswith("*") and wanted.endswith("*"):
        return text in value
    if wanted.endswith("*"):
        return value.startswith(text)
    if wanted.startswith("*"):
        return value.endswith(text)
    return value == wanted
