"""A scenario → the catalog as it would be, and what is wrong with the scenario. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

from aforo_admin.domain.catalog import Catalog, Deal, Plan, Tenant, ThresholdChanges
from aforo_admin.domain.problems import FULL_BP, Path, Problem, check_amount, check_units, unknown
from aforo_admin.domain.scenario import (
    CostChange,
    DraftChoice,
    FeeChange,
    FloorChange,
    Growth,
    ModelSwap,
    PriceChange,
    Scenario,
    factor_of,
    times,
)
from aforo_meter.domain.rate_card import (
    Component,
    Graduated,
    Package,
    Percent,
    PerUnit,
    Pricing,
    Volume,
)

Drafts = Mapping[DraftChoice, Plan]
NO_DRAFTS: Final[Drafts] = {}
PERCENT_BP_MAX: Final = 100 * FULL_BP  # Beyond a hundredfold a sign or a point was forgotten.
PARTS_MAX: Final = 200  # Of one list of a scenario.


def changed_catalog(catalog: Catalog, scenario: Scenario, drafts: Drafts = NO_DRAFTS) -> Catalog:
    """Return the catalog as it would be; what a scenario says of usage and costs is no part of it.

    Drafts come first, so that a price can be changed in one.

    Args:
        catalog: As it is.
        scenario: One without problems.
        drafts: The versions that it names.
    """
    plans = dict(catalog.plans)
    for choice in scenario.drafts:
        plans[choice.plan_id] = drafts[choice]
    for fee in scenario.fees:
        plans[fee.plan_id] = _with_fee(plans[fee.plan_id], fee)
    for price in scenario.prices:
        plans[price.plan_id] = _with_price(plans[price.plan_id], price)
    tenants = dict(catalog.tenants)
    for change in scenario.deals:
        tenants[change.tenant_id] = _with_deal(tenants[change.tenant_id], change.deal)
    changed = replace(catalog, plans=plans, tenants=tenants)
    for floors in scenario.floors:
        changed = _with_floors(changed, floors)
    return changed


def _with_fee(plan: Plan, change: FeeChange) -> Plan:
    if change.fee_nanos is not None:
        return replace(plan, committed_fee_nanos=change.fee_nanos)
    factor = factor_of(change.percent_bp or 0)
    return replace(plan, committed_fee_nanos=round(plan.committed_fee_nanos * factor))


def _with_price(plan: Plan, change: PriceChange) -> Plan:
    cards = tuple(
        replace(
            card,
            components=tuple(
                _component(each, change) if _is_meant(each, change) else each
                for each in card.components
            ),
        )
        for card in plan.rate_cards
    )
    return replace(plan, rate_cards=cards)


def _is_meant(component: Component, change: PriceChange) -> bool:
    return change.component_id in ("", component.component_id)


def _component(component: Component, change: PriceChange) -> Component:
    if change.price is not None:
        return replace(component, pricing=change.price)
    factor = factor_of(change.percent_bp or 0)
    return replace(
        component,
        pricing=None if component.pricing is None else scaled(component.pricing, factor),
        flat_nanos=round(component.flat_nanos * factor),
    )


def scaled(pricing: Pricing, factor: Fraction) -> Pricing:
    """Return a pricing times a factor: unit prices exactly, the others rounded half to even."""
    match pricing:
        case PerUnit():
            return times(pricing, factor)
        case Package():
            return replace(pricing, price_nanos=round(pricing.price_nanos * factor))
        case Percent():
            return replace(pricing, rate_bp=round(pricing.rate_bp * factor))
        case Graduated() | Volume():
            tiers = tuple(replace(tier, price=times(tier.price, factor)) for tier in pricing.tiers)
            return replace(pricing, tiers=tiers)


def _with_deal(tenant: Tenant, deal: Deal) -> Tenant:
    others = [each for each in tenant.deals if each.deal_id != deal.deal_id]
    return replace(tenant, deals=(*others, deal))


def _with_floors(catalog: Catalog, change: FloorChange) -> Catalog:
    if change.tenant_id:
        tenant = catalog.tenants[change.tenant_id]
        tenant = replace(tenant, thresholds=_merged(tenant.thresholds, change.thresholds))
        return replace(catalog, tenants={**catalog.tenants, tenant.tenant_id: tenant})
    if change.plan_id:
        plan = catalog.plans[change.plan_id]
        plan = replace(plan, thresholds=_merged(plan.thresholds, change.thresholds))
        return replace(catalog, plans={**catalog.plans, plan.plan_id: plan})
    return replace(catalog, thresholds=catalog.thresholds.changed_by(change.thresholds))


def _merged(held: ThresholdChanges, more: ThresholdChanges) -> ThresholdChanges:
    said = {name: value for name, value in more.as_dict().items() if value is not None}
    return replace(held, **said)


def find_scenario_problems(
    catalog: Catalog, scenario: Scenario, drafts: Drafts = NO_DRAFTS
) -> list[Problem]:
    """Return what is wrong with a scenario by itself; what it makes of the catalog is not asked."""
    return list(_problems(catalog, scenario, drafts))


def month_to_come(scenario: Scenario, now: datetime) -> Iterator[Problem]:
    """Find a month that has not begun: nothing is recorded of it."""
    if scenario.month > f"{now:%Y-%m}":
        message = (
            f'"{scenario.month}" is to come, and no usage of it is recorded: name a month up to'
            f" {now:%Y-%m}, or none for the period in force"
        )
        yield Problem(path=("month",), message=message)


def _problems(catalog: Catalog, scenario: Scenario, drafts: Drafts) -> Iterator[Problem]:
    parts: tuple[tuple[str, Any, Callable[[Path, Any], Iterator[Problem]]], ...] = (
        ("costs", scenario.costs, lambda path, one: _cost(path, one, catalog)),
        ("prices", scenario.prices, lambda path, one: _price(path, one, catalog, drafts)),
        ("fees", scenario.fees, lambda path, one: _fee(path, one, catalog)),
        ("floors", scenario.floors, lambda path, one: _floors(path, one, catalog)),
        ("models", scenario.swaps, _swap),
        ("growth", scenario.growths, lambda path, one: _growth(path, one, catalog)),
        ("drafts", scenario.drafts, lambda path, one: _draft(path, one, drafts)),
        ("deals", scenario.deals, lambda path, one: _tenant(path, one.tenant_id, catalog)),
        ("tenants", scenario.tenants, lambda path, one: _tenant_named(path, one, catalog)),
    )
    for name, given, check in parts:
        if len(given) > PARTS_MAX:
            message = f"has {len(given)} entries, at most {PARTS_MAX} are taken: split it up"
            yield Problem(path=(name,), message=message)
            continue
        for index, one in enumerate(given):
            yield from check((name, index), one)


def _cost(path: Path, change: CostChange, catalog: Catalog) -> Iterator[Problem]:
    yield from _either(path, change.percent_bp, "price", change.price)
    yield from _unit_price(path, change.price)
    if change.meter and change.meter not in catalog.known_meters:
        yield unknown((*path, "meter"), change.meter, kind="meter", known=catalog.known_meters)
    if change.price is not None and not change.meter:
        message = "is missing: say which meter has the new price; a percentage may be of all"
        yield Problem(path=(*path, "meter"), message=message)


def _price(path: Path, change: PriceChange, catalog: Catalog, drafts: Drafts) -> Iterator[Problem]:
    yield from _either(path, change.percent_bp, "price", change.price)
    yield from _unit_price(path, change.price)
    yield from _plan(path, change.plan_id, catalog)
    draft = next((plan for one, plan in drafts.items() if one.plan_id == change.plan_id), None)
    plan = draft or catalog.plans.get(change.plan_id)
    if plan is None:
        return
    names = {each.component_id for card in plan.rate_cards for each in card.components}
    if change.component_id and change.component_id not in names:
        place = (*path, "component")
        yield unknown(place, change.component_id, kind="component", known=names)
    if not change.component_id and not names:
        message = f'"{change.plan_id}" charges for no usage: it has no rate card; change its fee'
        yield Problem(path=(*path, "plan"), message=message)
    if not change.component_id and change.price is not None:
        message = "is missing: say which component has the new price; a percentage may be of all"
        yield Problem(path=(*path, "component"), message=message)


def _fee(path: Path, change: FeeChange, catalog: Catalog) -> Iterator[Problem]:
    yield from _either(path, change.percent_bp, "fee", change.fee_nanos)
    yield from check_amount((*path, "fee"), change.fee_nanos)
    yield from _plan(path, change.plan_id, catalog)


def _floors(path: Path, change: FloorChange, catalog: Catalog) -> Iterator[Problem]:
    if change.plan_id and change.tenant_id:
        message = "stands beside plan: thresholds are a tenant's, or a plan's, or the catalog's"
        yield Problem(path=(*path, "tenant"), message=message)
    if change.plan_id:
        yield from _plan(path, change.plan_id, catalog)
    if change.tenant_id:
        yield from _tenant(path, change.tenant_id, catalog)
    if change.thresholds.empty:
        message = "says nothing: write one of them, like thresholds: {block_below: 5%}"
        yield Problem(path=(*path, "thresholds"), message=message)


def _swap(path: Path, swap: ModelSwap) -> Iterator[Problem]:
    for name, given in (("from", swap.model), ("to", swap.to_model)):
        if not given:
            yield Problem(path=(*path, name), message="is missing: name a model, like gpt-4o")
    if "*" in swap.to_model:
        message = f'"{swap.to_model}" is no single model: name the one whose prices are meant'
        yield Problem(path=(*path, "to"), message=message)


def _growth(path: Path, growth: Growth, catalog: Catalog) -> Iterator[Problem]:
    yield from _percent(path, growth.percent_bp)
    if growth.tenant_id:
        yield from _tenant(path, growth.tenant_id, catalog)
    names = {each.feature_id for each in catalog.features}
    if growth.feature and growth.feature not in names:
        yield unknown((*path, "feature"), growth.feature, kind="feature", known=names)


def _draft(path: Path, choice: DraftChoice, drafts: Drafts) -> Iterator[Problem]:
    if choice not in drafts:
        message = (
            f'plan "{choice.plan_id}" has no version {choice.number}; see its list of versions'
        )
        yield Problem(path=(*path, "version"), message=message)


def _tenant(path: Path, tenant_id: str, catalog: Catalog) -> Iterator[Problem]:
    yield from _tenant_named((*path, "tenant"), tenant_id, catalog)


def _tenant_named(path: Path, tenant_id: str, catalog: Catalog) -> Iterator[Problem]:
    if tenant_id not in catalog.tenants:
        yield unknown(path, tenant_id, kind="tenant", known=catalog.tenants)


def _plan(path: Path, plan_id: str, catalog: Catalog) -> Iterator[Problem]:
    if plan_id not in catalog.plans:
        yield unknown((*path, "plan"), plan_id, kind="plan", known=catalog.plans)


def _either(path: Path, percent_bp: int | None, name: str, given: object) -> Iterator[Problem]:
    if (percent_bp is None) == (given is None):
        message = f"say what changes: percent, like +20%, or {name}; one of the two"
        yield Problem(path=(*path, "percent"), message=message)
    if percent_bp is not None:
        yield from _percent(path, percent_bp)


def _percent(path: Path, percent_bp: int) -> Iterator[Problem]:
    if not -FULL_BP <= percent_bp <= PERCENT_BP_MAX:
        message = "is out of range: write -100% to +10000%; -100% leaves nothing"
        yield Problem(path=(*path, "percent"), message=message)


def _unit_price(path: Path, price: PerUnit | None) -> Iterator[Problem]:
    if price is not None:
        yield from check_amount((*path, "price"), price.price_nanos)
        yield from check_units((*path, "per"), price.per_units, least=1)
