"""What a contract brings and when: phases, rate cards and exchange rates from their messages.

Each function raises ValueError with what makes no sense: usage is not free because its price can't
be read, so the contract as a whole is refused.
"""

import functools
from collections.abc import Iterable
from typing import Final

from aforo_meter.domain.rate_card import (
    FULL_BP,
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
from aforo_meter.domain.terms import ExchangeRate, Phase, RevenueBasis
from aforo_proto import contract_pb2

CARDS_REMEMBERED: Final = 1024
BASES: Final = {
    contract_pb2.REVENUE_BASIS_UNSPECIFIED: RevenueBasis.PERIOD,
    contract_pb2.REVENUE_BASIS_PERIOD: RevenueBasis.PERIOD,
    contract_pb2.REVENUE_BASIS_ACCRUED: RevenueBasis.ACCRUED,
}
DIMENSIONS: Final = {getattr(contract_pb2, f"DIMENSION_{each.name}"): each for each in Dimension}


def phases_of(messages: Iterable[contract_pb2.Phase]) -> tuple[Phase, ...]:
    return tuple(
        sorted((_phase(each) for each in messages), key=lambda phase: phase.effective_from_micros)
    )


def basis_of(value: int) -> RevenueBasis:
    if value not in BASES:
        raise ValueError(f"unknown revenue basis {value}")
    return BASES[contract_pb2.RevenueBasis.ValueType(value)]


def rates_of(messages: Iterable[contract_pb2.ExchangeRate]) -> tuple[ExchangeRate, ...]:
    rates = tuple(
        ExchangeRate(
            currency=each.currency,
            to_currency=each.to_currency,
            rate_nanos=each.rate_nanos,
            effective_from_micros=each.effective_from_micros,
        )
        for each in messages
    )
    if any(rate.rate_nanos <= 0 for rate in rates):
        raise ValueError("an exchange rate is not above zero")
    return rates


def _phase(message: contract_pb2.Phase) -> Phase:
    _check_signs(message.committed_fee_nanos, message.prepaid_nanos)
    return Phase(
        effective_from_micros=message.effective_from_micros,
        source=message.source,
        currency=message.currency,
        committed_fee_nanos=message.committed_fee_nanos,
        rate_cards=tuple(_card(each.SerializeToString()) for each in message.rate_cards),
        prepaid_nanos=message.prepaid_nanos,
        prepaid_from_micros=message.prepaid_from_micros,
    )


@functools.lru_cache(maxsize=CARDS_REMEMBERED)
def _card(encoded: bytes) -> RateCard:
    """Read a card; the tenants of a plan share it."""
    message = contract_pb2.RateCard.FromString(encoded)
    _check_signs(message.minimum_nanos)
    names = [each.component_id for each in message.components]
    if len(set(names)) < len(names):
        raise ValueError("two components of a rate card have one id")
    return RateCard(
        effective_from_micros=message.effective_from_micros,
        components=tuple(_component(each) for each in message.components),
        discounts=tuple(_discount(each) for each in message.discounts),
        minimum_nanos=message.minimum_nanos,
    )


def _component(message: contract_pb2.RateComponent) -> Component:
    _check_signs(message.flat_nanos, message.included_units, message.minimum_nanos)
    return Component(
        component_id=message.component_id,
        meter=message.meter,
        selection=Selection(
            features=tuple(message.features),
            providers=tuple(message.providers),
            models=tuple(message.models),
            tools=tuple(message.tools),
        ),
        pricing=_pricing(message),
        flat_nanos=message.flat_nanos,
        included_units=message.included_units,
        minimum_nanos=message.minimum_nanos,
        discounts=tuple(_discount(each) for each in message.discounts),
        multipliers=tuple(_multiplier(each) for each in message.multipliers),
        outcome_weights=tuple(_weight(each) for each in message.outcome_weights),
    )


def _pricing(message: contract_pb2.RateComponent) -> Pricing | None:
    match message.WhichOneof("pricing"):
        case "per_unit":
            return _per_unit(message.per_unit)
        case "package":
            _check_signs(message.package.price_nanos, message.package.package_units - 1)
            return Package(
                price_nanos=message.package.price_nanos,
                package_units=message.package.package_units,
            )
        case "graduated":
            return Graduated(tiers=_tiers(message.graduated))
        case "volume":
            return Volume(tiers=_tiers(message.volume))
        case "percent_bp":
            return Percent(rate_bp=message.percent_bp)
        case _:
            if message.meter:
                raise ValueError(f"component {message.component_id} has no known kind of price")
            return None


def _per_unit(message: contract_pb2.UnitPrice) -> PerUnit:
    _check_signs(message.price_nanos, message.per_units - 1)
    return PerUnit(price_nanos=message.price_nanos, per_units=message.per_units)


def _tiers(message: contract_pb2.PriceTiers) -> tuple[Tier, ...]:
    tiers = tuple(
        Tier(up_to_units=each.up_to_units or None, price=_per_unit(each.price))
        for each in message.tiers
    )
    ends = [tier.up_to_units for tier in tiers]
    bounded = [end for end in ends[:-1] if end is not None]
    if not ends or ends[-1] is not None or len(bounded) != len(ends) - 1:
        raise ValueError("the last tier of a price, and no other, must be without end")
    if bounded != sorted(set(bounded)):
        raise ValueError("the tiers of a price do not ascend")
    return tiers


def _discount(message: contract_pb2.Discount) -> Discount:
    _check_signs(message.amount_nanos, FULL_BP - message.percent_bp)
    return Discount(
        percent_bp=message.percent_bp,
        amount_nanos=message.amount_nanos,
        effective_from_micros=message.effective_from_micros,
        effective_until_micros=message.effective_until_micros or None,
    )


def _multiplier(message: contract_pb2.Multiplier) -> Multiplier:
    _check_signs(message.factor_micros)
    if message.dimension not in DIMENSIONS:
        raise ValueError(f"unknown dimension {message.dimension} of a multiplier")
    return Multiplier(
        dimension=DIMENSIONS[message.dimension],
        value=message.value,
        factor_micros=message.factor_micros,
    )


def _weight(message: contract_pb2.OutcomeWeight) -> tuple[str, int]:
    _check_signs(message.weight_micros)
    return message.execution_status, message.weight_micros


def _check_signs(*figures: int) -> None:
    if min(figures) < 0:
        raise ValueError("an amount or quantity of a price is out of its range")
