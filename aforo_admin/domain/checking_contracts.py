"""What contracts must obey over time: changes of plan, currencies, prepaid balances. Pure."""

from collections.abc import Iterator
from datetime import datetime

from aforo_admin.domain.catalog import Catalog, Deal, Plan, Subscription, Tenant
from aforo_admin.domain.checking_instants import has_instants_in_years
from aforo_admin.domain.checking_rates import Known, check_currency, check_rate_cards
from aforo_admin.domain.phasing import anchor_of, currency_of
from aforo_admin.domain.problems import Path, Problem, check_amount, check_id, day, unknown
from aforo_meter.domain.periods import micros_of, period_containing


def check_plan_money(
    path: Path, plan: Plan, catalog: Catalog, features: frozenset[str]
) -> Iterator[Problem]:
    """Check what a plan charges beside its fee, and the currency of both."""
    known = Known(features=features, meters=catalog.known_meters)
    if plan.currency:
        wrong = list(check_currency((*path, "currency"), plan.currency))
        yield from wrong
        if not wrong and not _has_rates(catalog, plan.currency):
            yield _no_rate((*path, "currency"), plan.currency, catalog)
    yield from check_amount((*path, "prepaid"), plan.prepaid_nanos)
    yield from check_rate_cards((*path, "rate_card"), plan.rate_cards, known)
    if plan.prepaid_nanos > 0 and not plan.rate_cards:
        yield _idle_balance((*path, "prepaid"))


def contract_problems(
    path: Path, tenant: Tenant, catalog: Catalog, known: Known
) -> Iterator[Problem]:
    """Check a tenant's subscriptions and their changes of plan, and its deals' amounts."""
    yield from _changes((*path, "subscription", "changes"), tenant.subscription, catalog)
    yield from _former(path, tenant, catalog)
    yield from _ends(path, tenant)
    for index, deal in enumerate(tenant.deals):
        here = (*path, "deals", index)
        yield from check_amount((*here, "prepaid"), deal.prepaid_nanos)
        yield from check_rate_cards((*here, "rate_card"), deal.rate_cards or (), known)
        if deal.currency:
            yield from check_currency((*here, "currency"), deal.currency)
        if deal.prepaid_nanos and not _charges_usage(tenant, deal, catalog):
            yield _idle_balance((*here, "prepaid"))
    plan = catalog.plans.get(tenant.subscription.plan_id)
    if plan is not None and has_instants_in_years(tenant):
        yield from _currencies(path, tenant, plan, catalog)


def _charges_usage(tenant: Tenant, deal: Deal, catalog: Catalog) -> bool:
    if deal.rate_cards is not None:
        return bool(deal.rate_cards)
    names = tenant.subscription.plan_ids
    return any(catalog.plans[name].rate_cards for name in names if name in catalog.plans)


def _idle_balance(path: Path) -> Problem:
    return Problem(
        path=path,
        message="nothing draws on it: only what a rate card charges does; give one, or remove it",
    )


def _former(path: Path, tenant: Tenant, catalog: Catalog) -> Iterator[Problem]:
    for index, subscription in enumerate(tenant.former):
        here = (*path, "former_subscriptions", index)
        yield from check_id((*here, "id"), subscription.subscription_id)
        yield from _changes((*here, "changes"), subscription, catalog)
        plan = catalog.plans.get(subscription.plan_id)
        if plan is None:
            yield unknown((*here, "plan"), subscription.plan_id, kind="plan", known=catalog.plans)
            continue
        own = currency_of(catalog, plan, None)
        if _has_rates(catalog, own) and not _has_rate_at(catalog, own, subscription.started_at):
            yield _late_rate((*here, "plan"), own, subscription.started_at)


def _ends(path: Path, tenant: Tenant) -> Iterator[Problem]:
    """Check that each subscription ends after its start, and before the next one's."""
    all_of_them = [
        *(((*path, "former_subscriptions", i), each) for i, each in enumerate(tenant.former)),
        ((*path, "subscription"), tenant.subscription),
    ]
    names: set[str] = set()
    before: datetime | None = None
    for here, each in all_of_them:
        if each.subscription_id in names:
            message = f'"{each.subscription_id}" is another subscription\'s: give each its own'
            yield Problem(path=(*here, "id"), message=message)
        names.add(each.subscription_id)
        if before is not None and each.started_at < before:
            message = f"is before {day(before)}, when the subscription before it ends"
            yield Problem(path=(*here, "started_at"), message=message)
        if each.ended_at is None and each is not tenant.subscription:
            yield Problem(path=(*here, "ended_at"), message="is missing: a former one has ended")
        elif each.ended_at is not None and each.ended_at <= each.started_at:
            message = f"must be after {day(each.started_at)}, its start"
            yield Problem(path=(*here, "ended_at"), message=message)
        before = each.ended_at or before


