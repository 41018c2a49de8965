"""Two books of prices compared, and whose level the difference would change."""

from dataclasses import replace
from typing import Any

import pytest

from aforo_admin.domain.price_changes import (
    Books,
    Contract,
    Standing,
    Used,
    begun_by,
    changes,
    covering,
    effects,
    entries,
    key_of,
)
from aforo_meter.domain import account as accounts
from aforo_meter.domain.account import total
from aforo_meter.domain.guards import Guard, GuardChange
from aforo_meter.domain.margin import Assessment, Level, MarginState, Thresholds
from aforo_meter.domain.prices import Precedence, PriceBook, PriceEntry, PriceList

DOLLAR = 1_000_000_000
UNIT = 1_000_000
HOUR = 3_600_000_000
DAY = 24 * HOUR
NOW = 1_793_491_200_000_000 + 10 * DAY  # 2026-11-11


def entry(nanos: int, *, since: int = 0, meter: str = "api.calls", **more: Any) -> PriceEntry:  # noqa: ANN401 - of PriceEntry
    return PriceEntry(
        price_id=f"{meter}@{nanos}/{since}",
        meter=meter,
        price_nanos=nanos,
        per_units=1,
        effective_from_micros=since,
        **more,
    )


def books(*own: PriceEntry, negotiated: tuple[PriceEntry, ...] = ()) -> Books:
    return Books(
        book=PriceBook(version="1", currency="USD", own=(PriceList(entries=own),)),
        contracts={"acme": Contract(negotiated=(PriceList(entries=negotiated),))},
    )


def standing(*used: Used, tenant: str = "acme", level: Level = Level.NONE) -> Standing:
    """Return a tenant that brings 10 dollars."""
    return Standing(
        tenant_id=tenant,
        assessment=Assessment(
            level=level,
            state=MarginState.DEFINED,
            revenue_nanos=10 * DOLLAR,
            cogs_nanos=sum(row.cogs_nanos or 0 for row in used),
            allowance_nanos=0,
        ),
        used=used,
    )


def used(units: int, cogs_nanos: int | None, **more: int) -> Used:
    row = Used(
        meter="api.calls",
        feature="chat",
        provider="",
        model="",
        hour_start_micros=NOW,
        input_tokens=0,
        quantity_micros=units * UNIT,
        cogs_nanos=cogs_nanos,
    )
    return replace(row, **more)  # type: ignore[arg-type]


def after(old: Books, new: Books, *rows: Used) -> Assessment:
    (effect,) = effects([standing(*rows)], old, new, changes(old, new))
    return effect.after


def test_entries_come_in_the_order_in_which_prices_are_asked_for() -> None:
    given = books(entry(1), negotiated=(entry(2),))

    assert [(key.precedence, key.tenant_id) for key, _ in entries(given)] == [
        (Precedence.NEGOTIATED, "acme"),
        (Precedence.OWN, ""),
    ]


def test_what_is_added_changed_and_gone_is_told_apart() -> None:
    old = books(entry(1), entry(2, meter="gpu.ms"))
    new = books(entry(3), entry(4, since=NOW))

    found = changes(old, new)

    assert [
        (one.old and one.old.price_nanos, one.new and one.new.price_nanos) for one in found
    ] == [
        (1, 3),
        (2, None),
        (None, 4),
    ]


def test_another_source_or_unit_of_the_same_price_is_no_difference() -> None:
    same = replace(entry(5), price_nanos=5_000, per_units=1_000, source="elsewhere", price_id="x")

    assert changes(books(entry(5)), books(same)) == []


