"""Usage in Kafka → charges, margins, levels and alerts: one running consumer, a tenant a test."""

import statistics
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from aforo_proto import margin_pb2, policy_pb2, usage_pb2
from lab.servers import KafkaServer, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import (
    DOLLAR,
    SECOND_MICROS,
    ConsumeLab,
    consume_lab,
    now_micros,
    usage_event,
)

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

CATALOG_S_MAX = 2.0
DAY_MICROS = 86_400 * SECOND_MICROS


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ConsumeLab]:
    home = tmp_path_factory.mktemp("consume")
    async with consume_lab(kafka_server.bootstrap, home) as made:
        made.catalog.price("api.calls", DOLLAR)
        made.catalog.price("bytes.response", 0)
        made.catalog.contract("warm-up")
        made.catalog.sync()
        await made.start()
        await made.send("warm-up")
        await made.margin_is("warm-up", lambda margin: margin.cogs_nanos > 0)
        yield made


async def contracted(lab: ConsumeLab, tenant: str, *, fee: int = 10) -> None:
    """Give a tenant a contract."""
    lab.catalog.contract(tenant, fee_nanos=fee * DOLLAR)
    lab.catalog.sync()


async def test_usage_becomes_charges_and_a_margin(lab: ConsumeLab) -> None:
    await contracted(lab, "acme")
    before = now_micros()

    await lab.send("acme", 3)
    margin = await lab.margin_is("acme", lambda margin: margin.cogs_nanos == 3 * DOLLAR)

    assert lab.ledger.units("acme") == {"api.calls@1000000000": 3}
    assert margin.level == margin_pb2.LEVEL_NONE
    assert margin.state == margin_pb2.MARGIN_STATE_DEFINED
    assert (margin.tenant_id, margin.subscription_id) == ("acme", "sub-1")
    assert (margin.revenue_nanos, margin.currency) == (10 * DOLLAR, "USD")
    assert margin.period_start_micros <= before < margin.period_end_micros
    assert margin.period_end_micros - margin.period_start_micros <= 31 * DAY_MICROS
    assert before <= margin.as_of_micros <= now_micros()
    assert margin.unpriced_rows == 0
    assert margin.price_book_version.startswith("b")
    assert margin.catalog_version == "v2"


def is_at(level: margin_pb2.Level.ValueType, margin: margin_pb2.Margin) -> bool:
    return margin.level == level


def has_cost(nanos: int, margin: margin_pb2.Margin) -> bool:
    return margin.cogs_nanos == nanos


async def test_a_margin_is_fresh_within_a_fraction_of_a_second(lab: ConsumeLab) -> None:
    await contracted(lab, "fresh", fee=1000)
    took_s: list[float] = []
    # Usage that is calm waits for longer where commits are slow.
    while len(took_s) < 10 or (min(took_s) >= 1.0 and len(took_s) < 30):
        started = time.monotonic()
        await lab.send("fresh")
        await lab.margin_is("fresh", partial(has_cost, (len(took_s) + 1) * DOLLAR))
        took_s.append(time.monotonic() - started)

    assert min(took_s) < 1.0, "of ten the quickest, or of thirty: cores are shared"


async def test_an_event_that_comes_again_is_charged_once(lab: ConsumeLab) -> None:
    await contracted(lab, "again")
    event = await lab.send("again", 2)
    await lab.send_again(event)
    await lab.send("again", 3)

    await lab.margin_is("again", lambda margin: margin.cogs_nanos == 5 * DOLLAR)
    assert lab.ledger.units("again") == {"api.calls@1000000000": 5}


async def test_what_can_not_be_read_becomes_a_dead_letter_and_the_stream_goes_on(
    lab: ConsumeLab,
) -> None:
    await contracted(lab, "broken")
    negative = usage_event("broken")
    negative.measures[0].units = -1
    future = usage_event("broken", occurred_at_micros=now_micros() + 2 * DAY_MICROS)
    await lab.send("broken", 1)
    await lab.send_raw(b"\xff\xffno event", key=b"broken")
    await lab.send_raw(None, key=b"broken")
    await lab.send_again(negative)
    await lab.send_again(future)
    await lab.send("broken", 2)

    await lab.margin_is("broken", lambda margin: margin.cogs_nanos == 3 * DOLLAR)
    letters = await lab.dead_letters(4)

    assert [letter.payload for letter in letters] == [
        b"\xff\xffno event",
        b"",
        negative.SerializeToString(),
        future.SerializeToString(),
    ]
    assert [letter.reason for letter in letters[:2]] == [
        "not an aforo.v1.UsageEvent",
        "event_id is empty: duplicates could not be told apart",
    ]
    assert "-1 units" in letters[2].reason
    assert "more than a day ahead" in letters[3].reason
    first = letters[0]
    assert (first.stage, first.topic) == ("consume", lab.topic)
    assert [letter.offset for letter in letters] == list(range(first.offset, first.offset + 4))
    assert abs(first.failed_at_micros - now_micros()) < 60 * SECOND_MICROS


