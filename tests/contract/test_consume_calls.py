"""Calls told more than once, weights, sessions and decisions through a running consumer."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aforo_proto import margin_pb2, policy_pb2, usage_pb2
from lab.servers import KafkaServer, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import (
    DOLLAR,
    ConsumeLab,
    consume_lab,
    now_micros,
    usage_event,
)

pytestmark = [pytest.mark.contract, pytest.mark.slow]

HOUR_MICROS = 3_600_000_000
CALLS = 400
KILLS = 3


@pytest.fixture
async def lab(kafka_server: KafkaServer | KafkaAt, tmp_path: Path) -> AsyncIterator[ConsumeLab]:
    quick: dict[str, Any] = {
        "batch_records_max": "40",
        "decisions_poll_ms": "100",
        "completeness_poll_ms": "100",
        "session_idle_s": "3600",
        "ingest_ids_days": "400",
    }
    async with consume_lab(kafka_server.bootstrap, tmp_path, **quick) as made:
        for meter in ("api.calls", "bytes.response", "llm.output_tokens"):
            made.catalog.price(meter, DOLLAR // 1000)
        made.catalog.contract("acme", fee_nanos=1000 * DOLLAR)
        yield made


def told(decision_id: str, *measures: tuple[str, int], **fields: Any) -> usage_pb2.UsageEvent:  # noqa: ANN401
    at_micros = now_micros()
    given: dict[str, Any] = {
        "decision_id": decision_id,
        "decided_hour_s": at_micros // HOUR_MICROS * 3600,
        "occurred_at_micros": at_micros,
        "measures": [usage_pb2.Measure(meter=meter, units=units) for meter, units in measures],
    }
    return usage_event("acme", **(given | fields))


def a_call(number: int) -> list[usage_pb2.UsageEvent]:
    """Return what is told of a call: totals so far, an estimated end, of every other the truth."""
    name, size = uuid.uuid4().hex, 100 + number
    events = [
        told(name, ("bytes.response", size * part // 4), interim=True) for part in range(1, 4)
    ]
    end = [("api.calls", 1), ("bytes.response", size), ("llm.output_tokens", 50)]
    events.append(told(name, *end, estimated=True, continued=True, aborted=True))
    if number % 2:
        elsewhere: dict[str, Any] = {"source": "ingest", "features": [], "decided_hour_s": 0}
        tokens = ("llm.output_tokens", number % 50)
        events.append(told(name, tokens, continued=True, **elsewhere))
    return events


def meters(lab: ConsumeLab) -> dict[str, int]:
    query = "SELECT meter, SUM(quantity_micros) FROM charge WHERE tenant_id = 'acme' GROUP BY meter"
    return {meter: quantity // 1_000_000 for meter, quantity in lab.ledger.rows(query)}


async def test_killed_again_and_again_it_counts_each_call_once_in_whatever_order_it_is_told(
    lab: ConsumeLab,
) -> None:
    random = Random(7)  # noqa: S311 - an order, no secret.
    events = [event for number in range(CALLS) for event in a_call(number)]
    random.shuffle(events)
    expected = {
        "api.calls": CALLS,
        "bytes.response": sum(100 + number for number in range(CALLS)),
        "llm.output_tokens": sum(n % 50 if n % 2 else 50 for n in range(CALLS)),
    }
    lab.catalog.sync()
    await lab.start()
    await lab.send_many(events + random.sample(events, 200))
    for _ in range(KILLS):
        before = lab.ledger.rows("SELECT SUM(next_offset) FROM position")
        await eventually(
            lambda before=before: (
                lab.ledger.rows("SELECT SUM(next_offset) FROM position")  # type: ignore[misc]
                != before
            ),
            every_s=0.001,
        )
        lab.program.kill()
        await lab.start()

    try:
        await eventually(lambda: meters(lab) == expected)
    except TimeoutError:
        raise AssertionError(f"{meters(lab)} != {expected}\n{lab.program.log_tail()}") from None
    assert lab.ledger.kept_cogs() == lab.ledger.audited_cogs()
    assert lab.ledger.rows("SELECT SUM(calls) FROM logged") == [(CALLS,)]
    assert lab.ledger.rows("SELECT MIN(quantity_micros) >= 0 FROM charge") == [(1,)]


async def test_true_figures_that_waited_get_the_price_that_came_meanwhile(lab: ConsumeLab) -> None:
    lab.catalog.sync()
    await lab.start()
    name, tokens = uuid.uuid4().hex, "llm.input_tokens"
    await lab.send_again(told(name, (tokens, 9), continued=True, source="ingest", features=[]))
    figure = "SELECT price_id FROM true_figure"
    await eventually(lambda: lab.ledger.rows(figure) == [("",)])

    lab.catalog.price(tokens, DOLLAR)
    lab.catalog.sync()
    priced = "SELECT price_id, quantity_micros FROM charge ORDER BY price_id"

    await lab.send("acme", 1, meter=tokens)
    await eventually(lambda: lab.ledger.rows(priced) == [(f"{tokens}@{DOLLAR}", 1_000_000)])

    await lab.send_again(told(name, (tokens, 50), estimated=True))
    await eventually(lambda: lab.ledger.rows(priced) == [(f"{tokens}@{DOLLAR}", 10_000_000)])


async def test_a_quota_is_seeded_with_what_calls_weigh(lab: ConsumeLab) -> None:
    """As authz counts them: after Redis was emptied, its counters start at these figures."""
    quota = policy_pb2.Quota(quota_id="day", meter="api.calls", window=policy_pb2.WINDOW_DAY)
    lab.catalog.policies["acme"] = policy_pb2.Policy(quotas=[quota])
    lab.catalog.sync()
    await lab.start()
    await lab.send("acme", 1, weight_units=25)
    await lab.send("acme", 2)
    await lab.margin_is("acme", lambda margin: margin.cogs_nanos == 3 * DOLLAR // 1000)

    lab.redis.flushall()
    margin = await lab.margin_is("acme", lambda margin: margin.cogs_nanos > 0)
    assert [usage.used_units for usage in margin.quota_usages] == [27]


async def test_sessions_and_decisions_are_kept_beside_the_charges(lab: ConsumeLab) -> None:
    lab.catalog.sync()
    await lab.start()
    hour_s = now_micros() // HOUR_MICROS * 3600
    lab.redis.sadd(f"aforo:decisions:v1:{hour_s}", "p1")
    lab.redis.hset(f"aforo:decisions:v1:{hour_s}:p1", mapping={"acme|allow|api": "3"})
    session = usage_pb2.Dimensions(session="s1", agent="helper", product="AI_AGENT")
    for boundary in (
        usage_pb2.SESSION_BOUNDARY_START,
        usage_pb2.SESSION_BOUNDARY_UNSPECIFIED,
        usage_pb2.SESSION_BOUNDARY_HEARTBEAT,
    ):
        event = told(
            uuid.uuid4().hex, ("api.calls", 1), dimensions=session, session_boundary=boundary
        )
        event.decided_hour_s = hour_s
        await lab.send_again(event)
        await lab.send_again(event)

    await eventually(lambda: lab.ledger.rows("SELECT steps FROM session") == [(1,)])
    await eventually(lambda: lab.ledger.rows("SELECT decisions FROM decided") == [(3,)])
    await eventually(lambda: lab.ledger.rows("SELECT calls FROM logged") == [(3,)])
    assert meters(lab) == {"api.calls": 2}, "a heartbeat is never billed"
    assert await lab.metric("aforo_completeness_ratio") > 0
    state: Any = await eventually(lambda: lab.redis.get("aforo:v1:consumed:0"))
    assert margin_pb2.ConsumeState.FromString(state).ingest_ids_days == 400, "ingest goes by it"
    assert await asyncio.to_thread(lab.program.stop) == 0
