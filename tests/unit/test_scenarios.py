"""Scenarios: what is written is what is read, percentages are exact, faults name their field."""

from datetime import UTC, datetime
from fractions import Fraction

import fastjsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_admin import scenario_written, what_if_flags
from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.catalog import Catalog, Deal, ThresholdChanges
from aforo_admin.domain.scenario import (
    CostChange,
    DealChange,
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
from aforo_admin.domain.scenario_catalog import changed_catalog, find_scenario_problems, scaled
from aforo_admin.domain.scenario_usage import Met, Reprice, Row, repriced_by, repricing
from aforo_admin.faults import CatalogError, message_of
from aforo_admin.price_books import list_named
from aforo_admin.rest.described import Described
from aforo_admin.scenario_yaml import read_scenario, read_scenario_text, scenario_of
from aforo_admin.yaml_writing import node_of, yaml_text
from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.prices import PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.rate_card import Graduated, Package, Percent, PerUnit, Tier, Volume
from aforo_meter.domain.rating import amount_nanos
from lab.servers import ROOT

EXAMPLE = read_file(ROOT / "catalog.example.yaml")

names = st.sampled_from(["", "openai", "gpt-4o*", "small"])
percents = st.integers(-10_000, 1_000_000)
prices = st.builds(PerUnit, price_nanos=st.integers(0, 10**12), per_units=st.integers(1, 10**6))
costs = st.builds(
    CostChange,
    provider=names,
    model=names,
    meter=st.sampled_from(["api.calls", "llm.input_tokens"]),
    percent_bp=percents,
    negotiated=st.booleans(),
) | st.builds(CostChange, provider=names, meter=st.just("api.calls"), price=prices)
plans = st.sampled_from(sorted(EXAMPLE.plans))
tenants = st.sampled_from(sorted(EXAMPLE.tenants))
floors = st.builds(
    FloorChange,
    plan_id=plans,
    thresholds=st.builds(
        ThresholdChanges, block_below_bp=st.integers(-500, 900), act_from_calls=st.integers(0, 9)
    ),
) | st.builds(
    FloorChange,
    tenant_id=tenants,
    thresholds=st.builds(ThresholdChanges, warn_below_bp=st.integers(2000, 9000)),
)
scenarios = st.builds(
    Scenario,
    month=st.sampled_from(["", "2026-11"]),
    tenants=st.lists(tenants, max_size=2, unique=True).map(tuple),
    costs=st.lists(costs, max_size=3).map(tuple),
    prices=st.lists(
        st.builds(PriceChange, plan_id=plans, percent_bp=percents)
        | st.builds(PriceChange, plan_id=plans, component_id=names, price=prices),
        max_size=2,
    ).map(tuple),
    fees=st.lists(
        st.builds(FeeChange, plan_id=plans, percent_bp=percents)
        | st.builds(FeeChange, plan_id=plans, fee_nanos=st.integers(0, 10**15)),
        max_size=2,
    ).map(tuple),
    floors=st.lists(floors, max_size=2).map(tuple),
    swaps=st.lists(
        st.builds(
            ModelSwap,
            model=st.just("gpt-4o"),
            to_model=st.just("small"),
            provider=names,
            to_provider=names,
        ),
        max_size=2,
    ).map(tuple),
    growths=st.lists(
        st.builds(Growth, percent_bp=percents, tenant_id=st.just("") | tenants, feature=names),
        max_size=2,
    ).map(tuple),
    drafts=st.lists(
        st.builds(DraftChoice, plan_id=plans, number=st.integers(1, 99)), max_size=2
    ).map(tuple),
    deals=st.just(
        (
            DealChange(
                tenant_id="acme",
                deal=Deal(
                    deal_id="spring",
                    effective_from=datetime(2026, 11, 1, tzinfo=UTC),
                    committed_fee_nanos=10**12,
                ),
            ),
        )
    ),
)


@given(scenarios)
def test_what_is_written_is_what_is_read(scenario: Scenario) -> None:
    written = scenario_written.scenario(scenario)

    assert read_scenario_text(yaml_text(written).encode(), EXAMPLE) == scenario
    assert scenario_of(node_of(written), EXAMPLE) == scenario


@given(scenarios)
def test_what_is_written_obeys_the_schema_of_rest(scenario: Scenario) -> None:
    fields = Described()
    read_scenario(fields, Catalog(currency="USD"))

    fastjsonschema.compile(fields.schema)(scenario_written.scenario(scenario))


@given(prices, st.integers(-10_000, 10**6))
def test_a_price_times_a_percentage_is_exact(price: PerUnit, percent_bp: int) -> None:
    factor = factor_of(percent_bp)

    found = times(price, factor)

    exact = Fraction(price.price_nanos, price.per_units) * Fraction(10_000 + percent_bp, 10_000)
    assert Fraction(found.price_nanos, found.per_units) == exact


@given(prices, st.integers(-10_000, 10**5), st.integers(0, 10**6))
def test_tiers_times_a_percentage_charge_exactly_that_much_more(
    price: PerUnit, percent_bp: int, units: int
) -> None:
    tiers = (Tier(up_to_units=1000, price=price), Tier(up_to_units=None, price=price))
    factor = factor_of(percent_bp)

    for pricing in (price, Graduated(tiers=tiers), Volume(tiers=tiers)):
        before, after = (each.nanos(Fraction(units)) for each in (pricing, scaled(pricing, factor)))
        assert after == before * factor


def test_what_has_whole_nanos_or_basis_points_alone_is_rounded_half_to_even() -> None:
    assert scaled(Package(price_nanos=5, package_units=2), factor_of(1000)).price_nanos == 6  # type: ignore[union-attr]
    assert scaled(Percent(rate_bp=250), factor_of(5000)) == Percent(rate_bp=375)


KEY = UsageKey("llm.input_tokens", "chat", "OpenAI", "gpt-4o", "", "")
NO_PRICES = Prices(PriceBook(version="", currency="USD"))


def repriced(scenario: Scenario, tenant_id: str, prices: Prices, met: Met | None = None) -> Reprice:
    return repricing(scenario, tenant_id, prices, list_named, set() if met is None else met)


def row(**fields: object) -> Row:
    price = PerUnit(price_nanos=2_500_000_000, per_units=1_000_000)
    quantity = 1_000_003_000_000
    values: dict[str, object] = {
        "hour_start_micros": 0,
        "key": KEY,
        "quantity_micros": quantity,
        "cogs_nanos": amount_nanos(
            quantity, price_nanos=price.price_nanos, per_units=price.per_units
        ),
        "price": price,
        "input_tokens": 0,
        "is_negotiated": False,
    }
    return Row(**(values | fields))  # type: ignore[arg-type]


@given(st.integers(-10_000, 10**5), st.integers(0, 10**15))
def test_a_row_costs_what_its_quantity_costs_at_the_raised_price(
    percent_bp: int, quantity_micros: int
) -> None:
    scenario = Scenario(costs=(CostChange(provider="openai", percent_bp=percent_bp),))
    given_row = row(quantity_micros=quantity_micros)

    found = repriced(scenario, "acme", NO_PRICES)(given_row)

    exact = Fraction(quantity_micros * 2500, 10**6) * Fraction(10_000 + percent_bp, 10_000)
    if percent_bp:
        assert found.cogs_nanos == round(exact)
    else:
        assert found == given_row


def test_a_negotiated_price_stays_unless_it_is_meant() -> None:
    rise = CostChange(percent_bp=2000)
    everybody = CostChange(percent_bp=2000, negotiated=True)
    given_row = row(is_negotiated=True)

    assert repriced(Scenario(costs=(rise,)), "acme", NO_PRICES)(given_row) == given_row
    raised = repriced(Scenario(costs=(everybody,)), "acme", NO_PRICES)(given_row)
    assert raised.cogs_nanos == round(Fraction(given_row.cogs_nanos) * Fraction(6, 5))


def test_a_new_price_is_given_to_what_had_none_and_a_percentage_is_not() -> None:
    unpriced = row(price=None, cogs_nanos=0)
    priced = CostChange(meter="llm.input_tokens", price=PerUnit(price_nanos=7, per_units=1))
    raised = CostChange(percent_bp=2000)

    assert repriced(Scenario(costs=(priced,)), "a", NO_PRICES)(unpriced).cogs_nanos == 7_000_021
    assert repriced(Scenario(costs=(raised,)), "a", NO_PRICES)(unpriced) == unpriced


def test_growths_of_one_usage_are_multiplied_and_others_are_left_alone() -> None:
    growths = (
        Growth(percent_bp=10_000),
        Growth(percent_bp=5000, feature="chat"),
        Growth(percent_bp=90_000, tenant_id="globex"),
    )
    grow = repriced(Scenario(growths=growths), "acme", NO_PRICES)

    assert grow(row()).quantity_micros == 3 * row().quantity_micros
    other = row(key=KEY._replace(feature="search"))
    assert grow(other).quantity_micros == 2 * other.quantity_micros


def test_a_swap_to_a_model_of_one_price_for_both_keeps_the_amount() -> None:
    entry = PriceEntry(
        price_id="p", meter="api.calls", price_nanos=5, per_units=1, effective_from_micros=0
    )
    prices = Prices(PriceBook(version="", currency="USD", own=(PriceList(entries=(entry,)),)))
    call = row(key=KEY._replace(meter="api.calls"), cogs_nanos=99)
    swap = Scenario(swaps=(ModelSwap(model="gpt-4o", to_model="small"),))

    found = repriced(swap, "acme", prices)(call)

    assert (found.cogs_nanos, found.key.model) == (99, "small")
    tokens = repriced(swap, "acme", prices)(row())
    assert (tokens.cogs_nanos, tokens.price) == (0, None)


DATED = row(key=KEY._replace(model="gpt-4o-2024-08-06"))
MINI = row(key=KEY._replace(model="gpt-4o-mini-2024-07-18"))
OTHERS = row(key=KEY._replace(provider="somebody", model="gpt-4o-2024-08-06"))


def test_a_model_s_name_covers_what_it_covers_in_the_price_book() -> None:
    """The ledger has the names that providers report; another provider's mean nothing here."""
    swap = Scenario(swaps=(ModelSwap(model="gpt-4o", to_model="own-70b"),))
    rise = Scenario(costs=(CostChange(provider="openai", model="gpt-4o", percent_bp=2000),))

    swapped = [repriced(swap, "a", NO_PRICES)(each).key.model for each in (DATED, MINI, OTHERS)]
    raised = [repriced(rise, "a", NO_PRICES)(each) != each for each in (DATED, MINI, OTHERS)]

    assert swapped == ["own-70b", MINI.key.model, OTHERS.key.model]
    assert raised == [True, False, False]
    starred = Scenario(swaps=(ModelSwap(model="gpt-4o*", to_model="own-70b"),))
    assert repriced(starred, "a", NO_PRICES)(MINI).key.model == "own-70b"


def test_what_there_is_usage_for_is_noted() -> None:
    rise = CostChange(provider="openai", model="gpt-4o", percent_bp=2000)
    idle = CostChange(provider="openai", model="gpt-5", percent_bp=2000)
    swap = ModelSwap(model="gpt-4o-mini", to_model="own-70b")
    met: Met = set()

    reprice = repriced(Scenario(costs=(rise, idle), swaps=(swap,)), "a", NO_PRICES, met)
    reprice(OTHERS)
    assert met == set()
    reprice(DATED)
    reprice(MINI)
    assert met == {rise, swap}


def test_new_entries_of_a_price_book_hold_for_usage_as_if_it_came_then() -> None:
    day = 86_400_000_000

    def entry(name: str, nanos: int, from_micros: int) -> PriceEntry:
        return PriceEntry(
            price_id=name,
            meter=KEY.meter,
            price_nanos=nanos,
            per_units=1,
            effective_from_micros=from_micros,
        )

    first, second = entry("first", 3, 0), entry("second", 4, 10 * day)
    old, new = (
        Prices(PriceBook(version="", currency="USD", own=(PriceList(entries=entries),)))
        for entries in ((first,), (first, second))
    )

    reprice = repriced_by(old, new, latest_micros=10 * day)

    assert reprice(row()).cogs_nanos == 4 * 1_000_003
    assert repriced_by(old, old, latest_micros=10 * day)(row()) == row()


def problems(**changes: object) -> list[str]:
    found = find_scenario_problems(EXAMPLE, Scenario(**changes))  # type: ignore[arg-type]
    return [f"{'.'.join(map(str, each.path))}: {message_of(each)}" for each in found]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"costs": (CostChange(percent_bp=-10_001),)}, "costs.0.percent: is out of range"),
        ({"costs": (CostChange(),)}, "costs.0.percent: say what changes"),
        ({"costs": (CostChange(meter="api.cals", percent_bp=1),)}, 'did you mean "api.calls"'),
        (
            {"costs": (CostChange(price=PerUnit(price_nanos=1)),)},
            "costs.0.meter: is missing: say which meter",
        ),
        (
            {"costs": (CostChange(meter="api.calls", price=PerUnit(price_nanos=1, per_units=0)),)},
            "costs.0.per: must be a whole number of at least 1",
        ),
        ({"prices": (PriceChange(plan_id="prro", percent_bp=1),)}, 'did you mean "pro"?'),
        ({"prices": (PriceChange(plan_id="free", percent_bp=1),)}, "it has no rate card"),
        ({"fees": (FeeChange(plan_id="pro", fee_nanos=-1),)}, "fees.0.fee: must not be negative"),
        ({"floors": (FloorChange(thresholds=ThresholdChanges()),)}, "thresholds: says nothing"),
        ({"tenants": ("acmee",)}, 'tenants.0: no tenant "acmee"; did you mean "acme"?'),
        ({"growths": (Growth(percent_bp=1, feature="chatt"),)}, 'did you mean "chat"'),
        ({"drafts": (DraftChoice(plan_id="pro", number=9),)}, 'plan "pro" has no version 9'),
        ({"swaps": (ModelSwap(model="a", to_model="b*"),)}, "models.0.to: "),
        ({"costs": (CostChange(percent_bp=1),) * 201}, "at most 200 are taken: split it up"),
    ],
)
def test_a_wrong_scenario_names_the_field_and_the_remedy(
    changes: dict[str, object], told: str
) -> None:
    assert told in "\n".join(problems(**changes))


