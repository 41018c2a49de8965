"""Rate cards, discounts, thresholds and guards → their written form, which leaves out defaults."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from aforo_admin.domain.catalog import Guard, ThresholdChanges, Thresholds
from aforo_admin.domain.problems import percent
from aforo_admin.written_values import Written, amount, factor, instant_of_micros
from aforo_meter.domain.rate_card import (
    Component,
    Discount,
    Graduated,
    Multiplier,
    Package,
    Percent,
    PerUnit,
    Pricing,
    RateCard,
    Tier,
    Volume,
)


def said(**fields: Any) -> dict[str, Written]:  # noqa: ANN401 - whatever a field holds.
    """Return the fields that say something; `from_` stands for `from`, which is a keyword."""
    return {
        name.removesuffix("_"): value
        for name, value in fields.items()
        if value is not None and (value or isinstance(value, (str, int)))
    }


def rate_card(card: RateCard) -> dict[str, Written]:
    return said(
        from_=instant_of_micros(card.effective_from_micros),
        components=components(card.components),
        discounts=discounts(card.discounts),
        minimum=amount(card.minimum_nanos) if card.minimum_nanos else None,
    )


def components(given: Iterable[Component]) -> list[Written]:
    return [_component(each) for each in given]


def discounts(given: Iterable[Discount]) -> list[Written]:
    return [_discount(each) for each in given]


def _component(component: Component) -> dict[str, Written]:
    selection = component.selection
    return {
        **said(
            id=component.component_id,
            meter=component.meter or None,
            features=list(selection.features),
            providers=list(selection.providers),
            models=list(selection.models),
            tools=list(selection.tools),
        ),
        **_pricing(component.pricing),
        **said(
            flat=amount(component.flat_nanos)
            if component.flat_nanos or component.pricing is None
            else None,
            included=component.included_units or None,
            minimum=amount(component.minimum_nanos) if component.minimum_nanos else None,
            discounts=discounts(component.discounts),
            multipliers=[_multiplier(each) for each in component.multipliers],
            weights={status: factor(weight) for status, weight in component.outcome_weights},
        ),
    }


def _pricing(pricing: Pricing | None) -> dict[str, Written]:
    match pricing:
        case PerUnit():
            return _per_unit(pricing)
        case Package():
            price = amount(pricing.price_nanos)
            return {"package": {"price": price, "units": pricing.package_units}}
        case Graduated():
            return {"graduated": [_tier(tier) for tier in pricing.tiers]}
        case Volume():
            return {"volume": [_tier(tier) for tier in pricing.tiers]}
        case Percent():
            return {"percent": percent(pricing.rate_bp)}
        case None:
            return {}


def _per_unit(price: PerUnit) -> dict[str, Written]:
    per_units = price.per_units if price.per_units != 1 else None
    return said(price=amount(price.price_nanos), per=per_units)


def _tier(tier: Tier) -> dict[str, Written]:
    return {**said(up_to=tier.up_to_units), **_per_unit(tier.price)}


def _discount(discount: Discount) -> dict[str, Written]:
    until = discount.effective_until_micros
    start = discount.effective_from_micros
    return said(
        percent=None if discount.amount_nanos else percent(discount.percent_bp),
        amount=amount(discount.amount_nanos) if discount.amount_nanos else None,
        from_=instant_of_micros(start) if start else None,
        until=None if until is None else instant_of_micros(until),
    )


def _multiplier(multiplier: Multiplier) -> dict[str, Written]:
    dimension = multiplier.dimension.value
    return {dimension: multiplier.value, "factor": factor(multiplier.factor_micros)}


def thresholds(floors: ThresholdChanges | Thresholds) -> dict[str, Written]:
    """Return the fields `thresholds` and `allowance_thresholds`, as far as they are said."""
    shares = {
        name: percent(value)
        for name in ("warn_below", "throttle_below", "block_below", "hysteresis")
        if (value := getattr(floors, f"{name}_bp")) is not None
    }
    revenue_nanos = floors.act_from_revenue_nanos
    levels = floors.allowance
    return said(
        thresholds={
            **shares,
            **said(
                act_from_revenue=None if revenue_nanos is None else amount(revenue_nanos),
                act_from_calls=floors.act_from_calls,
            ),
        },
        allowance_thresholds=None
        if levels is None
        else {
            "warn_at": percent(levels.warn_at_bp),
            "throttle_at": percent(levels.throttle_at_bp),
            "block_at": percent(levels.block_at_bp),
        },
    )


def guard(given: Guard) -> dict[str, Written]:
    share_bp = given.revenue_share_bp
    return said(
        id=given.guard_id,
        features=list(given.features),
        meters=list(given.meters),
        revenue=None if given.revenue_nanos is None else amount(given.revenue_nanos),
        revenue_share=None if share_bp is None else percent(share_bp),
        **thresholds(replace(given.thresholds, allowance=None)),  # A guard has a margin alone.
    )
