"""Whom a change of what is of no tenant reaches: whose terms, or whose rules, it is in. Pure."""

from collections.abc import Iterable

from aforo_admin.domain.catalog import Catalog, Tenant


def reaches_all_terms(before: Catalog, after: Catalog) -> bool:
    """Has something changed that the terms of all tenants depend on?"""
    return (before.currency, before.thresholds, before.exchange_rates) != (
        after.currency,
        after.thresholds,
        after.exchange_rates,
    )


def changed_plans(before: Catalog, after: Catalog) -> frozenset[str]:
    """Return the plans that are new, gone, or not what they were."""
    names = before.plans.keys() | after.plans.keys()
    return frozenset(name for name in names if before.plans.get(name) != after.plans.get(name))


def has_one_of(tenant: Tenant, plans: frozenset[str]) -> bool:
    """Has a tenant one of these plans, or had it one, or will it?"""
    return not plans.isdisjoint(_plan_ids(tenant))


def terms_reached(before: Catalog, after: Catalog, named: Iterable[str]) -> frozenset[str] | None:
    """Return the tenants whose terms may be others by now; None: everybody's.

    Args:
        before: The catalog that was in force.
        after: The one that is now.
        named: All tenants that have changed, or are new or gone, are among these.
    """
    if reaches_all_terms(before, after):
        return None
    changed = {name for name in named if before.tenants.get(name) != after.tenants.get(name)}
    plans = changed_plans(before, after)
    if plans:
        changed |= {name for name, one in after.tenants.items() if has_one_of(one, plans)}
    return frozenset(changed)


def reaches_rules(before: Catalog, after: Catalog) -> bool:
    """May a tenant break a rule by now, though it has not changed?"""
    return _reaches_all_rules(before, after) or bool(changed_plans(before, after))


def to_check(before: Catalog, after: Catalog) -> dict[str, Tenant]:
    """Return the tenants that may break a rule by now, though they have not changed."""
    if _reaches_all_rules(before, after):
        return dict(after.tenants)
    plans = changed_plans(before, after)
    return {name: one for name, one in after.tenants.items() if has_one_of(one, plans)}


def _reaches_all_rules(before: Catalog, after: Catalog) -> bool:
    return (
        reaches_all_terms(before, after)
        or _named(before) != _named(after)
        or before.ingest_keys != after.ingest_keys  # None is a tenant's credential too.
    )


def _named(catalog: Catalog) -> tuple[frozenset[str], frozenset[str]]:
    """Return what tenants may name, plans aside."""
    return frozenset(each.feature_id for each in catalog.features), catalog.known_meters


def _plan_ids(tenant: Tenant) -> Iterable[str]:
    for subscription in (tenant.subscription, *tenant.former):
        yield from subscription.plan_ids