def test_a_wrong_text_names_the_field_and_the_remedy() -> None:
    text = b"month: november\ncosts: [{provider: openai, percent: 20}]\nprizes: []\n"

    with pytest.raises(CatalogError) as raised:
        read_scenario_text(text, EXAMPLE)

    told = str(raised.value)
    assert 'scenario: month: "november" is no month: write it like 2026-11' in told
    assert 'costs[0].percent: "20" is no share: write it with its sign, like 20%' in told
    assert 'prizes: no field "prizes"; did you mean "prices"?' in told


def test_lines_say_what_files_say() -> None:
    lines = {
        "provider_cost": ["openai=+20%", "*/gpt-4o:llm.output_tokens=8.00/1M"],
        "price": ["metered=+5%", "pro/calls=0.02/1k"],
        "fee": ["pro=550", "pro=-10%"],
        "threshold": ["block=5%", "tenant:acme/warn=30%"],
        "model": ["openai/gpt-4o=small"],
        "growth": ["+30%", "feature:chat=-10%"],
        "draft": ["pro=3"],
    }

    found = scenario_of(node_of(what_if_flags.written(lines)), EXAMPLE)

    assert found == Scenario(
        costs=(
            CostChange(provider="openai", percent_bp=2000),
            CostChange(
                model="gpt-4o",
                meter="llm.output_tokens",
                price=PerUnit(price_nanos=8_000_000_000, per_units=1_000_000),
            ),
        ),
        prices=(
            PriceChange(plan_id="metered", percent_bp=500),
            PriceChange(
                plan_id="pro",
                component_id="calls",
                price=PerUnit(price_nanos=20_000_000, per_units=1000),
            ),
        ),
        fees=(
            FeeChange(plan_id="pro", fee_nanos=550 * 10**9),
            FeeChange(plan_id="pro", percent_bp=-1000),
        ),
        floors=(
            FloorChange(thresholds=ThresholdChanges(block_below_bp=500)),
            FloorChange(tenant_id="acme", thresholds=ThresholdChanges(warn_below_bp=3000)),
        ),
        swaps=(ModelSwap(model="gpt-4o", to_model="small", provider="openai"),),
        growths=(Growth(percent_bp=3000), Growth(percent_bp=-1000, feature="chat")),
        drafts=(DraftChoice(plan_id="pro", number=3),),
    )


