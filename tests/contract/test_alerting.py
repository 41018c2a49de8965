"""What is told of usage that no single charge tells, asked of the tables of either database."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from aforo_meter.alerting_sql import Checked, Measure, SqlAlerts
from aforo_meter.alerts import NOBODY, sync_alert
from aforo_meter.corrections import Scope, Take
from aforo_meter.corrections_sql import SqlCorrections
from aforo_meter.domain.corrections import Kind
from aforo_meter.domain.margin import Level, Thresholds
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.price_changes import ModelUse, News, PriceChange, changes
from aforo_meter.domain.prices import PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.usage import API_CALLS
from aforo_meter.ledger import PartitionLostError, Place, Reprice
from aforo_meter.ledger_adjusting import Order
from aforo_meter.ledger_sql import SqlLedger
from tests.alert_schemas import check
from tests.contract.ledger_lab import (
    DOLLAR,
    NOW,
    PARTITION,
    PERIOD,
    UNIT,
    batch,
    price,
    used,
    watch,
    watched,
)
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract

MEASURE = Measure(
    tenant_id="acme",
    subscription_id="sub-1",
    period=PERIOD,
    thresholds=Thresholds(),
    currency="USD",
)
CALLS = ModelUse(API_CALLS, "", "")


def outbox(file: AuditedLedger) -> list[dict[str, Any]]:
    messages = [
        json.loads(payload)
        for (payload,) in file.rows("SELECT payload FROM outbox ORDER BY outbox_id")
    ]
    for message in messages:
        check(message)
    return messages


async def told_unpriced(ledger: SqlLedger, at: int) -> list[tuple[ModelUse, int]]:
    """Look as consume does; return what was told."""
    alerts = SqlAlerts(ledger)
    names = await alerts.unpriced_changes()
    told = await alerts.tell_unpriced(Place(PARTITION, at), names, now_micros=NOW)
    return [(one.use, one.quantity_micros // UNIT) for one in told]


async def test_usage_without_a_price_is_told_once_until_it_has_one(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    late = used("e2", 4, prices=(), at_micros=NOW - 2 * HOUR_MICROS)
    await ledger.apply(batch([used("e1", 3, prices=()), late]))
    assert await told_unpriced(ledger, 2) == [(CALLS, 7)]
    await ledger.apply(batch([used("e3", 5, prices=())], at=2))
    assert await told_unpriced(ledger, 3) == []

    (message,) = outbox(file)
    assert (message["data"]["tenant"], message["data"]["meter"]) == ("acme", API_CALLS)
    assert message["data"]["quantity"] == "7"
    assert message["data"]["since"] == "2026-11-05T02:00:00Z"


async def test_once_it_had_a_price_it_is_told_again(ledger: SqlLedger, file: AuditedLedger) -> None:
    await ledger.apply(batch([used("e1", 3, prices=())]))
    await told_unpriced(ledger, 1)
    moves = [(row, price()) for row in await ledger.unpriced("acme")]
    await ledger.reprice(
        Place(PARTITION, 1), Reprice(moves=moves, currency="USD"), {}, now_micros=NOW
    )
    assert await told_unpriced(ledger, 1) == []

    await ledger.apply(batch([used("e2", 2, prices=())], at=1))
    assert await told_unpriced(ledger, 2) == [(CALLS, 2)]
    ids = file.rows("SELECT DISTINCT message_id FROM outbox")
    assert len(ids) == len(outbox(file)) == 2


def order(kind: Kind) -> Order:
    return Order(kind=kind, run_id="run", reason="a mistake", author="ann", now_micros=NOW)


async def test_what_was_taken_back_waits_no_more_and_is_told_again_when_it_comes(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([used("e1", 3, prices=())], watches=watched(watch())))
    await told_unpriced(ledger, 1)
    rows = await ledger.unpriced("acme")
    await SqlCorrections(ledger).void([Take(row, None) for row in rows], order(Kind.VOID))
    assert await told_unpriced(ledger, 1) == []
    assert await SqlAlerts(ledger).unpriced_changes() == frozenset()

    later = used("e2", 7, prices=(), at_micros=NOW + 3 * HOUR_MICROS)
    await ledger.apply(batch([later], at=1))
    assert await told_unpriced(ledger, 2) == [(CALLS, 7)]
    assert [message["data"]["quantity"] for message in outbox(file)] == ["3", "7"]
    assert outbox(file)[1]["data"]["since"] == "2026-11-05T07:00:00Z"


async def test_of_what_was_taken_back_in_part_the_rest_is_told(ledger: SqlLedger) -> None:
    await ledger.apply(batch([used("e1", 5, prices=())], watches=watched(watch())))
    (row,) = await ledger.unpriced("acme")
    await SqlCorrections(ledger).void([Take(row, (2 * UNIT, 0))], order(Kind.VOID))

    assert await told_unpriced(ledger, 1) == [(CALLS, 3)]


async def test_what_got_its_price_in_a_closed_period_is_told_again_when_it_comes(
    ledger: SqlLedger,
) -> None:
    await ledger.apply(batch([used("e1", 3, prices=())], watches=watched(watch())))
    await told_unpriced(ledger, 1)
    await ledger.close(ended_by_micros=PERIOD.end_micros, now_micros=PERIOD.end_micros)
    moves = [(row, price()) for row in await ledger.unpriced("acme")]
    priced = Reprice(moves=moves, currency="USD")
    await ledger.reprice(Place(PARTITION, 1), priced, {}, now_micros=PERIOD.end_micros)
    assert await told_unpriced(ledger, 1) == []

    # Late usage of the closed period stands in an adjustment alone.
    await ledger.apply(batch([used("e2", 4, prices=(), model="new", provider="x")], at=1))
    assert await told_unpriced(ledger, 2) == [(ModelUse(API_CALLS, "x", "new"), 4)]
    await ledger.apply(batch([used("e3", 2, prices=())], at=2))
    assert await told_unpriced(ledger, 3) == [(CALLS, 2)]


async def test_more_than_64_bits_of_usage_can_be_told(ledger: SqlLedger) -> None:
    """Twice 6 TB, each in an hour of its own: 1.2 * 10^19 of 10^-6 bytes."""
    tera = 10**12
    hours = [
        used(name, 6 * tera, prices=(), meter="bytes.response", at_micros=at)
        for name, at in (("e1", NOW), ("e2", NOW + HOUR_MICROS))
    ]
    await ledger.apply(batch(hours, watches=watched(watch())))

    assert await told_unpriced(ledger, 2) == [(ModelUse("bytes.response", "", ""), 12 * tera)]


async def test_each_model_and_tenant_is_told_of_by_itself_and_nobody_is_not(
    ledger: SqlLedger,
) -> None:
    def of(name: str, tenant: str, model: str) -> Any:  # noqa: ANN401 - a Rated
        return used(name, 1, prices=(), tenant=tenant, provider="openai", model=model)

    events = [of("1", "acme", "a"), of("2", "acme", "b"), of("3", "globex", "a"), of("4", "", "a")]
    await ledger.apply(batch(events))

    assert await SqlAlerts(ledger).unpriced_changes() == {"acme", "globex"}
    told = await told_unpriced(ledger, 4)
    assert sorted(use.model for use, _ in told) == ["a", "a", "b"]
    assert await SqlAlerts(ledger).unpriced_changes() == frozenset()


async def test_who_lost_the_partition_tells_nothing(ledger: SqlLedger, file: AuditedLedger) -> None:
    await ledger.apply(batch([used("e1", 3, prices=())]))
    alerts = SqlAlerts(ledger)
    alert = sync_alert(since_micros=1, stale_after_s=1, now_micros=NOW)
    elsewhere = Place(PARTITION, 99)

    with pytest.raises(PartitionLostError):
        await alerts.tell_unpriced(elsewhere, ["acme"], now_micros=NOW)
    with pytest.raises(PartitionLostError):
        await alerts.leave(elsewhere, [(NOBODY, alert)], now_micros=NOW)
    with pytest.raises(PartitionLostError):
        await alerts.tell_prices(elsewhere, MEASURE, [], now_micros=NOW)

    assert outbox(file) == []
    assert file.rows("SELECT * FROM unpriced_told") == []


async def test_an_alert_is_left_once(ledger: SqlLedger, file: AuditedLedger) -> None:
    await ledger.apply(batch([used("e1")]))
    alert = sync_alert(since_micros=1, stale_after_s=1, now_micros=NOW)
    again = sync_alert(since_micros=1, stale_after_s=1, now_micros=NOW + UNIT)
    alerts, place = SqlAlerts(ledger), Place(PARTITION, 1)

    assert await alerts.leave(place, [(NOBODY, alert)], now_micros=NOW) == 1
    assert await alerts.leave(place, [(NOBODY, again)], now_micros=NOW) == 0
    (message,) = outbox(file)
    assert message["timestamp"] == "2026-11-05T04:00:00Z"


async def found_changes(
    ledger: SqlLedger, entries: Sequence[PriceEntry], *, measure: Measure = MEASURE, now: int = NOW
) -> list[PriceChange]:
    """Compare what was charged with prices that hold now, as consume does."""
    alerts = SqlAlerts(ledger)
    book = PriceBook(version="2", currency="USD", own=(PriceList(entries=tuple(entries)),))
    since = now - 24 * HOUR_MICROS
    news = News(since_micros=since, old_price_ids=await alerts.old_price_ids(since))
    (((_, charged), *_),) = await alerts.charged([measure])
    return changes(charged, Prices(book), news, now_micros=now)


async def test_a_new_price_is_told_with_the_margin_before_and_after(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    """$7 of $10 at $1 a call; 7 calls at $1.50 would be $10.50: −5 %."""
    old, new = price("old"), price("new", nanos=DOLLAR * 3 // 2)
    new = replace(new, effective_from_micros=NOW - UNIT)
    await ledger.apply(
        batch([used("e1", 7, prices=(old,))], watches=watched(watch()), now_micros=NOW)
    )
    found = await found_changes(ledger, [old, new])
    (told,) = await SqlAlerts(ledger).tell_prices(
        Place(PARTITION, 1), MEASURE, found, now_micros=NOW
    )

    assert (told.before.cogs_nanos, told.after.cogs_nanos) == (7 * DOLLAR, 10_500_000_000)
    assert (told.before.level, told.after.level) == (Level.NONE, Level.BLOCK)
    (message,) = outbox(file)
    data = message["data"]
    assert (data["tenant"], data["state"]) == ("acme", "in_force")
    (change,) = data["changes"]
    assert change["meter"] == API_CALLS
    assert [one["price_nanos"] for one in change["before"]] == [DOLLAR]
    assert [one["price_nanos"] for one in change["after"]] == [1_500_000_000]
    assert data["before"]["gross_margin_ratio"] == "0.3000"
    assert data["after"]["gross_margin_ratio"] == "-0.0500"
    assert data["effective_from"] == "2026-11-05T03:59:59Z"


async def test_after_a_rerating_the_price_before_is_the_one_that_usage_moved_to(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    """10 calls at $1, moved to $2: $20. At $3 they would be $30."""
    first, second, third = (
        replace(price(name, nanos=count * DOLLAR), effective_from_micros=at_micros)
        for name, count, at_micros in (("a", 1, 0), ("b", 2, 1), ("c", 3, NOW - UNIT))
    )
    margin = watch(revenue_nanos=100 * DOLLAR)
    await ledger.apply(batch([used("e1", 10, prices=(first,))], watches=watched(margin)))
    corrections = SqlCorrections(ledger)
    rows = await corrections.rows(Scope(tenant_id="acme"))
    await corrections.rerate(dict.fromkeys(rows, "b"), [second], "USD", order(Kind.RERATE))

    found = await found_changes(ledger, [first, second, third])
    (told,) = await SqlAlerts(ledger).tell_prices(
        Place(PARTITION, 1), MEASURE, found, now_micros=NOW
    )
    assert [one.price_id for one in told.changes[0].before] == ["b"]
    assert (told.before.cogs_nanos, told.after.cogs_nanos) == (20 * DOLLAR, 30 * DOLLAR)
    assert outbox(file)[0]["data"]["after"]["cogs_nanos"] == 30 * DOLLAR


async def test_usage_that_was_taken_back_has_no_new_price(ledger: SqlLedger) -> None:
    old, new = price("old"), price("new", nanos=2 * DOLLAR)
    await ledger.apply(batch([used("e1", 10, prices=(old,))], watches=watched(watch())))
    corrections = SqlCorrections(ledger)
    rows = await corrections.rows(Scope(tenant_id="acme"))
    await corrections.void([Take(row, None) for row in rows], order(Kind.VOID))

    assert await found_changes(ledger, [replace(new, effective_from_micros=NOW - UNIT)]) == []


async def test_a_change_is_told_once_however_often_it_is_found(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    old, new = price("old"), price("new", nanos=2 * DOLLAR)
    new = replace(new, effective_from_micros=NOW - UNIT)
    await ledger.apply(batch([used("e1", 1, prices=(old,))], watches=watched(watch())))
    alerts = SqlAlerts(ledger)
    for _ in range(2):
        found = await found_changes(ledger, [old, new])
        assert found
        await alerts.tell_prices(Place(PARTITION, 1), MEASURE, found, now_micros=NOW)
    # Usage at the new price, and a second change of another meter, tell nothing of the first again.
    other = price("other", meter="bytes.response")
    await ledger.apply(
        batch(
            [
                used("e2", 1, prices=(new,)),
                used("e3", 1, prices=(other,), meter="bytes.response"),
            ],
            at=1,
        )
    )
    newer = replace(other, price_id="newer", price_nanos=5, effective_from_micros=NOW)
    found = await found_changes(ledger, [old, new, other, newer])
    assert len(found) == 2
    (told,) = await alerts.tell_prices(Place(PARTITION, 3), MEASURE, found, now_micros=NOW)

    assert [change.use.meter for change in told.changes] == ["bytes.response"]
    assert len(outbox(file)) == 2


async def test_a_price_to_come_is_told_now_and_when_it_holds(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    old, new = price("old"), price("new", nanos=2 * DOLLAR)
    new = replace(new, effective_from_micros=NOW + HOUR_MICROS)
    await ledger.apply(batch([used("e1", 4, prices=(old,))], watches=watched(watch())))
    alerts = SqlAlerts(ledger)
    for now in (NOW, NOW, NOW + HOUR_MICROS, NOW + 2 * HOUR_MICROS):
        found = await found_changes(ledger, [old, new], now=now)
        await alerts.tell_prices(Place(PARTITION, 1), MEASURE, found, now_micros=now)

    assert [message["data"]["state"] for message in outbox(file)] == ["announced", "in_force"]


async def test_what_was_charged_at_long_ago_is_no_news_to_a_consumer_that_comes_later(
    ledger: SqlLedger,
) -> None:
    old, new = price("old"), price("new", nanos=2 * DOLLAR)
    new = replace(new, effective_from_micros=NOW - 50 * HOUR_MICROS)
    at = NOW - 40 * HOUR_MICROS
    await ledger.apply(
        batch(
            [
                used("e1", 1, prices=(old,), at_micros=NOW - 60 * HOUR_MICROS),
                used("e2", 1, prices=(new,), at_micros=at),
            ],
            now_micros=at,
        )
    )

    assert await found_changes(ledger, [old, new]) == []


async def test_the_period_before_is_known_by_its_charges(ledger: SqlLedger) -> None:
    before = PeriodMicros(PERIOD.start_micros - 30 * 24 * HOUR_MICROS, PERIOD.start_micros)
    at = PERIOD.start_micros - HOUR_MICROS
    await ledger.apply(batch([used("e1", 1, period=before, at_micros=at)]))
    alerts = SqlAlerts(ledger)

    ((now, charged_now), (then, charged_then)), only = await alerts.charged(
        [MEASURE, replace(MEASURE, tenant_id="globex")]
    )
    assert (now, charged_now) == (PERIOD, {})
    assert then == before
    assert [one.price_id for one in charged_then[CALLS]] == ["p1"]
    assert charged_then[CALLS][0].last_hour_micros == at - at % HOUR_MICROS
    assert only == [(PERIOD, {})]


async def test_what_was_compared_is_known_after_a_restart(ledger: SqlLedger) -> None:
    await ledger.apply(batch([used("e1")]))
    alerts = SqlAlerts(ledger)
    assert await alerts.prices_checked(PARTITION) == Checked("", 0)
    for checked in (Checked("v1", 5), Checked("v2", 2**63 - 1)):
        assert await alerts.set_prices_checked(Place(PARTITION, 1), checked)
        assert await alerts.prices_checked(PARTITION) == checked

    with pytest.raises(PartitionLostError):
        await alerts.set_prices_checked(Place(PARTITION, 2), Checked("v3", 5))
