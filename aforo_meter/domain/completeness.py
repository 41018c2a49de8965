"""What was decided beside what was logged: how much is missing, and what to take for it. Pure.

Envoy's access log may lose entries without a word. Every decision is counted where it is made, so
that a loss has a number: per tenant, features and hour.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.rating import Measured
from aforo_meter.domain.usage import API_CALLS, Outcome

FILLED: Final = "filled"  # The outcome under which calls are kept that an estimate stands for.
STANDS_FOR: Final = "stands_for_calls"  # In an estimate's metadata: of how many lost calls.
WHOLE_BP: Final = 10_000
PASSED: Final = frozenset({Outcome.ALLOW.value, Outcome.THROTTLE.value})


class Compared(NamedTuple):
    """One kind of decision in one hour."""

    tenant_id: str
    feature: str  # Those of the call, sorted, joined by ",".
    hour_start_micros: int
    outcome: str  # As decided, or FILLED.
    decided: int
    logged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How complete the log is, of one tenant, features and hour, or of several."""

    tenant_id: str = ""
    feature: str = ""
    hour_start_micros: int = 0
    decided: int = 0
    logged: int = 0
    missing: int = 0  # Decided and not logged; another outcome's surplus does not make up for it.
    surplus: int = 0  # Logged and not decided, as far as is known: an authz that was killed.
    missing_passed: int = 0  # Of the missing ones those that were let pass: lost usage.
    filled: int = 0  # Lost calls that estimates stand for.

    @property
    def score_bp(self) -> int | None:
        """Return hundredths of a percent, rounded down: 10,000 says that nothing is missing.

        None: nothing was decided, so nothing can be said.
        """
        if self.decided == 0:
            return None
        return WHOLE_BP * (self.decided - self.missing) // self.decided

    @property
    def to_fill(self) -> int:
        return max(0, self.missing_passed - self.filled)

    def is_below(self, threshold_bp: int) -> bool:
        return self.score_bp is not None and self.score_bp < threshold_bp


def score(rows: Iterable[Compared]) -> Score:
    """Add up; tenant, features and hour are left out, see `scores`."""
    decided = logged = missing = surplus = missing_passed = filled = 0
    for row in rows:
        if row.outcome == FILLED:
            filled += row.logged
            continue
        decided += row.decided
        logged += row.logged
        lacks = max(0, row.decided - row.logged)
        missing += lacks
        surplus += max(0, row.logged - row.decided)
        missing_passed += lacks if row.outcome in PASSED else 0
    return Score(
        decided=decided,
        logged=logged,
        missing=missing,
        surplus=surplus,
        missing_passed=missing_passed,
        filled=filled,
    )


def scores(rows: Iterable[Compared]) -> list[Score]:
    """Return a score for each tenant, features and hour, in the order of hours."""
    groups: dict[tuple[int, str, str], list[Compared]] = {}
    for row in rows:
        groups.setdefault((row.hour_start_micros, row.tenant_id, row.feature), []).append(row)
    found = []
    for (hour_start_micros, tenant_id, feature), group in sorted(groups.items()):
        one = score(group)
        found.append(
            Score(
                tenant_id=tenant_id,
                feature=feature,
                hour_start_micros=hour_start_micros,
                decided=one.decided,
                logged=one.logged,
                missing=one.missing,
                surplus=one.surplus,
                missing_passed=one.missing_passed,
                filled=one.filled,
            )
        )
    return found


def total(some: Iterable[Score]) -> Score:
    """Add scores up. What one lacks is not made up for by what another has too much."""
    parts = list(some)
    return Score(
        decided=sum(one.decided for one in parts),
        logged=sum(one.logged for one in parts),
        missing=sum(one.missing for one in parts),
        surplus=sum(one.surplus for one in parts),
        missing_passed=sum(one.missing_passed for one in parts),
        filled=sum(one.filled for one in parts),
    )


def closed_before(now_micros: int, grace_micros: int) -> int:
    """Return until when hours are closed, exclusive: a long stream is logged at its end."""
    latest = now_micros - grace_micros
    return latest - latest % HOUR_MICROS


class Kind(NamedTuple):
    """Calls whose usage can stand in one event."""

    subscription_id: str
    provider: str
    model: str
    tool: str


