"""A running consumer tells of quotas, unpriced usage, prices and the sync: each once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from aforo_meter.domain.periods import DAY_MICROS, datetime_of
from aforo_proto import policy_pb2
from aforo_proto.contract_pb2 import PriceEntry
from lab.servers import HANG_S, KafkaServer, Program, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import (
    DOLLAR,
    SECOND_MICROS,
    ConsumeLab,
    consume_lab,
    now_micros,
)

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

LAG = "aforo_consume_lag_records"
PARTITIONS = 2  # Of the lab.
LOOKS_S = 1.0  # A few looks: they come every 100 ms here.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ConsumeLab]:
    home = tmp_path_factory.mktemp("alerts")
    async with consume_lab(kafka_server.bootstrap, home, alerts_poll_ms="100") as made:
        made.catalog.price("api.calls", DOLLAR)
        made.catalog.contract("warm-up")
        made.catalog.sync()
        await made.start()
        await made.send("warm-up")
        await made.margin_is("warm-up", lambda margin: margin.cogs_nanos > 0)
        yield made


async def contracted(lab: ConsumeLab, tenant: str, *, fee: int = 1000, **quota: Any) -> None:  # noqa: ANN401
    """Give a tenant a contract, and one quota."""
    lab.catalog.contract(tenant, fee_nanos=fee * DOLLAR)
    if quota:
        given: dict[str, Any] = {"quota_id": "calls", "meter": "api.calls"}
        given["window"] = policy_pb2.WINDOW_MONTH
        lab.catalog.policies[tenant] = policy_pb2.Policy(
            tenant_id=tenant, subscription_id="sub-1", quotas=[policy_pb2.Quota(**(given | quota))]
        )
    lab.catalog.sync()


async def priced(lab: ConsumeLab, meter: str) -> None:
    """Say what a unit costs, and wait until the consumer knows: until then usage is unpriced."""
    lab.catalog.price(meter, DOLLAR)
    await lab.knows_the_catalog()


async def alerts_are(lab: ConsumeLab, tenant: str, kind: str, count: int) -> list[dict[str, Any]]:
    """Wait for so many alerts; then see that it stays at that."""
    try:
        await eventually(lambda: len(lab.alerts(tenant, kind)) >= count)
    except TimeoutError:
        raise AssertionError(f"{lab.outbox(tenant)}\n{lab.program.log_tail()}") from None
    await asyncio.sleep(LOOKS_S)
    found = lab.alerts(tenant, kind)
    assert len(found) == count, found
    return found


async def test_a_quota_is_told_at_80_and_at_100_percent(lab: ConsumeLab) -> None:
    await contracted(lab, "quota", limit_units=10)
    await lab.send("quota", 7)
    await alerts_are(lab, "quota", "quota.reached", 0)
    await lab.send("quota", 1)
    (at_80,) = await alerts_are(lab, "quota", "quota.reached", 1)
    await lab.send("quota", 1)
    await lab.send("quota", 2)
    (_, at_100) = await alerts_are(lab, "quota", "quota.reached", 2)

    assert (at_80["threshold_bp"], at_80["used_units"], at_80["limit_units"]) == (8000, 8, 10)
    assert at_100["threshold_bp"] == 10_000
    assert at_100["used_units"] in {10, 11}
    assert (at_80["quota"], at_80["window"], at_80["currency"]) == ("calls", "month", None)
    await lab.send("quota", 50)
    await alerts_are(lab, "quota", "quota.reached", 2)


async def test_a_higher_limit_is_told_of_anew(lab: ConsumeLab) -> None:
    await contracted(lab, "raised", limit_units=10)
    await lab.send("raised", 8)
    await alerts_are(lab, "raised", "quota.reached", 1)
    await contracted(lab, "raised", limit_units=100)
    await lab.knows_the_catalog()
    await alerts_are(lab, "raised", "quota.reached", 1)
    await lab.send("raised", 72)

    (_, second) = await alerts_are(lab, "raised", "quota.reached", 2)
    assert (second["used_units"], second["limit_units"]) == (80, 100)


async def test_a_quota_of_money_counts_cogs(lab: ConsumeLab) -> None:
    await contracted(lab, "money", meter="money.cogs", limit_units=5 * DOLLAR, soft=True)
    await lab.send("money", 4)

    (alert,) = await alerts_are(lab, "money", "quota.reached", 1)
    assert (alert["used_units"], alert["currency"], alert["is_soft"]) == (4 * DOLLAR, "USD", True)


async def test_a_window_that_has_ended_is_told_of_once_its_usage_is_heard_of(
    lab: ConsumeLab,
) -> None:
    await contracted(lab, "backlog", window=policy_pb2.WINDOW_DAY, limit_units=10)
    now = now_micros()
    days = [now - now % DAY_MICROS - count * DAY_MICROS for count in (1, 2)]
    last_second, day_before = (start + DAY_MICROS - SECOND_MICROS for start in days)
    await lab.send("backlog", 9, occurred_at_micros=last_second)
    await lab.send("backlog", 10, occurred_at_micros=day_before)
    await lab.send("backlog", 1)

    found = await alerts_are(lab, "backlog", "quota.reached", 3)
    assert sorted((one["window_start"], one["threshold_bp"]) for one in found) == [
        (rfc3339(days[1]), 8000),
        (rfc3339(days[1]), 10_000),
        (rfc3339(days[0]), 8000),
    ]


async def test_usage_without_a_price_is_told_until_it_has_one_and_then_again(
    lab: ConsumeLab,
) -> None:
    await contracted(lab, "gap")
    for units in (5, 6):
        await lab.send("gap", units, meter="gap.meter")
        await lab.margin_is("gap", lambda margin: margin.unpriced_rows == 1)
        (first,) = await alerts_are(lab, "gap", "usage.unpriced", 1)
    assert (first["meter"], first["quantity"]) == ("gap.meter", "5")

    lab.catalog.price("gap.meter", 1)
    lab.catalog.sync()
    await lab.margin_is("gap", lambda margin: margin.cogs_nanos == 11)
    is_open = "SELECT COUNT(*) FROM unpriced_told WHERE tenant_id = ? AND is_open = 1"
    await eventually(lambda: lab.ledger.rows(is_open, "gap") == [(0,)])
    lab.catalog.prices.pop()
    await lab.knows_the_catalog()
    await lab.send("gap", 7, meter="gap.meter")

    (_, second) = await alerts_are(lab, "gap", "usage.unpriced", 2)
    assert second["quantity"] == "7"


async def test_usage_without_a_contract_is_told_too(lab: ConsumeLab) -> None:
    await lab.send("stranger", 5, meter="strange.meter", subscription_id="")

    (alert,) = await alerts_are(lab, "stranger", "usage.unpriced", 1)
    assert alert["meter"] == "strange.meter"


def rfc3339(micros: int) -> str:
    return datetime_of(micros).isoformat().replace("+00:00", "Z")


def raised(meter: str, price_id: str, nanos: int, *, in_s: float = 0) -> PriceEntry:
    return PriceEntry(
        price_id=price_id,
        meter=meter,
        price_nanos=nanos,
        per_units=1,
        effective_from_micros=now_micros() + int(in_s * SECOND_MICROS),
        source="catalog",
    )


async def test_a_price_to_come_is_told_when_entered_and_when_it_holds(lab: ConsumeLab) -> None:
    await priced(lab, "dear.meter")
    await contracted(lab, "dear", fee=10)
    await lab.send("dear", 7, meter="dear.meter")
    await lab.margin_is("dear", lambda margin: margin.cogs_nanos == 7 * DOLLAR)
    await alerts_are(lab, "dear", "price.changed", 0)

    lab.catalog.prices.append(raised("dear.meter", "dear-2", 2 * DOLLAR, in_s=4))
    lab.catalog.sync()
    (announced, in_force) = await alerts_are(lab, "dear", "price.changed", 2)

    assert (announced["state"], in_force["state"]) == ("announced", "in_force")
    assert announced["effective_from"] == in_force["effective_from"]
    assert in_force["before"]["cogs_nanos"] == 7 * DOLLAR
    assert in_force["after"]["cogs_nanos"] == 14 * DOLLAR
    assert (in_force["before"]["level"], in_force["after"]["level"]) == ("none", "block")


async def test_nobody_is_told_of_prices_of_what_he_does_not_use(lab: ConsumeLab) -> None:
    await priced(lab, "rare.meter")
    await contracted(lab, "user")
    await contracted(lab, "non-user")
    await lab.send("user", 1, meter="rare.meter")
    await lab.send("non-user", 1)
    await lab.margin_is("non-user", lambda margin: margin.cogs_nanos > 0)
    await lab.margin_is("user", lambda margin: margin.cogs_nanos > 0)

    lab.catalog.prices.append(raised("rare.meter", "rare-2", 2 * DOLLAR))
    lab.catalog.sync()

    await alerts_are(lab, "user", "price.changed", 1)
    await alerts_are(lab, "non-user", "price.changed", 0)


async def test_a_change_at_the_start_of_a_period_is_seen_in_the_usage_of_the_one_before(
    lab: ConsumeLab,
) -> None:
    begun_micros = now_micros() - 1800 * SECOND_MICROS
    await priced(lab, "first.meter")
    lab.catalog.contract("first", anchor_micros=begun_micros)
    lab.catalog.sync()
    before = begun_micros - 1800 * SECOND_MICROS
    await lab.send("first", 4, meter="first.meter", occurred_at_micros=before)
    await lab.units_are("first", {f"first.meter@{DOLLAR}": 4})

    lab.catalog.prices.append(raised("first.meter", "first-2", 2 * DOLLAR))
    lab.catalog.sync()

    (alert,) = await alerts_are(lab, "first", "price.changed", 1)
    assert alert["period_end"] == rfc3339(begun_micros)
    assert alert["after"]["cogs_nanos"] == 8 * DOLLAR


async def test_a_price_that_changed_while_nobody_consumed_is_told(lab: ConsumeLab) -> None:
    await priced(lab, "away.meter")
    await contracted(lab, "away")
    await lab.send("away", 1, meter="away.meter")
    await lab.margin_is("away", lambda margin: margin.cogs_nanos == DOLLAR)
    await asyncio.to_thread(lab.program.kill)
    lab.catalog.prices.append(raised("away.meter", "away-2", 2 * DOLLAR))
    lab.catalog.sync()
    await lab.start()

    await alerts_are(lab, "away", "price.changed", 1)


async def test_two_consumers_tell_each_thing_once(lab: ConsumeLab) -> None:
    tenants = [f"pair-{number}" for number in range(6)]
    await priced(lab, "pair.meter")
    for tenant in tenants:
        await contracted(lab, tenant, meter="pair.meter", limit_units=4)
        await lab.send(tenant, 3, meter="pair.meter")
    for tenant in tenants:
        await lab.margin_is(tenant, lambda margin: margin.cogs_nanos == 3 * DOLLAR)

    await lab.samples_are(LAG, PARTITIONS)
    with lab.another("second", alerts_poll_ms="100") as second:
        await eventually(lambda: lab.log_lines("partition taken", second))
        # Autoscaling adds up what all of them say: none tells of what another has.
        async with asyncio.timeout(HANG_S):
            while len(await lab.samples(LAG)) != PARTITIONS - len(taken_by(lab, second)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        lab.catalog.prices.append(raised("pair.meter", "pair-2", 2 * DOLLAR))
        lab.catalog.sync()
        for tenant in tenants:
            await lab.send(tenant, 1, meter="pair.meter")
            await lab.send(tenant, 1, meter="pair.unpriced")
        await eventually(lambda: all(len(lab.outbox(tenant)) >= 4 for tenant in tenants))
        await asyncio.sleep(LOOKS_S)

    for tenant in tenants:
        kinds = [message["type"] for message in lab.outbox(tenant)]
        assert kinds.count("quota.reached") == 2, kinds
        assert kinds.count("price.changed") == kinds.count("usage.unpriced") == 1, kinds


def taken_by(lab: ConsumeLab, program: Program) -> set[int]:
    return {line["partition"] for line in lab.log_lines("partition taken", program)}


async def test_a_restart_tells_nothing_again(lab: ConsumeLab) -> None:
    await priced(lab, "again.meter")
    await contracted(lab, "again", meter="again.meter", limit_units=5)
    await lab.send("again", 4, meter="again.meter")
    await lab.send("again", 1, meter="again.unpriced")
    await alerts_are(lab, "again", "usage.unpriced", 1)
    lab.catalog.prices.append(raised("again.meter", "again-2", 2 * DOLLAR))
    lab.catalog.sync()
    await alerts_are(lab, "again", "price.changed", 1)
    await alerts_are(lab, "again", "quota.reached", 1)

    await asyncio.to_thread(lab.program.kill)
    await lab.start()
    await lab.send("again", 1, meter="again.meter")
    await lab.margin_is("again", lambda margin: margin.cogs_nanos == 6 * DOLLAR)
    await alerts_are(lab, "again", "quota.reached", 2)

    kinds = [message["type"] for message in lab.outbox("again")]
    assert sorted(kinds) == ["price.changed", "quota.reached", "quota.reached", "usage.unpriced"]


async def test_a_sync_that_stands_still_is_told_once_and_again_after_the_next(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("sync")
    rules: dict[str, Any] = {"alerts_poll_ms": "100", "sync_stale_s": "60"}
    async with consume_lab(kafka_server.bootstrap, home, **rules) as lab:

        def completed(ago_s: int) -> None:
            at_micros = now_micros() - ago_s * SECOND_MICROS
            state = policy_pb2.SyncState(catalog_version="v", completed_at_micros=at_micros)
            lab.redis.set("aforo:v1:sync", state.SerializeToString())

        lab.catalog.contract("acme")
        lab.catalog.sync()
        completed(ago_s=10)
        await lab.start()
        await lab.send("acme")
        await lab.margin_is("acme", lambda margin: bool(margin.tenant_id))
        await alerts_are(lab, "", "sync.stale", 0)
        completed(ago_s=61)
        (first,) = await alerts_are(lab, "", "sync.stale", 1)
        completed(ago_s=1)
        await asyncio.sleep(LOOKS_S)
        completed(ago_s=62)
        await alerts_are(lab, "", "sync.stale", 2)

        # A Redis that was emptied names no pass: the last one that is known is as old as it was.
        completed(ago_s=55)
        await asyncio.sleep(3 * LOOKS_S)
        lab.redis.delete("aforo:v1:sync")
        (*_, third) = await alerts_are(lab, "", "sync.stale", 3)

    assert third["age_s"] >= 60
    assert third["completed_at"] is not None
    assert first["stale_after_s"] == 60
    assert first["age_s"] >= 61


async def test_a_redis_that_never_held_a_sync_is_told_of(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("never")
    rules: dict[str, Any] = {"alerts_poll_ms": "100", "sync_stale_s": "1"}
    async with consume_lab(kafka_server.bootstrap, home, **rules) as lab:
        lab.catalog.contract("acme")
        lab.catalog.sync()
        lab.redis.delete("aforo:v1:sync")
        await lab.start()

        (told,) = await alerts_are(lab, "", "sync.stale", 1)
    assert told["completed_at"] is None
    assert told["age_s"] >= 1