def _changes(path: Path, subscription: Subscription, catalog: Catalog) -> Iterator[Problem]:
    first = catalog.plans.get(subscription.plan_id)
    before = subscription.started_at
    for index, change in enumerate(subscription.changes):
        here = (*path, index)
        if change.effective_from <= before:
            yield Problem(
                path=(*here, "from"),
                message=f"must be after {day(before)}, the start or the change before it",
            )
        before = max(before, change.effective_from)
        plan = catalog.plans.get(change.plan_id)
        if plan is None:
            yield unknown((*here, "plan"), change.plan_id, kind="plan", known=catalog.plans)
        elif first is not None:
            yield from _same_periods((*here, "plan"), first, plan)


def _same_periods(path: Path, first: Plan, plan: Plan) -> Iterator[Problem]:
    for field in ("cadence", "billing", "currency"):
        if getattr(first, field) != getattr(plan, field):
            yield Problem(
                path=path,
                message=f'"{plan.plan_id}" has another {field} than "{first.plan_id}": a '
                "subscription keeps its periods and its currency; end it (ended_at), move it to "
                "former_subscriptions, and give the tenant one with an id and a start of its own",
            )


def _currencies(path: Path, tenant: Tenant, plan: Plan, catalog: Catalog) -> Iterator[Problem]:
    started_at = tenant.subscription.started_at
    own = currency_of(catalog, plan, None)
    if _has_rates(catalog, own) and not _has_rate_at(catalog, own, started_at):
        yield _late_rate((*path, "subscription", "plan"), own, started_at)
    for index, deal in enumerate(tenant.deals):
        here = (*path, "deals", index)
        currency = currency_of(catalog, plan, deal)
        if currency == own:
            continue
        yield from _whole_periods(here, tenant, plan, deal)
        yield from _own_amounts(here, plan, deal)
        if not _has_rates(catalog, currency):
            yield _no_rate((*here, "currency"), currency, catalog)
        elif not _has_rate_at(catalog, currency, max(deal.effective_from, started_at)):
            at = max(deal.effective_from, started_at)
            yield _late_rate((*here, "currency"), currency, at)


def _whole_periods(path: Path, tenant: Tenant, plan: Plan, deal: Deal) -> Iterator[Problem]:
    """A period has one currency: a deal in another must not begin or end inside one."""
    started_at = tenant.subscription.started_at
    anchor = anchor_of(tenant.subscription, plan)
    for field, at in (("from", deal.effective_from), ("until", deal.effective_until)):
        if at is None or at <= started_at:
            continue
        period = period_containing(anchor, plan.cadence, at)
        if period.start != at:
            yield Problem(
                path=(*path, field),
                message=f"lies inside a billing period, and the deal is in another currency than "
                f"the plan: use {day(period.start)} or {day(period.end)}, where periods begin",
            )


def _own_amounts(path: Path, plan: Plan, deal: Deal) -> Iterator[Problem]:
    """What a deal in another currency does not say would be taken from the plan's."""
    inherited = [
        name
        for name, is_said, is_in_plan in (
            ("committed_fee", deal.committed_fee_nanos is not None, plan.committed_fee_nanos > 0),
            ("rate_card", deal.rate_cards is not None, bool(plan.rate_cards)),
            ("prepaid", deal.prepaid_nanos is not None, plan.prepaid_nanos > 0),
        )
        if is_in_plan and not is_said
    ]
    if inherited:
        yield Problem(
            path=(*path, "currency"),
            message=f"the plan's {', '.join(inherited)} would be in {deal.currency} too: say what "
            "the deal's are",
        )


def _has_rates(catalog: Catalog, currency: str) -> bool:
    return currency == catalog.currency or any(
        rate.currency == currency for rate in catalog.exchange_rates
    )


def _has_rate_at(catalog: Catalog, currency: str, at: datetime) -> bool:
    return currency == catalog.currency or any(
        rate.currency == currency and rate.effective_from_micros <= micros_of(at)
        for rate in catalog.exchange_rates
    )


def _no_rate(path: Path, currency: str, catalog: Catalog) -> Problem:
    return Problem(
        path=path,
        message=f"no exchange rate from {currency} to {catalog.currency}: add "
        f"{{currency: {currency}, rate: …, from: …}} to exchange_rates",
    )


def _late_rate(path: Path, currency: str, at: datetime) -> Problem:
    return Problem(
        path=path,
        message=f"a period begins on {day(at)} in {currency}, and exchange_rates has no rate of "
        f"{currency} yet then: add one from {day(at)} or before",
    )