class Sum(NamedTuple):
    """What calls of one kind used of one meter; there is one of each."""

    kind: Kind
    meter: str
    quantity_micros: int
    extra_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a tenant's calls used that did arrive."""

    calls: int = 0  # Let pass and logged, or filled in before.
    sums: Sequence[Sum] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What to take for a call that is missing, or for its share of usage that is of no call."""

    kind: Kind
    number: int  # Of the call among those that are missing, from 0 on.
    stands_for: int  # Calls: 1, or 0.
    weight_units: int
    measures: tuple[Measured, ...]


def estimates(basis: Basis, calls: int) -> Iterator[Estimate]:
    """Reckon what lost calls used: the average of those that arrived, times their number.

    Each meter's sum is rounded once, half to even, and then shared out to the last micro. There is
    an estimate for each call: a price may depend on a request's size, and estimates made at another
    time, by other averages, are told from these by the number of the call. Kinds of calls take
    turns, so that the first so many are a fair sample of all.

    Args:
        basis: Of the same tenant and features. Without a call in it nothing can be reckoned.
        calls: How many are lost.
    """
    if basis.calls == 0 or calls == 0:
        return
    kinds = _by_kind(basis.sums)
    stand_for = shared(
        calls, [of[API_CALLS].quantity_micros if API_CALLS in of else 0 for of in kinds.values()]
    )
    amounts = _amounts(kinds, calls, basis.calls)
    turns = [
        _turns(kind, of, {meter: amounts[meter][index] for meter in of}, stand_for[index], calls)
        for index, (kind, of) in enumerate(kinds.items())
    ]
    number = 0
    for _, estimate in heapq.merge(*turns, key=lambda turn: turn[0]):
        yield replace(estimate, number=number if estimate.stands_for else estimate.number)
        number += estimate.stands_for


def _turns(
    kind: Kind, of: Mapping[str, Sum], amounts: Mapping[str, int], stands_for: int, calls: int
) -> Iterator[tuple[int, Estimate]]:
    """Yield a kind's estimates, each with when its turn is: spread evenly over all calls.

    A kind that no call is counted by has a share in every call.
    """
    pieces = stands_for or calls
    parts = {meter: shared(amount, [1] * pieces) for meter, amount in amounts.items()}
    weight_units = _weight(of.get(API_CALLS))
    for piece in range(pieces):
        estimate = Estimate(
            kind=kind,
            number=piece,
            stands_for=1 if stands_for else 0,
            weight_units=weight_units,
            measures=tuple(
                Measured(meter, some[piece]) for meter, some in parts.items() if some[piece]
            ),
        )
        if estimate.stands_for or estimate.measures:
            yield (2 * piece + 1) * calls // pieces, estimate


def _amounts(
    kinds: Mapping[Kind, Mapping[str, Sum]], calls: int, arrived: int
) -> dict[str, list[int]]:
    """Return what is taken for the lost calls, by meter and kind."""
    amounts = {}
    for meter in {meter for meters in kinds.values() for meter in meters}:
        used = [of[meter].quantity_micros if meter in of else 0 for of in kinds.values()]
        amounts[meter] = shared(_rounded(sum(used) * calls, arrived), used)
    return amounts


def shared(amount: int, weights: Sequence[int]) -> list[int]:
    """Split an amount by weights, to the last one: the largest remainders get what is left."""
    if not weights:
        return []
    whole = sum(weights)
    if whole == 0:
        return [amount, *[0] * (len(weights) - 1)]
    parts = [amount * weight // whole for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda index: (-(amount * weights[index] % whole), index)
    )
    for index in by_remainder[: amount - sum(parts)]:
        parts[index] += 1
    return parts


def _by_kind(sums: Iterable[Sum]) -> Mapping[Kind, Mapping[str, Sum]]:
    found: dict[Kind, dict[str, Sum]] = {}
    for one in sorted(sums):
        found.setdefault(one.kind, {})[one.meter] = one
    return found


def _weight(calls: Sum | None) -> int:
    if calls is None or calls.quantity_micros == 0:
        return 1
    return 1 + _rounded(calls.extra_micros, calls.quantity_micros)


def _rounded(dividend: int, divisor: int) -> int:
    quotient, remainder = divmod(dividend, divisor)
    twice = 2 * remainder
    return quotient + (twice > divisor or (twice == divisor and quotient % 2 == 1))
