"""What thresholds and guards of a catalog must obey. Pure."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from aforo_admin.domain.catalog import Guard, ThresholdChanges, Thresholds
from aforo_admin.domain.checking_rates import Known
from aforo_admin.domain.problems import (
    FULL_BP,
    Figure,
    Path,
    Problem,
    check_amount,
    check_id,
    check_known,
    check_unique_ids,
    check_units,
    percent,
    unknown,
)
from aforo_meter.domain.margin import AllowanceThresholds

FLOOR_BP_MIN: Final = -1_000_000
SHARE_BP_MAX: Final = 1_000_000

_FLOORS: Final = ("warn_below_bp", "throttle_below_bp", "block_below_bp")


def check_thresholds(path: Path, base: Thresholds, changes: ThresholdChanges) -> Iterator[Problem]:
    """Thresholds as they hold once `changes` are made to `base`, told where the changes stand."""
    for name in (*_FLOORS, "hysteresis_bp"):
        least_bp = 0 if name == "hysteresis_bp" else FLOOR_BP_MIN
        bp = getattr(changes, name)
        if bp is not None:
            yield from _share((*path, name.removesuffix("_bp")), bp, least_bp, FULL_BP)
    yield from check_amount((*path, "act_from_revenue"), changes.act_from_revenue_nanos)
    if changes.act_from_calls is not None:
        yield from check_units((*path, "act_from_calls"), changes.act_from_calls, least=0)
    yield from _floors_order(path, base.changed_by(changes), changes)
    if changes.allowance is not None:
        yield from _allowance((*path[:-1], "allowance_thresholds"), changes.allowance)


def check_guards(
    path: Path, guards: Sequence[Guard], base: Thresholds, known: Known
) -> Iterator[Problem]:
    """Check guards whose thresholds fall back on `base`."""
    for index, guard in enumerate(guards):
        here = (*path, index)
        yield from check_id((*here, "id"), guard.guard_id)
        yield from check_known(
            (*here, "features"), guard.features, kind="feature", known=known.features
        )
        for number, meter in enumerate(guard.meters):
            yield from _meter((*here, "meters", number), meter, known.meters)
        yield from _revenue(here, guard)
        yield from check_thresholds((*here, "thresholds"), base, guard.thresholds)
    yield from check_unique_ids(path, [guard.guard_id for guard in guards])


def check_plan_guards(path: Path, guards: Sequence[Guard], merged: Thresholds) -> Iterator[Problem]:
    """Check that a plan's guards stay in order above what a deal or a tenant says."""
    for guard in guards:
        for problem in _floors_order(path, merged.changed_by(guard.thresholds), guard.thresholds):
            yield replace(
                problem,
                path=(*path, "thresholds"),
                pair=None,  # The guard's floors have no field there.
                message=f'in the plan\'s guard "{guard.guard_id}", {problem.message}',
            )


def _share(path: Path, bp: int, least_bp: int, most_bp: int) -> Iterator[Problem]:
    if not least_bp <= bp <= most_bp:
        yield Problem(
            path=path,
            message=f"must be from {percent(least_bp)} to {percent(most_bp)}, not {percent(bp)}",
        )


def _floors_order(path: Path, merged: Thresholds, changes: ThresholdChanges) -> Iterator[Problem]:
    for higher, lower in itertools.pairwise(_FLOORS):
        if getattr(changes, higher) is None and getattr(changes, lower) is None:
            continue  # Neither is said here: whoever said them is told.
        if getattr(merged, higher) < getattr(merged, lower):
            pair = _floor(merged, changes, higher), _floor(merged, changes, lower)
            said = ", ".join(
                f"{each.name} {each.written}" + (" (inherited)" if each.inherited else "")
                for each in pair
            )
            yield Problem(
                path=path,
                message=f"floors are out of order: {said}; "
                "order them warn_below ≥ throttle_below ≥ block_below",
                joint=True,
                pair=pair,
            )


def _floor(merged: Thresholds, changes: ThresholdChanges, name: str) -> Figure:
    return Figure(
        name=name.removesuffix("_bp"),
        written=percent(getattr(merged, name)),
        inherited=getattr(changes, name) is None,
    )


def _allowance(path: Path, allowance: AllowanceThresholds) -> Iterator[Problem]:
    shares = {
        "warn_at": allowance.warn_at_bp,
        "throttle_at": allowance.throttle_at_bp,
        "block_at": allowance.block_at_bp,
    }
    for name, bp in shares.items():
        yield from _share((*path, name), bp, 0, SHARE_BP_MAX)
    if list(shares.values()) != sorted(shares.values()):
        said = ", ".join(f"{name} {percent(bp)}" for name, bp in shares.items())
        yield Problem(
            path=path,
            message=f"shares of the allowance are out of order: {said}; "
            "order them warn_at ≤ throttle_at ≤ block_at",
            joint=True,
            pair=next(
                (Figure(name=later, written=percent(bp)), Figure(name=first, written=percent(more)))
                for (first, more), (later, bp) in itertools.pairwise(shares.items())
                if bp < more
            ),
        )


def _meter(path: Path, meter: str, meters: frozenset[str]) -> Iterator[Problem]:
    if not meter.endswith("*"):
        if meter not in meters:
            yield unknown(path, meter, kind="meter", known=meters)
        return
    start = meter.removesuffix("*")
    if not any(name.startswith(start) for name in meters):
        yield Problem(path=path, message=f'no meter begins with "{start}"')


def _revenue(path: Path, guard: Guard) -> Iterator[Problem]:
    own, share_bp = guard.revenue_nanos, guard.revenue_share_bp
    if (own is None) == (share_bp is None):
        yield Problem(
            path=path,
            message="needs one revenue to compare its costs with: an amount, as revenue: 200, or a "
            "share of the contract's, as revenue_share: 60%",
            joint=True,
        )
    yield from check_amount((*path, "revenue"), own)
    if own == 0:
        yield Problem(path=(*path, "revenue"), message="must be above 0")
    if share_bp is not None and not 0 < share_bp <= FULL_BP:
        yield Problem(
            path=(*path, "revenue_share"),
            message=f"must be above 0% and at most 100%, not {percent(share_bp)}",
        )
