"""What-if beside what consume writes: nothing changed is the record, other prices are a replay."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aforo_admin.domain.catalog import ThresholdChanges
from aforo_admin.domain.scenario import CostChange, FloorChange, Growth, ModelSwap, PriceChange
from aforo_admin.domain.simulate import Comparison
from aforo_admin.faults import CatalogError
from aforo_admin.simulation_text import remarks
from aforo_meter.domain.margin import Level
from tests.contract.ledgers import Ledgers
from tests.contract.what_if_lab import (
    MONTHS,
    Hour,
    asked,
    catalog_of,
    exact_cogs,
    levels_told,
    only,
    play,
)

pytestmark = [pytest.mark.contract, pytest.mark.slow]

FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
# Says the same otherwise, so that nothing is skipped for being equal.
SAME = ThresholdChanges(warn_below_bp=3000)


def test_with_nothing_changed_the_record_is_reproduced(ledgers: Ledgers, redis_url: str) -> None:
    @FEW
    @given(MONTHS, st.sampled_from(["pro", "pro", "flat", "paid"]))
    def simulate_nothing(hours: Sequence[Hour], plan: str) -> None:
        file, catalog = ledgers.new(), catalog_of(fee="1", plan=plan)
        asyncio.run(play(catalog, hours, file, redis_url))
        rows = file.rows("SELECT cogs_nanos, revenue_nanos, level FROM margin_state")
        refused = dict(file.rows("SELECT outcome, SUM(count) FROM intervention GROUP BY outcome"))
        if not rows:
            return

        same_floors = FloorChange(plan_id=plan, thresholds=SAME)
        for changes in ({}, {"floors": (same_floors,)}, {"costs": (CostChange(percent_bp=0),)}):
            outcome = only(asked(catalog, file, **changes))

            for figures in (outcome.recorded, outcome.replayed, outcome.acted):
                assert (figures.cogs_nanos, figures.revenue_nanos, figures.level) == rows[0]
                assert figures.calls.blocked == refused.get("block", 0)
                assert figures.calls.throttled == refused.get("throttle", 0)
                # Nothing looked between the hours, at which margins that accrue have moved.
                assert plan == "paid" or list(figures.steps) == levels_told(file)
            assert outcome.recorded == outcome.replayed == outcome.acted
            assert outcome.estimated_ratio == 0
            assert outcome.drift_nanos == 0

    simulate_nothing()


def test_a_provider_s_rise_is_what_consume_writes_under_that_price(
    ledgers: Ledgers, redis_url: str
) -> None:
    @FEW
    @given(MONTHS, st.sampled_from([("13.2", "1.2036", 2000), ("5.5", "0.5015", -5000)]))
    def simulate_rise(hours: Sequence[Hour], raised: tuple[str, str, int]) -> None:
        openai, small, percent_bp = raised
        file, other = ledgers.new(), ledgers.new()
        catalog = catalog_of(fee="1")
        asyncio.run(play(catalog, hours, file, redis_url))
        asyncio.run(play(catalog_of(fee="1", openai=openai, small=small), hours, other, redis_url))
        rows = other.rows("SELECT cogs_nanos, revenue_nanos, level FROM margin_state")
        if not rows:
            return

        rises = (
            CostChange(provider="openai", meter="llm.input_tokens", percent_bp=percent_bp),
            CostChange(
                provider="other", model="small", meter="llm.input_tokens", percent_bp=percent_bp
            ),
        )
        replayed = only(asked(catalog, file, costs=rises)).replayed

        assert (replayed.cogs_nanos, replayed.revenue_nanos, replayed.level) == rows[0]
        assert list(replayed.steps) == levels_told(other)

    simulate_rise()


def test_percentages_are_exact(ledgers: Ledgers, redis_url: str) -> None:
    @FEW
    @given(MONTHS, st.integers(-10_000, 50_000))
    def simulate_percent(hours: Sequence[Hour], percent_bp: int) -> None:
        file, catalog = ledgers.new(), catalog_of(calls="0.000000007", openai="0.000000333")
        asyncio.run(play(catalog, hours, file, redis_url))
        factor = Fraction(10_000 + percent_bp, 10_000)

        found = asked(catalog, file, costs=(CostChange(provider="openai", percent_bp=percent_bp),))

        for outcome in found.outcomes:
            expected = exact_cogs(file, factor=factor, provider="openai")
            assert outcome.replayed.cogs_nanos == expected

    simulate_percent()


def test_sums_of_the_database_are_what_the_rows_come_to(ledgers: Ledgers, redis_url: str) -> None:
    """With a fee that no usage exhausts no hours are read; a growth by nothing has them read."""

    @FEW
    @given(MONTHS, st.sampled_from([2000, -5000, 333]), st.sampled_from([True, True, False]))
    def simulate_both(hours: Sequence[Hour], percent_bp: int, in_whole_units: bool) -> None:  # noqa: FBT001
        def tokens(millis: int) -> int:
            return millis - millis % 1000 + 1000 if in_whole_units else millis

        hours = [
            Hour(
                number=hour.number,
                tokens={kind: tokens(millis) for kind, millis in hour.tokens.items()},
            )
            for hour in hours
        ]
        file, catalog = ledgers.new(), catalog_of(plan="flat", fee="9000")
        asyncio.run(play(catalog, hours, file, redis_url))
        rise = CostChange(provider="openai", percent_bp=percent_bp)

        summed = asked(catalog, file, costs=(rise,))
        by_row = asked(catalog, file, costs=(rise,), growths=(Growth(percent_bp=0),))

        assert summed == by_row

    simulate_both()


CHAT = ("chat", "openai", "large")
# 100 tokens an hour at 0.011 each: $1.10 and a cent for the call. The fee of $20 and no rate card.
STEADY = [Hour(number=number, tokens={CHAT: 100_000}) for number in range(10)]


def test_calls_at_a_simulated_block_are_refused_and_cost_nothing(
    ledgers: Ledgers, redis_url: str
) -> None:
    """$1.11 an hour; tenfold tokens are $11.01: $22.02 of $20 after two hours, so 8 are refused."""
    file, catalog = ledgers.new(), catalog_of(plan="flat")
    asyncio.run(play(catalog, STEADY, file, redis_url))

    outcome = only(
        asked(catalog, file, costs=(CostChange(meter="llm.input_tokens", percent_bp=90_000),))
    )

    assert outcome.replayed.cogs_nanos == 110_100_000_000
    assert outcome.acted.cogs_nanos == 22_020_000_000
    assert outcome.avoided_nanos == 8 * 11_010_000_000
    assert outcome.acted.calls.blocked == 8
    assert outcome.recorded.calls.blocked == 0
    assert [step.level for step in outcome.acted.steps] == [Level.BLOCK]
    assert str(outcome.estimated_ratio) == "0.8000"


def test_refused_calls_that_would_pass_come_back_at_the_average(
    ledgers: Ledgers, redis_url: str
) -> None:
    """$11.01 a call; two are $22.02 of $20, and 6 are refused in the hours after.

    At half the price of tokens a call is $5.51: the third hour's three, and the fourth's first,
    end at $16.53 + 5.51: all of the third's pass, then the block is reached.
    """
    hours = [Hour(number=number, tokens={CHAT: 1_000_000}) for number in range(2)]
    hours += [Hour(number=number, blocked=3) for number in (2, 3)]
    file, catalog = ledgers.new(), catalog_of(plan="flat")
    asyncio.run(play(catalog, hours, file, redis_url))

    found = only(
        asked(catalog, file, costs=(CostChange(meter="llm.input_tokens", percent_bp=-5000),))
    )

    assert (found.recorded.level, found.recorded.calls.blocked) == (Level.BLOCK, 6)
    assert (found.replayed.level, found.replayed.cogs_nanos) == (Level.NONE, 11_020_000_000)
    assert found.added_nanos == 3 * 5_510_000_000
    assert found.acted.cogs_nanos == 5 * 5_510_000_000
    assert (found.acted.level, found.acted.calls.blocked) == (Level.BLOCK, 3)
    assert str(found.estimated_ratio) == "0.6000"


def test_a_higher_floor_marks_and_refuses_earlier(ledgers: Ledgers, redis_url: str) -> None:
    """$11.10 of $20 at the end: 44.5 %. Below 90 % from the second hour on: 9 and 8 calls."""
    file, catalog = ledgers.new(), catalog_of(plan="flat")
    asyncio.run(play(catalog, STEADY, file, redis_url))

    def raised(**floors: Any) -> FloorChange:  # noqa: ANN401
        return FloorChange(plan_id="flat", thresholds=ThresholdChanges(**floors))

    warned = only(asked(catalog, file, floors=(raised(warn_below_bp=9000),)))
    marked = only(
        asked(catalog, file, floors=(raised(warn_below_bp=9000, throttle_below_bp=9000),))
    )
    floors = raised(warn_below_bp=9000, throttle_below_bp=9000, block_below_bp=9000)
    refused = only(asked(catalog, file, floors=(floors,)))

    assert warned.acted.calls == (8, 0, 0)
    assert marked.acted.calls == (0, 8, 0)
    assert refused.acted.calls == (0, 0, 8)
    assert refused.acted.cogs_nanos == 2 * 1_110_000_000
    assert warned.acted.cogs_nanos == marked.acted.cogs_nanos == 11_100_000_000


def test_a_swapped_model_costs_what_the_other_one_does(ledgers: Ledgers, redis_url: str) -> None:
    """1,000 tokens at $11 a thousand become $1.003; ten calls at a cent stay."""
    file, catalog = ledgers.new(), catalog_of(plan="flat")
    asyncio.run(play(catalog, STEADY, file, redis_url))

    swap = ModelSwap(model="large", to_model="small")
    found = only(asked(catalog, file, swaps=(swap,)))

    assert found.replayed.cogs_nanos == 1_003_000_000 + 100_000_000
    with pytest.raises(
        CatalogError, match=r'models\[0\].to: no price is for the model "smaller"; did'
    ):
        asked(catalog, file, swaps=(replace(swap, to_model="smaller"),))


def test_what_no_recorded_usage_is_of_is_told(ledgers: Ledgers, redis_url: str) -> None:
    """Usage under the name that OpenAI reports is gpt-4o's; gpt-5 has a price and no usage."""
    file, catalog = ledgers.new(), catalog_of(plan="flat")
    unasked_for = replace(catalog.costs[1], model="gpt-5")
    catalog = replace(catalog, costs=(*catalog.costs, unasked_for))
    hours = [Hour(number=0, tokens={("chat", "openai", "gpt-4o-2024-08-06"): 100_000})]
    asyncio.run(play(catalog, hours, file, redis_url))
    used, unused = (
        {
            "costs": (CostChange(model=name, meter="llm.input_tokens", percent_bp=2000),),
            "swaps": (ModelSwap(model=name, to_model="small"),),
        }
        for name in ("gpt-4o", "gpt-5")
    )

    swapped = asked(catalog, file, swaps=used["swaps"])
    raised = asked(catalog, file, costs=used["costs"])
    nothing = asked(catalog, file, **unused)

    assert only(swapped).replayed.cogs_nanos == 100_300_000 + 10_000_000
    assert only(raised).replayed.cogs_nanos == 1_320_000_000 + 10_000_000
    assert remarks(swapped) == remarks(raised) == []
    assert only(nothing).is_changed is False
    assert remarks(nothing) == [
        "no recorded usage here is of gpt-5 llm.input_tokens: its change of costs does nothing",
        "no recorded usage here is of gpt-5: nothing becomes small",
    ]


