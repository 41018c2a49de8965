"""What a tenant has used in one period, as far as rate cards and guards tell it apart. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple


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
        # Spelt out: a page adds up tens of thousands of them.
        return Used(
            self.quantity_micros + other.quantity_micros,
            self.cogs_nanos + other.cogs_nanos,
            self.estimated_micros + other.estimated_micros,
            self.unpriced_micros + other.unpriced_micros,
        )


Account = Mapping[UsageKey, Used]
NOTHING: Final = Used()


def total(accounts: Iterable[Account]) -> dict[UsageKey, Used]:
    """Add accounts up; what comes to nothing is left out."""
    found: dict[UsageKey, Used] = {}
    for account in accounts:
        for key, used in account.items():
            found[key] = found[key].plus(used) if key in found else used
    return {key: used for key, used in found.items() if used != NOTHING}
