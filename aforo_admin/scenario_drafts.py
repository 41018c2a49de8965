"""Scenarios and the database: the versions that one names, and drafts made of what one changes.

Django must be set up before this is loaded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from aforo_admin import store
from aforo_admin.coming_prices import Coming, ComingPrices, coming_prices
from aforo_admin.control import models as tables
from aforo_admin.domain.catalog import Catalog, Plan
from aforo_admin.domain.problems import Problem, day
from aforo_admin.domain.scenario import DraftChoice, Scenario
from aforo_admin.domain.scenario_catalog import Drafts, changed_catalog, find_scenario_problems
from aforo_admin.rows import rows_of
from aforo_admin.scenario_yaml import refuse
from aforo_admin.simulating import Ground, book_of
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.rate_card import RateCard, card_at

PRICES: Final = "control.add_costprice"  # Who adds coming prices has this permission.


def drafts_of(scenario: Scenario) -> Drafts:
    """Return the versions of plans that a scenario names; those that there are not are left out."""
    found: dict[DraftChoice, Plan] = {}
    for choice in scenario.drafts:
        version = tables.PlanVersion.objects.filter(
            plan_id=choice.plan_id, number=choice.number
        ).first()
        if version is not None:
            found[choice] = store.load_plans(version).plans[choice.plan_id]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """What was made of a scenario."""

    drafts: tuple[tables.PlanVersion, ...]
    prices: tuple[Coming, ...]  # Entries of the price book.
    remarks: tuple[str, ...]  # What to know of those.
    left: tuple[str, ...]  # What it says that no draft can say.
    currency: str = ""  # Of the prices.


def turn_into_drafts(scenario: Scenario, ground: Ground, *, begins_at: datetime) -> Turned:
    """Make drafts of plans, and coming prices, of a scenario. It stands within `store.change`.

    A draft has a further rate card from `begins_at` on, so that what is billed already stays; fee
    and thresholds have no date, and hold once it is published.

    Args:
        scenario: What changes.
        ground: The catalog that it changes.
        begins_at: From when prices hold; it must be to come.

    Raises:
        CatalogError: It has nothing to make drafts of, or its prices can't be told as entries; or
            it names what the catalog no longer has.
    """
    if begins_at <= ground.now:
        message = f'"{day(begins_at)}" is past: write a date to come'
        refuse([Problem(path=("begins",), message=message)])
    versions = drafts_of(scenario)
    refuse(find_scenario_problems(ground.catalog, scenario, versions))
    coming = ComingPrices()
    if scenario.costs:
        coming = coming_prices(scenario.costs, book_of(ground), begins_at)
    plans = dict.fromkeys(
        [
            *(each.plan_id for each in scenario.prices),
            *(each.plan_id for each in scenario.fees),
            *(each.plan_id for each in scenario.floors if each.plan_id),
        ]
    )
    if not coming.added and not plans:
        message = (
            "nothing here becomes a draft: change prices, fees or thresholds of a plan, or costs"
        )
        refuse([Problem(path=(), message=message)])
    changed = changed_catalog(ground.catalog, scenario, versions)
    drafts = tuple(_draft(ground.catalog, changed.plans[plan_id], begins_at) for plan_id in plans)
    _add_prices(ground.catalog, coming.added)
    return Turned(
        drafts=drafts,
        prices=coming.added,
        remarks=tuple(coming.remarks(ground.now)),
        left=tuple(_left(scenario)),
        currency=coming.currency,
    )


def _draft(catalog: Catalog, plan: Plan, begins_at: datetime) -> tables.PlanVersion:
    """Make a draft of what is in force, and let it say what the plan would."""
    held = catalog.plans[plan.plan_id]
    plan = replace(plan, rate_cards=cards_from(held.rate_cards, plan.rate_cards, begins_at))
    rows = rows_of(replace(catalog, plans={plan.plan_id: plan}, tenants={}))
    draft = store.new_draft(plan.plan_id)
    for name, value in rows["PlanVersion"][(plan.plan_id,)].items():
        if name != "plan_id":
            setattr(draft, name, value)
    draft.save()
    if plan.rate_cards != held.rate_cards:
        draft.rate_cards.all().delete()
        tables.PlanRateCard.objects.bulk_create(
            [
                tables.PlanRateCard(**row, version=draft)
                for key, row in rows["PlanRateCard"].items()
                if key[0] == plan.plan_id
            ]
        )
    store.check_draft(draft)
    return draft


def cards_from(
    held: tuple[RateCard, ...], changed: tuple[RateCard, ...], begins_at: datetime
) -> tuple[RateCard, ...]:
    """Return the cards that there are, and from a date on the changed one that holds then."""
    at_micros = micros_of(begins_at)
    card = card_at(changed, at_micros)
    if card is None or changed == held:
        return held
    others = tuple(each for each in held if each.effective_from_micros != at_micros)
    return (*others, replace(card, effective_from_micros=at_micros))


def _add_prices(catalog: Catalog, added: Sequence[Coming]) -> None:
    if not added:
        return
    costs = tuple(each.price for each in added)
    rows = rows_of(replace(catalog, costs=costs, plans={}, tenants={}))["CostPrice"]
    for row in rows.values():
        row.pop("position")
        tables.CostPrice.objects.create(**row)


def _left(scenario: Scenario) -> Iterator[str]:
    if scenario.swaps:
        yield "models: Envoy's routes, or the upstream, choose the model"
    if scenario.growths:
        yield "growth: usage is not ours to set"
    if scenario.deals:
        yield "deals: make them with the tenant"
    if any(not each.plan_id for each in scenario.floors):
        yield "thresholds of tenants and of the catalog: they have no drafts, and hold at once"
    if any(each.negotiated for each in scenario.costs):
        yield "costs that tenants have negotiated: change them with the tenant"