async def test_more_than_a_row_can_hold_is_a_dead_letter(lab: ConsumeLab) -> None:
    await contracted(lab, "huge", fee=10**6)
    letters_before = await lab.metric("aforo_consume_dead_letters_total")
    await lab.send("huge", 9 * 10**12, meter="bytes.response")
    await lab.units_are("huge", {"bytes.response@0": 9 * 10**12})

    await lab.send("huge", 9 * 10**12, meter="bytes.response")
    await lab.send("huge", 1)

    await lab.units_are("huge", {"bytes.response@0": 9 * 10**12, "api.calls@1000000000": 1})
    await lab.metric_is("aforo_consume_dead_letters_total", letters_before + 1)


async def test_usage_waits_for_its_price(lab: ConsumeLab) -> None:
    await contracted(lab, "waits")
    await lab.send("waits", 5, meter="late.meter")
    margin = await lab.margin_is("waits", lambda margin: margin.unpriced_rows == 1)
    assert margin.cogs_nanos == 0

    lab.catalog.price("late.meter", 2 * DOLLAR)
    lab.catalog.sync()

    margin = await lab.margin_is("waits", lambda margin: margin.cogs_nanos == 10 * DOLLAR)
    assert (margin.unpriced_rows, margin.level) == (0, margin_pb2.LEVEL_THROTTLE)
    assert lab.ledger.units("waits") == {"late.meter@2000000000": 5}


async def test_a_price_that_is_edited_in_place_is_not_charged(lab: ConsumeLab) -> None:
    await contracted(lab, "edited", fee=100)
    lab.catalog.price("edited.meter", DOLLAR, price_id="edited")
    lab.catalog.sync()
    await lab.send("edited", 1, meter="edited.meter")
    await lab.margin_is("edited", lambda margin: margin.cogs_nanos == DOLLAR)

    lab.catalog.prices[-1].price_nanos = 3 * DOLLAR
    await lab.knows_the_catalog()
    await lab.send("edited", 1, meter="edited.meter")

    margin = await lab.margin_is("edited", lambda margin: margin.unpriced_rows == 1)
    assert margin.cogs_nanos == DOLLAR
    (line,) = lab.log_lines("kept unpriced")
    assert "edited" in line["error"]
    assert "an id and a date of its own" in line["error"]

    lab.catalog.prices[-1].price_id = "edited-2"
    lab.catalog.sync()
    await lab.margin_is("edited", lambda margin: margin.cogs_nanos == 4 * DOLLAR)


async def test_each_change_of_a_level_is_told_once(lab: ConsumeLab) -> None:
    await contracted(lab, "melting")
    sent = 0
    for units in (5, 3, 1, 1, 1, 1):
        await lab.send("melting", units)
        sent += units
        await lab.margin_is("melting", partial(has_cost, sent * DOLLAR))
    await lab.margin_is("melting", lambda margin: margin.level == margin_pb2.LEVEL_BLOCK)

    messages = lab.outbox("melting")

    assert [(m["data"]["from"], m["data"]["to"]) for m in messages] == [
        ("none", "warn"),
        ("warn", "throttle"),
        ("throttle", "block"),
    ]
    assert {message["type"] for message in messages} == {"margin.level_changed"}
    assert messages[0]["data"]["gross_margin_ratio"] == "0.1000"
    assert messages[0]["data"]["thresholds"]["source"] == "default"
    assert len(lab.log_lines("margin level changed")) >= 3


