"""Guards: which usage is whose, on what revenue, and the same exact floors as a tenant's margin."""

from collections.abc import Iterable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.account import Account, UsageKey, Used
from aforo_meter.domain.guards import Guard, assess_guard
from aforo_meter.domain.margin import Assessment, Level, MarginState, Thresholds, assess

DOLLAR = 10**9
UNIT = 10**6


def key(meter: str = "llm.output_tokens", *, feature: str = "chat") -> UsageKey:
    return UsageKey(meter, feature, "openai", "gpt-4o", "", "")


def used(cogs_nanos: int, *, units: int = 0) -> Used:
    return Used(quantity_micros=units * UNIT, cogs_nanos=cogs_nanos)


USAGE: Account = {
    key(): used(50 * DOLLAR),
    key("llm.input_tokens"): used(20 * DOLLAR),
    key("api.calls"): used(DOLLAR, units=300),
    key("llm.output_tokens", feature="chat,search"): used(8 * DOLLAR),
    key("llm.output_tokens", feature="search"): used(4 * DOLLAR),
    key("api.calls", feature="search"): used(2 * DOLLAR, units=40),
    key("bytes.response", feature=""): used(100 * DOLLAR),
}


def assessed(
    guard: Guard, account: Account = USAGE, *, revenue: int = 0, previous: Level = Level.NONE
) -> Assessment:
    return assess_guard(guard, account, contract_revenue_nanos=revenue, previous=previous)


def guard(
    features: Iterable[str] = (),
    meters: tuple[str, ...] = (),
    *,
    revenue_nanos: int | None = 100 * DOLLAR,
    share_bp: int = 0,
    thresholds: Thresholds | None = None,
) -> Guard:
    return Guard(
        guard_id="g",
        features=frozenset(features),
        meters=meters,
        revenue_nanos=revenue_nanos,
        revenue_share_bp=share_bp,
        thresholds=thresholds or Thresholds(),
    )


@pytest.mark.parametrize(
    ("features", "meters", "dollars"),
    [
        ((), (), 185),
        (("chat",), (), 79),  # A call that needs chat and search is one of chat's too.
        (("search",), (), 14),
        (("chat", "search"), (), 85),
        (("chat",), ("llm.output_tokens",), 58),
        (("chat",), ("llm.*",), 78),
        ((), ("llm.*", "api.calls"), 85),
        ((), ("llm.",), 0),  # A name is a whole one.
        ((), ("*",), 185),
        (("reports",), (), 0),
    ],
)
def test_a_guard_costs_what_its_features_and_meters_cost(
    features: tuple[str, ...], meters: tuple[str, ...], dollars: int
) -> None:
    assert assessed(guard(features, meters)).cogs_nanos == dollars * DOLLAR


