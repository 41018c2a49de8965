"""A period's usage × a rate card → lines with amounts. Pure, exact: rounded once a line."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from aforo_meter.domain.account import Account
from aforo_meter.domain.rate_card import FULL_BP, Component, Discount, RateCard
from aforo_meter.domain.usage import MICROS_PER_UNIT

NOTHING: Final = Fraction(0)
WHOLE: Final = Fraction(1)


class LineKind(StrEnum):
    FEE = "fee"  # Committed, for a part of the period.
    USAGE = "usage"  # One component of the rate card.
    DISCOUNT = "discount"  # On the components together; below zero.
    MINIMUM = "minimum"  # What they lack of the card's minimum.


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a statement."""

    kind: LineKind
    name: str  # The component's id; of a fee the rule that it comes from, as "plan:pro".
    amount_nanos: int  # 10^-9 of the contract's currency.
    used: Fraction = NOTHING  # Units as metered.
    charged: Fraction = NOTHING  # Units as they count, less what is included.
    start_micros: int = 0  # Of a fee: the part of the period that it is for, half-open.
    end_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How much of what is said of a whole period holds, from 0 to 1."""

    covered: Fraction = WHOLE  # The part that the contract covers: of included quantities.
    recognised: Fraction = WHOLE  # The part that counts by now: of fees, minimums and discounts.


@dataclass(slots=True)
class _Sum:
    used: Fraction = NOTHING
    counted: Fraction = NOTHING


def charge(
    card: RateCard, account: Account, *, at_micros: int, shares: Shares | None = None
) -> tuple[Line, ...]:
    """Return what a period's usage comes to, component by component.

    Discounts come first, minimums after them: a minimum is what comes in.

    Args:
        card: The one in force.
        account: The period's usage. What no component takes is not charged.
        at_micros: When the period begins: discounts that hold then hold for all of it.
        shares: How much of the period counts; all of it, where nothing is said.
    """
    shares = shares or Shares()
    sums = _sums(card, account)
    lines = [
        _line(component, sums[component.component_id], at_micros, shares)
        for component in card.components
    ]
    total_nanos = sum(line.amount_nanos for line in lines)
    left_nanos = _discounted(Fraction(total_nanos), card.discounts, at_micros, shares)
    off_nanos = total_nanos - round(left_nanos)
    if off_nanos:
        lines.append(Line(kind=LineKind.DISCOUNT, name="discount", amount_nanos=-off_nanos))
    lacking_nanos = round(card.minimum_nanos * shares.recognised) - (total_nanos - off_nanos)
    if lacking_nanos > 0:
        lines.append(Line(kind=LineKind.MINIMUM, name="minimum", amount_nanos=lacking_nanos))
    return tuple(lines)


def _sums(card: RateCard, account: Account) -> Mapping[str, _Sum]:
    """Add usage up by component: a usage is charged once, by the first that takes it."""
    sums = {component.component_id: _Sum() for component in card.components}
    for key, used in account.items():
        for component in card.components:
            if component.takes(key):
                units = Fraction(used.quantity_micros, MICROS_PER_UNIT)
                mine = sums[component.component_id]
                mine.used += units
                mine.counted += units * component.units_per_unit(key)
                break
    return sums


def _line(component: Component, usage: _Sum, at_micros: int, shares: Shares) -> Line:
    charged = max(NOTHING, usage.counted - component.included_units * shares.covered)
    nanos = component.flat_nanos * shares.recognised
    if component.pricing is not None:
        nanos += component.pricing.nanos(charged)
    nanos = _discounted(nanos, component.discounts, at_micros, shares)
    nanos = max(nanos, component.minimum_nanos * shares.recognised)
    return Line(
        kind=LineKind.USAGE,
        name=component.component_id,
        amount_nanos=round(nanos),  # Half to even.
        used=usage.used,
        charged=charged,
    )


def _discounted(
    nanos: Fraction, discounts: Iterable[Discount], at_micros: int, shares: Shares
) -> Fraction:
    """Take off each discount in turn, from what the ones before it have left; never below zero."""
    for each in discounts:
        if each.holds_at(at_micros):
            off = nanos * each.percent_bp / FULL_BP + each.amount_nanos * shares.recognised
            nanos = max(NOTHING, nanos - off)
    return nanos