async def test_a_catalog_that_is_edited_frees_within_two_seconds(lab: ConsumeLab) -> None:
    await contracted(lab, "freed")
    await lab.send("freed", 11)
    await lab.margin_is("freed", lambda margin: margin.level == margin_pb2.LEVEL_BLOCK)

    took_s = []
    for fee, level in zip(
        (100, 10) * 5, (margin_pb2.LEVEL_NONE, margin_pb2.LEVEL_BLOCK) * 5, strict=True
    ):
        started = time.monotonic()
        await contracted(lab, "freed", fee=fee)
        margin = await lab.margin_is("freed", partial(is_at, level))
        took_s.append(time.monotonic() - started)
        assert margin.revenue_nanos == fee * DOLLAR

    freed_s = took_s[::2]
    assert statistics.median(freed_s) < CATALOG_S_MAX, freed_s
    assert [m["data"]["direction"] for m in lab.outbox("freed")] == ["worse", "better"] * 5 + [
        "worse"
    ]


async def test_a_guards_level_is_published_and_the_catalog_lifts_it(lab: ConsumeLab) -> None:
    """Of a fee of $100 the guard's calls have $10; eleven of them cost $11."""
    lab.catalog.contract("guarded", fee_nanos=100 * DOLLAR)
    guard = lab.catalog.contracts["guarded"].guards.add(
        guard_id="chat-margin", features=["chat"], meters=["api.*"], revenue_share_bp=1000
    )
    lab.catalog.sync()
    await lab.send("guarded", 11, features=["chat", "search"])
    await lab.send("guarded", 11, features=["search"])

    def is_at(level: margin_pb2.Level.ValueType) -> Callable[[margin_pb2.Margin], bool]:
        return lambda margin: [g.level for g in margin.guards] == [level]

    blocked = await lab.margin_is("guarded", is_at(margin_pb2.LEVEL_BLOCK))
    guard.revenue_share_bp = 5000
    lab.catalog.sync()
    await lab.margin_is("guarded", is_at(margin_pb2.LEVEL_NONE))

    (told,) = blocked.guards
    assert (told.guard_id, list(told.features)) == ("chat-margin", ["chat"])
    assert blocked.level == margin_pb2.LEVEL_NONE
    assert [(m["data"]["guard"]["id"], m["data"]["to"]) for m in lab.outbox("guarded")] == [
        ("chat-margin", "block"),
        ("chat-margin", "none"),
    ]


async def test_a_new_period_frees_without_any_usage(lab: ConsumeLab) -> None:
    ends_micros = now_micros() + 10 * SECOND_MICROS  # Until then it has to be blocked.
    lab.catalog.contract("renewed", anchor_micros=ends_micros)
    lab.catalog.sync()
    await lab.send("renewed", 11)
    margin = await lab.margin_is("renewed", lambda margin: margin.level == margin_pb2.LEVEL_BLOCK)
    assert margin.period_end_micros == ends_micros

    margin = await lab.margin_is(
        "renewed", lambda margin: margin.period_start_micros == ends_micros
    )

    assert (margin.level, margin.cogs_nanos) == (margin_pb2.LEVEL_NONE, 0)
    assert now_micros() - ends_micros < 20 * SECOND_MICROS, "sooner than anything else would do it"
    assert [m["data"]["to"] for m in lab.outbox("renewed")] == ["block", "none"]


async def test_usage_without_a_contract_is_kept_apart_and_has_no_margin(lab: ConsumeLab) -> None:
    await lab.send("stranger", 2, subscription_id="sub-9")
    await lab.units_are("stranger", {"api.calls@1000000000": 2})

    rows = lab.ledger.rows("SELECT subscription_id FROM charge WHERE tenant_id = 'stranger'")
    assert rows == [("",)]
    assert lab.margin("stranger") == margin_pb2.Margin()


async def test_usage_of_nobody_is_kept_and_has_no_margin(lab: ConsumeLab) -> None:
    await lab.send("", 2, outcome=usage_pb2.OUTCOME_NOT_DECIDED)

    await lab.units_are("", {"api.calls@1000000000": 2})
    assert lab.margin("") == margin_pb2.Margin()


async def test_refused_calls_are_counted_and_cost_nothing(lab: ConsumeLab) -> None:
    await contracted(lab, "refused")
    refusal: dict[str, Any] = {
        "outcome": usage_pb2.OUTCOME_BLOCK,
        "reason": "quota_exceeded",
    }
    await lab.send("refused", 0, **refusal)
    await lab.send("refused", 0, **refusal)
    await lab.send("refused", 1, outcome=usage_pb2.OUTCOME_THROTTLE, reason="margin_throttle")
    await lab.send("refused", 1, shadow_reason="margin_limit_exceeded")
    await lab.margin_is("refused", lambda margin: margin.cogs_nanos == 2 * DOLLAR)

    assert lab.ledger.rows(
        "SELECT outcome, reason, count FROM intervention WHERE tenant_id = 'refused' ORDER BY 1"
    ) == [
        ("block", "quota_exceeded", 2),
        ("shadow", "margin_limit_exceeded", 1),
        ("throttle", "margin_throttle", 1),
    ]


