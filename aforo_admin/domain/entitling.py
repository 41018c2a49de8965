"""A tenant's catalog entries → what it may do and what its contract is, at one instant. Pure.

Of several rules the narrowest wins: tenant, then the deal in force, then the plan, then default.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from aforo_admin.domain.catalog import (
    NO_CHANGES,
    Catalog,
    CostPrice,
    Deal,
    Guard,
    Plan,
    Quota,
    QuotaChange,
    Subscription,
    Tenant,
    ThresholdChanges,
    Thresholds,
)
from aforo_admin.domain.phasing import anchor_of, currency_of, phases_of
from aforo_authz.domain import access, quotas
from aforo_meter.domain.periods import Cadence, Period, micros_of, period_containing
from aforo_meter.domain.terms import ExchangeRate, Phase, RevenueBasis

_FLOORS: Final = ("warn_below_bp", "throttle_below_bp", "block_below_bp")
# Whose rule is named; those beyond the floors only where somebody says them.
_NAMED: Final = (*_FLOORS, "act_from_revenue_nanos", "act_from_calls", "allowance")

Rules = Sequence[tuple[str, ThresholdChanges]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardInForce:
    """A guard, with all its thresholds."""

    guard: Guard
    thresholds: Thresholds
    thresholds_source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What rating and the margin need to know of one tenant."""

    tenant_id: str
    subscription_id: str
    plan_id: str
    currency: str
    committed_fee_nanos: int  # Per period.
    allowance_nanos: int  # COGS allowed per period when the fee is 0; 0: none.
    cadence: Cadence
    anchor: datetime
    thresholds: Thresholds
    thresholds_source: str  # Which rules the floors come from, the narrowest first.
    guards: tuple[GuardInForce, ...]
    negotiated: tuple[CostPrice, ...]
    phases: tuple[Phase, ...]
    basis: RevenueBasis
    exchange_rates: tuple[ExchangeRate, ...]  # Of the phases' currencies.
    ended_at: datetime | None = None  # Exclusive.
    former: tuple["Contract", ...] = ()  # Of the tenant's former subscriptions.


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitled:
    """What holds for one tenant from `now` until the next instant at which time changes it."""

    policy: access.Policy
    contract: Contract
    holds_until: datetime  # Exclusive.


def entitle(catalog: Catalog, tenant: Tenant, now: datetime) -> Entitled:
    """Work out what holds for a tenant.

    A subscription that has not started yet counts as created, one that has ended as expired,
    whatever its state says.

    Args:
        catalog: One without problems.
        tenant: One of its tenants.
        now: Aware UTC.
    """
    subscription = tenant.subscription
    plan = catalog.plans[subscription.plan_at(now)]
    deal = next((deal for deal in tenant.deals if deal.holds_at(now)), None)
    started_at, ended_at = subscription.started_at, subscription.ended_at
    anchor = anchor_of(subscription, plan)
    period = period_containing(anchor, plan.cadence, max(now, started_at))
    return Entitled(
        policy=_policy(tenant, plan, deal, period, state=_state(subscription, now)),
        contract=_contract(
            catalog,
            tenant,
            plan,
            deal,
            former=tuple(_former(catalog, tenant, each) for each in tenant.former),
        ),
        holds_until=min(
            [
                period.end,
                *(
                    at
                    for each in tenant.deals
                    for at in (each.effective_from, each.effective_until)
                    if at is not None and at > now
                ),
                *(
                    each.effective_from
                    for each in subscription.changes
                    if each.effective_from > now
                ),
                *(at for at in (started_at, ended_at) if at is not None and at > now),
            ]
        ),
    )


def _state(subscription: Subscription, now: datetime) -> access.SubscriptionState:
    if now < subscription.started_at:
        return access.SubscriptionState.CREATED
    if subscription.ended_at is not None and subscription.ended_at <= now:
        return access.SubscriptionState.EXPIRED
    return subscription.state


