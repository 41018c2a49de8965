"""A period played again: which calls a level marks or refuses, and what comes of it."""

from dataclasses import replace
from decimal import Decimal

from aforo_admin.domain.levels_over_time import Agreement, Levels, Span, rests_on_none, walk
from aforo_admin.domain.scenario import Growth, Scenario
from aforo_admin.domain.scenario_usage import Row, repricing
from aforo_admin.domain.simulate import (
    Comparison,
    Figures,
    Outcome,
    Recorded,
    Terms,
    needs_hours,
    simulate_period,
)
from aforo_admin.domain.simulated_calls import Calls, Refusals
from aforo_admin.price_books import list_named
from aforo_meter.domain import terms as meter
from aforo_meter.domain.account import UsageKey, Used
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Level, Thresholds
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.prices import PriceBook, Prices
from aforo_meter.domain.rate_card import Component, PerUnit, RateCard, Tier, Volume
from aforo_meter.domain.terms import Phase, RevenueBasis

DOLLAR = 10**9
UNIT = 1_000_000
PERIOD = PeriodMicros(0, 100 * HOUR_MICROS)
SPAN = Span(period=PERIOD, as_of_micros=PERIOD.end_micros, currency="USD")
CHAT = UsageKey("api.calls", "chat", "", "", "", "")
SEARCH = UsageKey("api.calls", "search", "", "", "", "")
REPORTED = UsageKey("gpu.ms", "", "", "", "", "")


def contract(*, fee: int = 10, **more: object) -> meter.Terms:
    fields: dict[str, object] = {
        "tenant_id": "acme",
        "subscription_id": "sub-1",
        "committed_fee_nanos": fee * DOLLAR,
        "thresholds": Thresholds(hysteresis_bp=0),
    }
    return meter.Terms(**(fields | more))  # type: ignore[arg-type]


