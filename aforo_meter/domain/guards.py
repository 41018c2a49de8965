"""Guards: margins of a part of a tenant's usage, told apart by feature and meter. Pure, exact."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, NamedTuple

from aforo_meter.domain.account import Account, UsageKey
from aforo_meter.domain.margin import BP, Assessment, Level, Thresholds, assess
from aforo_meter.domain.usage import API_CALLS, MICROS_PER_UNIT

ANYTHING: Final = "*"  # At the end of a meter's name.
WHOLE: Final = Fraction(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A part of the usage, the revenue it has to live on, and the floors of its margin.

    Where neither a revenue nor a share is said there is no revenue, and so no level.
    """

    guard_id: str
    features: frozenset[str] = frozenset()  # Of calls that need one of these; empty: of all calls.
    meters: tuple[str, ...] = ()  # Names; a `*` at the end stands for anything. Empty: all meters.
    revenue_nanos: int | None = None  # Per period, of the price book's currency.
    revenue_share_bp: int = 0  # Else: of the contract's revenue.
    thresholds: Thresholds = field(default_factory=Thresholds)

    def concerns(self, key: UsageKey) -> bool:
        """Is it of the calls that are guarded?"""
        return not self.features or not self.features.isdisjoint(key.feature.split(","))

    def measures(self, key: UsageKey) -> bool:
        """Does its cost count?"""
        return self.concerns(key) and (
            not self.meters or any(_fits(key.meter, pattern) for pattern in self.meters)
        )

    def cogs_of(self, account: Account) -> int:
        return sum(used.cogs_nanos for key, used in account.items() if self.measures(key))

    def calls_of(self, account: Account) -> int:
        return calls_in(account, (key for key in account if self.concerns(key)))

    def revenue_of(self, contract_revenue_nanos: int, recognised: Fraction = WHOLE) -> int:
        """Return what its usage has to live on, rounded once, half to even.

        An amount per period counts as the contract's fee does, by what is recognised of the period.
        """
        if self.revenue_nanos is not None:
            return round(self.revenue_nanos * recognised)
        return round(Fraction(contract_revenue_nanos * self.revenue_share_bp, BP))


def assess_guard(
    guard: Guard,
    account: Account,
    *,
    contract_revenue_nanos: int,
    previous: Level,
    recognised: Fraction = WHOLE,
) -> Assessment:
    """Return a guard's level, as that of a tenant which has only this usage and this revenue.

    Args:
        guard: What is guarded.
        account: All of the period's usage.
        contract_revenue_nanos: Of the period, in the price book's currency.
        previous: The guard's level so far.
        recognised: How much of what is agreed for the whole period counts by now.
    """
    return assess(
        revenue_nanos=guard.revenue_of(contract_revenue_nanos, recognised),
        cogs_nanos=guard.cogs_of(account),
        allowance_nanos=0,
        thresholds=guard.thresholds,
        previous=previous,
        calls=guard.calls_of(account),
    )


class GuardChange(NamedTuple):
    """A guard's level, and what it would be."""

    guard_id: str
    before: Level
    after: Level


def guard_changes(
    guards: Iterable[Guard],
    account: Account,
    *,
    contract_revenue_nanos: int,
    levels: Mapping[str, Level],
) -> tuple[GuardChange, ...]:
    """Return the guards that would have another level with this usage; `levels` by guard id."""
    found = []
    for guard in guards:
        before = levels.get(guard.guard_id, Level.NONE)
        after = assess_guard(
            guard, account, contract_revenue_nanos=contract_revenue_nanos, previous=before
        ).level
        if after is not before:
            found.append(GuardChange(guard.guard_id, before, after))
    return tuple(found)


def calls_in(account: Account, keys: Iterable[UsageKey]) -> int:
    """Return how many calls were metered: what `act_from_calls` is compared with."""
    calls_micros = sum(account[key].quantity_micros for key in keys if key.meter == API_CALLS)
    return calls_micros // MICROS_PER_UNIT


def _fits(meter: str, pattern: str) -> bool:
    if pattern.endswith(ANYTHING):
        return meter.startswith(pattern.removesuffix(ANYTHING))
    return meter == pattern
