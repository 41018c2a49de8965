"""What adjustments make rows right: which price holds by now, and what the arithmetic keeps."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.corrections import (
    NOTHING,
    Adjustment,
    Known,
    Row,
    Taken,
    changed,
    choose,
    cogs_by_period,
    price_now,
    rerated,
    taken_of_event,
)
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.prices import PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.rating import OTHER_MODEL, ChargeKey, Measured, Usage
from aforo_meter.domain.usage import API_CALLS, LLM_INPUT, Outcome

UNIT = 1_000_000
HOUR = 500_000 * HOUR_MICROS
HALF_PAST = HOUR + HOUR_MICROS // 2


def entry(price_id: str, nanos: int = 1, **more: Any) -> PriceEntry:  # noqa: ANN401
    fields: dict[str, Any] = {"meter": LLM_INPUT, "per_units": 1, "effective_from_micros": 0}
    return PriceEntry(price_id=price_id, price_nanos=nanos, **(fields | more))


def prices(*entries: PriceEntry) -> Prices:
    book = PriceBook(version="1", currency="USD", own=(PriceList(entries=entries),))
    return Prices(book)


def key(price_id: str = "old", **more: Any) -> ChargeKey:  # noqa: ANN401
    fields: dict[str, Any] = {
        "tenant_id": "acme",
        "subscription_id": "sub-1",
        "period_start_micros": 0,
        "hour_start_micros": HOUR,
        "feature": "api",
        "meter": LLM_INPUT,
        "provider": "openai",
        "model": "gpt",
        "input_tokens": 0,
    }
    return ChargeKey(price_id=price_id, **(fields | more))


def usage(*measures: tuple[str, int], **more: Any) -> Usage:  # noqa: ANN401
    fields: dict[str, Any] = {
        "tenant_id": "acme",
        "subscription_id": "sub-1",
        "features": ("api",),
        "occurred_at_micros": HOUR + 1,
        "outcome": Outcome.ALLOW,
        "reason": "",
        "shadow_reason": "",
        "provider": "openai",
        "model": "gpt",
    }
    return Usage(
        event_id="e1", measures=tuple(Measured(*one) for one in measures), **(fields | more)
    )


def known(*entries: PriceEntry) -> dict[str, Known]:
    return {one.price_id: Known.of(one, "USD") for one in entries}


OLD = entry("old")
HELD = [
    pytest.param([OLD], "old", id="nothing changed"),
    pytest.param([OLD, entry("new", effective_from_micros=HOUR)], "new", id="from its hour on"),
    pytest.param([OLD, entry("new", effective_from_micros=HALF_PAST)], "old", id="within its hour"),
    pytest.param(
        [OLD, entry("new", effective_from_micros=HOUR + HOUR_MICROS)], "old", id="afterwards"
    ),
    pytest.param([], None, id="none any more"),
    pytest.param([entry("new")], "new", id="the old one was taken out"),
    pytest.param(
        [entry("new", effective_from_micros=HALF_PAST)], "new", id="the first one of its hour"
    ),
    pytest.param([entry("new", effective_from_micros=HOUR + HOUR_MICROS)], None, id="later ones"),
    pytest.param([entry("other", meter=API_CALLS)], None, id="of other meters"),
    pytest.param(
        [OLD, entry("night", day_from_s=0, day_to_s=86_399)], "night", id="a part of the day"
    ),
]


@pytest.mark.parametrize(("entries", "expected"), HELD)
def test_a_row_gets_the_price_that_holds_in_its_hour(
    entries: list[PriceEntry], expected: str | None
) -> None:
    found = price_now(key(), Known.of(OLD, "USD"), prices(*entries))

    assert (found.price_id if found else None) == expected


def test_usage_from_the_second_half_of_an_hour_gets_what_holds_there() -> None:
    """Its price began at half past; the two that replace it change then, too."""
    was = Known.of(entry("old", effective_from_micros=HALF_PAST), "USD")
    now = prices(entry("first"), entry("second", effective_from_micros=HALF_PAST))

    found = price_now(key(), was, now)

    assert found is not None
    assert found.price_id == "second"


def test_a_price_that_began_after_the_hour_says_nothing_about_its_half() -> None:
    """Nobody should have rated so; the hour's beginning decides."""
    was = Known.of(entry("old", effective_from_micros=HOUR + 3 * HOUR_MICROS), "USD")

    found = price_now(key(), was, prices(entry("new")))

    assert found is not None
    assert found.price_id == "new"


