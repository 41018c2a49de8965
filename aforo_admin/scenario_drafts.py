"""Scenarios and the database: the versions that one names, and drafts made of what one changes.

Django must be set up before this is loaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from aforo_admin import store
from aforo_admin.control import models as tables
from aforo_admin.domain.catalog import Catalog, CostPrice, Plan
from aforo_admin.domain.price_changes import Books, EntryKey, begun_by, entries
from aforo_admin.domain.problems import Problem
from aforo_admin.domain.scenario import CostChange, DraftChoice, Scenario, factor_of, times
from aforo_admin.domain.scenario_catalog import Drafts, changed_catalog, find_scenario_problems
from aforo_admin.domain.scenario_usage import concerns
from aforo_admin.rows import rows_of
from aforo_admin.scenario_yaml import refuse
from aforo_admin.simulating import Ground, book_of
from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.prices import Precedence
from aforo_meter.domain.rate_card import PerUnit, RateCard, card_at

ENTRIES_MAX: Final = 500  # That one scenario adds to the price book.


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
    prices: int  # Coming entries of the price book.
    left: tuple[str, ...]  # What it says that no draft can say.


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
        refuse([Problem(path=("begins",), message="is past: prices can only be for what comes")])
    versions = drafts_of(scenario)
    refuse(find_scenario_problems(ground.catalog, scenario, versions))
    prices = list(coming_prices(scenario, ground, begins_at))
    plans = dict.fromkeys(
        [
            *(each.plan_id for each in scenario.prices),
            *(each.plan_id for each in scenario.fees),
            *(each.plan_id for each in scenario.floors if each.plan_id),
        ]
    )
    if not prices and not plans:
        message = (
            "nothing here becomes a draft: change prices, fees or thresholds of a plan, or costs"
        )
        refuse([Problem(path=(), message=message)])
    changed = changed_catalog(ground.catalog, scenario, versions)
    drafts = tuple(_draft(ground.catalog, changed.plans[plan_id], begins_at) for plan_id in plans)
    _add_prices(ground.catalog, prices)
    return Turned(drafts=drafts, prices=len(prices), left=tuple(_left(scenario)))


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


def coming_prices(scenario: Scenario, ground: Ground, begins_at: datetime) -> Iterator[CostPrice]:
    """Yield the entries of the price book that say what a scenario's costs do.

    A percentage is told for each price that it is about, at most `ENTRIES_MAX`.

    Raises:
        CatalogError: There is no such price, or there are too many.
    """
    book = book_of(ground) if scenario.costs else None
    for index, change in enumerate(scenario.costs):
        if change.price is not None:
            yield _entry(change, change.price, begins_at)
            continue
        assert book is not None, "there are costs"
        held = [
            (key, entry)
            for key, entry in begun_by(entries(Books(book=book)), micros_of(begins_at))
            if key.precedence is not Precedence.NEGOTIATED and _is_about(change, key)
        ]
        path = ("costs", index)
        if not held:
            message = "is about no price that there is: name provider, model or meter otherwise"
            refuse([Problem(path=path, message=message)])
        if len(held) > ENTRIES_MAX:
            message = (
                f"is about {len(held)} prices, at most {ENTRIES_MAX} become entries: name models"
            )
            refuse([Problem(path=path, message=message)])
        own = {key[2:5] for key, _ in held if key.precedence is Precedence.OWN}
        for key, entry in held:
            if key.precedence is Precedence.BUILT_IN and key[2:5] in own:
                continue  # The catalog's own price stands before it.
            held_price = PerUnit(price_nanos=entry.price_nanos, per_units=entry.per_units)
            price = times(held_price, factor_of(change.percent_bp or 0))
            yield CostPrice(
                meter=key.meter,
                price_nanos=price.price_nanos,
                per_units=price.per_units,
                effective_from=begins_at,
                provider=key.provider,
                model=key.model,
                input_tokens_from=key.tier_input_tokens_from,
                day_from_s=key.day_from_s,
                day_to_s=key.day_to_s,
            )


def _entry(change: CostChange, price: PerUnit, begins_at: datetime) -> CostPrice:
    return CostPrice(
        meter=change.meter,
        price_nanos=price.price_nanos,
        per_units=price.per_units,
        effective_from=begins_at,
        provider=change.provider,
        model=change.model,
    )


def _is_about(change: CostChange, key: EntryKey) -> bool:
    usage = UsageKey(key.meter, "", key.provider, key.model, "", "")
    return concerns(change, usage)


def _add_prices(catalog: Catalog, prices: list[CostPrice]) -> None:
    if not prices:
        return
    rows = rows_of(replace(catalog, costs=tuple(prices), plans={}, tenants={}))["CostPrice"]
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
