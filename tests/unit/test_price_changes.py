"""Which new prices are told, and what they make of usage that was charged at former ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.price_changes import (
    ChangeState,
    ChargedPrice,
    ChargedRow,
    ModelUse,
    News,
    PriceChange,
    changes,
    extra_nanos,
    schedule,
)
from aforo_meter.domain.prices import PriceBook, PriceEntry, PriceList, Prices

DAY = 24 * HOUR_MICROS
NOW = 1_795_000_000_000_000
TODAY = NOW - DAY
USE = ModelUse("llm.input_tokens", "openai", "gpt-4o")
UNIT = 1_000_000


def entry(price_id: str, nanos: int, *, start: int = 0, **more: Any) -> PriceEntry:  # noqa: ANN401
    return PriceEntry(
        price_id=price_id,
        meter=USE.meter,
        price_nanos=nanos,
        effective_from_micros=start,
        **({"per_units": 1_000_000} | more),
    )


def prices(*entries: PriceEntry, negotiated: Sequence[PriceEntry] = ()) -> Prices:
    own = (PriceList(provider="openai", model="gpt-4o", entries=entries),)
    book = PriceBook(version="1", currency="USD", own=own)
    return Prices(book, [PriceList(entries=tuple(negotiated))] if negotiated else [])


def charged(
    price: PriceEntry, *, first: int = NOW - 9 * DAY, last: int = NOW, used: int = NOW - 90 * DAY
) -> ChargedPrice:
    """Return a price that the tenant was charged at from nine days ago until now."""
    return ChargedPrice(
        price_id=price.price_id,
        price_nanos=price.price_nanos,
        per_units=price.per_units,
        effective_from_micros=price.effective_from_micros,
        tier_input_tokens_from=price.tier_input_tokens_from,
        source=price.source,
        first_used_at_micros=used,
        first_hour_micros=first,
        last_hour_micros=last,
    )


def told(
    known: Sequence[ChargedPrice], holding: Prices, *, old: Sequence[str] = (), use: ModelUse = USE
) -> list[PriceChange]:
    news = News(since_micros=TODAY, old_price_ids=frozenset(old))
    return changes({use: known}, holding, news, now_micros=NOW)


OLD = entry("old", 2_500_000_000)
NEW = entry("new", 5_000_000_000, start=NOW - UNIT)


def test_a_price_that_takes_anothers_place_is_told() -> None:
    (change,) = told([charged(OLD)], prices(OLD, NEW), old=["old"])

    assert (change.use, change.state) == (USE, ChangeState.IN_FORCE)
    assert [price.price_id for price in change.before] == ["old"]
    assert change.after == (NEW,)
    assert change.effective_from_micros == NOW - UNIT
    assert change.price_ids == "new"


def test_that_it_was_charged_already_makes_it_no_less_news() -> None:
    just_charged = charged(NEW, first=NOW - HOUR_MICROS, used=NOW)

    (change,) = told([charged(OLD), just_charged], prices(OLD, NEW), old=["old"])

    assert change.price_ids == "new"


@pytest.mark.parametrize(
    ("known", "old"),
    [
        ([charged(OLD)], ["old", "x"]),
        ([charged(OLD, last=NOW - 5 * DAY), charged(NEW, first=NOW - 5 * DAY)], ["old", "new"]),
        # Who no longer uses the model, or told us late of it, is not told of old times either.
        ([charged(OLD, last=NOW - 5 * DAY)], ["old", "new"]),
    ],
)
def test_what_has_long_been_so_is_no_news(known: list[ChargedPrice], old: list[str]) -> None:
    holding = prices(OLD) if "x" in old else prices(OLD, NEW)

    assert told(known, holding, old=old) == []


def test_a_price_that_others_had_all_along_is_news_to_who_loses_his_own() -> None:
    own = entry("negotiated", 1_000_000_000)

    (change,) = told([charged(own)], prices(OLD), old=["negotiated", "old"])

    assert [price.price_id for price in change.before] == ["negotiated"]
    assert change.after == (OLD,)


def test_another_entry_with_the_same_figures_is_no_change() -> None:
    same = entry("same", 5_000, start=NOW - UNIT, per_units=2)
    thousand = entry("thousand", 2_500_000, per_units=1000)

    assert told([charged(thousand)], prices(thousand, same), old=["thousand"]) == []


def test_a_price_that_is_gone_without_another_is_not_told_here() -> None:
    assert told([charged(OLD)], prices(), old=["old"]) == []


def test_many_models_under_one_name_have_no_price_to_compare() -> None:
    use = USE._replace(model="(other)")
    anything = PriceBook(version="1", currency="USD", own=(PriceList(entries=(NEW,)),))

    assert told([charged(OLD)], Prices(anything), old=["old"], use=use) == []


def test_a_price_to_come_is_told_when_it_is_entered() -> None:
    later = replace(NEW, effective_from_micros=NOW + DAY)
    still_later = replace(NEW, price_id="latest", effective_from_micros=NOW + 2 * DAY)

    (change,) = told([charged(OLD)], prices(OLD, later, still_later), old=["old"])

    assert (change.state, change.price_ids) == (ChangeState.ANNOUNCED, "new")
    assert change.effective_from_micros == NOW + DAY
    assert [price.price_id for price in change.before] == ["old"]


def test_a_price_to_come_is_told_though_the_one_before_it_was_entered_with_it() -> None:
    """Usage is charged at the old price still; the new one holds by now, the latest follows."""
    latest = replace(OLD, price_id="latest", effective_from_micros=NOW + DAY, price_nanos=9)

    found = told([charged(OLD)], prices(OLD, NEW, latest), old=["old"])

    assert [(one.state, one.price_ids) for one in found] == [
        (ChangeState.IN_FORCE, "new"),
        (ChangeState.ANNOUNCED, "latest"),
    ]
    assert [price.price_id for price in found[1].before] == ["old"]


def test_a_price_to_come_with_the_figures_of_the_one_in_force_is_no_change() -> None:
    same = replace(NEW, price_id="same", effective_from_micros=NOW + DAY)

    found = told([charged(OLD)], prices(OLD, NEW, same), old=["old"])

    assert [one.state for one in found] == [ChangeState.IN_FORCE]


def test_a_price_to_come_of_what_has_no_price_now_is_not_told() -> None:
    later = replace(NEW, effective_from_micros=NOW + DAY)

    assert told([charged(OLD)], prices(later), old=["old"]) == []


def test_prices_by_the_time_of_day_and_by_size_alternate_without_news() -> None:
    night = entry("night", 1_000_000_000, day_from_s=0, day_to_s=3600)
    large = entry("large", 9_000_000_000, tier_input_tokens_from=200_000)

    everything = [charged(one) for one in (OLD, night, large)]
    assert told(everything, prices(OLD, night, large), old=["old", "night", "large"]) == []
    assert told([charged(OLD)], prices(OLD, night, large), old=["old"]) == []


def test_a_schedule_is_what_can_be_the_price_at_an_instant() -> None:
    large = entry("large", 9, tier_input_tokens_from=200_000)
    future = entry("future", 9, start=NOW + 1)

    assert schedule(prices(OLD, NEW, large, future), USE, at_micros=NOW) == (NEW,)
    assert schedule(prices(OLD, large), USE, at_micros=NOW) == (large, OLD)
    assert schedule(prices(OLD, NEW), USE, at_micros=NOW - 2 * UNIT) == (OLD,)


def test_the_same_usage_at_new_prices_costs_the_difference_row_by_row() -> None:
    """2,000,000 tokens at $5.00 instead of $2.50 a million: $5.00 more; 1 token: 2,500 nanos."""
    (change,) = told([charged(OLD)], prices(OLD, NEW), old=["old"])
    rows = [
        ChargedRow(USE, "old", 2_000_000 * UNIT),
        ChargedRow(USE, "old", 1),
        ChargedRow(USE, "new", 7_000_000 * UNIT),
        ChargedRow(USE._replace(meter="llm.output_tokens"), "old", 3 * UNIT),
    ]

    assert extra_nanos(rows, change) == 5_000_000_000
    assert extra_nanos([ChargedRow(USE, "old", UNIT)], change) == 2_500


def test_what_was_charged_at_a_tier_counts_at_that_tiers_new_price() -> None:
    large = entry("large", 4_000_000_000, tier_input_tokens_from=200_000)
    new_large = entry("new-large", 6_000_000_000, start=NOW - UNIT, tier_input_tokens_from=200_000)

    (change,) = told(
        [charged(OLD), charged(large)], prices(OLD, large, NEW, new_large), old=["old", "large"]
    )
    rows = [ChargedRow(USE, "large", 1_000_000 * UNIT), ChargedRow(USE, "old", 1_000_000 * UNIT)]

    assert change.price_ids == "new new-large"
    assert extra_nanos(rows, change) == 2_000_000_000 + 2_500_000_000