def _policy(
    tenant: Tenant,
    plan: Plan,
    deal: Deal | None,
    period: Period,
    *,
    state: access.SubscriptionState,
) -> access.Policy:
    subscription = tenant.subscription
    following = period_containing(anchor_of(subscription, plan), plan.cadence, period.end)
    override = tenant.margin_override
    shadow = plan.shadow if tenant.shadow is None else tenant.shadow
    return access.Policy(
        tenant_id=tenant.tenant_id,
        subscription_id=subscription.subscription_id,
        plan_id=plan.plan_id,
        state=state,
        period_start_micros=micros_of(period.start),
        period_end_micros=micros_of(period.end),
        next_period_end_micros=micros_of(following.end),
        features=frozenset(plan.features) | frozenset(deal.add_features if deal else ()),
        quotas=quotas_in_force(plan.quotas, deal.quotas if deal else ()),
        shadow=shadow,
        stale_margin_blocks=plan.stale_margin_blocks,
        override_level_max=override.level_max if override else None,
        override_until_micros=micros_of(override.until) if override else 0,
    )


def quotas_in_force(
    of_plan: tuple[Quota, ...], changes: tuple[QuotaChange, ...]
) -> tuple[quotas.Quota, ...]:
    """Return the plan's quotas as a deal changes them, then the deal's own."""
    return _quotas_in_force(of_plan, changes)


@functools.lru_cache(maxsize=1024)  # Most tenants of a plan have no deal: one answer for all.
def _quotas_in_force(
    of_plan: tuple[Quota, ...], changes: tuple[QuotaChange, ...]
) -> tuple[quotas.Quota, ...]:
    by_id = {change.quota_id: change for change in changes}
    merged = [
        _changed(quota, by_id.pop(quota.quota_id, QuotaChange(quota_id=quota.quota_id)))
        for quota in of_plan
    ]
    return (
        *(quota for quota in merged if quota is not None),
        *(_own(change) for change in by_id.values()),
    )


def _changed(quota: Quota, change: QuotaChange) -> quotas.Quota | None:
    if change.unlimited:
        return None
    features = quota.features if change.features is None else change.features
    return quotas.Quota(
        quota_id=quota.quota_id,
        meter=change.meter or quota.meter,
        limit_units=quota.limit_units if change.limit_units is None else change.limit_units,
        window=change.window or quota.window,
        features=frozenset(features),
        soft=quota.soft if change.soft is None else change.soft,
    )


def _own(change: QuotaChange) -> quotas.Quota:
    assert change.meter is not None, "a quota beyond the plan's is checked to be whole"
    assert change.limit_units is not None
    assert change.window is not None
    return quotas.Quota(
        quota_id=change.quota_id,
        meter=change.meter,
        limit_units=change.limit_units,
        window=change.window,
        features=frozenset(change.features or ()),
        soft=bool(change.soft),
    )


def _contract(
    catalog: Catalog,
    tenant: Tenant,
    plan: Plan,
    deal: Deal | None,
    *,
    former: tuple[Contract, ...] = (),
) -> Contract:
    fee_nanos = plan.committed_fee_nanos
    allowance_nanos = plan.allowance_nanos
    if deal is not None and deal.committed_fee_nanos is not None:
        fee_nanos = deal.committed_fee_nanos
    if deal is not None and deal.allowance_nanos is not None:
        allowance_nanos = deal.allowance_nanos
    rules = (
        (f"plan:{plan.plan_id}", plan.thresholds),
        *([(f"deal:{deal.deal_id}", deal.thresholds)] if deal else []),
        (f"tenant:{tenant.tenant_id}", tenant.thresholds),
    )
    thresholds, source = floors_in_force(catalog.thresholds, *rules)
    phases = phases_of(catalog, tenant)
    currencies = {phase.currency for phase in phases} - {catalog.currency}
    return Contract(
        tenant_id=tenant.tenant_id,
        subscription_id=tenant.subscription.subscription_id,
        plan_id=plan.plan_id,
        currency=currency_of(catalog, plan, deal),
        committed_fee_nanos=fee_nanos,
        allowance_nanos=0 if fee_nanos else allowance_nanos or 0,
        cadence=plan.cadence,
        anchor=anchor_of(tenant.subscription, plan),
        thresholds=thresholds,
        thresholds_source=source,
        guards=guards_in_force(catalog.thresholds, rules, plan, deal),
        negotiated=tenant.negotiated_costs,
        phases=phases,
        basis=deal.basis if deal is not None and deal.basis is not None else plan.basis,
        exchange_rates=tuple(
            rate for rate in catalog.exchange_rates if rate.currency in currencies
        ),
        ended_at=tenant.subscription.ended_at,
        former=former,
    )


