"""What a usage adds to the ledger, and what a row's sum costs: exact, whatever the order."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.periods import calendar_month, micros_of
from aforo_meter.domain.prices import PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.rating import (
    SHADOW,
    UNPRICED,
    ChargeKey,
    Measured,
    Rated,
    Usage,
    amount_nanos,
    rate,
    rerate,
    size_kept,
)
from aforo_meter.domain.usage import (
    API_CALLS,
    LLM_CACHE_CREATION,
    LLM_CACHED_INPUT,
    LLM_INPUT,
    LLM_OUTPUT,
    Outcome,
)
from tests.unit.rated_sums import sums

NOON = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)
UNIT = 1_000_000


def usage(
    *measures: tuple[str, int],
    outcome: Outcome = Outcome.ALLOW,
    reason: str = "allowed",
    shadow_reason: str = "",
    at: datetime = NOON,
    features: tuple[str, ...] = ("chat",),
) -> Usage:
    return Usage(
        event_id="e1",
        tenant_id="acme",
        subscription_id="sub-1",
        features=features,
        occurred_at_micros=micros_of(at),
        outcome=outcome,
        reason=reason,
        shadow_reason=shadow_reason,
        provider="openai",
        model="gpt-4o",
        measures=tuple(Measured(meter, units * UNIT) for meter, units in measures),
    )


def entry(price_id: str, meter: str = LLM_INPUT, *, tier: int = 0, since_s: int = 0) -> PriceEntry:
    return PriceEntry(
        price_id=price_id,
        meter=meter,
        price_nanos=2_500_000_000,
        per_units=1_000_000,
        effective_from_micros=since_s * 1_000_000,
        tier_input_tokens_from=tier,
    )


def prices(*entries: PriceEntry) -> Prices:
    book = PriceBook(version="1", currency="USD", own=(PriceList(entries=entries),))
    return Prices(book)


def rated(one: Usage, known: Prices, *, refused: frozenset[str] = frozenset()) -> Rated:
    return rate(
        one,
        known,
        subscription_id=one.subscription_id,
        period=calendar_month(one.occurred_at_micros),
        refused_price_ids=refused,
    )


def test_a_million_tokens_cost_what_the_price_says() -> None:
    """1,000,000 tokens at $2.50 per million = $2.50 = 2,500,000,000 nanos."""
    assert amount_nanos(10**6 * UNIT, price_nanos=2_500_000_000, per_units=10**6) == 2_500_000_000


@pytest.mark.parametrize(("quantity_micros", "expected"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_half_a_nano_goes_to_the_even_one(quantity_micros: int, expected: int) -> None:
    """At 500,000 nanos a unit, a micro-unit costs half a nano: 0.5 → 0, 1, 1.5 → 2, 2.5 → 2."""
    assert amount_nanos(quantity_micros, price_nanos=500_000, per_units=1) == expected


@given(
    quantity_micros=st.integers(0, 2**63 - 1),
    price_nanos=st.integers(0, 10**15),
    per_units=st.integers(1, 10**12),
)
def test_an_amount_is_the_exact_fraction_rounded_once(
    quantity_micros: int, price_nanos: int, per_units: int
) -> None:
    exact = Fraction(quantity_micros * price_nanos, per_units * UNIT)

    # round() of a Fraction goes to the even neighbour, too.
    assert amount_nanos(quantity_micros, price_nanos=price_nanos, per_units=per_units) == (
        round(exact)
    )


def test_each_measure_goes_to_a_row_of_its_own() -> None:
    known = prices(entry("in"), entry("out", LLM_OUTPUT))
    one = rated(usage((LLM_INPUT, 700), (LLM_OUTPUT, 50), features=("api", "chat")), known)

    assert [(key.meter, key.price_id, quantity) for key, quantity in one.charges] == [
        (LLM_INPUT, "in", 700 * UNIT),
        (LLM_OUTPUT, "out", 50 * UNIT),
    ]
    key = one.charges[0][0]
    assert key.feature == "api,chat"
    assert key.hour_start_micros == micros_of(NOON.replace(minute=0, second=0))
    assert key.period_start_micros == micros_of(datetime(2026, 3, 1, tzinfo=UTC))
    assert [price.price_id for price in one.prices] == ["in", "out"]


def test_nothing_used_makes_no_row() -> None:
    assert rated(usage((LLM_INPUT, 0)), prices(entry("in"))).charges == ()


def test_the_tier_goes_by_all_input_tokens_of_the_request() -> None:
    known = prices(entry("base"), entry("large", tier=1000), entry("out", LLM_OUTPUT))

    small = usage((LLM_INPUT, 999), (LLM_OUTPUT, 5000))
    large = usage((LLM_INPUT, 400), (LLM_CACHED_INPUT, 300), (LLM_CACHE_CREATION, 300))

    assert {key.price_id for key, _ in rated(small, known).charges} == {"base", "out"}
    assert {key.price_id for key, _ in rated(large, known).charges} == {"large"}


def test_usage_that_no_price_covers_is_kept_as_unpriced() -> None:
    ((key, quantity_micros),) = rated(usage((LLM_INPUT, 1500)), prices()).charges

    assert key.price_id == UNPRICED
    assert quantity_micros == 1500 * UNIT
    assert key.input_tokens == 1001  # More than 1,000, and at most 2,000.


def test_a_price_that_contradicts_the_ledger_is_not_charged() -> None:
    one = rated(usage((LLM_INPUT, 10)), prices(entry("in")), refused=frozenset({"in"}))

    assert [key.price_id for key, _ in one.charges] == [UNPRICED]
    assert one.prices == ()


@pytest.mark.parametrize("boundary", [128_000, 200_000, 200_001, 272_001, 1_000_000])
@given(tokens=st.integers(0, 2_000_000))
def test_what_is_kept_of_a_size_tells_tiers_at_thousands_exactly(
    boundary: int, tokens: int
) -> None:
    assert (size_kept(LLM_INPUT, tokens) >= boundary) == (tokens >= boundary)


def test_calls_that_wait_for_a_price_are_not_told_apart_by_size() -> None:
    assert size_kept(API_CALLS, 123_456) == 0


def test_unpriced_usage_is_rated_once_there_is_a_price() -> None:
    ((key, _),) = rated(usage((LLM_INPUT, 250_000)), prices()).charges
    known = prices(entry("base"), entry("large", tier=200_001))

    found = rerate(key, known)

    assert found is not None
    assert found.price_id == "large"
    assert rerate(key, prices(entry("future", since_s=4 * 10**9))) is None


@pytest.mark.parametrize(
    ("outcome", "reason", "shadow_reason", "expected"),
    [
        (Outcome.ALLOW, "allowed", "", None),
        (Outcome.NOT_DECIDED, "", "", None),
        (Outcome.BLOCK, "quota_exceeded", "", ("block", "quota_exceeded")),
        (Outcome.THROTTLE, "margin_throttle", "", ("throttle", "margin_throttle")),
        (Outcome.ALLOW, "allowed", "quota_exceeded", (SHADOW, "quota_exceeded")),
    ],
)
def test_interventions_are_counted_by_outcome_and_reason(
    outcome: Outcome, reason: str, shadow_reason: str, expected: tuple[str, str] | None
) -> None:
    one = rated(usage(outcome=outcome, reason=reason, shadow_reason=shadow_reason), prices())

    if expected is None:
        assert one.intervention is None
    else:
        assert one.intervention is not None
        assert (one.intervention.outcome, one.intervention.reason) == expected


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([LLM_INPUT, LLM_OUTPUT, API_CALLS]),
        st.integers(0, 10**7),
        st.integers(0, 3 * 3600),
    ),
    max_size=30,
)


def amounts(totals: Counter[ChargeKey]) -> dict[ChargeKey, int]:
    return {
        key: amount_nanos(quantity, price_nanos=333, per_units=7000)
        for key, quantity in totals.items()
    }


@given(events=EVENTS, cut=st.integers(0, 30), data=st.data())
def test_no_split_and_no_order_changes_a_total(
    events: list[tuple[str, int, int]], cut: int, data: st.DataObject
) -> None:
    known = prices(entry("in"), entry("out", LLM_OUTPUT))
    all_rated = [
        rated(usage((meter, units), at=NOON + timedelta(seconds=offset_s)), known)
        for meter, units, offset_s in events
    ]
    shuffled = data.draw(st.permutations(all_rated))

    whole = sums(all_rated)
    parts = sums(shuffled[:cut])
    parts.update(sums(shuffled[cut:]))

    assert parts == whole
    assert amounts(parts) == amounts(whole)
