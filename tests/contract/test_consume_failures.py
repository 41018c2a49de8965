"""The consumer when something ends, stands still, or is not there: nothing lost, none twice."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aforo_proto import margin_pb2
from lab.ports import free_port
from lab.servers import KafkaServer, Program, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import (
    DOLLAR,
    ConsumeLab,
    consume_lab,
    is_ready,
    usage_event,
)

pytestmark = [pytest.mark.contract, pytest.mark.slow]

KILLS = 3
EVENTS = 1500
TENANTS = ("acme", "globex", "initech", "umbrella")


@pytest.fixture
async def lab(kafka_server: KafkaServer | KafkaAt, tmp_path: Path) -> AsyncIterator[ConsumeLab]:
    async with consume_lab(kafka_server.bootstrap, tmp_path, batch_records_max="40") as made:
        made.catalog.price("api.calls", DOLLAR // 1000)
        for tenant in TENANTS:
            made.catalog.contract(tenant)
        yield made


def expected_units(lab: ConsumeLab, tenant: str) -> int:
    events = {event.event_id: event for event in lab.sent if event.tenant_id == tenant}
    return sum(measure.units for event in events.values() for measure in event.measures)


def ledger_units(lab: ConsumeLab) -> dict[str, int]:
    return {tenant: sum(lab.ledger.units(tenant).values()) for tenant in TENANTS}


async def totals_are_exact(lab: ConsumeLab) -> None:
    """Wait until the ledger has everything once, and the margins say the same."""
    expected = {tenant: expected_units(lab, tenant) for tenant in TENANTS}
    await eventually(lambda: ledger_units(lab) == expected)
    assert lab.ledger.kept_cogs() == lab.ledger.audited_cogs()
    for tenant, units in expected.items():
        cogs_nanos = units * DOLLAR // 1000
        await lab.margin_is(tenant, lambda margin, cogs=cogs_nanos: margin.cogs_nanos == cogs)  # type: ignore[misc]


async def send_with_duplicates(lab: ConsumeLab, count: int) -> None:
    events = [usage_event(TENANTS[n % len(TENANTS)], 1 + n % 13) for n in range(count)]
    await lab.send_many([*events, *events[::7]])


async def test_killed_in_mid_batch_it_charges_each_event_once(lab: ConsumeLab) -> None:
    lab.catalog.sync()
    await lab.start()
    for number in range(KILLS):
        await send_with_duplicates(lab, EVENTS)
        before = sum(ledger_units(lab).values())
        await eventually(
            lambda before=before: sum(ledger_units(lab).values()) > before + 200,  # type: ignore[misc]
            every_s=0.001,
        )
        lab.program.kill()
        left = sum(expected_units(lab, tenant) for tenant in TENANTS)
        assert sum(ledger_units(lab).values()) < left, f"kill {number} came too late"
        await lab.start()

    await totals_are_exact(lab)


async def test_one_that_stood_still_writes_nothing_for_what_it_lost(lab: ConsumeLab) -> None:
    """Frozen past its session, its partitions go to another; thawed, the fence stops it."""
    lab.catalog.sync()
    await lab.start()
    await send_with_duplicates(lab, 100)
    await totals_are_exact(lab)
    other = lab.another("other", batch_records_max="40")
    try:
        lab.program.freeze()
        await asyncio.to_thread(other.start)
        await send_with_duplicates(lab, 100)
        await totals_are_exact(lab)

        lab.program.thaw()
        await send_with_duplicates(lab, 100)
        await totals_are_exact(lab)
    finally:
        await asyncio.to_thread(other.stop)


async def test_a_member_that_leaves_hands_over_at_once(lab: ConsumeLab) -> None:
    lab.catalog.sync()
    await lab.start()
    await send_with_duplicates(lab, 400)
    other = lab.another("other", batch_records_max="40")
    try:
        await asyncio.to_thread(other.start)
        await send_with_duplicates(lab, 400)
        assert await asyncio.to_thread(lab.program.stop) == 0
        await send_with_duplicates(lab, 400)
        await totals_are_exact(lab)
    finally:
        await asyncio.to_thread(other.stop)


async def test_without_redis_charges_go_on_for_known_tenants_and_others_wait(
    lab: ConsumeLab,
) -> None:
    del lab.catalog.contracts["globex"]
    lab.catalog.sync()
    await lab.start()
    await lab.send("acme", 1)
    await lab.margin_is("acme", lambda margin: margin.cogs_nanos > 0)

    lab.redis_server.kill()
    await lab.send("acme", 2)
    await lab.units_are("acme", {"api.calls@1000000": 3})
    await lab.send("globex", 5)  # Nobody knows of its contract.
    await asyncio.sleep(1)
    assert lab.ledger.units("globex") == {}

    await asyncio.to_thread(lab.redis_server.start)
    await asyncio.sleep(0.5)
    assert lab.ledger.units("globex") == {}, "an empty Redis says nothing about contracts"
    lab.catalog.contract("globex")
    lab.catalog.sync()

    await lab.units_are("globex", {"api.calls@1000000": 5})
    margin = await lab.margin_is("acme", lambda margin: margin.cogs_nanos == 3 * DOLLAR // 1000)
    assert margin.level == margin_pb2.LEVEL_NONE
    assert lab.log_lines("can't be published")
    await eventually(lambda: lab.log_lines("published again"))


def waits_for(lab: ConsumeLab, words: str, program: Program | None = None) -> bool:
    return any(words in line["error"] for line in lab.log_lines("waiting", program))


async def test_without_prices_it_waits_and_says_what_to_run(lab: ConsumeLab) -> None:
    lab.program.start(wait=False)
    await lab.send("acme", 2)
    await eventually(lambda: waits_for(lab, "aforo:v1:pricebook is not in Redis"))
    assert waits_for(lab, "aforo-admin sync")
    await asyncio.sleep(0.5)
    assert lab.ledger.units("acme") == {}
    assert not is_ready(lab.metrics_port)

    lab.catalog.sync()

    await lab.units_are("acme", {"api.calls@1000000": 2})
    assert is_ready(lab.metrics_port)


async def test_records_that_kafka_has_lost_stop_it_with_the_ways_out(lab: ConsumeLab) -> None:
    lab.catalog.sync()
    await lab.start()
    await lab.send("acme", 1)
    await lab.units_are("acme", {"api.calls@1000000": 1})
    await asyncio.to_thread(lab.program.stop)
    # As if the topic had been made anew: the ledger stands where Kafka has never been.
    lab.ledger.execute("UPDATE position SET next_offset = next_offset + 1000 WHERE next_offset > 0")

    lab.program.start(wait=False)
    assert await asyncio.to_thread(lab.program.wait) == 1
    (line,) = lab.log_lines("records are lost")
    assert "AFORO_METER_CONSUME_ACCEPT_LOST_RECORDS=true" in line["error"]

    accepting = lab.another("accepting", accept_lost_records="true")
    try:
        await asyncio.to_thread(accepting.start)
        await lab.send("acme", 5)
        # What is read again is not charged again.
        await lab.units_are("acme", {"api.calls@1000000": 6})
    finally:
        await asyncio.to_thread(accepting.stop)


async def test_a_topic_that_is_missing_is_waited_for(
    lab: ConsumeLab,
) -> None:
    lab.catalog.sync()
    missing = lab.another("missing", kafka_topic=f"{lab.topic}-missing")
    missing.start(wait=False)
    try:
        remedy = f"no topic {lab.topic}-missing; run: aforo-meter topics"
        await eventually(lambda: waits_for(lab, remedy, missing))
    finally:
        assert await asyncio.to_thread(missing.stop) == 0


async def test_without_kafka_it_waits(lab: ConsumeLab) -> None:
    lab.catalog.sync()
    port = free_port()
    lonely = lab.another("lonely", kafka_bootstrap=f"127.0.0.1:{port}")
    lonely.start(wait=False)
    try:
        await eventually(lambda: waits_for(lab, "KafkaConnectionError", lonely))
    finally:
        assert await asyncio.to_thread(lonely.stop) == 0


async def test_a_locked_ledger_holds_the_position(lab: ConsumeLab) -> None:
    lab.catalog.sync()
    await lab.start()
    await lab.send("acme", 1)
    await lab.units_are("acme", {"api.calls@1000000": 1})
    position = lab.ledger.rows("SELECT * FROM position ORDER BY 1, 2")

    locker = lock(lab)
    try:
        await lab.send("acme", 2)
        await eventually(lambda: lab.log_lines("waiting"))
        assert lab.ledger.rows("SELECT * FROM position ORDER BY 1, 2") == position
    finally:
        locker.signal(signal.SIGKILL)
        locker.wait()
    await lab.units_are("acme", {"api.calls@1000000": 3})


def lock(lab: ConsumeLab) -> Program:
    """Start a process that keeps the ledger locked, as a backup tool gone wrong would."""
    code = (
        "import sqlite3, time; sql = sqlite3.connect(%r, isolation_level=None);"
        " sql.execute('BEGIN IMMEDIATE'); print('locked', flush=True); time.sleep(60)"
    )
    program = Program(
        "locker", [sys.executable, "-c", code % lab.ledger.url.removeprefix("sqlite:///")]
    )
    program.start(wait=False)
    while "locked" not in program.log_text():
        pass
    return program
