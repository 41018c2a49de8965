"""Own cost prices: tiers, times of the day, what they leave open, and what is too large."""

from datetime import UTC, datetime

import pytest

from aforo_admin import messages
from aforo_admin.catalog_yaml import read_text
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.hints import find_hints
from aforo_admin.faults import CatalogError
from aforo_meter.contract_messages import book_of
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.prices import Prices

HEAD = """\
version: 1
currency: USD
built_in_costs: false
"""
PRICED = """\
  - {meter: api.calls, price: 1, per: 1, from: 2026-01-01}
  - {meter: bytes.request, price: 0, per: 1, from: 2026-01-01}
  - {meter: bytes.response, price: 0, per: 1, from: 2026-01-01}
"""
TIERS = """\
  - {meter: llm.input_tokens, model: own, price: 2, per: 1M, from: 2026-01-01}
  - {meter: llm.input_tokens, model: own, price: 4, per: 1M, from: 2026-01-01, input_tokens_from: 200k}
  - {meter: llm.input_tokens, model: own, price: 1, per: 1M, from: 2026-01-01, day_from: 22:00, day_to: 06:30}
"""  # noqa: E501


def catalog(costs: str, head: str = HEAD) -> Catalog:
    return read_text(f"{head}costs:\n{costs}".encode(), name="c.yaml")


def faults(costs: str) -> str:
    with pytest.raises(CatalogError) as caught:
        catalog(costs)
    return str(caught.value)


def cost(costs: str, *, hour: int, minute: int = 0, tokens: int = 1) -> int | None:
    book = messages.price_book(catalog(costs), ())
    found = Prices(book_of(book.SerializeToString())).price_of(
        "llm.input_tokens",
        provider="",
        model="own",
        at_micros=micros_of(datetime(2026, 6, 1, hour, minute, tzinfo=UTC)),
        input_tokens=tokens,
    )
    return None if found is None else found.price_nanos // 10**9


def test_own_prices_have_tiers_and_times_of_the_day() -> None:
    assert cost(TIERS, hour=12) == 2
    assert cost(TIERS, hour=12, tokens=199_999) == 2
    assert cost(TIERS, hour=12, tokens=200_000) == 4
    assert [cost(TIERS, hour=hour) for hour in (21, 22, 0, 6)] == [2, 1, 1, 1]
    assert cost(TIERS, hour=6, minute=30) == 2


def test_each_tier_and_time_is_an_entry_with_an_id_of_its_own() -> None:
    book = messages.price_book(catalog(TIERS), ())

    ids = [entry.price_id for each in book.own for entry in each.entries]

    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("input_tokens_from: 200k", "own from 2026-01-01; give them different dates or remove one"),
        ("input_tokens_from: 200k", "costs[3].from: overlaps costs[1]: both price llm.input_tok"),
        ("day_from: 06:00, day_to: 07:00", "costs[3].from: overlaps costs[2]"),
        ("day_from: 09:00, day_to: 09:00", "costs[3].day_to: is the time at which the part of the"),
        ("day_from: 9am", 'costs[3].day_from: "9am" is no time of the day: write 09:30 or 24:00'),
        ("day_to: 25:00", 'costs[3].day_to: "25:00" is no time of the day'),
        ("input_tokens_from: -1", "costs[3].input_tokens_from"),
    ],
)
def test_what_is_wrong_with_a_part_of_a_price_is_told(more: str, told: str) -> None:
    line = "  - {meter: llm.input_tokens, model: own, price: 9, per: 1M, from: 2026-01-01, %s}\n"

    assert told in faults(TIERS + line % more)


def test_parts_of_the_day_that_only_touch_do_not_overlap() -> None:
    more = TIERS.splitlines()[2].replace("22:00", "06:30").replace("day_to: 06:30", "day_to: 22:00")

    assert len(catalog(f"{TIERS}{more}\n").costs) == 4


def test_hours_without_a_price_are_hinted_at() -> None:
    night = PRICED + TIERS.splitlines()[2]

    (hint,) = find_hints(catalog(night))

    assert hint.startswith("costs[3]: llm.input_tokens has no price at some times of the day")
    assert not list(find_hints(catalog(PRICED + TIERS)))
    earlier = TIERS.splitlines()[0].replace("2026-01-01", "2025-01-01")
    assert not list(find_hints(catalog(f"{night}\n{earlier}")))
    day = TIERS.splitlines()[2].replace("22:00", "06:30").replace("day_to: 06:30", "day_to: 22:00")
    assert not list(find_hints(catalog(f"{night}\n{day}")))


def test_negotiated_hours_are_hinted_at_where_no_own_price_stands_behind_them() -> None:
    tenant = (
        "plans: {p: {committed_fee: 1, features: []}}\n"
        "tenants:\n  acme:\n    subscription: {id: s, plan: p, started_at: 2026-01-01}\n"
        "    negotiated_costs:\n    " + TIERS.splitlines()[2] + "\n"
    )

    (hint,) = find_hints(catalog(PRICED, HEAD + tenant))

    assert hint.startswith("tenants.acme.negotiated_costs[0]: llm.input_tokens has no price at")
    assert not list(find_hints(catalog(PRICED + TIERS, HEAD + tenant)))


def test_meters_that_every_call_counts_on_are_hinted_at_where_they_have_no_price() -> None:
    hints = list(find_hints(catalog(PRICED.splitlines()[0])))

    assert [hint.partition(",")[0] for hint in hints] == [
        "costs: every call counts on bytes.request",
        "costs: every call counts on bytes.response",
    ]
    assert "{meter: bytes.request, price: 0, per: 1, from: 2026-01-01}" in hints[0]


def test_a_price_of_one_provider_does_not_cover_a_meter() -> None:
    some = PRICED.replace("meter: api.calls", "meter: api.calls, provider: openai")

    (hint,) = find_hints(catalog(some))

    assert "api.calls" in hint


def test_metering_rules_say_which_meters_need_a_price() -> None:
    rules = "metering: [{id: calls, meter: api.calls}, {id: probes, path: /healthz, exclude: true}]"

    assert not list(find_hints(catalog(PRICED.splitlines()[0], f"{HEAD}{rules}\n")))
    (hint,) = find_hints(catalog(PRICED.splitlines()[1], f"{HEAD}{rules}\n"))
    assert hint.startswith("costs: the metering rules count api.calls, and no cost price covers")


def test_an_amount_that_does_not_fit_is_told_with_its_remedy() -> None:
    assert (
        "costs[0].price: is above 9223372036, the largest amount that nanos in 64 bits hold; "
        "state it in a larger currency, or split it"
    ) in faults("  - {meter: api.calls, price: 9_223_372_037, per: 1, from: 2026-01-01}\n")
