"""Rate cards, currencies and changes of plan in the catalog: as written, in Redis, and refused."""

from datetime import UTC, datetime

import pytest

from aforo_admin.catalog_yaml import read_text
from aforo_admin.domain.catalog import Billing, Catalog
from aforo_admin.domain.entitling import entitle
from aforo_admin.faults import CatalogError
from aforo_admin.messages import contract
from aforo_admin.readable import fields_of
from aforo_admin.tables import summary
from aforo_meter.contract_messages import terms_of
from aforo_meter.domain.periods import PeriodMicros, micros_of
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
    Volume,
)
from aforo_meter.domain.terms import ExchangeRate, Phase, RevenueBasis, Terms

CENT = 10_000_000
DOLLAR = 1_000_000_000
NOW = datetime(2026, 3, 10, tzinfo=UTC)

CARD = """\
      - from: 2026-01-01
        minimum: 50
        discounts: [{percent: 10%, until: 2027-01-01}, {amount: 5}]
        components:
          - id: mini
            meter: llm.output_tokens
            features: [chat]
            providers: openai
            models: ["*mini*"]
            tools: [search]
            price: 0.60
            per: 1M
            included: 5k
            minimum: 1
            multipliers: [{model: gpt-4o*, factor: 1.5}]
            weights: {TIMEOUT: 0.5, CANCELLED: 0}
            discounts: [{amount: 2, from: 2026-02-01}]
          - {id: pages, meter: mcp.tool_calls, package: {price: 5, units: 100}}
          - id: calls
            meter: api.calls
            graduated: [{up_to: 1k, price: 0.001}, {price: 0.5, per: 1k}]
          - {id: sent, meter: bytes.request, volume: [{price: 1, per: 1G}]}
          - {id: paid, meter: payments, percent: 2.5%}
          - {id: seat, flat: 20}
"""


def written(
    *,
    card: str = CARD,
    plan: str = "",
    deals: str = "",
    changes: str = "",
    rates: str = "",
    currency: str = "USD",
) -> str:
    return f"""\
version: 1
currency: {currency}
features: [{{id: chat}}]
meters: [{{id: payments}}]
{rates}
plans:
  pro:
    committed_fee: 30
    features: [chat]
{plan}
    rate_card:
{card}
  big:
    committed_fee: 90
    features: [chat]
    quotas: [{{id: q, meter: api.calls, limit: 5, window: day}}]
  yearly: {{committed_fee: 900, features: [chat], cadence: year}}
tenants:
  acme:
    subscription:
      id: s1
      plan: pro
      started_at: 2026-01-15
{changes}
{deals}
"""


def read(text: str) -> Catalog:
    return read_text(text.encode(), name="c.yaml")


def faults(text: str) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        read(text)
    return [line.partition(": ")[2] for line in caught.value.lines]


def synced(text: str, now: datetime = NOW) -> Terms:
    """Return the terms that consume reads from what sync writes."""
    catalog = read(text)
    message = contract(entitle(catalog, catalog.tenants["acme"], now).contract)
    return terms_of("acme", message.SerializeToString(), None)


def at(year: int, month: int, day: int) -> int:
    return micros_of(datetime(year, month, day, tzinfo=UTC))


EXPECTED = RateCard(
    effective_from_micros=at(2026, 1, 1),
    minimum_nanos=50 * DOLLAR,
    discounts=(
        Discount(percent_bp=1000, effective_until_micros=at(2027, 1, 1)),
        Discount(amount_nanos=5 * DOLLAR),
    ),
    components=(
        Component(
            component_id="mini",
            meter="llm.output_tokens",
            selection=Selection(
                features=("chat",), providers=("openai",), models=("*mini*",), tools=("search",)
            ),
            pricing=PerUnit(price_nanos=60 * CENT, per_units=1_000_000),
            included_units=5000,
            minimum_nanos=DOLLAR,
            multipliers=(
                Multiplier(dimension=Dimension.MODEL, value="gpt-4o*", factor_micros=1_500_000),
            ),
            outcome_weights=(("TIMEOUT", 500_000), ("CANCELLED", 0)),
            discounts=(Discount(amount_nanos=2 * DOLLAR, effective_from_micros=at(2026, 2, 1)),),
        ),
        Component(
            component_id="pages",
            meter="mcp.tool_calls",
            pricing=Package(price_nanos=5 * DOLLAR, package_units=100),
        ),
        Component(
            component_id="calls",
            meter="api.calls",
            pricing=Graduated(
                tiers=(
                    Tier(up_to_units=1000, price=PerUnit(price_nanos=1_000_000)),
                    Tier(up_to_units=None, price=PerUnit(price_nanos=50 * CENT, per_units=1000)),
                )
            ),
        ),
        Component(
            component_id="sent",
            meter="bytes.request",
            pricing=Volume(
                tiers=(Tier(up_to_units=None, price=PerUnit(price_nanos=DOLLAR, per_units=10**9)),)
            ),
        ),
        Component(component_id="paid", meter="payments", pricing=Percent(rate_bp=250)),
        Component(component_id="seat", flat_nanos=20 * DOLLAR),
    ),
)


