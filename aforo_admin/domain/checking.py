"""What a catalog must obey across its parts: every breach, with its place and its remedy. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from aforo_admin.domain.catalog import (
    BUILT_IN_CURRENCY,
    Catalog,
    Plan,
    Quota,
    Route,
    ThresholdChanges,
    Thresholds,
)
from aforo_admin.domain.checking_contracts import check_plan_money
from aforo_admin.domain.checking_costs import check_costs
from aforo_admin.domain.checking_instants import instant_problems
from aforo_admin.domain.checking_metering import metering_problems
from aforo_admin.domain.checking_rates import Known, check_currency, exchange_rate_problems
from aforo_admin.domain.checking_tenants import tenants_problems
from aforo_admin.domain.checking_thresholds import check_guards, check_thresholds
from aforo_admin.domain.problems import (
    Path,
    Problem,
    check_amount,
    check_id,
    check_known,
    check_methods,
    check_path_template,
    check_quota_meter,
    check_text,
    check_unique_ids,
    check_units,
    place_of,
)

WEIGHT_UNITS_MAX: Final = 1_000_000


def find_problems(catalog: Catalog, others: Collection[str] = ()) -> list[Problem]:
    """Return every breach of the catalog's rules, in the order of its parts.

    Args:
        catalog: Whole, or with some of its tenants.
        others: Tenants that there are, and that it is without.
    """
    features = frozenset(feature.feature_id for feature in catalog.features)
    return [
        *_money(catalog),
        *exchange_rate_problems(catalog),
        *_features(catalog),
        *_routes(catalog.routes, features),
        *(problem for plan in catalog.plans.values() for problem in _plan(plan, features, catalog)),
        *tenants_problems(catalog, features),
        *check_costs(("costs",), catalog.costs, catalog.known_meters),
        *metering_problems(catalog, features, others),
        *instant_problems(catalog),
    ]


def _money(catalog: Catalog) -> Iterator[Problem]:
    wrong = list(check_currency(("currency",), catalog.currency))
    yield from wrong
    if not wrong and catalog.built_in_costs and catalog.currency != BUILT_IN_CURRENCY:
        yield Problem(
            path=("currency",),
            message=f"the built-in prices of language models are in {BUILT_IN_CURRENCY}: use it, "
            f"or set built_in_costs to false and give your own prices in {catalog.currency}",
        )
    said = ThresholdChanges(
        warn_below_bp=catalog.thresholds.warn_below_bp,
        throttle_below_bp=catalog.thresholds.throttle_below_bp,
        block_below_bp=catalog.thresholds.block_below_bp,
        hysteresis_bp=catalog.thresholds.hysteresis_bp,
        act_from_revenue_nanos=catalog.thresholds.act_from_revenue_nanos,
        act_from_calls=catalog.thresholds.act_from_calls,
        allowance=catalog.thresholds.allowance,
    )
    yield from check_thresholds(("thresholds",), Thresholds(), said)


def _features(catalog: Catalog) -> Iterator[Problem]:
    for index, feature in enumerate(catalog.features):
        yield from check_id(("features", index, "id"), feature.feature_id)
        yield from check_text(("features", index, "title"), feature.title)
    yield from check_unique_ids(("features",), [f.feature_id for f in catalog.features])


def _routes(routes: Sequence[Route], features: frozenset[str]) -> Iterator[Problem]:
    # By the shape of its path: which methods earlier rules take, and which rule takes all.
    taken: dict[str, dict[str, int]] = {}
    for index, route in enumerate(routes):
        path: Path = ("routes", index)
        yield from check_path_template((*path, "path"), route.path_template)
        yield from check_methods((*path, "methods"), route.methods)
        yield from check_known((*path, "features"), route.features, kind="feature", known=features)
        yield from check_units((*path, "weight"), route.weight_units, least=1)
        if route.weight_units > WEIGHT_UNITS_MAX:
            yield Problem(path=(*path, "weight"), message=f"must be at most {WEIGHT_UNITS_MAX}")
        earlier = taken.setdefault(re.sub(r"\{[^/]*\}", "{}", route.path_template), {})
        covering = _covering(earlier, route.methods)
        if covering is not None:
            yield Problem(
                path=path,
                message=f"is never reached: {place_of(('routes', covering))} takes "
                "the same path and methods, and the first that matches wins",
                joint=True,
            )
        for method in route.methods or ("",):
            earlier.setdefault(method, index)


def _covering(earlier: dict[str, int], methods: Iterable[str]) -> int | None:
    """Return the rule that leaves nothing to a later one with these methods."""
    if "" in earlier:
        return earlier[""]
    taken = [earlier.get(method) for method in methods]
    return (
        None if not taken or None in taken else max(index for index in taken if index is not None)
    )


def _plan(plan: Plan, features: frozenset[str], catalog: Catalog) -> Iterator[Problem]:
    path: Path = ("plans", plan.plan_id)
    yield from check_id(path, plan.plan_id)
    yield from check_text((*path, "title"), plan.title)
    yield from check_amount((*path, "committed_fee"), plan.committed_fee_nanos)
    yield from check_amount((*path, "allowance"), plan.allowance_nanos)
    yield from check_plan_money(path, plan, catalog, features)
    if plan.committed_fee_nanos > 0 and plan.allowance_nanos is not None:
        yield Problem(
            path=(*path, "allowance"),
            message="only a plan without a fee has an allowance: with one, the margin decides; "
            "remove it, or set committed_fee to 0",
        )
    yield from check_known((*path, "features"), plan.features, kind="feature", known=features)
    yield from _quotas((*path, "quotas"), plan.quotas, features, catalog.known_meters)
    yield from check_thresholds((*path, "thresholds"), catalog.thresholds, plan.thresholds)
    yield from check_guards(
        (*path, "guards"),
        plan.guards,
        catalog.thresholds.changed_by(plan.thresholds),
        Known(features=features, meters=catalog.known_meters),
    )


def _quotas(
    path: Path, quotas: Sequence[Quota], features: frozenset[str], meters: frozenset[str]
) -> Iterator[Problem]:
    for index, quota in enumerate(quotas):
        yield from check_id((*path, index, "id"), quota.quota_id)
        yield from check_quota_meter((*path, index), quota.meter, quota.window, meters)
        yield from check_units((*path, index, "limit"), quota.limit_units, least=0)
        yield from check_known(
            (*path, index, "features"), quota.features, kind="feature", known=features
        )
    yield from check_unique_ids(path, [quota.quota_id for quota in quotas])