def test_a_provider_is_one_that_a_price_or_usage_names(ledgers: Ledgers, redis_url: str) -> None:
    """No price names "mystery", whose models may cost what they do at any provider."""
    file, catalog = ledgers.new(), catalog_of(plan="flat")
    hours = [Hour(number=0, tokens={("chat", "mystery", "small"): 100_000})]
    asyncio.run(play(catalog, hours, file, redis_url))

    def dearer(provider: str) -> Comparison:
        return asked(catalog, file, costs=(CostChange(provider=provider, percent_bp=2000),))

    # 100 tokens at 1.003 a thousand, and a call: both of that provider.
    found = only(dearer("mystery"))
    assert found.replayed.cogs_nanos == round(1.2 * found.recorded.cogs_nanos)
    assert only(dearer("open*")).is_changed is False
    for typo, meant in (("opnai", "openai"), ("mysteri", "mystery")):
        told = rf'costs\[0\].provider: no provider "{typo}"; did you mean "{meant}"\?'
        with pytest.raises(CatalogError, match=told):
            dearer(typo)
    with pytest.raises(CatalogError, match=r'models\[0\].provider: no provider "opnai"'):
        asked(catalog, file, swaps=(ModelSwap(model="large", to_model="small", provider="opnai"),))


def test_a_model_is_one_that_a_price_or_usage_names(ledgers: Ledgers, redis_url: str) -> None:
    """No price names "large": its tokens cost what any of its provider's do."""
    file, catalog = ledgers.new(), catalog_of(plan="flat")
    hours = [Hour(number=0, tokens={("chat", "openai", "large"): 100_000})]
    asyncio.run(play(catalog, hours, file, redis_url))

    def dearer(model: str) -> Comparison:
        return asked(catalog, file, costs=(CostChange(model=model, percent_bp=2000),))

    found = only(dearer("large"))
    assert found.replayed.cogs_nanos == round(1.2 * found.recorded.cogs_nanos)
    assert only(dearer("lar*")).is_changed
    assert only(dearer("small")).is_changed is False  # It has a price, and was not used.
    for typo, meant in (("smoll", "small"), ("lorge", "large")):
        told = rf'costs\[0\].model: no model "{typo}"; did you mean "{meant}"\?'
        with pytest.raises(CatalogError, match=told):
            dearer(typo)
    with pytest.raises(CatalogError, match=r'models\[0\].from: no model "lorge"; did'):
        asked(catalog, file, swaps=(ModelSwap(model="lorge", to_model="small"),))