async def test_a_call_of_a_former_subscription_lands_in_its_period(lab: ConsumeLab) -> None:
    await contracted(lab, "upgraded")
    await lab.send("upgraded", 1)
    await lab.margin_is("upgraded", lambda margin: margin.cogs_nanos == DOLLAR)

    lab.catalog.contract("upgraded", subscription="sub-2", anchor_micros=now_micros() - DAY_MICROS)
    lab.catalog.sync()
    # Whichever the consumer hears of first, the event or the contract.
    await lab.send("upgraded", 10, subscription_id="sub-2")
    await lab.send("upgraded", 100, subscription_id="sub-1")

    await lab.units_are("upgraded", {"api.calls@1000000000": 111})
    kept = lab.ledger.kept_cogs()
    assert sorted(
        (subscription, cogs)
        for (tenant, subscription, _), cogs in kept.items()
        if tenant == "upgraded"
    ) == [("sub-1", 101 * DOLLAR), ("sub-2", 10 * DOLLAR)]
    margin = await lab.margin_is("upgraded", lambda margin: margin.cogs_nanos == 10 * DOLLAR)
    assert margin.subscription_id == "sub-2"


async def test_the_margin_tells_the_use_of_quotas(lab: ConsumeLab) -> None:
    quota = policy_pb2.Quota
    lab.catalog.policies["counted"] = policy_pb2.Policy(
        quotas=[
            quota(quota_id="day", meter="api.calls", window=policy_pb2.WINDOW_DAY),
            quota(quota_id="minute", meter="api.calls", window=policy_pb2.WINDOW_MINUTE),
            quota(
                quota_id="chat",
                meter="api.calls",
                features=["chat"],
                window=policy_pb2.WINDOW_BILLING_PERIOD,
            ),
        ]
    )
    await contracted(lab, "counted", fee=1000)
    await lab.send("counted", 5)
    await lab.send("counted", 7, features=["api", "chat"])

    margin = await lab.margin_is("counted", lambda margin: margin.cogs_nanos == 12 * DOLLAR)

    found = {
        usage.quota_id: (usage.window_start_micros, usage.used_units)
        for usage in margin.quota_usages
    }
    today = margin.as_of_micros - margin.as_of_micros % DAY_MICROS
    assert found == {"day": (today, 12), "chat": (margin.period_start_micros, 7)}


async def test_a_redis_that_was_emptied_gets_its_margins_again(lab: ConsumeLab) -> None:
    await contracted(lab, "rebuilt")
    await lab.send("rebuilt", 4)
    before = await lab.margin_is("rebuilt", lambda margin: margin.cogs_nanos == 4 * DOLLAR)

    lab.redis.flushall()
    after = await lab.margin_is("rebuilt", lambda margin: margin.cogs_nanos > 0)
    await eventually(lambda: lab.redis.get("aforo:v1:published") == b"1")

    assert after == before
    assert lab.margin("warm-up").cogs_nanos == DOLLAR
    # Contracts that are known hold although Redis has none of them yet.
    await lab.send("rebuilt", 1)
    await lab.margin_is("rebuilt", lambda margin: margin.cogs_nanos == 5 * DOLLAR)
    lab.catalog.sync()


async def test_progress_is_told_each_second_even_without_usage(lab: ConsumeLab) -> None:
    def told() -> int:
        value: Any = lab.redis.get("aforo:v1:consumed:0")
        return margin_pb2.ConsumeState.FromString(value or b"").as_of_micros

    first = await eventually(told)
    later = await eventually(lambda: (t := told()) > first and t)

    assert later - first < 5 * SECOND_MICROS
    assert abs(now_micros() - later) < 5 * SECOND_MICROS


async def test_the_ledgers_totals_are_the_sums_of_its_rows(lab: ConsumeLab) -> None:
    """The last of this file: whatever the others did, an audit agrees."""
    audited = lab.ledger.audited_cogs()

    assert {key: cogs for key, cogs in lab.ledger.kept_cogs().items() if cogs} == {
        key: cogs for key, cogs in audited.items() if cogs
    }
    assert await lab.metric("aforo_consume_records_total") > 0
    assert await lab.metric("aforo_consume_freshness_seconds_count") > 0
    assert await lab.metric("aforo_consume_commit_seconds_count") > 0
