"""What usage comes to by a rate card: the vectors, and an independent reckoning beside it."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.account import Account, UsageKey, Used
from aforo_meter.domain.charging import LineKind, Shares, charge
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
    card_at,
)

UNIT = 1_000_000
CENT = 10_000_000
DOLLAR = 1_000_000_000
METER = "api.calls"

TIERS = (
    Tier(up_to_units=1_000, price=PerUnit(price_nanos=1_000_000)),
    Tier(up_to_units=10_000, price=PerUnit(price_nanos=800_000)),
    Tier(up_to_units=None, price=PerUnit(price_nanos=500_000)),
)


def key(
    meter: str = METER,
    *,
    feature: str = "chat",
    provider: str = "openai",
    model: str = "gpt-4o",
    tool: str = "",
    status: str = "SUCCESS",
) -> UsageKey:
    return UsageKey(meter, feature, provider, model, tool, status)


def used(units: float, **dimensions: str) -> dict[UsageKey, Used]:
    return {key(**dimensions): Used(quantity_micros=round(units * UNIT))}


def component(pricing: Pricing | None = None, **fields: object) -> Component:
    return Component(
        **{"component_id": "calls", "meter": METER, "pricing": pricing} | fields  # type: ignore[arg-type]
    )


def total(account: Account, *components: Component, at: int = 0, **fields: object) -> int:
    card = RateCard(effective_from_micros=0, components=components, **fields)  # type: ignore[arg-type]
    return sum(line.amount_nanos for line in charge(card, account, at_micros=at))


def test_graduated_tiers_price_each_unit_by_its_own_tier() -> None:
    assert total(used(15_000), component(Graduated(tiers=TIERS))) == 1070 * CENT


def test_volume_tiers_price_all_units_by_the_last_tier() -> None:
    assert total(used(15_000), component(Volume(tiers=TIERS))) == 750 * CENT


def test_included_units_are_free() -> None:
    per_unit = PerUnit(price_nanos=1_000_000)

    assert total(used(1_500), component(per_unit, included_units=1_000)) == 50 * CENT
    assert total(used(999), component(per_unit, included_units=1_000)) == 0


def test_a_percentage_is_at_least_its_minimum() -> None:
    fee = component(Percent(rate_bp=250), minimum_nanos=10 * DOLLAR)

    assert total(used(100), fee) == 10 * DOLLAR
    assert total(used(1_000), fee) == 25 * DOLLAR


@pytest.mark.parametrize(
    ("units", "graduated", "volume"),
    [(0, 0, 0), (1_000, 100, 100), (1_001, 100.08, 80.08), (10_000, 820, 800), (10_001, 820.05, 0)],
)
def test_a_tier_ends_with_its_last_unit(units: int, graduated: float, volume: float) -> None:
    volume = volume or 500.05

    assert total(used(units), component(Graduated(tiers=TIERS))) == round(graduated * CENT)
    if units:
        assert total(used(units), component(Volume(tiers=TIERS))) == round(volume * CENT)


@pytest.mark.parametrize(("units", "blocks"), [(0, 0), (0.000001, 1), (100, 1), (100.5, 2)])
def test_a_package_that_is_begun_is_charged_whole(units: float, blocks: int) -> None:
    pages = component(Package(price_nanos=5 * DOLLAR, package_units=100))

    assert total(used(units), pages) == blocks * 5 * DOLLAR


def test_a_flat_fee_needs_no_usage() -> None:
    assert total({}, Component(component_id="seat", flat_nanos=20 * DOLLAR)) == 20 * DOLLAR


def test_a_timeout_may_bill_at_half_and_a_cancelled_call_at_nothing() -> None:
    calls = component(
        PerUnit(price_nanos=CENT), outcome_weights=(("TIMEOUT", UNIT // 2), ("CANCELLED", 0))
    )
    account = {
        key(status="SUCCESS"): Used(quantity_micros=10 * UNIT),
        key(status="TIMEOUT"): Used(quantity_micros=5 * UNIT),
        key(status="CANCELLED"): Used(quantity_micros=100 * UNIT),
        key(status=""): Used(quantity_micros=UNIT),
    }

    assert total(account, calls) == round(13.5 * CENT)


def test_multipliers_of_dimensions_are_multiplied_and_the_first_of_one_holds() -> None:
    calls = component(
        PerUnit(price_nanos=CENT),
        multipliers=(
            Multiplier(dimension=Dimension.MODEL, value="gpt-4o-mini", factor_micros=UNIT // 2),
            Multiplier(dimension=Dimension.MODEL, value="gpt-4o*", factor_micros=2 * UNIT),
            Multiplier(dimension=Dimension.TOOL, value="search", factor_micros=3 * UNIT),
        ),
    )

    assert total(used(1, model="gpt-4o-mini"), calls) == CENT // 2
    assert total(used(1, model="GPT-4o-2024"), calls) == 2 * CENT
    assert total(used(1, model="gpt-4o", tool="search"), calls) == 6 * CENT
    assert total(used(1, model="claude"), calls) == CENT


def test_multiplied_units_count_against_tiers_and_included_quantities() -> None:
    double = Multiplier(dimension=Dimension.MODEL, value="gpt-4o", factor_micros=2 * UNIT)
    calls = component(
        Graduated(tiers=TIERS),
        multipliers=(double,),
        included_units=500,
    )

    # 1,000 count as 2,000; 500 are included: 1,000 in the first tier, 500 in the second.
    assert total(used(1_000), calls) == 140 * CENT


def test_usage_is_charged_once_by_the_first_component_that_takes_it() -> None:
    cards = (
        component(
            PerUnit(price_nanos=5 * CENT),
            component_id="mini",
            selection=Selection(models=("*mini",)),
        ),
        component(PerUnit(price_nanos=7 * CENT), component_id="rest"),
    )
    account = used(1, model="gpt-4o-mini") | used(1, model="gpt-4o") | used(1, meter="other")

    assert total(account, *cards) == 12 * CENT
    assert total(account, *reversed(cards)) == 14 * CENT


@pytest.mark.parametrize(
    ("selection", "covered"),
    [
        (Selection(), True),
        (Selection(features=("embeddings", "chat")), True),
        (Selection(features=("embeddings",)), False),
        (Selection(providers=("OpenAI",)), True),
        (Selection(models=("gpt-*",)), True),
        (Selection(models=("*4*",)), True),
        (Selection(models=("gpt-4o",), providers=("azure",)), False),
        (Selection(tools=("*",)), False),
    ],
)
def test_a_selection_names_dimensions(selection: Selection, covered: bool) -> None:  # noqa: FBT001
    assert selection.covers(key(feature="chat,reports")) is covered


def test_discounts_come_before_minimums() -> None:
    calls = component(
        PerUnit(price_nanos=DOLLAR),
        discounts=(Discount(percent_bp=1_000), Discount(amount_nanos=5 * DOLLAR)),
    )

    assert total(used(100), calls) == 85 * DOLLAR
    assert total(used(100), calls, discounts=(Discount(percent_bp=5_000),)) == 42_500_000_000
    assert total(used(100), calls, minimum_nanos=90 * DOLLAR) == 90 * DOLLAR
    assert total(used(2), calls) == 0  # A discount never pays anything out.


def test_what_the_card_takes_off_and_adds_has_lines_of_its_own() -> None:
    card = RateCard(
        effective_from_micros=0,
        components=(component(PerUnit(price_nanos=DOLLAR)),),
        discounts=(Discount(percent_bp=2_500),),
        minimum_nanos=100 * DOLLAR,
    )

    lines = charge(card, used(100), at_micros=0)

    assert [(line.kind, line.amount_nanos) for line in lines] == [
        (LineKind.USAGE, 100 * DOLLAR),
        (LineKind.DISCOUNT, -25 * DOLLAR),
        (LineKind.MINIMUM, 25 * DOLLAR),
    ]


def test_a_discount_holds_for_periods_that_begin_in_its_time() -> None:
    dated = Discount(percent_bp=5_000, effective_from_micros=10, effective_until_micros=20)
    calls = component(PerUnit(price_nanos=DOLLAR), discounts=(dated,))

    assert [total(used(2), calls, at=at) for at in (9, 10, 19, 20)] == [
        2 * DOLLAR,
        DOLLAR,
        DOLLAR,
        2 * DOLLAR,
    ]


def test_in_a_part_of_a_period_fixed_amounts_and_included_quantities_shrink() -> None:
    calls = component(
        PerUnit(price_nanos=DOLLAR),
        included_units=10,
        flat_nanos=8 * DOLLAR,
        discounts=(Discount(amount_nanos=2 * DOLLAR),),
    )
    card = RateCard(effective_from_micros=0, components=(calls,))
    half = Shares(covered=Fraction(1, 2), recognised=Fraction(1, 2))

    (line,) = charge(card, used(7), at_micros=0, shares=half)

    assert line.amount_nanos == (7 - 5 + 4 - 1) * DOLLAR
    assert (line.used, line.charged) == (Fraction(7), Fraction(2))


def test_the_latest_card_that_has_begun_holds() -> None:
    older, newer = (RateCard(effective_from_micros=at) for at in (10, 20))

    assert [card_at((newer, older), at) for at in (9, 10, 19, 20)] == [None, older, older, newer]


def test_a_line_is_rounded_once_half_to_even() -> None:
    third = component(PerUnit(price_nanos=1, per_units=2))

    assert [total(used(units), third) for units in (1, 2, 3, 5)] == [0, 1, 2, 2]


def naive(units: Fraction, one: Component) -> Fraction:
    """Reckon in whole units, one after the other: nothing that the code under test does."""
    whole = math.ceil(units)
    assert whole == units
    pricing, amount = one.pricing, Fraction(0)
    free = min(whole, one.included_units)
    for number in range(1, whole - free + 1):
        if isinstance(pricing, PerUnit):
            amount += Fraction(pricing.price_nanos, pricing.per_units)
        elif isinstance(pricing, Package):
            amount += (
                pricing.price_nanos
                if number % pricing.package_units == 1 % (pricing.package_units)
                else 0
            )
        elif isinstance(pricing, Percent):
            amount += Fraction(DOLLAR * pricing.rate_bp, 10_000)
        elif isinstance(pricing, Graduated | Volume):
            place = number if isinstance(pricing, Graduated) else whole - free
            tier = next(t for t in pricing.tiers if t.up_to_units is None or place <= t.up_to_units)
            amount += Fraction(tier.price.price_nanos, tier.price.per_units)
    return max(amount + one.flat_nanos, Fraction(one.minimum_nanos))


prices = st.builds(
    PerUnit, price_nanos=st.integers(0, 10**7), per_units=st.sampled_from([1, 3, 7, 1000])
)
bounds = st.lists(st.integers(1, 60), unique=True, max_size=4).map(sorted)


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    ends: list[int | None] = [*draw(bounds), None]
    return tuple(Tier(up_to_units=end, price=draw(prices)) for end in ends)


pricings = st.one_of(
    prices,
    st.builds(Package, price_nanos=st.integers(0, 10**7), package_units=st.integers(1, 20)),
    st.builds(Percent, rate_bp=st.integers(0, 10_000)),
    st.builds(Graduated, tiers=tiers()),
    st.builds(Volume, tiers=tiers()),
)
components = st.builds(
    Component,
    component_id=st.just("calls"),
    meter=st.just(METER),
    pricing=pricings,
    flat_nanos=st.integers(0, 10**9),
    included_units=st.integers(0, 40),
    minimum_nanos=st.integers(0, 10**8),
)


@given(one=components, units=st.integers(0, 80))
def test_an_amount_equals_one_reckoned_unit_by_unit(one: Component, units: int) -> None:
    assert total(used(units), one) == round(naive(Fraction(units), one))


discounts = st.lists(
    st.builds(Discount, percent_bp=st.integers(0, 10_000))
    | st.builds(Discount, amount_nanos=st.integers(0, 10**8)),
    max_size=3,
).map(tuple)
factors = st.sampled_from([0, 250_000, 1_000_000, 1_500_000, 3_000_000])


def naive_less(amount: Fraction, given: tuple[Discount, ...]) -> Fraction:
    for each in given:
        amount = max(Fraction(0), amount * (10_000 - each.percent_bp) / 10_000 - each.amount_nanos)
    return amount


@given(
    price=prices,
    model_factor=factors,
    timeout_weight=factors,
    mine=discounts,
    totals=discounts,
    minimum=st.integers(0, 10**9),
    quantities=st.lists(st.integers(0, 10**12), min_size=4, max_size=4),
)
def test_a_card_equals_a_reckoning_in_fractions(
    price: PerUnit,
    model_factor: int,
    timeout_weight: int,
    mine: tuple[Discount, ...],
    totals: tuple[Discount, ...],
    minimum: int,
    quantities: list[int],
) -> None:
    calls = component(
        price,
        multipliers=(
            Multiplier(dimension=Dimension.MODEL, value="big*", factor_micros=model_factor),
        ),
        outcome_weights=(("TIMEOUT", timeout_weight),),
        discounts=mine,
    )
    kinds = [(model, status) for model in ("big-1", "small") for status in ("SUCCESS", "TIMEOUT")]
    account = {
        key(model=model, status=status): Used(quantity_micros=quantity_micros)
        for (model, status), quantity_micros in zip(kinds, quantities, strict=True)
    }
    big, big_late, small, small_late = (Fraction(quantity, UNIT) for quantity in quantities)
    model, late = Fraction(model_factor, UNIT), Fraction(timeout_weight, UNIT)
    units = big * model + big_late * model * late + small + small_late * late

    line = round(naive_less(units * price.price_nanos / price.per_units, mine))
    expected = max(round(naive_less(Fraction(line), totals)), minimum)

    assert total(account, calls, discounts=totals, minimum_nanos=minimum) == expected


@given(
    one=components,
    parts=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 10**9)), max_size=12),
    data=st.data(),
)
def test_no_order_and_no_split_of_usage_changes_a_total(
    one: Component, parts: list[tuple[str, int]], data: st.DataObject
) -> None:
    def account(order: list[tuple[str, int]], *, apart: bool) -> Account:
        found: dict[UsageKey, Used] = {}
        for model, quantity_micros in order:
            named = key(model=model if apart else "all")
            found[named] = found.get(named, Used()).plus(Used(quantity_micros=quantity_micros))
        return found

    shuffled = data.draw(st.permutations(parts))

    assert total(account(parts, apart=True), one) == total(account(shuffled, apart=True), one)
    assert total(account(parts, apart=True), one) == total(account(parts, apart=False), one)