def row(hour: int, dollars: int, key: UsageKey = CHAT, calls: int = 1) -> Row:
    return Row(
        hour_start_micros=hour * HOUR_MICROS,
        key=key,
        quantity_micros=calls * UNIT,
        cogs_nanos=dollars * DOLLAR,
        price=PerUnit(price_nanos=dollars * DOLLAR // calls),
        input_tokens=0,
        is_negotiated=False,
    )


def recorded(*rows: Row, level: Level = Level.NONE, **refusals: Refusals) -> Recorded:
    return Recorded(
        tenant_id="acme",
        subscription_id="sub-1",
        period=PERIOD,
        as_of_micros=PERIOD.end_micros,
        revenue_nanos=10 * DOLLAR,
        cogs_nanos=sum(one.cogs_nanos for one in rows),
        level=level,
        rows=rows,
        refusals={int(hour[1:]) * HOUR_MICROS: count for hour, count in refusals.items()},
    )


def outcome(before: Recorded, known: Agreement, changed: Agreement, *, dearer: int = 1) -> Outcome:
    def reprice(given: Row) -> Row:
        return given._replace(cogs_nanos=given.cogs_nanos * dearer)

    terms = Terms(known=known, changed=changed, currency="USD")
    return simulate_period(before, terms, reprice if dearer != 1 else None)


PLAIN = Agreement(terms=contract())
STRICT = Agreement(terms=contract(thresholds=Thresholds(block_below_bp=6000, hysteresis_bp=0)))


def test_usage_that_was_reported_goes_on_at_a_block() -> None:
    """$5 of $10 are below 60 %: the second hour's call is refused, its reported $2 stay."""
    found = outcome(recorded(row(0, 5), row(1, 1), row(1, 2, REPORTED)), PLAIN, STRICT)

    assert found.acted.cogs_nanos == 7 * DOLLAR
    assert found.acted.calls == Calls(blocked=1)
    assert found.avoided_nanos == DOLLAR
    assert found.estimated_ratio == Decimal("0.1250")


def test_in_shadow_mode_nothing_is_refused() -> None:
    found = outcome(recorded(row(0, 5), row(1, 1)), PLAIN, replace(STRICT, shadow=True))

    assert found.acted.level is Level.BLOCK
    assert found.acted.calls == Calls(warned=1)
    assert found.acted.cogs_nanos == found.replayed.cogs_nanos


def test_an_override_softens_a_level_until_its_end() -> None:
    softened = replace(
        STRICT, override_level_max=Level.THROTTLE, override_until_micros=2 * HOUR_MICROS
    )

    found = outcome(recorded(row(0, 5), row(1, 1), row(2, 1)), PLAIN, softened)

    assert found.acted.calls == Calls(throttled=1, blocked=1)


def test_a_guard_refuses_the_calls_of_its_features_alone() -> None:
    """Chat has $4 of its own: $5 are too much, and search goes on."""
    guard = Guard(guard_id="chat", features=frozenset({"chat"}), revenue_nanos=4 * DOLLAR)
    guarded = Agreement(terms=contract(guards=(guard,)))

    found = outcome(recorded(row(0, 5), row(1, 1), row(1, 1, SEARCH, 3)), PLAIN, guarded)

    assert found.acted.calls == Calls(blocked=1)
    assert found.acted.level is Level.NONE
    assert found.avoided_nanos == DOLLAR


def test_a_guard_that_is_gone_frees_its_share_of_the_refused_calls() -> None:
    """All were refused at $12 of $10; without the tenant's block search passes: a half of them."""
    guard = Guard(guard_id="chat", features=frozenset({"chat"}), revenue_nanos=1)
    before = recorded(
        row(0, 6, CHAT, 2), row(0, 6, SEARCH, 2), level=Level.BLOCK, h1=Refusals(blocked=4)
    )
    known = Agreement(terms=contract(guards=(guard,)))
    changed = Agreement(terms=contract(fee=100, guards=(guard,)))

    found = outcome(before, known, changed)

    assert (found.recorded.calls.blocked, found.acted.calls.blocked) == (4, 2)
    assert found.added_nanos == 2 * 12 * DOLLAR // 4


def test_refused_calls_without_any_to_judge_by_pass_at_no_cost() -> None:
    before = replace(
        recorded(row(0, 12, REPORTED), level=Level.BLOCK, h1=Refusals(blocked=4)),
        level_before=Level.BLOCK,
    )

    found = outcome(before, PLAIN, Agreement(terms=contract(fee=100)))

    assert (found.acted.calls.blocked, found.added_nanos) == (0, 0)


def test_released_calls_are_marked_where_the_level_is_throttle() -> None:
    """$12 of $10 was a block; of $13 it is a margin of 7.7 %: throttle, then $6 more."""
    before = recorded(row(0, 12, CHAT, 4), level=Level.BLOCK, h1=Refusals(blocked=2))
    found = outcome(before, PLAIN, Agreement(terms=contract(fee=13)))

    assert found.acted.calls == Calls(throttled=2)
    assert found.added_nanos == 6 * DOLLAR

    warned = outcome(before, PLAIN, Agreement(terms=contract(fee=14)))
    assert warned.acted.calls == Calls(warned=2)


def test_calls_that_were_marked_as_the_level_rose_within_the_hour_are_not_counted_twice() -> None:
    """Two of three were marked in the hour that ended below 10 %; with a higher floor all are."""
    before = recorded(row(0, 1), row(1, 9, CHAT, 3), level=Level.THROTTLE, h1=Refusals(throttled=2))
    changed = Agreement(
        terms=contract(thresholds=Thresholds(throttle_below_bp=9500, hysteresis_bp=0))
    )

    assert outcome(before, PLAIN, changed).acted.calls == Calls(throttled=3)


def test_what_was_marked_is_refused_where_the_block_comes_earlier() -> None:
    before = recorded(row(0, 5), row(1, 5, CHAT, 3), level=Level.THROTTLE, h1=Refusals(throttled=2))

    assert outcome(before, PLAIN, STRICT).acted.calls == Calls(blocked=3)


def test_a_block_that_came_within_the_hour_keeps_its_count() -> None:
    before = recorded(row(0, 1), row(1, 11), level=Level.BLOCK, h1=Refusals(blocked=2))

    found = outcome(before, PLAIN, Agreement(terms=contract(fee=9)))

    assert found.acted.calls.blocked == 2


def test_a_level_of_the_record_stays_where_the_reckoning_does_not_move() -> None:
    """The catalog says $10, the ledger was assessed with another fee, and blocked."""
    before = replace(recorded(row(0, 5), level=Level.BLOCK), revenue_nanos=4 * DOLLAR)

    found = outcome(before, PLAIN, Agreement(terms=contract(fee=11)))

    assert (found.replayed.level, found.replayed.revenue_nanos) == (Level.BLOCK, 5 * DOLLAR)
    assert found.drift_nanos == 6 * DOLLAR


def grown(before: Recorded, agreement: Agreement, *growths: Growth) -> Outcome:
    no_prices = Prices(PriceBook(version="", currency=""))
    reprice = repricing(Scenario(growths=growths), "acme", no_prices, list_named, set())
    return simulate_period(
        before, Terms(known=agreement, changed=agreement, currency="USD"), reprice
    )


def test_refused_calls_grow_as_the_features_that_were_refused() -> None:
    """The guard refuses chat from the second hour on: its call cost $5 of $4."""
    guard = Guard(
        guard_id="chat-margin",
        features=frozenset({"chat"}),
        revenue_nanos=4 * DOLLAR,
        thresholds=Thresholds(block_below_bp=0),
    )
    agreement = Agreement(terms=contract(fee=100, guards=(guard,)))
    before = recorded(row(0, 5), row(1, 1, SEARCH), h1=Refusals(blocked=4))

    def refused(feature: str) -> int:
        growth = Growth(percent_bp=10_000, feature=feature)
        return grown(before, agreement, growth).acted.calls.blocked

    assert [refused(feature) for feature in ("", "chat", "search")] == [8, 8, 4]


def test_refused_calls_beside_which_none_passed_grow_with_all_usage() -> None:
    """Nobody knows of which feature they were."""
    before = recorded(level=Level.BLOCK, h1=Refusals(blocked=738))

    def refused(**whose: str) -> int:
        return grown(before, PLAIN, Growth(percent_bp=10_000, **whose)).acted.calls.blocked

    assert [refused(), refused(tenant_id="acme"), refused(feature="chat")] == [1476, 1476, 738]


def test_refused_calls_grow_by_parts_of_a_call_too() -> None:
    """One call an hour that passes, and 30 % more of it are one whole call still."""
    before = recorded(row(0, 12), h1=Refusals(blocked=10), level=Level.BLOCK)

    assert grown(before, PLAIN, Growth(percent_bp=3000)).acted.calls.blocked == 13


def test_a_period_that_was_never_assessed_is_reckoned_by_the_terms_known_now() -> None:
    """The ledger has no revenue of it; the contract says $10, of which $5 are left, then $6 of 11.

    With a floor of 60 % both ends of the comparison are blocked: nothing crosses it.
    """
    before = replace(recorded(row(0, 5), row(1, 1)), revenue_nanos=0, is_assessed=False)

    same, dearer_fee = (
        outcome(before, PLAIN, each) for each in (PLAIN, Agreement(terms=contract(fee=11)))
    )
    blocked = outcome(before, STRICT, STRICT)

    assert same.recorded == same.replayed == same.acted
    assert same.recorded.revenue_nanos == 10 * DOLLAR
    assert (dearer_fee.recorded.revenue_nanos, dearer_fee.replayed.revenue_nanos) == (
        10 * DOLLAR,
        11 * DOLLAR,
    )
    assert dearer_fee.is_reckoned
    assert dearer_fee.drift_nanos == 0
    assert blocked.recorded == blocked.replayed == blocked.acted
    assert blocked.recorded.level is Level.BLOCK


def test_without_a_contract_only_costs_change() -> None:
    found = simulate_period(
        recorded(row(0, 5)), None, lambda one: one._replace(cogs_nanos=1, price=None)
    )

    assert (found.recorded.cogs_nanos, found.acted.cogs_nanos) == (5 * DOLLAR, 1)
    assert (found.acted.revenue_nanos, found.unpriced_rows) == (10 * DOLLAR, 1)


def test_hours_are_needed_only_near_the_floors() -> None:
    terms = Terms(known=PLAIN, changed=STRICT, currency="USD")

    assert not needs_hours(recorded(row(0, 1)), terms, cogs_nanos=2 * DOLLAR)
    assert needs_hours(recorded(row(0, 1)), terms, cogs_nanos=8 * DOLLAR)
    assert needs_hours(recorded(row(0, 5)), terms, cogs_nanos=5 * DOLLAR)
    assert needs_hours(recorded(h1=Refusals(blocked=1)), terms, cogs_nanos=0)
    assert not needs_hours(recorded(), None, cogs_nanos=0)
    assert not rests_on_none(PLAIN, replace(SPAN, level_before=Level.WARN), 0)


def accrued() -> Agreement:
    phase = Phase(effective_from_micros=0, currency="USD", committed_fee_nanos=100 * DOLLAR)
    return Agreement(terms=contract(phases=(phase,), basis=RevenueBasis.ACCRUED))


def test_revenue_that_accrues_ends_a_level_without_usage() -> None:
    """$100 over 100 hours, a day at least: $30 of $24 is a block, of $50 it is none."""
    hours = {0: {CHAT: Used(UNIT, 30 * DOLLAR)}, 50 * HOUR_MICROS: {CHAT: Used(UNIT, 0)}}

    path = walk(accrued(), hours, SPAN)

    assert [step.level for step in path.steps] == [Level.BLOCK, Level.NONE]
    assert path.in_force[50 * HOUR_MICROS] == Levels(Level.NONE, ())
    assert path.revenue_nanos == 100 * DOLLAR


def carded(*tiers: Tier, volume: bool) -> Agreement:
    pricing = Volume(tiers=tiers) if volume else tiers[0].price
    component = Component(component_id="calls", meter="api.calls", pricing=pricing)
    card = RateCard(effective_from_micros=0, components=(component,))
    phase = Phase(currency="USD", committed_fee_nanos=DOLLAR, rate_cards=(card,))
    return Agreement(terms=contract(phases=(phase,)))


def test_more_usage_may_bring_less_by_volume() -> None:
    """100 calls at $1 are $101; one more, and all are at 10 cents: $11.10 of $60."""
    cheap = Tier(up_to_units=None, price=PerUnit(price_nanos=DOLLAR // 10))
    tiers = (Tier(up_to_units=100, price=PerUnit(price_nanos=DOLLAR)), cheap)
    hours = {
        0: {CHAT: Used(100 * UNIT, 60 * DOLLAR)},
        HOUR_MICROS: {CHAT: Used(UNIT, 0)},
    }

    path = walk(carded(*tiers, volume=True), hours, SPAN)
    same_price = walk(carded(tiers[0], volume=False), hours, SPAN)

    assert [step.level for step in path.steps] == [Level.BLOCK]
    assert path.revenue_nanos == 11_100_000_000
    assert (same_price.steps, same_price.revenue_nanos) == ((), 102 * DOLLAR)


def test_sums_are_told_with_the_worst_level() -> None:
    def one(name: str, level: Level, calls: Calls) -> Outcome:
        figures = Figures(revenue_nanos=DOLLAR, cogs_nanos=1, level=level, calls=calls)
        return Outcome(
            tenant_id=name,
            subscription_id="",
            period=PERIOD,
            recorded=figures,
            replayed=figures,
            acted=figures,
        )

    both = (one("a", Level.WARN, Calls(1, 2, 3)), one("b", Level.NONE, Calls(1, 1, 1)))
    total = Comparison(currency="USD", outcomes=both).total(lambda each: each.acted)
    nothing = Comparison(currency="USD", outcomes=()).total(lambda each: each.acted)

    assert (total.revenue_nanos, total.level, total.calls) == (
        2 * DOLLAR,
        Level.WARN,
        Calls(2, 3, 4),
    )
    assert (nothing.level, nothing.margin_ratio) == (Level.NONE, None)
    assert total.margin_ratio == Decimal("0.9999")
    assert both[0].estimated_ratio == 0


def test_what_was_marked_in_an_hour_of_a_block_stays_where_the_block_does() -> None:
    """A process of the decision had not heard of the block yet."""
    before = recorded(row(0, 12), row(1, 1), level=Level.BLOCK, h1=Refusals(throttled=2, blocked=1))

    found = outcome(before, PLAIN, Agreement(terms=contract(fee=9)))

    assert found.acted.calls == Calls(throttled=2, blocked=1)