def test_a_rate_card_is_read_whole_and_reaches_the_consumer_as_it_is() -> None:
    assert read(written()).plans["pro"].rate_cards == (EXPECTED,)
    assert synced(written()).phases == (
        Phase(
            effective_from_micros=at(2026, 1, 15),
            source="plan:pro",
            committed_fee_nanos=30 * DOLLAR,
            rate_cards=(EXPECTED,),
            prepaid_from_micros=0,
        ),
    )


def test_a_contract_tells_each_change_of_plan_and_deal_with_its_date() -> None:
    text = written(
        changes="      changes: [{plan: big, from: 2026-03-20}]",
        deals="""\
    deals:
      - {id: low, from: 2026-02-01, until: 2026-03-01, committed_fee: 10, prepaid: 7}
      - {id: flat, from: 2026-04-01, rate_card: []}
      - {id: same, from: 2025-01-01, until: 2026-01-20}""",
    )

    told = [
        (phase.effective_from_micros, phase.source, phase.committed_fee_nanos // DOLLAR)
        for phase in synced(text).phases
    ]

    assert told == [
        (at(2026, 1, 15), "plan:pro", 30),
        (at(2026, 2, 1), "deal:low", 10),
        (at(2026, 3, 1), "plan:pro", 30),
        (at(2026, 3, 20), "plan:big", 90),
    ]


def test_a_change_of_plan_changes_what_the_tenant_may_do_from_then_on() -> None:
    catalog = read(written(changes="      changes: [{plan: big, from: 2026-03-20}]"))

    def entitled(now: datetime) -> tuple[str, datetime, int]:
        found = entitle(catalog, catalog.tenants["acme"], now)
        return found.contract.plan_id, found.holds_until, len(found.policy.quotas)

    change = datetime(2026, 3, 20, tzinfo=UTC)
    assert entitled(datetime(2026, 3, 15, tzinfo=UTC)) == ("pro", change, 0)
    assert entitled(change) == ("big", datetime(2026, 4, 15, tzinfo=UTC), 1)


def test_a_deals_rate_card_stands_instead_of_the_plans() -> None:
    deals = """\
    deals:
      - id: d
        from: 2026-02-15
        rate_card: [{from: 2026-01-01, components: [{id: seat, flat: 1}]}]
      """
    before, after = synced(written(deals=deals)).phases

    assert before.rate_cards == (EXPECTED,)
    assert [each.component_id for each in after.rate_cards[0].components] == ["seat"]


def test_a_balance_begins_once_with_the_rule_that_grants_it() -> None:
    deals = """\
    deals:
      - {id: a, from: 2026-02-01, until: 2026-03-01, committed_fee: 1}
      - {id: b, from: 2026-03-01, until: 2026-04-01, prepaid: 70}"""
    phases = synced(written(plan="    prepaid: 100", deals=deals)).phases

    assert [(phase.prepaid_nanos // DOLLAR, phase.prepaid_from_micros) for phase in phases] == [
        (100, 0),
        (100, 0),
        (70, at(2026, 3, 1)),
        (100, 0),  # What the plan's had left when the deal's took its place.
    ]


def test_periods_may_be_those_of_the_calendar() -> None:
    text = written(plan="    billing: calendar")
    catalog = read(text)
    assert catalog.plans["pro"].billing is Billing.CALENDAR

    terms = synced(text)
    policy = entitle(catalog, catalog.tenants["acme"], NOW).policy

    march = PeriodMicros(at(2026, 3, 1), at(2026, 4, 1))
    assert terms.period_at(micros_of(NOW)) == march
    assert (policy.period_start_micros, policy.period_end_micros) == (
        march.start_micros,
        march.end_micros,
    )


def test_the_basis_is_the_deals_in_force_or_the_plans() -> None:
    deals = "    deals: [{id: d, from: 2026-05-01, revenue_basis: accrued}]"

    assert synced(written()).basis is RevenueBasis.PERIOD
    assert synced(written(plan="    revenue_basis: accrued")).basis is RevenueBasis.ACCRUED
    assert synced(written(deals=deals)).basis is RevenueBasis.PERIOD
    later = datetime(2026, 5, 1, tzinfo=UTC)
    assert synced(written(deals=deals), later).basis is RevenueBasis.ACCRUED


RATES = """\
exchange_rates:
  - {currency: EUR, rate: 1.08, from: 2026-01-01}
  - {currency: EUR, rate: 1.10 USD, from: 2026-03-01}
  - {currency: CHF, rate: 1.12, from: 2026-01-01}"""


def test_a_contract_in_another_currency_carries_the_rates_of_it() -> None:
    terms = synced(
        written(plan="    currency: EUR\n    allowance: 0", rates=RATES).replace(
            "committed_fee: 30", "committed_fee: 0 EUR"
        )
    )

    assert (terms.currency, terms.phases[0].currency) == ("EUR", "EUR")
    assert terms.exchange_rates == tuple(
        ExchangeRate(
            currency="EUR",
            to_currency="USD",
            rate_nanos=nanos,
            effective_from_micros=at(2026, month, 1),
        )
        for nanos, month in ((1_080_000_000, 1), (1_100_000_000, 3))
    )
    assert synced(written(rates=RATES)).exchange_rates == ()


def test_a_deal_may_be_in_a_currency_of_its_own() -> None:
    deals = """\
    deals:
      - {id: d, from: 2026-02-15, currency: EUR, committed_fee: 28 EUR, rate_card: []}"""
    terms = synced(written(deals=deals, rates=RATES))

    assert [(phase.currency, phase.committed_fee_nanos) for phase in terms.phases] == [
        ("USD", 30 * DOLLAR),
        ("EUR", 28 * DOLLAR),
    ]
    assert terms.currency == "EUR"


@pytest.mark.parametrize(
    ("component", "expected"),
    [
        ("{id: c, meter: api.calls}", ": has a meter and no price: give one of price, package, "),
        ("{id: c}", ": charges nothing: give a flat fee, or a meter and its price"),
        ("{id: c, price: 1}", ".meter: is missing: say what the price is for"),
        ("{id: c, meter: api.cals, price: 1}", '.meter: no meter "api.cals"; did you mean "api.ca'),
        (
            "{id: c, meter: api.calls, price: 1, percent: 1%}",
            ".percent: stands beside price; a component has one of price, package, graduated, ",
        ),
        ("{id: c, flat: -1}", ".flat: must not be negative"),
        ("{id: c, meter: api.calls, price: 1, minimum: -1}", ".minimum: must not be negative"),
        ("{id: c, meter: api.calls, price: 1, per: 0}", ".per: must be a whole number of at least"),
        ("{id: c, meter: api.calls, percent: 101%}", ".percent: must be from 0% to 100%, not 101%"),
        ("{id: c, flat: 1, included: 5}", ".included: only what has a meter and a price can be"),
        ("{id: c, flat: 1, per: 5}", ".per: stands without price"),
        (
            (
                "{id: c, meter: api.calls, graduated: [{up_to: 9, price: 1}, {up_to: 9, price: 1}, "
                "{price: 1}]}"
            ),
            ".graduated[1].up_to: 9 does not ascend: the tier before it goes up to 9",
        ),
        (
            "{id: c, meter: api.calls, volume: [{up_to: 9, price: 1}]}",
            ".volume[0].up_to: ends the last tier: usage beyond would have no price; remove it",
        ),
        (
            "{id: c, meter: api.calls, volume: [{price: 1}, {price: 2}]}",
            ".volume[0]: has no up_to, but only the last tier is without end; give it one",
        ),
        ("{id: c, meter: api.calls, volume: []}", ".volume: must have at least one tier"),
        ("{id: c, meter: api.calls, package: {price: 1}}", ".package.units: is missing"),
        (
            "{id: c, flat: 1, discounts: [{percent: 5%, amount: 1}]}",
            ".discounts[0]: must have one of percent and amount",
        ),
        (
            "{id: c, flat: 1, discounts: [{percent: 100.01%}]}",
            ".discounts[0].percent: must be from 0% to 100%, not 100.01%",
        ),
        (
            "{id: c, flat: 1, discounts: [{amount: 1, from: 2026-02-01, until: 2026-02-01}]}",
            ".discounts[0].until: must be after from (2026-02-01)",
        ),
        (
            "{id: c, flat: 1, weights: {TIME_OUT: 1}}",
            '.weights.TIME_OUT: no field "TIME_OUT"; did you mean "TIMEOUT"?',
        ),
        ("{id: c, flat: 1, weights: {TIMEOUT: -1}}", '.weights.TIMEOUT: "-1" is no factor: write '),
        (
            "{id: c, flat: 1, multipliers: [{factor: 2}]}",
            ".multipliers[0]: must name one of feature, provider, model, tool",
        ),
        (
            "{id: c, flat: 1, multipliers: [{model: g*t, factor: 2}]}",
            ".multipliers[0].model: must ",
        ),
        ("{id: c, meter: api.calls, price: 1, models: ['*']}", ".models[0]: must be a name; "),
        (
            "{id: c, meter: api.calls, price: 1, features: [chart]}",
            '.features[0]: no feature "chart"; did you mean "chat"?',
        ),
    ],
)
def test_a_wrong_component_is_told_with_its_place_and_remedy(component: str, expected: str) -> None:
    card = f"      - {{from: 2026-01-01, components: [{component}]}}"

    told = faults(written(card=card))

    place = "plans.pro.rate_card[0].components[0]"
    assert [line for line in told if line.startswith(place + expected)] == told


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"card": "      - {from: 2026-01-01}\n      - {from: 2026-01-01}"},
            "plans.pro.rate_card[1].from: overlaps plans.pro.rate_card[0]: both begin on 2026-01",
        ),
        (
            {
                "card": "      - {from: 2026-01-01, minimum: 5, components: "
                "[{id: a, flat: 1, minimum: 5}]}"
            },
            "plans.pro.rate_card[0].minimum: never holds: the minimums of its components come to",
        ),
        (
            {
                "card": "      - {from: 2026-01-01, components: "
                "[{id: a, meter: api.calls, price: 1}, {id: b, meter: api.calls, price: 2}]}"
            },
            (
                "plans.pro.rate_card[0].components[1]: is never reached: "
                "plans.pro.rate_card[0].components[0] takes all of api.calls"
            ),
        ),
        (
            {
                "card": "      - {from: 2026-01-01, components: "
                "[{id: a, flat: 1}, {id: a, flat: 1}]}"
            },
            'plans.pro.rate_card[0].components[1].id: "a" is already the id of',
        ),
        (
            {"card": "      []", "plan": "    prepaid: 5"},
            "plans.pro.prepaid: nothing draws on it: only what a rate card charges does",
        ),
        (
            {"deals": "    deals: [{id: d, from: 2026-02-01, prepaid: 5, rate_card: []}]"},
            "tenants.acme.deals[0].prepaid: nothing draws on it: only what a rate card charges",
        ),
        ({"plan": "    currency: eur"}, 'plans.pro.currency: "eur" is no currency: use three'),
        (
            {"plan": "    currency: EUR"},
            (
                "plans.pro.currency: no exchange rate from EUR to USD: add {currency: EUR, "
                "rate: …, from: …} to exchange_rates"
            ),
        ),
        (
            {
                "plan": "    currency: EUR",
                "rates": "exchange_rates: [{currency: EUR, rate: 1, from: 2026-02-01}]",
            },
            (
                "tenants.acme.subscription.plan: a period begins on 2026-01-15 in EUR, and "
                "exchange_rates has no rate of EUR yet then: add one from 2026-01-15 or before"
            ),
        ),
        (
            {"rates": "exchange_rates: [{currency: USD, rate: 1, from: 2026-02-01}]"},
            "exchange_rates[0].currency: USD is the catalog's currency: rates are to it",
        ),
        (
            {"rates": "exchange_rates: [{currency: EUR, rate: 0, from: 2026-02-01}]"},
            "exchange_rates[0].rate: must be above 0",
        ),
        (
            {"rates": RATES.replace("2026-03-01", "2026-01-01")},
            "exchange_rates[1].from: overlaps exchange_rates[0]: both are of EUR from 2026-01-01",
        ),
        (
            {"changes": "      changes: [{plan: big, from: 2026-01-15}]"},
            "tenants.acme.subscription.changes[0].from: must be after 2026-01-15, the start or",
        ),
        (
            {"changes": "      changes: [{plan: bigg, from: 2026-02-15}]"},
            'tenants.acme.subscription.changes[0].plan: no plan "bigg"; did you mean "big"?',
        ),
        (
            {"changes": "      changes: [{plan: yearly, from: 2026-02-15}]"},
            (
                'tenants.acme.subscription.changes[0].plan: "yearly" has another cadence than '
                '"pro": a subscription keeps its periods and its currency; end it (ended_at),'
            ),
        ),
        (
            {
                "rates": RATES,
                "deals": "    deals: [{id: d, from: 2026-02-16, currency: EUR, committed_fee: 1, "
                "rate_card: []}]",
            },
            (
                "tenants.acme.deals[0].from: lies inside a billing period, and the deal is in "
                "another currency than the plan: use 2026-02-15 or 2026-03-15, where periods begin"
            ),
        ),
        (
            {
                "rates": RATES,
                "deals": "    deals: [{id: d, from: 2026-02-15, currency: EUR}]",
            },
            "tenants.acme.deals[0].currency: the plan's committed_fee, rate_card would be in EUR",
        ),
        (
            {
                "changes": "      changes: [{plan: big, from: 2026-02-15}]",
                "deals": "    deals: [{id: d, from: 2026-02-15, quotas: [{id: q, limit: 1}]}]",
            },
            'tenants.acme.deals[0].quotas[0].id: plan "pro" has no quota "q" to change',
        ),
    ],
)
def test_a_wrong_contract_is_told_with_its_place_and_remedy(
    changes: dict[str, str], expected: str
) -> None:
    (told,) = faults(written(**changes))

    assert told.startswith(expected)


