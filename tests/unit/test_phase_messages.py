"""Rate cards, fees and exchange rates from their messages: what can't be read is not free."""

import pytest

from aforo_meter.contract_messages import UnreadableError, terms_of
from aforo_meter.domain.rate_card import (
    Component,
    Dimension,
    Discount,
    Graduated,
    Multiplier,
    Package,
    Percent,
    PerUnit,
    RateCard,
    Selection,
    Tier,
)
from aforo_meter.domain.terms import ExchangeRate, Phase, RevenueBasis, Terms
from aforo_proto import contract_pb2
from aforo_proto.contract_pb2 import (
    Contract,
    OutcomeWeight,
    PackagePrice,
    PriceTiers,
    RateComponent,
    UnitPrice,
)


def terms(*phases: contract_pb2.Phase, **fields: object) -> Terms:
    message = Contract(
        currency="EUR",
        cadence=contract_pb2.CADENCE_MONTH,
        phases=phases,
        **fields,  # type: ignore[arg-type]
    )
    return terms_of("acme", message.SerializeToString(), None)


def phase(*components: RateComponent, **card: object) -> contract_pb2.Phase:
    message = contract_pb2.RateCard(components=components, **card)  # type: ignore[arg-type]
    return contract_pb2.Phase(rate_cards=[message])


def tiers(*ends: int) -> RateComponent:
    listed = [
        PriceTiers.Tier(up_to_units=end, price=UnitPrice(price_nanos=end, per_units=1))
        for end in ends
    ]
    return RateComponent(component_id="t", meter="m", graduated=PriceTiers(tiers=listed))


def test_phases_are_told_by_date() -> None:
    later = contract_pb2.Phase(
        effective_from_micros=9,
        source="deal:x",
        currency="EUR",
        committed_fee_nanos=2,
        prepaid_nanos=3,
        prepaid_from_micros=4,
    )
    earlier = contract_pb2.Phase(effective_from_micros=1, currency="EUR")

    assert terms(later, earlier).phases == (
        Phase(effective_from_micros=1, currency="EUR", prepaid_from_micros=0),
        Phase(
            effective_from_micros=9,
            source="deal:x",
            currency="EUR",
            committed_fee_nanos=2,
            prepaid_nanos=3,
            prepaid_from_micros=4,
        ),
    )


def test_basis_and_rates_are_told() -> None:
    rate = contract_pb2.ExchangeRate(
        currency="EUR", to_currency="USD", rate_nanos=7, effective_from_micros=8
    )
    told = terms(exchange_rates=[rate], basis=contract_pb2.REVENUE_BASIS_ACCRUED)

    assert told.basis is RevenueBasis.ACCRUED
    assert told.exchange_rates == (
        ExchangeRate(currency="EUR", to_currency="USD", rate_nanos=7, effective_from_micros=8),
    )
    assert terms().basis is RevenueBasis.PERIOD


def test_a_component_is_read_whole() -> None:
    message = RateComponent(
        component_id="calls",
        meter="api.calls",
        features=["chat"],
        providers=["openai"],
        models=["gpt-*"],
        tools=["search"],
        per_unit=UnitPrice(price_nanos=5, per_units=6),
        flat_nanos=7,
        included_units=8,
        minimum_nanos=9,
        discounts=[contract_pb2.Discount(percent_bp=10, effective_until_micros=11)],
        multipliers=[
            contract_pb2.Multiplier(
                dimension=contract_pb2.DIMENSION_MODEL, value="gpt-4o", factor_micros=12
            )
        ],
        outcome_weights=[OutcomeWeight(execution_status="TIMEOUT", weight_micros=13)],
    )
    (told,) = terms(phase(message, effective_from_micros=14, minimum_nanos=15)).phases

    assert told.rate_cards == (
        RateCard(
            effective_from_micros=14,
            minimum_nanos=15,
            components=(
                Component(
                    component_id="calls",
                    meter="api.calls",
                    selection=Selection(
                        features=("chat",),
                        providers=("openai",),
                        models=("gpt-*",),
                        tools=("search",),
                    ),
                    pricing=PerUnit(price_nanos=5, per_units=6),
                    flat_nanos=7,
                    included_units=8,
                    minimum_nanos=9,
                    discounts=(Discount(percent_bp=10, effective_until_micros=11),),
                    multipliers=(
                        Multiplier(dimension=Dimension.MODEL, value="gpt-4o", factor_micros=12),
                    ),
                    outcome_weights=(("TIMEOUT", 13),),
                ),
            ),
        ),
    )


def test_every_kind_of_price_is_read() -> None:
    package = RateComponent(
        component_id="p", meter="m", package=PackagePrice(price_nanos=1, package_units=2)
    )
    percent = RateComponent(component_id="q", meter="m", percent_bp=250)
    flat = RateComponent(component_id="f", flat_nanos=3)
    (told,) = terms(phase(package, percent, flat, tiers(10, 0))).phases

    assert [each.pricing for each in told.rate_cards[0].components] == [
        Package(price_nanos=1, package_units=2),
        Percent(rate_bp=250),
        None,
        Graduated(
            tiers=(
                Tier(up_to_units=10, price=PerUnit(price_nanos=10)),
                Tier(up_to_units=None, price=PerUnit(price_nanos=0)),
            )
        ),
    ]


@pytest.mark.parametrize(
    ("component", "complaint"),
    [
        (RateComponent(component_id="c", meter="m"), "c has no known kind of price"),
        (RateComponent(meter="m", per_unit=UnitPrice(price_nanos=-1, per_units=1)), "range"),
        (RateComponent(meter="m", per_unit=UnitPrice(price_nanos=1)), "range"),
        (RateComponent(meter="m", package=PackagePrice(price_nanos=1)), "range"),
        (RateComponent(flat_nanos=-1), "range"),
        (RateComponent(discounts=[contract_pb2.Discount(percent_bp=10_001)]), "range"),
        (RateComponent(multipliers=[contract_pb2.Multiplier(value="x")]), "unknown dimension 0"),
        (tiers(), "without end"),
        (tiers(1, 2), "without end"),
        (tiers(0, 0), "without end"),
        (tiers(2, 1, 0), "ascend"),
        (tiers(2, 2, 0), "ascend"),
    ],
)
def test_a_price_that_makes_no_sense_is_not_free(component: RateComponent, complaint: str) -> None:
    with pytest.raises(UnreadableError, match=complaint):
        terms(phase(component))


def test_broken_figures_of_a_contract_are_refused() -> None:
    flat = RateComponent(component_id="f", flat_nanos=3)
    for broken in (
        {"basis": 9},
        {"exchange_rates": [contract_pb2.ExchangeRate(currency="EUR")]},
        {"phases": [contract_pb2.Phase(committed_fee_nanos=-1)]},
        {"phases": [phase(flat, flat)]},
    ):
        message = Contract(cadence=contract_pb2.CADENCE_MONTH, **broken)
        with pytest.raises(UnreadableError):
            terms_of("acme", message.SerializeToString(), None)
