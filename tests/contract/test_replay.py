"""Usage rated again and compared with the ledger; usage searched. Real broker, real consumer."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aforo_meter.alerts import USAGE_UNPRICED
from aforo_meter.domain.periods import HOUR_MICROS, datetime_of
from aforo_meter.domain.rating import ChargeKey
from aforo_proto import usage_pb2
from lab.servers import KafkaServer, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import DOLLAR, ConsumeLab, consume_lab, now_micros, usage_event
from tests.contract.ledger_lab import UNIT
from tests.contract.ledgers import AuditedLedger, LedgerFile, Ledgers, ledgers_of
from tests.contract.tools_lab import Ran, ran, started

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

HOURS = 4
TENANTS = 5
EVENTS = 30  # Of each tenant in each hour.


def first_hour_micros() -> int:
    now = now_micros()
    return now - now % HOUR_MICROS - HOURS * HOUR_MICROS


START = first_hour_micros()


def text(micros: int) -> str:
    return datetime_of(micros).replace(tzinfo=None).isoformat()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def places(
    request: pytest.FixtureRequest,
    empty_ledger: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ledgers]:
    with ledgers_of(request, empty_ledger, tmp_path_factory.mktemp("ledgers")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory, places: Ledgers
) -> AsyncIterator[ConsumeLab]:
    """A consumer that has read usage of several hours, with all that makes rating difficult."""
    home = tmp_path_factory.mktemp("replay")
    async with consume_lab(kafka_server.bootstrap, home, ledger=places.new()) as made:
        made.catalog.price("api.calls", DOLLAR)
        made.catalog.price("llm.input_tokens", 7)
        for number in range(TENANTS - 1):  # The last one has no contract.
            made.catalog.contract(f"t{number}")
        made.catalog.sync()
        await made.start()
        events = list(usage_of_hours())
        await made.send_many(events)
        await made.send_raw(b"\xff no event")
        await made.send_many(events[::7])  # Again.
        await eventually(lambda: is_read(made))
        yield made


def usage_of_hours() -> Any:  # noqa: ANN401
    for hour in range(HOURS):
        for number in range(EVENTS):
            at_micros = START + hour * HOUR_MICROS + number * 60_000_000
            fields: dict[str, Any] = {"occurred_at_micros": at_micros}
            for name in (f"t{tenant}" for tenant in range(TENANTS)):
                yield usage_event(name, number + 1, **fields)
                yield usage_event(name, 1000 + number, meter="llm.input_tokens", **fields)
                yield usage_event(name, number + 1, meter="bytes.response", **fields)  # Unpriced.
                yield from a_long_call(f"{name}-{at_micros}", name, at_micros)
                yield usage_event(
                    name,
                    source="ingest",
                    event_id=f"ik:{name}-{hour}-{number}",
                    metadata_json=f'{{"team": "{"blue" if number % 2 else "red"}", "n": {number}}}',
                    dimensions=usage_pb2.Dimensions(tool=f"tool-{number % 3}"),
                    **fields,
                )


def a_long_call(decision_id: str, tenant: str, at_micros: int) -> Any:  # noqa: ANN401
    fields: dict[str, Any] = {"decision_id": decision_id, "occurred_at_micros": at_micros}
    yield usage_event(tenant, 10, meter="bytes.request", interim=True, **fields)
    yield usage_event(tenant, 25, meter="bytes.request", continued=True, **fields)


def is_read(lab: ConsumeLab) -> bool:
    """Has the ledger read all that was sent, and the one record that is no event?"""
    (read,) = lab.ledger.rows("SELECT SUM(next_offset) FROM position")[0]
    return read is not None and read >= len(lab.sent) + 1


async def replayed(lab: ConsumeLab, scratch_url: str, *more: str) -> Ran:
    return await ran(
        *("replay", "--bootstrap", lab.bootstrap, "--topic", lab.topic),
        *("--redis-url", lab.redis_server.url, "--ledger-url", scratch_url, *more),
    )


def whole(lab: ConsumeLab) -> list[str]:
    """Return arguments for all hours there are."""
    end = text(START + HOURS * HOUR_MICROS)
    return ["--from", text(START), "--to", end, "--live-ledger-url", lab.ledger.url]


def charges(ledger: AuditedLedger) -> list[tuple[Any, ...]]:
    """Return the rows without their numbers: these go by the order in which usage was written."""
    columns = ", ".join((*ChargeKey._fields, "quantity_micros", "extra_micros", "estimated_micros"))
    return ledger.rows(f"SELECT {columns} FROM charge ORDER BY {columns}")  # noqa: S608


def without_unpriced(outbox: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row for row in outbox if USAGE_UNPRICED not in row]


async def test_a_replay_equals_the_live_ledger_and_tells_nobody(
    lab: ConsumeLab, places: Ledgers
) -> None:
    scratch = places.blank()
    before = lab.ledger.contents()

    found = await replayed(lab, scratch.url, *whole(lab), "--json")

    assert found.code == 0, found.err + found.out
    report = found.json()
    assert report["is_equal"]
    assert report["unreadable"] == 1
    assert report["behind"] == 0
    assert report["left_out"] == []
    assert report["rows"]["equal"] > HOURS * TENANTS * 5
    assert charges(scratch) == charges(lab.ledger)
    assert scratch.audited_cogs() == scratch.kept_cogs()
    assert scratch.rows("SELECT * FROM outbox") == []
    after = lab.ledger.contents()
    assert after["charge"] == before["charge"]
    # The live consumer goes on to tell of usage without a price, in its own time.
    assert without_unpriced(after["outbox"]) == without_unpriced(before["outbox"])


async def test_hours_that_are_not_wholly_in_range_are_left_out_and_named(
    lab: ConsumeLab, places: Ledgers
) -> None:
    half = HOUR_MICROS // 2
    since, until = START + half, START + 3 * HOUR_MICROS + half

    found = await replayed(
        lab,
        places.blank().url,
        *("--from", text(since), "--to", text(until), "--live-ledger-url", lab.ledger.url),
    )

    assert found.code == 0, found.err + found.out
    first, last = datetime_of(since), datetime_of(until)
    shown = "%Y-%m-%d %H:%M"
    next_hour = datetime.fromtimestamp(START / 1e6 + 3600, UTC)
    assert f"not compared: {first:{shown}} to {next_hour:{shown}}" in found.out
    assert f"to {last:{shown}}" in found.out
    assert " 0 differ, 0 are in the live ledger alone, 0 in the replay alone" in found.lines[-1]


async def test_a_row_that_was_tampered_with_is_found(lab: ConsumeLab, places: Ledgers) -> None:
    at = "tenant_id = 't1' AND meter = 'api.calls' AND tool = '' AND hour_start_micros = ?"
    change = f"UPDATE charge SET quantity_micros = quantity_micros + ? WHERE {at}"  # noqa: S608

    def tamper(units: int) -> None:
        assert lab.ledger.execute(change, units * UNIT, START + HOUR_MICROS) == 1

    tamper(3)
    try:
        found = await replayed(lab, places.blank().url, *whole(lab))
        as_json = await replayed(lab, places.blank().url, *whole(lab), "--json")
    finally:
        tamper(-3)

    units = sum(range(1, EVENTS + 1))
    assert found.code == as_json.code == 1
    (line,) = [line for line in found.lines if " t1 " in line]
    assert line.split()[-3:] == [str(units), str(units + 3), "3"]
    (difference,) = as_json.json()["differences"]
    assert difference["kind"] == "differing"
    assert difference["live_amount_nanos"] - difference["replayed_amount_nanos"] == 3 * DOLLAR


async def test_a_replay_never_writes_to_a_ledger_that_is_in_use(
    lab: ConsumeLab, places: Ledgers, tmp_path: Path
) -> None:
    link = another_name_of(lab.ledger, tmp_path)
    used = places.blank().url
    before = charges(lab.ledger)

    live = await replayed(lab, link, *whole(lab))
    unnamed = await replayed(lab, link, *whole(lab)[:4])
    first = await replayed(lab, used, *whole(lab)[:4])
    second = await replayed(lab, used, *whole(lab)[:4])

    assert [one.code for one in (live, unnamed, first, second)] == [1, 1, 0, 1]
    assert "is the ledger of --live-ledger-url" in live.err
    assert "has been written to; name a new ledger" in unnamed.err
    assert "has been written to; name a new ledger" in second.err
    assert charges(lab.ledger) == before


def another_name_of(ledger: AuditedLedger, folder: Path) -> str:
    if not isinstance(ledger, LedgerFile):
        return f"{ledger.url}?application_name=replay"
    link = folder / "link.db"
    link.symlink_to(ledger.path)
    return f"sqlite:///{link}"


async def search(lab: ConsumeLab, *more: str) -> Ran:
    return await ran(
        *("events", "--bootstrap", lab.bootstrap, "--topic", lab.topic, "--limit", "10000", *more)
    )


async def test_a_reader_that_has_enough_ends_a_search_without_a_complaint(lab: ConsumeLab) -> None:
    searching = await started(
        *("events", "--bootstrap", lab.bootstrap, "--topic", lab.topic, "--limit", "10000"),
        *("--from", text(START)),
    )
    assert searching.stdout is not None
    await searching.stdout.readline()
    transport = searching._transport  # type: ignore[attr-defined]
    transport.get_pipe_transport(1).close()
    assert searching.stderr is not None
    complaint = await searching.stderr.read()

    assert await searching.wait() == 128 + 13
    assert complaint == b""


async def test_events_are_found_by_what_clients_attached(lab: ConsumeLab) -> None:
    hour = ["--from", text(START), "--to", text(START + HOUR_MICROS)]

    blue = await search(lab, *hour, "--tenant", "t2", "--where", "metadata.team=blue", "--json")
    both = await search(lab, *hour, "--where", "metadata.n=4", "--where", "tool=tool-1", "--json")
    by_id = await search(lab, *hour, "--event-id", "ik:t1-0-9")
    none = await search(lab, *hour, "--where", "metadata.team=green")
    few = await search(lab, *hour, "--tenant", "t2", "--limit", "3")

    # Some were sent twice, and Kafka has them twice.
    assert len(set(blue.lines)) >= EVENTS // 2
    assert all('"tenant": "t2"' in line and '"team": "blue"' in line for line in blue.lines)
    assert both.code == 0
    assert all('"n": 4' in line for line in both.lines)
    assert {line.split("  ")[2] for line in by_id.lines} == {"ik:t1-0-9"}
    assert (none.code, none.out) == (1, "")
    assert len(few.lines) == 3


async def test_what_the_live_ledger_has_not_read_yet_is_no_difference(
    lab: ConsumeLab, places: Ledgers
) -> None:
    await asyncio.to_thread(lab.stop)
    await lab.send("t1", 5, occurred_at_micros=START)

    found = await replayed(lab, places.blank().url, *whole(lab))

    assert found.code == 0, found.err + found.out
    assert "1 records left out: the live ledger has not read them yet" in found.out
