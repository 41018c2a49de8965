"""What another plan would let pass of a tenant's calls that its plan would not. Pure."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Final

from aforo_admin.domain.catalog import (
    NO_CHANGES,
    Catalog,
    Plan,
    Tenant,
    Thresholds,
)
from aforo_admin.domain.entitling import GuardInForce, floors_in_force, guards_in_force
from aforo_meter.domain.margin import AllowanceThresholds

# The higher, the later something happens. Of all others: the lower.
_LOOSER_HIGHER: Final = frozenset({"act_from_revenue_nanos", "act_from_calls"})


def loosened(catalog: Catalog, tenant: Tenant, before: Plan, after: Plan) -> str:
    """Return what another plan would loosen for a tenant, in a few words; empty: nothing.

    What the tenant itself says stands above both plans. Deals do not count: they end.
    """
    return next(_loosened(catalog, tenant, before, after), "")


def _loosened(catalog: Catalog, tenant: Tenant, before: Plan, after: Plan) -> Iterator[str]:
    if _in_shadow(tenant, before):
        return  # Nothing is blocked as it is.
    if _in_shadow(tenant, after):
        yield "it is in shadow mode, in which nothing is blocked"
    if before.stale_margin_blocks and not after.stale_margin_blocks:
        yield "a stale margin no longer blocks"
    old, new = (_floors(catalog, tenant, plan) for plan in (before, after))
    if name := _looser(old, new):
        yield f"{name} is looser"
    kept = {each.guard.guard_id: each for each in _guards(catalog, tenant, after)}
    for each in _guards(catalog, tenant, before):
        guard_id = each.guard.guard_id
        if guard_id not in kept:
            yield f"the guard {guard_id} is gone"
        elif _is_another(each, kept[guard_id]):
            yield f"the guard {guard_id} is another"


def _in_shadow(tenant: Tenant, plan: Plan) -> bool:
    return plan.shadow if tenant.shadow is None else tenant.shadow


def _floors(catalog: Catalog, tenant: Tenant, plan: Plan) -> Thresholds:
    rules = (("plan", plan.thresholds), ("tenant", tenant.thresholds))
    return floors_in_force(catalog.thresholds, *rules)[0]


def _guards(catalog: Catalog, tenant: Tenant, plan: Plan) -> tuple[GuardInForce, ...]:
    rules = (("plan", plan.thresholds), ("tenant", tenant.thresholds))
    return guards_in_force(catalog.thresholds, rules, plan, None)


def _is_another(before: GuardInForce, after: GuardInForce) -> bool:
    """Whether a guard is looser, or of other usage: then nobody can say which is."""
    old, new = (replace(each.guard, thresholds=NO_CHANGES) for each in (before, after))
    return old != new or bool(_looser(before.thresholds, after.thresholds))


def _looser(before: Thresholds, after: Thresholds) -> str:
    """Return the first threshold that lets more pass; empty: none does."""
    for each in fields(Thresholds):
        old, new = getattr(before, each.name), getattr(after, each.name)
        if each.name == "allowance":
            looser = _allows_more(old, new)
        else:
            looser = new > old if each.name in _LOOSER_HIGHER else new < old
        if looser:
            return each.name.removesuffix("_bp").removesuffix("_nanos")
    return ""


def _allows_more(before: AllowanceThresholds | None, after: AllowanceThresholds | None) -> bool:
    if before is None or after is None:
        return before != after  # The floors say it on one side: they can't be compared.
    return (
        after.warn_at_bp > before.warn_at_bp
        or after.throttle_at_bp > before.throttle_at_bp
        or after.block_at_bp > before.block_at_bp
    )
