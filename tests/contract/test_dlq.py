"""Dead letters listed, shown and sent again: a real broker, one running consumer."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aforo_proto import usage_pb2
from lab.servers import KafkaServer
from tests.conftest import KafkaAt
from tests.contract.consume_lab import (
    DOLLAR,
    SECOND_MICROS,
    ConsumeLab,
    consume_lab,
    now_micros,
    usage_event,
)
from tests.contract.tools_lab import dlq, ran
from tests.unit.test_access_log import DECIDED, make_entry, make_message

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

PRICE = f"api.calls@{DOLLAR}"
BYTES = 120 + 900  # In and out, of each entry; without a price.
DAY_MICROS = 86_400 * SECOND_MICROS


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ConsumeLab]:
    async with consume_lab(kafka_server.bootstrap, tmp_path_factory.mktemp("dlq")) as made:
        made.catalog.price("api.calls", DOLLAR)
        for name in ("shipped", "consumed", "edited", "whole"):
            made.catalog.contract(name)
        made.catalog.sync()
        await made.start()
        yield made


async def put(lab: ConsumeLab, **fields: Any) -> str:  # noqa: ANN401 - of DeadLetter
    """Write a dead letter and return its place."""
    letter = usage_pb2.DeadLetter(**({"failed_at_micros": now_micros()} | fields))
    sent = await lab.producer.send_and_wait(lab.dead_letter_topic, letter.SerializeToString())
    return f"{sent.partition}:{sent.offset}"


async def listed(lab: ConsumeLab, *more: str) -> dict[str, dict[str, Any]]:
    found = await dlq(lab, "list", "--json", *more)
    assert found.code == 0, found.err
    rows = [json.loads(line) for line in found.lines]
    return {row["place"]: row for row in rows}


def entry(tenant: str, uid: str) -> bytes:
    data: bytes = make_entry(said=DECIDED | {"tenant": tenant}, uid=uid).SerializeToString()
    return data


@pytest.mark.parametrize("uid", ["0f0e7fd2-51cb-4ef6-8e2c-f9ae7e0a0aaa", ""])
async def test_an_entry_of_the_access_log_that_is_sent_again_twice_is_billed_once(
    lab: ConsumeLab, uid: str
) -> None:
    before = {PRICE: 0, "": 0} | lab.ledger.units("shipped")
    place = await put(
        lab, stage="ship", reason="unknown decision 'allow'", payload=entry("shipped", uid)
    )

    dry = await dlq(lab, "retry", place)
    first = await dlq(lab, "retry", place, "--apply")
    second = await dlq(lab, "retry", place, "--apply")
    last = await lab.send("shipped", 10)

    event_id = uid or f"dlq:{lab.dead_letter_topic}:{place}:0"
    assert dry.lines == [
        f"{place}  would be sent: event {event_id} of shipped",
        "1 letters to send again (--apply), 0 stay as they are",
    ]
    assert first.lines[0] == f"{place}  sent: event {event_id} of shipped"
    assert "it was sent before" in second.lines[0]
    assert [one.code for one in (dry, first, second)] == [0, 0, 0]
    assert all("by the built-in metering rules" in one.err for one in (dry, first, second))
    await lab.units_are("shipped", {PRICE: before[PRICE] + 11, "": before[""] + BYTES})
    assert last.tenant_id == "shipped"
    assert place not in await listed(lab)
    assert (await listed(lab, "--retried"))[place]["retried_at"]


async def test_a_whole_message_of_envoy_is_read_again(lab: ConsumeLab) -> None:
    payload = make_message(
        *(make_entry(said=DECIDED | {"tenant": "whole"}, uid="") for _ in range(3)), node_id="e1"
    )
    place = await put(lab, stage="ship", reason="not a StreamAccessLogsMessage", payload=payload)

    for _ in range(2):
        found = await dlq(lab, "retry", place, "--apply")
        assert found.code == 0
        assert found.lines[0].startswith(f"{place}  sent: event dlq:{lab.dead_letter_topic}:")

    await lab.units_are("whole", {PRICE: 3, "": 3 * BYTES})


async def test_what_the_consumer_refused_is_sent_again_as_it_was_once_it_can_be_read(
    lab: ConsumeLab,
) -> None:
    event = usage_event("consumed", 4)
    where = {"topic": lab.topic, "partition": 1, "offset": 7}
    sound = await put(
        lab,
        stage="consume",
        reason="outcome 7 is unknown",
        payload=event.SerializeToString(),
        **where,
    )
    broken = await put(lab, stage="consume", reason="is broken", payload=b"\xff\xff", **where)

    for _ in range(2):
        found = await dlq(lab, "retry", sound, broken, "--apply")
        assert "metering rules" not in found.err  # An event was counted by its rules already.
        assert found.code == 1
        assert f"{sound}  sent: event {event.event_id} of consumed" in found.out
        assert f"{broken}  still: not an aforo.v1.UsageEvent; repair it: --edit FILE" in found.out
        assert found.lines[-1] == "1 letters sent again, 1 stay as they are"

    await lab.units_are("consumed", {PRICE: 4})
    left = await listed(lab, "--reason-contains", "IS BROKEN")
    assert list(left) == [broken]
    assert left[broken]["stood_at"] == f"{lab.topic} 1:7"


async def test_a_letter_is_repaired_in_a_file_and_sent_under_its_own_id(
    lab: ConsumeLab, tmp_path: Path
) -> None:
    event = usage_event("edited", 4, occurred_at_micros=now_micros() + 3 * DAY_MICROS)
    await lab.send_again(event)
    # Read by the consumer once this is in the ledger, if it is in the same partition: one tenant.
    await lab.send("edited", 1)
    await lab.units_are("edited", {PRICE: 1})
    found = await listed(lab, "--reason-contains", str(event.occurred_at_micros))
    (place,) = found
    still = await dlq(lab, "retry", place, "--apply")
    shown = await dlq(lab, "show", place, "--json")
    letter = shown.json()
    letter["event"]["occurred_at_micros"] = str(now_micros())
    path = tmp_path / "letter.json"
    path.write_text(json.dumps(letter))

    other = tmp_path / "other.json"
    other.write_text(json.dumps(letter["event"] | {"event_id": "mine"}))
    foreign = await dlq(lab, "retry", place, "--edit", str(other), "--apply")
    for _ in range(2):
        sent = await dlq(lab, "retry", place, "--edit", str(path), "--apply")
        assert sent.code == 0, sent.err

    assert still.code == foreign.code == 1
    assert "more than a day ahead of us; repair it: --edit FILE" in still.out
    assert "keep the letter's" in foreign.err
    await lab.units_are("edited", {PRICE: 5})


async def test_letters_are_shown_decoded_as_far_as_possible(lab: ConsumeLab) -> None:
    event = usage_event("acme", 4)
    sound = await put(lab, stage="consume", reason="r", payload=event.SerializeToString())
    logged = await put(lab, stage="ship", reason="r", payload=entry("acme", ""))
    broken = entry("acme", "") + b"\xff\xff\xff\xff"
    torn = await put(lab, stage="ship", reason="not an HTTPAccessLogEntry", payload=broken)

    pages = [(await dlq(lab, "show", place)).out for place in (sound, logged, torn)]

    assert f'"event_id": "{event.event_id}"' in pages[0]
    assert 'path: "/v1/chat/completions"' in pages[1]
    assert "as it came:\n" in pages[2]
    assert "ffffffff" in pages[2]
    assert (await dlq(lab, "retry", torn)).out.startswith(
        f"{torn}  still: not an HTTPAccessLogEntry"
    )


async def test_all_letters_of_a_kind_are_retried_and_only_those(lab: ConsumeLab) -> None:
    one = await put(lab, stage="ship", reason="of this kind", payload=entry("acme", ""))
    two = await put(lab, stage="ship", reason="of this kind", payload=entry("acme", ""))
    await put(lab, stage="consume", reason="of this kind", payload=b"\xff")
    meant = ["--all", "--stage", "ship", "--reason-contains", "this kind"]

    dry = await dlq(lab, "retry", *meant)
    applied = await dlq(lab, "retry", *meant, "--apply")
    again = await dlq(lab, "retry", *meant, "--apply")

    assert {line.split()[0] for line in dry.lines[:-1]} == {one, two}
    assert applied.lines[-1] == "2 letters sent again, 0 stay as they are"
    assert again.lines == ["0 letters sent again, 0 stay as they are"]


async def test_the_list_is_bounded_by_number_and_by_time(lab: ConsumeLab) -> None:
    for day in range(5):
        at_micros = 1_767_225_600 * SECOND_MICROS + day * DAY_MICROS
        await put(lab, stage="ingest", reason=f"day {day}", failed_at_micros=at_micros)

    some = await dlq(lab, "list", "--stage", "ingest", "--limit", "2")
    young = await listed(lab, "--stage", "ingest", "--since", "2026-01-04")

    assert [line.rpartition("  ")[2] for line in some.lines[:2]] == ["day 3", "day 4"]
    assert some.lines[2] == "5 dead letters, the newest 2 are shown (--limit)"
    assert sorted(row["reason"] for row in young.values()) == ["day 3", "day 4"]


async def test_what_is_not_there_is_told(lab: ConsumeLab) -> None:
    absent = await dlq(lab, "show", "0:99999")
    retried = await dlq(lab, "retry", "0:99999", "--apply")
    nothing = await dlq(lab, "retry")
    unreadable = await dlq(lab, "show", "somewhere")
    topic = await ran("dlq", "list", "--bootstrap", lab.bootstrap, "--dead-letter-topic", "none")

    assert [one.code for one in (absent, retried, nothing, unreadable, topic)] == [1, 1, 2, 2, 1]
    assert absent.err == (
        "aforo-meter: there is no dead letter at 0:99999; dlq list shows where they are\n"
    )
    assert "0:99999  there is no such dead letter" in retried.out
    assert "needs places PARTITION:OFFSET, or --all" in nothing.err
    assert "write PARTITION:OFFSET" in unreadable.err
    assert "has no topic none" in topic.err


async def test_what_ingest_could_not_write_is_sent_as_it_was(lab: ConsumeLab) -> None:
    event = usage_event("acme", 4)
    reason = "too large for aforo.usage.v1: 900 bytes"
    place = await put(lab, stage="ingest", reason=reason, payload=event.SerializeToString())

    sent = await dlq(lab, "retry", place, "--apply")

    assert sent.code == 0, sent.err
    assert event.event_id in sent.out
