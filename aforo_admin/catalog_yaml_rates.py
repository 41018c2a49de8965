"""Rate cards and exchange rates as written → the domain's. docs/catalog.md describes them."""

from collections.abc import Callable
from typing import Final

from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_scalars import amount_nanos, factor_micros, instant, percent_bp, text, units
from aforo_meter.domain.outcomes import ExecutionStatus
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.rate_card import (
    Component,
    Dimension,
    Discount,
    Graduated,
    Multiplier,
    Package,
    Percent,
    PerUnit,
    Pricing,
    RateCard,
    Selection,
    Tier,
    Volume,
)
from aforo_meter.domain.terms import ExchangeRate
from aforo_meter.domain.usage import MICROS_PER_UNIT

PRICINGS: Final = ("price", "package", "graduated", "volume", "percent")
NO_PRICE: Final = PerUnit(price_nanos=0)


def instant_micros(given: str) -> int:
    return micros_of(instant(given))


def read_exchange_rates(fields: Fields, *, to_currency: str) -> tuple[ExchangeRate, ...]:
    return tuple(_exchange_rate(each, to_currency) for each in fields.each("exchange_rates"))


def _exchange_rate(fields: Fields, to_currency: str) -> ExchangeRate:
    rate = ExchangeRate(
        currency=fields.need("currency", text, ""),
        to_currency=to_currency,
        rate_nanos=fields.need("rate", amount_nanos(to_currency), 1),
        effective_from_micros=fields.need("from", instant_micros, 0),
    )
    fields.close()
    return rate


def read_rate_cards(fields: Fields, *, currency: str) -> tuple[RateCard, ...]:
    """Read the field `rate_card`: a list of dated cards."""
    return tuple(_card(each, currency) for each in fields.each("rate_card"))


def _card(fields: Fields, currency: str) -> RateCard:
    card = RateCard(
        effective_from_micros=fields.need("from", instant_micros, 0),
        components=tuple(_component(each, currency) for each in fields.each("components")),
        discounts=_discounts(fields, currency),
        minimum_nanos=fields.may("minimum", amount_nanos(currency), 0),
    )
    fields.close()
    return card


def _component(fields: Fields, currency: str) -> Component:
    amount = amount_nanos(currency)
    component = Component(
        component_id=fields.need("id", text, ""),
        meter=fields.may("meter", text, ""),
        selection=Selection(
            features=fields.texts("features") or (),
            providers=fields.texts("providers") or (),
            models=fields.texts("models") or (),
            tools=fields.texts("tools") or (),
        ),
        pricing=_pricing(fields, amount),
        flat_nanos=fields.may("flat", amount, 0),
        included_units=fields.may("included", units, 0),
        minimum_nanos=fields.may("minimum", amount, 0),
        discounts=_discounts(fields, currency),
        multipliers=tuple(_multiplier(each) for each in fields.each("multipliers")),
        outcome_weights=_weights(fields.section("weights")),
    )
    fields.close()
    return component


def _pricing(fields: Fields, amount: Callable[[str], int]) -> Pricing | None:
    """Read the one kind of price that a component has; a flat fee needs none."""
    given = [key for key in PRICINGS if key in fields]
    for key in given[1:]:
        fields.note((key,), f"stands beside {given[0]}; a component has one of {_listed(PRICINGS)}")
    if given and "meter" not in fields:
        fields.note(("meter",), "is missing: say what the price is for")
    if not given and "meter" in fields:
        fields.note((), f"has a meter and no price: give one of {_listed(PRICINGS)}")
    elif not given and "flat" not in fields:
        fields.note((), "charges nothing: give a flat fee, or a meter and its price")
    found: dict[str, Pricing] = {
        "price": _per_unit(fields, amount),
        "package": _package(fields.section("package"), amount),
        "graduated": Graduated(tiers=_tiers(fields, "graduated", amount)),
        "volume": Volume(tiers=_tiers(fields, "volume", amount)),
        "percent": Percent(rate_bp=fields.may("percent", percent_bp, 0)),
    }
    return found[given[0]] if given else None


def _per_unit(fields: Fields, amount: Callable[[str], int]) -> PerUnit:
    if "per" in fields and "price" not in fields:
        fields.note(("per",), "stands without price")
    return PerUnit(
        price_nanos=fields.may("price", amount, 0), per_units=fields.may("per", units, 1)
    )


def _package(fields: Fields, amount: Callable[[str], int]) -> Package:
    package = Package(
        price_nanos=fields.need("price", amount, 0), package_units=fields.need("units", units, 1)
    )
    fields.close()
    return package


def _tiers(fields: Fields, key: str, amount: Callable[[str], int]) -> tuple[Tier, ...]:
    return tuple(_tier(each, amount) for each in fields.each(key))


def _tier(fields: Fields, amount: Callable[[str], int]) -> Tier:
    tier = Tier(
        up_to_units=fields.may("up_to", units, None),
        price=PerUnit(
            price_nanos=fields.need("price", amount, 0), per_units=fields.may("per", units, 1)
        ),
    )
    fields.close()
    return tier


def _discounts(fields: Fields, currency: str) -> tuple[Discount, ...]:
    return tuple(_discount(each, currency) for each in fields.each("discounts"))


def _discount(fields: Fields, currency: str) -> Discount:
    if ("percent" in fields) == ("amount" in fields):
        fields.note((), "must have one of percent and amount")
    discount = Discount(
        percent_bp=fields.may("percent", percent_bp, 0),
        amount_nanos=fields.may("amount", amount_nanos(currency), 0),
        effective_from_micros=fields.may("from", instant_micros, 0),
        effective_until_micros=fields.may("until", instant_micros, None),
    )
    fields.close()
    return discount


def _multiplier(fields: Fields) -> Multiplier:
    given = [dimension for dimension in Dimension if dimension.value in fields]
    values = {dimension: fields.may(dimension.value, text, "") for dimension in Dimension}
    if len(given) != 1:
        fields.note((), f"must name one of {_listed([each.value for each in Dimension])}")
    dimension = given[0] if given else Dimension.MODEL
    multiplier = Multiplier(
        dimension=dimension,
        value=values[dimension],
        factor_micros=fields.need("factor", factor_micros, MICROS_PER_UNIT),
    )
    fields.close()
    return multiplier


def _weights(fields: Fields) -> tuple[tuple[str, int], ...]:
    found = {
        status.value: fields.may(status.value, factor_micros, None) for status in ExecutionStatus
    }
    fields.close()
    return tuple((status, weight) for status, weight in found.items() if weight is not None)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names)
