"""Phases, rate cards and exchange rates, in the domain's words → the messages of aforo_proto."""

import functools
from typing import Any

from aforo_meter.domain import rate_card as said
from aforo_meter.domain import terms
from aforo_proto.contract_pb2 import (
    Dimension,
    Discount,
    ExchangeRate,
    Multiplier,
    OutcomeWeight,
    PackagePrice,
    Phase,
    PriceTiers,
    RateCard,
    RateComponent,
    UnitPrice,
)


def phase(given: terms.Phase) -> Phase:
    return Phase(
        effective_from_micros=given.effective_from_micros,
        source=given.source,
        currency=given.currency,
        committed_fee_nanos=given.committed_fee_nanos,
        rate_cards=[_rate_card(each) for each in given.rate_cards],
        prepaid_nanos=given.prepaid_nanos,
        prepaid_from_micros=given.prepaid_from_micros if given.prepaid_nanos else 0,
    )


def exchange_rate(given: terms.ExchangeRate) -> ExchangeRate:
    return ExchangeRate(
        currency=given.currency,
        to_currency=given.to_currency,
        rate_nanos=given.rate_nanos,
        effective_from_micros=given.effective_from_micros,
    )


@functools.lru_cache(maxsize=1024)  # The tenants of a plan share its cards.
def _rate_card(given: said.RateCard) -> RateCard:
    return RateCard(
        effective_from_micros=given.effective_from_micros,
        components=[_component(each) for each in given.components],
        discounts=[_discount(each) for each in given.discounts],
        minimum_nanos=given.minimum_nanos,
    )


def _component(given: said.Component) -> RateComponent:
    return RateComponent(
        component_id=given.component_id,
        meter=given.meter,
        features=given.selection.features,
        providers=given.selection.providers,
        models=given.selection.models,
        tools=given.selection.tools,
        flat_nanos=given.flat_nanos,
        included_units=given.included_units,
        minimum_nanos=given.minimum_nanos,
        discounts=[_discount(each) for each in given.discounts],
        multipliers=[
            Multiplier(
                dimension=Dimension.Value(f"DIMENSION_{each.dimension.name}"),
                value=each.value,
                factor_micros=each.factor_micros,
            )
            for each in given.multipliers
        ],
        outcome_weights=[
            OutcomeWeight(execution_status=status, weight_micros=weight_micros)
            for status, weight_micros in given.outcome_weights
        ],
        **_pricing(given.pricing),
    )


def _pricing(given: said.Pricing | None) -> dict[str, Any]:
    """Return the one field of RateComponent that says it."""
    match given:
        case said.PerUnit():
            return {"per_unit": _unit_price(given)}
        case said.Package():
            package = PackagePrice(price_nanos=given.price_nanos, package_units=given.package_units)
            return {"package": package}
        case said.Graduated():
            return {"graduated": _tiers(given.tiers)}
        case said.Volume():
            return {"volume": _tiers(given.tiers)}
        case said.Percent():
            return {"percent_bp": given.rate_bp}
        case None:
            return {}


def _unit_price(given: said.PerUnit) -> UnitPrice:
    return UnitPrice(price_nanos=given.price_nanos, per_units=given.per_units)


def _tiers(given: tuple[said.Tier, ...]) -> PriceTiers:
    return PriceTiers(
        tiers=[
            PriceTiers.Tier(up_to_units=each.up_to_units or 0, price=_unit_price(each.price))
            for each in given
        ]
    )


def _discount(given: said.Discount) -> Discount:
    return Discount(
        percent_bp=given.percent_bp,
        amount_nanos=given.amount_nanos,
        effective_from_micros=given.effective_from_micros,
        effective_until_micros=given.effective_until_micros or 0,
    )