def test_a_price_of_another_part_of_the_day_does_not_leave_usage_without_one() -> None:
    """At half past, when the old one began, none holds: that of the hour's first half does."""
    second = HOUR // UNIT % 86_400
    was = Known.of(entry("old", effective_from_micros=HALF_PAST), "USD")
    early = entry("early", day_from_s=second, day_to_s=second + 60)

    found = price_now(key(), was, prices(early))

    assert found == early


@pytest.mark.parametrize(("tier", "expected"), [(0, "new"), (200_001, "new large")])
def test_a_row_stays_in_its_tier(tier: int, expected: str) -> None:
    was = Known.of(entry("old", tier_input_tokens_from=tier), "USD")
    now = prices(entry("new"), entry("new large", tier_input_tokens_from=200_001))

    found = price_now(key(), was, now)

    assert found is not None
    assert found.price_id == expected


def test_what_can_be_chosen_and_what_is_left() -> None:
    new = entry("new", 3, effective_from_micros=1)
    gone = entry("gone", meter=API_CALLS)
    rows = {
        key(): Row(UNIT, 0, 1),
        key(feature="none left"): NOTHING,
        key(feature="amount is wrong", price_id="new"): Row(UNIT, 0, 2),
        key(feature="is right", price_id="new"): Row(UNIT, 0, 3),
        key(price_id="", input_tokens=1000): Row(UNIT, 0, 0),
        key(price_id="", input_tokens=2000): NOTHING,
        key(price_id="gone", meter=API_CALLS): Row(UNIT, 0, 1),
        key(model=OTHER_MODEL): Row(UNIT, 0, 1),
    }

    choice = choose(rows, known(OLD, new, gone), prices(OLD, new))

    assert choice.to == {key(): "new", key(feature="amount is wrong", price_id="new"): "new"}
    assert choice.entries == {"new": new}
    assert (choice.waiting, choice.without) == (1, 2)


ROWS = st.dictionaries(
    st.builds(key, st.sampled_from(["a", "b", ""]), feature=st.sampled_from(["x", "y"])),
    st.builds(Row, st.integers(0, 10**15), st.integers(0, 10**9)),
    min_size=1,
)
PRICES = st.fixed_dictionaries(
    {
        name: st.builds(
            Known,
            st.integers(0, 10**9),
            st.sampled_from([1, 3, 1000, 1_000_000]),
            st.just("USD"),
            st.just(0),
            st.just(0),
        )
        for name in ("a", "b")
    }
)


@given(rows=ROWS, figures=PRICES, to=st.sampled_from(["a", "b"]))
def test_moved_rows_cost_what_their_quantity_costs(
    rows: dict[ChargeKey, Row], figures: dict[str, Known], to: str
) -> None:
    """To the nano, beside an exact reckoning; no unit comes or goes; again, nothing changes."""
    wanted = {one: to for one in rows if one.price_id}

    adjustments = rerated(rows, wanted, figures)

    after = dict(rows)
    for one in adjustments:
        after[one.key] = after.get(one.key, NOTHING).plus(one.change)
    for name, row in after.items():
        if name.price_id:
            assert row.cogs_nanos == reckoned(row, figures[name.price_id])
            assert name.price_id == to or row == NOTHING
    assert total(after)[:2] == total(rows)[:2]
    assert rerated(after, wanted, figures) == []


def reckoned(row: Row, price: Known) -> int:
    return round(Fraction(row.quantity_micros * price.price_nanos, price.per_units * UNIT))


def total(rows: dict[ChargeKey, Row]) -> Row:
    found = NOTHING
    for row in rows.values():
        found = found.plus(row)
    return found


@given(
    row=st.builds(Row, st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12)),
    quantity_micros=st.integers(-(10**13), 10**12),
    extra_micros=st.integers(-(10**13), 10**12),
)
def test_nothing_falls_below_zero(row: Row, quantity_micros: int, extra_micros: int) -> None:
    price = Known(7, 3, "USD", 0, 0)

    for one in (price, None):
        after = row.plus(changed(row, quantity_micros, extra_micros, price=one))

        assert min(after) >= 0
        assert after.cogs_nanos == (reckoned(after, price) if one else 0)