@pytest.mark.parametrize(
    ("name", "line", "remedy"),
    [
        ("provider_cost", "openai", "write it like openai=+20%"),
        ("threshold", "floor=5%", "there are warn, throttle, block, hysteresis"),
        ("growth", "acme=+5%", "whose? write +30%"),
        ("growth", "lots", "write it like +30%, tenant:acme=+30%"),
        ("growth", "feature:chat=30", "write it like +30%, tenant:acme=+30%"),
        ("provider_cost", "openai=20", "write openai=+20%, or a price with its meter, like openai"),
        ("provider_cost", "openai=-5 USD", "write openai=-5%, or a price"),
        ("provider_cost", "openai=dear", "write it like openai=+20%"),
        ("price", "pro=20", "write pro=+20%, or a price with its component, like pro/COMPONENT=20"),
        ("fee", "pro=much", "write it like pro=+10%, or pro=550"),
        ("threshold", "block=low", "write it like block=5%"),
        ("draft", "pro", "write it like pro=3"),
        ("draft", "pro=last", "with the number of a version"),
    ],
)
def test_a_line_of_no_form_says_how_to_write_it(name: str, line: str, remedy: str) -> None:
    with pytest.raises(what_if_flags.LinesError) as raised:
        what_if_flags.written({name: [line]})

    (error,) = raised.value.errors
    assert (error.name, error.given) == (name, line)
    assert str(raised.value) == str(error)
    assert str(error).startswith(f"{line}: ")
    assert remedy in str(error)


