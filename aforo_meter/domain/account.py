"""What a tenant has used in one period, as far as rate cards and guards tell it apart. Pure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class UsageKey(NamedTuple):
    """One kind of usage: what a price we charge, or a guard, can go by. It has no hour."""

    meter: str
    feature: str  # The features of the call, sorted, joined by ",".
    provider: str
    model: str
    tool: str
    execution_status: str  # "" is not told.


class Used(NamedTuple):
    """How much of it, and what that cost us: sums of the period's charges and adjustments."""

    quantity_micros: int = 0  # 10^-6 units, >= 0.
    cogs_nanos: int = 0  # Of what has a price; >= 0.
    estimated_micros: int = 0  # The part of the quantity that is estimated.
    unpriced_micros: int = 0  # The part that no cost price covers yet.

    def plus(self, other: "Used") -> "Used":
        return Used(*(one + more for one, more in zip(self, other, strict=True)))


Account = Mapping[UsageKey, Used]


def total(accounts: Iterable[Account]) -> dict[UsageKey, Used]:
    """Add accounts up; what comes to nothing is left out."""
    found: dict[UsageKey, Used] = {}
    for account in accounts:
        for key, used in account.items():
            found[key] = found[key].plus(used) if key in found else used
    return {key: used for key, used in found.items() if used != Used()}