def test_a_price_is_the_same_if_its_figures_are() -> None:
    one, other = Known(5, 3, "USD", 0, 0), Known(5, 3, "USD", 1, 1)

    assert one.figures == other.figures == (5, 3, "USD")


def test_changes_are_added_up_by_period() -> None:
    changes = [
        Adjustment(key(), Row(0, 0, -5)),
        Adjustment(key("new"), Row(0, 0, 7)),
        Adjustment(key(period_start_micros=1), Row(9, 0, 0)),
    ]

    assert cogs_by_period(changes) == {("acme", "sub-1", 0): 2, ("acme", "sub-1", 1): 0}


def test_an_event_is_taken_from_the_row_of_the_price_that_holds() -> None:
    """Two prices in its hour, and the row of one has less than the event."""
    new = entry("new", effective_from_micros=1)
    event = usage((LLM_INPUT, 5 * UNIT), ("bytes.request", 0))
    rows = {key(): Row(9 * UNIT), key("new"): Row(9 * UNIT), key(feature="other"): Row(9 * UNIT)}
    figures = known(OLD, new)

    assert taken_of_event(event, rows, figures, prices(OLD, new)) == {
        LLM_INPUT: [Taken(key("new"), 5 * UNIT, 0)]
    }
    less = {**rows, key("new"): Row(4 * UNIT)}
    assert taken_of_event(event, less, figures, prices(OLD, new)) == {
        LLM_INPUT: [Taken(key(), 5 * UNIT, 0)]
    }


def test_several_rows_give_what_none_has_alone() -> None:
    new = entry("new", effective_from_micros=1)
    rows = {key(): Row(3 * UNIT), key("new"): Row(4 * UNIT), key(tool="x"): Row(9 * UNIT)}
    rows |= {key("empty"): NOTHING}
    figures, now = known(OLD, new, entry("empty")), prices(OLD, new)

    assert taken_of_event(usage((LLM_INPUT, 5 * UNIT)), rows, figures, now) == {
        LLM_INPUT: [Taken(key("new"), 4 * UNIT, 0), Taken(key(), UNIT, 0)]
    }
    assert taken_of_event(usage((LLM_INPUT, 8 * UNIT)), rows, figures, now) == {LLM_INPUT: []}


def test_the_size_of_a_request_tells_its_row() -> None:
    """300,000 tokens are in the tier above 200,000; 1,500 unpriced ones are kept as 1,001."""
    large = entry("large", tier_input_tokens_from=200_001)
    rows = {key(): Row(10**12), key("large"): Row(10**12)}
    waiting = {key("", input_tokens=size): Row(10**12) for size in (1000, 1001)}
    nothing_holds = prices()

    found = taken_of_event(
        usage((LLM_INPUT, 300_000 * UNIT)), rows, known(OLD, large), nothing_holds
    )
    unpriced = taken_of_event(usage((LLM_INPUT, 1500 * UNIT)), waiting, {}, nothing_holds)

    assert [one.key.price_id for one in found[LLM_INPUT]] == ["large"]
    assert [one.key.input_tokens for one in unpriced[LLM_INPUT]] == [1001]


def test_usage_that_waits_is_not_taken_from_a_lower_tier() -> None:
    """Both rows have enough, and neither has the price that holds now."""
    large = entry("large", tier_input_tokens_from=1001)
    rows = {key(): Row(10**12), key("", input_tokens=1001): Row(10**12)}

    found = taken_of_event(usage((LLM_INPUT, 1500 * UNIT)), rows, known(OLD), prices(OLD, large))

    assert [one.key.price_id for one in found[LLM_INPUT]] == [""]


def test_what_a_weight_adds_is_taken_back_with_calls_alone() -> None:
    calls = entry("calls", meter=API_CALLS)
    event = usage((API_CALLS, UNIT), (LLM_INPUT, UNIT), weight_units=5)
    rows = {key("calls", meter=API_CALLS): Row(UNIT, 4 * UNIT), key(): Row(UNIT)}

    found = taken_of_event(event, rows, known(OLD, calls), prices(OLD, calls))

    assert found[API_CALLS] == [Taken(key("calls", meter=API_CALLS), UNIT, 4 * UNIT)]
    assert found[LLM_INPUT] == [Taken(key(), UNIT, 0)]
    heavier = taken_of_event(
        replace(event, weight_units=6), rows, known(OLD, calls), prices(OLD, calls)
    )
    assert heavier[API_CALLS] == []