@pytest.mark.parametrize(
    ("cents", "level"), [(80_00, Level.NONE), (80_01, Level.WARN), (100_01, Level.BLOCK)]
)
def test_a_guards_floors_are_as_strict_as_a_tenants(cents: int, level: Level) -> None:
    account = {key(): used(cents * DOLLAR // 100)}

    assert assessed(guard(["chat"]), account).level is level


def test_a_share_of_the_contracts_revenue_is_what_a_guard_has() -> None:
    """60 % of $200 is $120; costs of $96.00 leave exactly 20 %."""
    one = guard(["chat"], revenue_nanos=None, share_bp=6000)

    on_the_floor = assessed(one, {key(): used(96 * DOLLAR)}, revenue=200 * DOLLAR)
    below = assessed(one, {key(): used(96 * DOLLAR + 1)}, revenue=200 * DOLLAR)

    assert on_the_floor.revenue_nanos == 120 * DOLLAR
    assert (on_the_floor.level, below.level) == (Level.NONE, Level.WARN)


def test_an_amount_counts_by_what_is_recognised_of_the_period() -> None:
    half = assess_guard(
        guard(["chat"]),
        USAGE,
        contract_revenue_nanos=500 * DOLLAR,
        previous=Level.NONE,
        recognised=Fraction(1, 2),
    )
    share = guard(revenue_nanos=None, share_bp=2000).revenue_of(500 * DOLLAR, Fraction(1, 2))

    assert (half.revenue_nanos, half.level) == (50 * DOLLAR, Level.BLOCK)
    assert share == 100 * DOLLAR  # Of a revenue that is recognised itself.


def test_without_revenue_a_guard_is_undefined_and_blocks_nobody() -> None:
    one = assessed(guard(revenue_nanos=None, share_bp=6000), revenue=0)

    assert (one.level, one.state) == (Level.NONE, MarginState.UNDEFINED)


def test_a_guard_keeps_its_level_until_it_has_risen_by_its_hysteresis() -> None:
    held = assessed(guard(), {key(): used(80 * DOLLAR)}, previous=Level.WARN)
    freed = assessed(guard(), {key(): used(79 * DOLLAR)}, previous=Level.WARN)

    assert (held.level, freed.level) == (Level.WARN, Level.NONE)


@pytest.mark.parametrize(
    ("features", "least", "level"),
    [
        (["chat"], 300, Level.BLOCK),
        (["chat"], 301, Level.WARN),
        (["search"], 40, Level.BLOCK),
        (["search"], 41, Level.WARN),
        ([], 340, Level.BLOCK),
    ],
)
def test_a_guards_sample_is_the_calls_of_its_features(
    features: list[str], least: int, level: Level
) -> None:
    """Whatever its meters are: here those of tokens alone."""
    thresholds = Thresholds(act_from_calls=least)
    one = guard(features, ("llm.*",), revenue_nanos=DOLLAR, thresholds=thresholds)

    assert assessed(one).level is level


def test_a_part_of_a_call_is_no_call() -> None:
    account = {key(): used(DOLLAR), key("api.calls"): Used(quantity_micros=2 * UNIT - 1)}
    one = guard(revenue_nanos=1, thresholds=Thresholds(act_from_calls=2))

    assert assessed(one, account).level is Level.WARN


accounts = st.dictionaries(
    st.builds(
        key,
        st.sampled_from(["api.calls", "llm.input_tokens", "llm.output_tokens"]),
        feature=st.sampled_from(["", "chat", "search", "chat,search"]),
    ),
    st.builds(used, st.integers(0, 2**60), units=st.integers(0, 10)),
)


@given(account=accounts, revenue=st.integers(0, 2**63 - 1), previous=st.sampled_from(list(Level)))
def test_a_guard_of_everything_on_the_whole_revenue_is_the_tenants_margin(
    account: Account, revenue: int, previous: Level
) -> None:
    whole = guard(revenue_nanos=None, share_bp=10_000)

    assert assessed(whole, account, revenue=revenue, previous=previous) == assess(
        revenue_nanos=revenue,
        cogs_nanos=sum(each.cogs_nanos for each in account.values()),
        allowance_nanos=0,
        thresholds=whole.thresholds,
        previous=previous,
    )


@given(account=accounts)
def test_guards_of_meters_that_share_nothing_add_up(account: Account) -> None:
    parts = [guard(meters=("llm.*",)), guard(meters=("api.calls",))]

    assert sum(assessed(one, account).cogs_nanos for one in parts) == sum(
        each.cogs_nanos for each in account.values()
    )


@given(revenue=st.integers(0, 2**63 - 1), share_bp=st.integers(1, 10_000))
def test_a_share_is_rounded_once_to_the_nearest_nano(revenue: int, share_bp: int) -> None:
    found = assessed(guard(revenue_nanos=None, share_bp=share_bp), revenue=revenue).revenue_nanos

    assert abs(found - Fraction(revenue * share_bp, 10_000)) <= Fraction(1, 2)


def test_the_worked_example() -> None:
    """As docs/margins.md has it."""
    plan = guard(["chat"], ("llm.*",), revenue_nanos=None, share_bp=6000)
    calls = {key("api.calls"): used(3 * DOLLAR), key(feature="embeddings"): used(40 * DOLLAR)}

    def levels(chat_cents: int, *, fee: int, previous: Level) -> tuple[Level, str, str]:
        account = {key(): used(chat_cents * DOLLAR // 100), **calls}
        chat = assessed(plan, account, revenue=fee * DOLLAR, previous=previous)
        tenant = assess(
            revenue_nanos=fee * DOLLAR,
            cogs_nanos=sum(each.cogs_nanos for each in account.values()),
            allowance_nanos=0,
            thresholds=Thresholds(),
            previous=Level.NONE,
        )
        assert tenant.level is Level.NONE
        return chat.level, str(chat.gross_margin_ratio), str(tenant.gross_margin_ratio)

    assert levels(285_00, fee=500, previous=Level.NONE) == (Level.THROTTLE, "0.0500", "0.3440")
    assert levels(300_00, fee=500, previous=Level.NONE) == (Level.THROTTLE, "0.0000", "0.3140")
    assert levels(300_01, fee=500, previous=Level.THROTTLE) == (Level.BLOCK, "-0.0001", "0.3139")
    assert levels(300_01, fee=600, previous=Level.BLOCK) == (Level.WARN, "0.1666", "0.4283")
