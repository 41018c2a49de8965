"""Phases of a contract and their rate cards → lines for people, one a component."""

from collections.abc import Iterable, Iterator
from decimal import Decimal

from aforo_admin.domain.problems import percent
from aforo_admin.readable_values import instant_text, money
from aforo_meter.domain.usage import MICROS_PER_UNIT
from aforo_proto.contract_pb2 import (
    Dimension,
    Discount,
    Multiplier,
    Phase,
    PriceTiers,
    RateCard,
    RateComponent,
    UnitPrice,
)


def phase_lines(phase: Phase, name: str) -> Iterator[tuple[str, str]]:
    """Yield a phase's fee and balance, then each component of its cards by its id."""
    here = f"{name}[{instant_text(phase.effective_from_micros)}]"
    told = f"{money(phase.committed_fee_nanos, phase.currency)} a period ({phase.source})"
    if phase.prepaid_nanos:
        told += f", {money(phase.prepaid_nanos, phase.currency)} prepaid"
        if phase.prepaid_from_micros:
            told += f" from {instant_text(phase.prepaid_from_micros)}"
    yield here, told
    for card in phase.rate_cards:
        yield from _card_lines(card, here, phase.currency)


def _card_lines(card: RateCard, name: str, currency: str) -> Iterator[tuple[str, str]]:
    here = f"{name}.rate_card[{instant_text(card.effective_from_micros)}]"
    for component in card.components:
        yield f"{here}.{component.component_id}", _component_text(component, currency)
    total = [
        *_discount_texts(card.discounts, currency),
        *([f"at least {money(card.minimum_nanos, currency)}"] if card.minimum_nanos else []),
    ]
    if total:
        yield f"{here}.total", ", ".join(total)


def _component_text(component: RateComponent, currency: str) -> str:
    parts = []
    if component.WhichOneof("pricing"):
        parts.append(_pricing_text(component, currency))
    if component.flat_nanos:
        parts.append(f"{money(component.flat_nanos, currency)} flat")
    if component.included_units:
        parts.append(f"{component.included_units:,} included")
    parts += [_multiplier_text(each) for each in component.multipliers]
    parts += [
        f"{each.execution_status} counts {_factor(each.weight_micros)}"
        for each in component.outcome_weights
    ]
    parts += _discount_texts(component.discounts, currency)
    if component.minimum_nanos:
        parts.append(f"at least {money(component.minimum_nanos, currency)}")
    return ", ".join(parts)


def _pricing_text(component: RateComponent, currency: str) -> str:
    wanted = [
        *component.features,
        *component.providers,
        *component.models,
        *(f"tool {tool}" for tool in component.tools),
    ]
    what = component.meter + (f" of {' | '.join(wanted)}" if wanted else "")
    match component.WhichOneof("pricing"):
        case "per_unit":
            return f"{_price_text(component.per_unit, currency)} {what}"
        case "package":
            package = component.package
            price = money(package.price_nanos, currency)
            return f"{price} per begun {package.package_units:,} {what}"
        case "graduated":
            return f"{what} graduated: {_tiers_text(component.graduated, currency)}"
        case "volume":
            return f"{what} by volume: {_tiers_text(component.volume, currency)}"
        case _:
            return f"{percent(component.percent_bp)} of {what}"


def _price_text(price: UnitPrice, currency: str) -> str:
    units = f"{price.per_units:,}" if price.per_units > 1 else "unit of"
    return f"{money(price.price_nanos, currency)} per {units}"


def _tiers_text(given: PriceTiers, currency: str) -> str:
    told = []
    for tier in given.tiers:
        end = f"to {tier.up_to_units:,}" if tier.up_to_units else "beyond"
        per = f" per {tier.price.per_units:,}" if tier.price.per_units > 1 else ""
        told.append(f"{end} {money(tier.price.price_nanos, currency)}{per}")
    return "; ".join(told)


def _discount_texts(discounts: Iterable[Discount], currency: str) -> list[str]:
    return [_discount_text(each, currency) for each in discounts]


def _discount_text(discount: Discount, currency: str) -> str:
    told = money(discount.amount_nanos, currency)
    if discount.percent_bp:
        told = percent(discount.percent_bp)
    told = f"less {told}"
    if discount.effective_from_micros:
        told += f" from {instant_text(discount.effective_from_micros)}"
    if discount.effective_until_micros:
        told += f" until {instant_text(discount.effective_until_micros)}"
    return told


def _multiplier_text(multiplier: Multiplier) -> str:
    dimension = Dimension.Name(multiplier.dimension).removeprefix("DIMENSION_").lower()
    return f"{dimension} {multiplier.value} counts {_factor(multiplier.factor_micros)}"


def _factor(micros: int) -> str:
    return f"{(Decimal(micros) / MICROS_PER_UNIT).normalize():f}"