def test_people_can_read_what_is_charged() -> None:
    catalog = read(written(plan="    prepaid: 100"))
    message = contract(entitle(catalog, catalog.tenants["acme"], NOW).contract)

    fields = fields_of(message)

    phase = "phases[2026-01-15 00:00:00Z]"
    card = f"{phase}.rate_card[2026-01-01 00:00:00Z]"
    assert fields[phase] == "30 USD a period (plan:pro), 100 USD prepaid"
    assert {name: text for name, text in fields.items() if name.startswith(card)} == {
        f"{card}.mini": "0.6 USD per 1,000,000 llm.output_tokens of chat | openai | *mini* | "
        "tool search, 5,000 included, model gpt-4o* counts 1.5, TIMEOUT counts 0.5, CANCELLED "
        "counts 0, less 2 USD from 2026-02-01 00:00:00Z, at least 1 USD",
        f"{card}.pages": "5 USD per begun 100 mcp.tool_calls",
        f"{card}.calls": "api.calls graduated: to 1,000 0.001 USD; beyond 0.5 USD per 1,000",
        f"{card}.sent": "bytes.request by volume: beyond 1 USD per 1,000,000,000",
        f"{card}.paid": "2.5% of payments",
        f"{card}.seat": "20 USD flat",
        f"{card}.total": "less 10% until 2027-01-01 00:00:00Z, less 5 USD, at least 50 USD",
    }
    assert fields["basis"] == "period"
    assert "30 USD a month, and usage" in summary(catalog, NOW)


def test_amounts_are_shown_in_their_own_currency() -> None:
    plan = "    currency: EUR\n    allowance: 3 USD"
    catalog = read(written(plan=plan, rates=RATES).replace("committed_fee: 30", "committed_fee: 0"))
    fields = fields_of(contract(entitle(catalog, catalog.tenants["acme"], NOW).contract))

    assert (fields["committed_fee"], fields["allowance"]) == ("0 EUR", "3 USD")
    assert fields["exchange_rates[EUR, 2026-03-01 00:00:00Z]"] == "1 EUR = 1.1 USD"