def _former(catalog: Catalog, tenant: Tenant, subscription: Subscription) -> Contract:
    """Return what a former subscription charges: its levels are past, costs are the tenant's."""
    assert subscription.ended_at is not None, "a former subscription is checked to have an end"
    last = subscription.ended_at - timedelta(microseconds=1)
    contract = _contract(
        catalog,
        replace(tenant, subscription=subscription, negotiated_costs=()),
        catalog.plans[subscription.plan_at(last)],
        next((deal for deal in tenant.deals if deal.holds_at(last)), None),
    )
    return replace(contract, guards=())


def guards_in_force(
    default: Thresholds, rules: Rules, plan: Plan, deal: Deal | None
) -> tuple[GuardInForce, ...]:
    """Return the plan's guards, or a deal's instead of those with its ids, then the deal's own.

    Args:
        default: As for `floors_in_force`.
        rules: What a guard's own thresholds stand above.
        plan: The tenant's.
        deal: The one in force.
    """
    by_id = {guard.guard_id: guard for guard in plan.guards}
    by_id |= {guard.guard_id: guard for guard in (deal.guards if deal is not None else ())}
    found = []
    for guard in by_id.values():
        own = (f"guard:{guard.guard_id}", guard.thresholds)
        thresholds, source = floors_in_force(default, *rules, own)
        found.append(GuardInForce(guard=guard, thresholds=thresholds, thresholds_source=source))
    return tuple(found)


def floors_in_force(
    default: Thresholds, *rules: tuple[str, ThresholdChanges]
) -> tuple[Thresholds, str]:
    """Return the floors, and the rules that set them, the narrowest first.

    Args:
        default: What holds where no rule says anything.
        *rules: Names and what they say, from the widest to the narrowest.
    """
    # Who says nothing sets nothing: most tenants have their plan's floors.
    return _floors_in_force(default, tuple(rule for rule in rules if rule[1] != NO_CHANGES))


@functools.lru_cache(maxsize=1024)
def _floors_in_force(
    default: Thresholds, rules: tuple[tuple[str, ThresholdChanges], ...]
) -> tuple[Thresholds, str]:
    merged = default
    for _, changes in rules:
        merged = merged.changed_by(changes)
    order = [*(name for name, _ in reversed(rules)), _widest(default)]
    winners = set(floor_sources(default, *rules).values())
    return merged, ", ".join(name for name in order if name in winners)


def floor_sources(default: Thresholds, *rules: tuple[str, ThresholdChanges]) -> dict[str, str]:
    """Return by threshold which rule sets it: each floor, and the others that somebody says.

    Args:
        default: As for `floors_in_force`.
        *rules: As for `floors_in_force`.
    """
    sources = dict.fromkeys(_FLOORS, _widest(default))
    for name, changes in rules:
        said = changes.as_dict()
        sources |= {floor: name for floor in _NAMED if said[floor] is not None}
    return sources


def _widest(default: Thresholds) -> str:
    # Stated or not: what is as it is by itself is told as that.
    return "default" if default == Thresholds() else "catalog"