def test_growth_multiplies_usage_revenue_and_refusals(ledgers: Ledgers, redis_url: str) -> None:
    hours = [*STEADY, Hour(number=20, blocked=3, throttled=1)]
    file, catalog = ledgers.new(), catalog_of()
    asyncio.run(play(catalog, hours, file, redis_url))

    found = only(asked(catalog, file, growths=(Growth(percent_bp=10_000),)))

    assert found.replayed.cogs_nanos == 2 * found.recorded.cogs_nanos
    # 1,000 tokens are 200 at 0.02 and 800 at 0.01: $12 and the fee; 2,000 are $22.
    assert found.recorded.revenue_nanos == 32_000_000_000
    assert found.replayed.revenue_nanos == 42_000_000_000


def test_a_price_that_we_charge_changes_revenue_alone(ledgers: Ledgers, redis_url: str) -> None:
    """Of $12 by the rate card, 7.5 % more is $12.90."""
    file, catalog = ledgers.new(), catalog_of()
    asyncio.run(play(catalog, STEADY, file, redis_url))

    found = only(asked(catalog, file, prices=(PriceChange(plan_id="pro", percent_bp=750),)))

    assert found.replayed.revenue_nanos == 32_900_000_000
    assert found.replayed.cogs_nanos == found.recorded.cogs_nanos
