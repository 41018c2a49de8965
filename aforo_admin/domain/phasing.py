"""A tenant's plans and deals, in turn → the phases of its contract, with their dates. Pure."""

from dataclasses import replace
from datetime import datetime

from aforo_admin.domain.catalog import Billing, Catalog, Deal, Plan, Subscription, Tenant
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.terms import Phase


def phases_of(catalog: Catalog, tenant: Tenant) -> tuple[Phase, ...]:
    """Return what the contract says from its start on, each change of it as a further phase.

    Time changes none of it: what is to come is told beforehand.
    """
    found: list[Phase] = []
    begun_micros: dict[str, int] = {}  # By who grants it: when a prepaid balance began.
    for at in _instants(tenant):
        phase = _phase_at(catalog, tenant, at, begun_micros)
        if found and found[-1] == replace(
            phase, effective_from_micros=found[-1].effective_from_micros
        ):
            continue
        found.append(phase)
    return tuple(found)


def anchor_of(subscription: Subscription, plan: Plan) -> datetime:
    """Return an instant at which a billing period begins."""
    started_at = subscription.started_at
    if plan.billing is Billing.ANNIVERSARY:
        return started_at
    return started_at.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)


def currency_of(catalog: Catalog, plan: Plan, deal: Deal | None) -> str:
    """Return what a contract's amounts are in."""
    return (deal.currency if deal is not None else "") or plan.currency or catalog.currency


def _instants(tenant: Tenant) -> list[datetime]:
    """Return when something may change, from the subscription's start to its end."""
    started_at, ended_at = tenant.subscription.started_at, tenant.subscription.ended_at
    changes = [change.effective_from for change in tenant.subscription.changes]
    deals = [at for deal in tenant.deals for at in (deal.effective_from, deal.effective_until)]
    later = {
        at
        for at in (*changes, *deals)
        if at is not None and at > started_at and (ended_at is None or at < ended_at)
    }
    return [started_at, *sorted(later)]


def _phase_at(
    catalog: Catalog, tenant: Tenant, at: datetime, begun_micros: dict[str, int]
) -> Phase:
    plan = catalog.plans[tenant.subscription.plan_at(at)]
    deal = next((deal for deal in tenant.deals if deal.holds_at(at)), None)
    fee, fee_source = plan.committed_fee_nanos, f"plan:{plan.plan_id}"
    prepaid, grantor = plan.prepaid_nanos, f"plan:{plan.plan_id}"
    rate_cards = plan.rate_cards
    if deal is not None:
        if deal.committed_fee_nanos is not None:
            fee, fee_source = deal.committed_fee_nanos, f"deal:{deal.deal_id}"
        if deal.prepaid_nanos is not None:
            prepaid, grantor = deal.prepaid_nanos, f"deal:{deal.deal_id}"
        if deal.rate_cards is not None:
            rate_cards = deal.rate_cards
    at_micros = micros_of(at)
    # One that holds again goes on with what it had left. The first is there for every period.
    begun = begun_micros.setdefault(grantor, at_micros if begun_micros else 0)
    return Phase(
        effective_from_micros=at_micros,
        source=fee_source,
        currency=currency_of(catalog, plan, deal),
        committed_fee_nanos=fee,
        rate_cards=rate_cards,
        prepaid_nanos=prepaid,
        prepaid_from_micros=begun,
    )
