"""An upgrade of the published prices adds entries; it changes nothing that usage was charged by."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices import types
from hypothesis import given
from hypothesis import strategies as st

from aforo_admin.builtin_prices import built_in_lists, lists_of
from aforo_admin.domain.catalog import CACHED_INPUT_TOKENS, INPUT_TOKENS, OUTPUT_TOKENS
from aforo_admin.faults import CatalogError
from aforo_admin.price_history import continued, difference, edition_of
from aforo_admin.prices_file import read_prices, write_prices
from aforo_meter.contract_messages import book_of
from aforo_meter.domain.periods import DAY_MICROS
from aforo_meter.domain.prices import Prices
from aforo_proto.contract_pb2 import PriceBook, PriceList

NOW = 20_000 * DAY_MICROS
PAST, LATER = NOW - DAY_MICROS, NOW + DAY_MICROS
Parts = types.ModelPrice | list[types.ConditionalPrice]


def published(
    *models: tuple[str, Parts], source: str = "genai-prices 1.0.0"
) -> tuple[PriceList, ...]:
    infos = [
        types.ModelInfo(id=name, match=types.ClauseStartsWith(starts_with=name), prices=prices)
        for name, prices in models
    ]
    provider = types.Provider(id="p", name="P", api_pattern="p", models=infos)
    return tuple(lists_of([provider], source=source))


def price(amount: str, *, cached: str | None = None) -> types.ModelPrice:
    return types.ModelPrice(
        input_mtok=Decimal(amount), cache_read_mtok=Decimal(cached) if cached else None
    )


def paid(
    lists: Sequence[PriceList],
    at_micros: int,
    *,
    meter: str = INPUT_TOKENS,
    model: str = "m",
    tokens: int = 1,
) -> int | None:
    prices = Prices(book_of(PriceBook(built_in=lists).SerializeToString()))
    found = prices.price_of(
        meter, provider="p", model=model, at_micros=at_micros, input_tokens=tokens
    )
    return None if found is None else found.price_nanos * 1_000_000 // found.per_units // 10**9


def test_an_upgrade_does_not_change_what_past_usage_cost() -> None:
    known = published(("m", price("2")))
    upgraded = published(("m", price("5")), source="genai-prices 1.1.0")

    lists = continued(known, upgraded, now_micros=NOW)

    assert (paid(lists, PAST), paid(lists, NOW), paid(lists, LATER)) == (2, 5, 5)
    assert [e.source for e in lists[0].entries] == ["genai-prices 1.0.0", "genai-prices 1.1.0"]


def test_the_entries_that_have_begun_stay_and_a_change_back_is_a_further_one() -> None:
    known = published(("m", price("2")))
    dear = continued(known, published(("m", price("5"))), now_micros=NOW)

    again = continued(dear, known, now_micros=LATER)

    assert list(again[0].entries[:2]) == list(dear[0].entries)
    assert [paid(again, at) for at in (PAST, NOW, LATER)] == [2, 5, 2]
    assert len({entry.price_id for entry in again[0].entries}) == 3


def test_the_package_s_own_date_holds_where_it_is_later_than_what_is_known() -> None:
    dated = types.StartDateConstraint(start_date=date(2024, 10, 1))  # Day 19,997.
    upgraded = published(
        (
            "m",
            [
                types.ConditionalPrice(constraint=None, prices=price("2")),
                types.ConditionalPrice(constraint=dated, prices=price("5")),
            ],
        )
    )

    lists = continued(published(("m", price("2"))), upgraded, now_micros=NOW)

    begins = 19_997 * DAY_MICROS
    assert (paid(lists, begins - 1), paid(lists, begins)) == (2, 5)


def test_an_announced_price_comes_on_its_day_and_may_be_taken_back_before() -> None:
    dated = types.StartDateConstraint(start_date=date(2024, 10, 14))  # Day 20,010.
    known = published(("m", price("2")))
    announced = published(
        (
            "m",
            [
                types.ConditionalPrice(constraint=None, prices=price("2")),
                types.ConditionalPrice(constraint=dated, prices=price("5")),
            ],
        )
    )

    coming = continued(known, announced, now_micros=NOW)
    begins = 20_010 * DAY_MICROS
    taken_back = continued(coming, known, now_micros=NOW)

    assert (paid(coming, begins - 1), paid(coming, begins)) == (2, 5)
    assert paid(taken_back, begins) == 2
    assert len(difference(coming, taken_back, known).withdrawn) == 1


def test_a_first_price_of_its_own_is_a_change_from_the_one_that_stood_in() -> None:
    upgraded = published(("m", price("2", cached="1")))

    lists = continued(published(("m", price("2"))), upgraded, now_micros=NOW)

    assert paid(lists, PAST, meter=CACHED_INPUT_TOKENS) == 2
    assert paid(lists, NOW, meter=CACHED_INPUT_TOKENS) == 1


def test_a_price_that_is_published_no_more_falls_back_from_now_on() -> None:
    known = published(("m", price("2", cached="1")))

    lists = continued(known, published(("m", price("2"))), now_micros=NOW)

    assert paid(lists, PAST, meter=CACHED_INPUT_TOKENS) == 1
    assert paid(lists, NOW, meter=CACHED_INPUT_TOKENS) == 2


def test_tiers_change_together() -> None:
    def tiered(base: str, above: str) -> types.ModelPrice:
        tiers = [types.Tier(start=199_999, price=Decimal(above))]
        return types.ModelPrice(input_mtok=types.TieredPrices(base=Decimal(base), tiers=tiers))

    known = published(("m", tiered("2", "4")))
    flat = continued(known, published(("m", price("2"))), now_micros=NOW)

    assert [paid(flat, PAST, tokens=tokens) for tokens in (1, 200_000)] == [2, 4]
    assert [paid(flat, NOW, tokens=tokens) for tokens in (1, 200_000)] == [2, 2]


def test_a_new_model_is_taken_as_published_and_a_former_one_is_asked_last() -> None:
    known = published(("m", price("2")), ("old", price("3")))
    upgraded = published(("m", price("2")), ("new", price("4")))

    lists = continued(known, upgraded, now_micros=NOW)

    assert [each.model for each in lists] == ["m", "new", "old"]
    assert paid(lists, PAST, model="new") == 4
    assert paid(lists, LATER, model="old") == 3
    assert difference(known, lists, upgraded).unpublished == (("p", "old"),)


def test_what_is_published_already_adds_nothing() -> None:
    known = built_in_lists()

    lists = continued(known, known, now_micros=NOW)

    assert lists == list(known)
    assert difference(known, lists, known).empty


amounts = st.sampled_from(["1", "2", "3"])
editions = st.lists(st.tuples(amounts, st.none() | amounts), min_size=1, max_size=6)


@given(editions)
def test_no_edition_changes_an_answer_about_the_time_before_it(
    said: list[tuple[str, str | None]],
) -> None:
    known: Sequence[PriceList] = ()
    seen: dict[tuple[int, str], int | None] = {}
    for number, (amount, cached) in enumerate(said):
        now = NOW + number * DAY_MICROS
        known = continued(known, published(("m", price(amount, cached=cached))), now_micros=now)
        for meter, expected in ((INPUT_TOKENS, amount), (CACHED_INPUT_TOKENS, cached or amount)):
            seen[now, meter] = int(expected)
    for (at_micros, meter), expected_nanos in seen.items():
        assert paid(known, at_micros, meter=meter) == expected_nanos
    assert paid(known, NOW, meter=OUTPUT_TOKENS) is None


def test_editions_are_ordered_by_number_and_not_by_text() -> None:
    older = published(("m", price("2")), source="genai-prices 1.9.0")
    newer = published(("m", price("2")), source="genai-prices 1.10.0")

    assert edition_of(older) < edition_of(newer)
    assert edition_of(()) == ()


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "prices.jsonl"

    write_prices(path, built_in_lists())

    assert read_prices(path) == list(built_in_lists())
    assert [each.name for each in tmp_path.iterdir()] == ["prices.jsonl"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "can't be read: No such file or directory; make it with: aforo-admin prices import"),
        ("", "holds no prices"),
        ('{"provider": "p"}\n{"provider": \n', ":2: is no list of prices"),
        ('{"entries": [{"meter": "m"}]}\n', ":1: is no list of prices (an entry needs price_id"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, text: str | None, told: str) -> None:
    path = tmp_path / "prices.jsonl"
    if text is not None:
        path.write_text(text)

    with pytest.raises(CatalogError) as caught:
        read_prices(path)

    assert told in str(caught.value)