def test_all_lines_of_no_form_are_told_and_the_others_read() -> None:
    lines = {"fee": ["pro", "pro=+10%", "x"], "growth": ["lots"]}

    with pytest.raises(what_if_flags.LinesError) as raised:
        what_if_flags.written(lines)

    told = [(each.name, each.given) for each in raised.value.errors]
    assert told == [("fee", "pro"), ("fee", "x"), ("growth", "lots")]
    assert raised.value.rest == {"fees": [{"plan": "pro", "percent": "+10%"}]}


def test_a_change_touches_what_it_names_alone() -> None:
    scenario = Scenario(
        fees=(FeeChange(plan_id="pro", percent_bp=1000),),
        floors=(
            FloorChange(plan_id="pro", thresholds=ThresholdChanges(block_below_bp=100)),
            FloorChange(tenant_id="acme", thresholds=ThresholdChanges(warn_below_bp=4000)),
        ),
    )

    changed = changed_catalog(EXAMPLE, scenario)

    assert changed.plans["pro"].committed_fee_nanos == 550 * 10**9
    assert changed.plans["pro"].thresholds.block_below_bp == 100
    assert changed.tenants["acme"].thresholds.warn_below_bp == 4000
    assert {name for name in changed.plans if changed.plans[name] != EXAMPLE.plans[name]} == {"pro"}
    assert changed_catalog(EXAMPLE, Scenario()) == EXAMPLE
