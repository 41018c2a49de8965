"""What a scenario's costs become as entries of the price book."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from aforo_admin import messages
from aforo_admin.builtin_prices import built_in_lists
from aforo_admin.coming_prices import ENTRIES_MAX, ComingPrices, coming_prices
from aforo_admin.domain.scenario import CostChange, Scenario
from aforo_admin.domain.scenario_usage import Row, repriced_by, repricing
from aforo_admin.faults import CatalogError
from aforo_admin.price_books import list_named, lists_of
from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.prices import OWN_SOURCE, PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.rate_card import PerUnit
from aforo_meter.domain.rating import amount_nanos

NOW = datetime(2026, 11, 27, tzinfo=UTC)
LONG_AGO, JANUARY, FEBRUARY, JUNE = (
    datetime(2020, 1, 1, tzinfo=UTC),
    datetime(2027, 1, 1, tzinfo=UTC),
    datetime(2027, 2, 1, tzinfo=UTC),
    datetime(2027, 6, 1, tzinfo=UTC),
)
METER = "llm.input_tokens"
FIFTH = CostChange(provider="openai", percent_bp=2000)


def prices(model: str, *dated: tuple[datetime, int]) -> PriceList:
    """Return what a million tokens of a model cost, in units of the currency, by date."""
    entries = tuple(
        PriceEntry(
            price_id=f"{model}-{begins:%Y%m%d}",
            meter=METER,
            price_nanos=price * 10**9,
            per_units=1_000_000,
            effective_from_micros=micros_of(begins),
            source="",
        )
        for begins, price in dated
    )
    return PriceList(provider="openai", model=model, entries=entries)


def book(*, own: tuple[PriceList, ...] = (), built_in: tuple[PriceList, ...] = ()) -> PriceBook:
    return PriceBook(version="1", currency="USD", own=own, built_in=built_in)


def made(found: ComingPrices) -> list[tuple[str, int]]:
    return [(each.price.model, each.price.price_nanos // 10**9) for each in found.added]


def test_a_price_counts_once_whoever_says_it() -> None:
    """All published prices, and for each one of our own from an earlier change: one entry each."""
    names = [f"m{number}" for number in range(ENTRIES_MAX)]
    held = book(
        own=tuple(prices(name, (JANUARY, 12)) for name in names),
        built_in=tuple(prices(name, (LONG_AGO, 10)) for name in names),
    )

    found = coming_prices([FIFTH], held, JUNE)

    assert len(found.added) == ENTRIES_MAX
    assert found.added[0].price.price_nanos == 14_400_000_000
    with pytest.raises(CatalogError, match=f"is about {ENTRIES_MAX + 1} prices, at most"):
        coming_prices([FIFTH], book(built_in=(*held.built_in, prices("x", (LONG_AGO, 1)))), JUNE)


def test_a_change_of_a_coming_change_is_told() -> None:
    own = (prices("a", (JANUARY, 12)),)
    built_in = (prices("a", (LONG_AGO, 10)), prices("b", (LONG_AGO, 10)))

    found = coming_prices([FIFTH], book(own=own, built_in=built_in), FEBRUARY)

    assert [each.told("USD") for each in found.added] == [
        f"openai a {METER}: 12 → 14.4 USD per 1,000,000 from 2027-02-01",
        f"openai b {METER}: 10 → 12 USD per 1,000,000 from 2027-02-01",
    ]
    assert list(found.remarks(NOW)) == [
        (
            "1 price had a coming change already, from 2027-01-01 on, and this one adds to it:"
            f" openai a {METER}: 12 → 14.4 USD per 1,000,000 from 2027-02-01"
        )
    ]
    # Once it is in force, it is a price like any other.
    assert list(found.remarks(JANUARY)) == []


def test_prices_that_begin_later_stay_and_are_told() -> None:
    held = book(own=(prices("a", (LONG_AGO, 10), (JUNE, 20)), prices("b", (LONG_AGO, 10))))

    found = coming_prices([FIFTH], held, FEBRUARY)

    assert made(found) == [("a", 12), ("b", 12)]
    assert list(found.remarks(NOW)) == [
        (
            "later prices of the same stay as they are, and end this change: 1, the first from"
            " 2027-06-01"
        )
    ]


def test_several_changes_of_one_price_are_made_in_turn() -> None:
    held = book(own=(prices("a", (LONG_AGO, 10)), prices("b", (LONG_AGO, 10))))
    price = PerUnit(price_nanos=20 * 10**9, per_units=1_000_000)
    first = CostChange(provider="openai", model="b", meter=METER, price=price)

    assert made(coming_prices([first, FIFTH, FIFTH], held, JUNE)) == [("b", 28), ("a", 14)]


def test_a_second_price_of_one_date_is_refused_at_the_date() -> None:
    held = book(own=(prices("a", (LONG_AGO, 10), (JUNE, 12)), prices("b", (JUNE, 12))))
    told = (
        f'begins: "2027-06-01" is the date of an entry that there is already, of openai a {METER}'
        " and 1 further price: name another date"
    )

    with pytest.raises(CatalogError, match=told):
        coming_prices([FIFTH], held, JUNE)
    with pytest.raises(CatalogError, match="is about no price that there is"):
        coming_prices([CostChange(provider="nobody", percent_bp=1)], held, JUNE)


PUBLISHED = book(built_in=lists_of(built_in_lists()))
EIGHT = PerUnit(price_nanos=8 * 10**9, per_units=1_000_000)


def used(model: str, meter: str, prices: Prices) -> Row:
    """Return a million tokens as the ledger has them, under the name that OpenAI reports."""
    at_micros = micros_of(NOW)
    price = prices.price_of(
        meter, provider="openai", model=model, at_micros=at_micros, input_tokens=0
    )
    assert price is not None
    quantity_micros = 10**12
    return Row(
        hour_start_micros=at_micros,
        key=UsageKey(meter, "chat", "openai", model, "", ""),
        quantity_micros=quantity_micros,
        cogs_nanos=amount_nanos(
            quantity_micros, price_nanos=price.price_nanos, per_units=price.per_units
        ),
        price=PerUnit(price_nanos=price.price_nanos, per_units=price.per_units),
        input_tokens=0,
        is_negotiated=False,
    )


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        (CostChange(provider="openai", model="gpt-4o", percent_bp=2000), 3),
        (CostChange(model="gpt-4o", percent_bp=2000), 3),
        (CostChange(provider="openai", model="gpt-4o*", percent_bp=2000), 4),
        (CostChange(model="gpt-4o-mini", percent_bp=-5000), 1),
        # A price of our own for input would hold for cached input too, but that keeps its own.
        (CostChange(provider="openai", model="gpt-4o", meter=METER, percent_bp=2000), 1),
        (CostChange(provider="openai", model="gpt-4o", meter=METER, price=EIGHT), 1),
        (CostChange(provider="openai", model="gpt-4o", meter="llm.output_tokens", price=EIGHT), 1),
        # An entry of no provider covers that very name, so neither finds anything.
        (CostChange(model="gpt-4o", meter="llm.output_tokens", price=EIGHT), 0),
    ],
)
def test_a_what_if_of_costs_comes_to_what_its_entries_do(
    change: CostChange, concerned: int
) -> None:
    old = Prices(PUBLISHED)
    rows = [
        used(*names, old)
        for names in (
            ("gpt-4o-2024-08-06", METER),
            ("gpt-4o-2024-11-20", "llm.cached_input_tokens"),
            ("gpt-4o-2024-08-06", "llm.output_tokens"),
            ("gpt-4o-mini-2024-07-18", METER),
        )
    ]

    added = [each.price for each in coming_prices([change], PUBLISHED, JUNE).added]
    own = lists_of(messages.price_lists(added, source=OWN_SOURCE, owner="catalog"))
    new = Prices(replace(PUBLISHED, own=own))
    simulated = list(map(repricing(Scenario(costs=(change,)), "a", old, list_named, set()), rows))
    replayed = list(map(repriced_by(old, new, latest_micros=micros_of(JUNE)), rows))

    assert [each.cogs_nanos for each in simulated] == [each.cogs_nanos for each in replayed]
    assert concerned == sum(a != b for a, b in zip(simulated, rows, strict=True))


def test_what_a_price_of_the_whole_would_end_is_kept_and_what_follows_it_is_told() -> None:
    rise = CostChange(provider="openai", model="gpt-4o", meter=METER, percent_bp=2000)
    output = CostChange(provider="openai", model="gpt-4o", meter="llm.output_tokens", price=EIGHT)

    found = coming_prices([rise, output], PUBLISHED, JUNE)

    assert [each.told("USD") for each in found.added] == [
        f"openai gpt-4o {METER}: 2.5 → 3 USD per 1,000,000 from 2027-06-01",
        "openai gpt-4o llm.output_tokens: 10 → 8 USD per 1,000,000 from 2027-06-01",
        ("openai gpt-4o llm.cached_input_tokens: stays 1.25 USD per 1,000,000 from 2027-06-01"),
    ]
    assert list(found.remarks(NOW)) == [
        (
            "llm.cache_creation_tokens, llm.tool_tokens, llm.reasoning_tokens: where there is"
            " no price of our own for them, that of the tokens that they are part of holds, and"
            " changes with it; the what-if left them as they were"
        )
    ]