def test_usage_is_taken_at_the_new_price() -> None:
    """8 calls at a dollar are 8 of 10; at 1.25 they are all of it."""
    old, new = books(entry(DOLLAR)), books(entry(5 * DOLLAR // 4))

    assessment = after(old, new, used(8, 8 * DOLLAR))

    assert assessment.cogs_nanos == 10 * DOLLAR
    assert assessment.level is Level.THROTTLE  # On 0 %, which is not below it.


def test_a_price_that_is_dated_later_is_taken_as_if_it_were_in_force() -> None:
    old = books(entry(DOLLAR))
    new = books(entry(DOLLAR), entry(2 * DOLLAR, since=NOW + 20 * DAY + 1))

    assert after(old, new, used(3, 3 * DOLLAR)).cogs_nanos == 6 * DOLLAR


def test_a_negotiated_price_protects_from_a_change_of_the_owns() -> None:
    old = books(entry(DOLLAR), negotiated=(entry(DOLLAR // 2),))
    new = books(entry(9 * DOLLAR), negotiated=(entry(DOLLAR // 2),))

    assert list(effects([standing(used(8, 4 * DOLLAR))], old, new, changes(old, new))) == []


def test_what_the_books_agree_on_keeps_the_amount_that_it_has() -> None:
    """One meter doubles; the other was charged at a former price, and stays."""
    calm = entry(7, meter="gpu.ms")
    old, new = books(entry(DOLLAR), calm), books(entry(2 * DOLLAR), calm)

    assessment = after(old, new, used(2, 2 * DOLLAR), replace(used(1, 5), meter="gpu.ms"))

    assert assessment.cogs_nanos == 4 * DOLLAR + 5


def test_usage_that_was_unpriced_counts_once_there_is_a_price() -> None:
    assert after(books(), books(entry(DOLLAR)), used(9, None)).cogs_nanos == 9 * DOLLAR


def test_usage_that_loses_its_price_is_told() -> None:
    old, new = books(entry(DOLLAR)), books()

    (effect,) = effects(
        [standing(used(9, 9 * DOLLAR), level=Level.WARN)], old, new, changes(old, new)
    )

    assert (effect.after.cogs_nanos, effect.unpriced_rows) == (0, 1)


@pytest.mark.parametrize(("input_tokens", "expected"), [(0, DOLLAR), (1000, 3 * DOLLAR)])
def test_a_tier_that_rises_concerns_usage_of_that_tier(input_tokens: int, expected: int) -> None:
    small = entry(DOLLAR)
    old = books(small, entry(2 * DOLLAR, tier_input_tokens_from=1000))
    new = books(small, entry(3 * DOLLAR, tier_input_tokens_from=1000))
    charged = DOLLAR if input_tokens == 0 else 2 * DOLLAR

    found = list(
        effects(
            [standing(used(1, charged, input_tokens=input_tokens))], old, new, changes(old, new)
        )
    )

    assert [one.after.cogs_nanos for one in found] == ([] if expected == DOLLAR else [expected])


def test_a_price_for_a_part_of_the_day_concerns_usage_of_that_part() -> None:
    night: dict[str, Any] = {"day_from_s": 0, "day_to_s": 6 * 3600}
    old = books(entry(DOLLAR))
    new = books(entry(DOLLAR), entry(2 * DOLLAR, since=NOW + 3 * HOUR, **night))
    by_day = used(1, DOLLAR, hour_start_micros=NOW - 5 * DAY + 12 * HOUR)
    by_night = used(1, DOLLAR, hour_start_micros=NOW - 5 * DAY + 2 * HOUR)

    assert after(old, new, by_day, by_night).cogs_nanos == 3 * DOLLAR


def test_floors_are_those_of_the_new_book() -> None:
    old = books(entry(DOLLAR))
    new = replace(
        books(entry(2 * DOLLAR)),
        contracts={"acme": Contract(thresholds=Thresholds(block_below_bp=9000))},
    )

    assert after(old, new, used(1, DOLLAR)).level is Level.BLOCK


GUARDED = Contract(
    guards=(
        Guard(guard_id="chat", features=frozenset({"chat"}), revenue_nanos=5 * DOLLAR),
        Guard(guard_id="search", features=frozenset({"search"}), revenue_nanos=5 * DOLLAR),
    ),
)


def measured(*rows: Used) -> Standing:
    account = total(
        {key_of(row.meter, row.feature): accounts.Used(row.quantity_micros, row.cogs_nanos or 0)}
        for row in rows
    )
    return replace(standing(*rows), account=account)


def test_a_guard_whose_level_would_change_is_named() -> None:
    """Chat costs 3 of its 5 dollars, then 6; the tenant's margin is 40 % then."""
    old = books(entry(DOLLAR))
    new = replace(books(entry(2 * DOLLAR)), contracts={"acme": GUARDED})

    (effect,) = effects([measured(used(3, 3 * DOLLAR))], old, new, changes(old, new))

    assert effect.after.level is Level.NONE
    assert effect.guards == (GuardChange("chat", Level.NONE, Level.BLOCK),)
    assert effect.changes_level


@pytest.mark.parametrize(("calls", "level"), [(7, Level.BLOCK), (8, Level.WARN)])
def test_too_few_calls_are_too_few_to_block_at_new_prices_too(calls: int, level: Level) -> None:
    """Seven calls cost 14 dollars in all, which is more than the tenant brings."""
    old = books(entry(DOLLAR))
    contract = Contract(thresholds=Thresholds(act_from_calls=calls))
    new = replace(books(entry(2 * DOLLAR)), contracts={"acme": contract})

    (effect,) = effects([measured(used(7, 7 * DOLLAR))], old, new, changes(old, new))

    assert effect.after.level is level


def test_lists_that_hold_for_a_model_include_those_for_any() -> None:
    def named(provider: str, model: str, nanos: int) -> PriceList:
        return PriceList(provider=provider, model=model, entries=(entry(nanos),))

    lists = (named("openai", "gpt-4o", 1), named("azure", "gpt-4o", 2), named("", "", 3))
    given = Books(book=PriceBook(version="1", currency="USD", own=lists))

    def prices(**wanted: str) -> list[int]:
        return [found.price_nanos for _, found in entries(covering(given, **wanted))]

    assert prices() == prices(model="GPT-4o") == [1, 2, 3]
    assert prices(model="gpt-4o", provider="Azure") == [2, 3]
    assert prices(model="claude") == prices(provider="aws") == [3]


def test_what_had_begun_is_the_latest_date_of_each_list_and_meter() -> None:
    given = entries(
        books(
            entry(1),
            entry(2, since=NOW),
            entry(3, since=NOW, day_to_s=60),
            entry(4, since=NOW + DAY),
            entry(5, meter="gpu.ms"),
        )
    )

    assert [found.price_nanos for _, found in begun_by(list(given), NOW + HOUR)] == [2, 3, 5]
