"""Files of usage → ledger: real processes, a real broker, one running consumer."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lab.ports import free_port
from lab.servers import KafkaServer, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import DOLLAR, ConsumeLab, consume_lab
from tests.contract.tools_lab import (
    COLUMNS,
    csv_file,
    import_arguments,
    imported,
    now_text,
    ran,
    started,
    state_of,
)

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

PRICE = f"api.calls@{DOLLAR}"
LEDGER_S_MAX = 120.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ConsumeLab]:
    async with consume_lab(kafka_server.bootstrap, tmp_path_factory.mktemp("import")) as made:
        made.catalog.price("api.calls", DOLLAR)
        for name in ("killed", "bad", "quirky", "plain", "twice"):
            made.catalog.contract(name)
        made.catalog.sync()
        await made.start()
        yield made


async def test_an_import_that_was_killed_goes_on_and_each_row_counts_once(
    lab: ConsumeLab, tmp_path: Path
) -> None:
    path = csv_file(tmp_path / "usage.csv", "killed", range(60_000), keys=False)
    lines = path.read_text().splitlines()
    for bad in range(500, 60_000, 1000):
        lines[bad] = lines[bad].replace(",1,", ",-1,")
    path.write_text("\n".join(lines))
    arguments = ["import", str(path), *import_arguments(lab), "--on-error", "skip"]
    first = await started(*arguments)
    await eventually(lambda: state_of(path).get("line", 0) > 2000, every_s=0.001)
    first.kill()
    await first.communicate()
    stood = state_of(path)
    assert not stood["done"]
    assert 2000 < stood["line"] < 60_001

    second = await ran(*arguments)

    assert second.code == 1, second.err
    assert f"going on behind line {stood['line']}" in second.out
    rejected = tmp_path / "usage.csv.rejected"
    assert second.lines[-1] == f"59,940 rows sent, 60 left out, in {rejected}"
    assert rejected.read_text().splitlines() == [lines[0], *lines[500::1000]]
    await lab.units_are("killed", {PRICE: 59_940}, within_s=LEDGER_S_MAX)


async def test_one_bad_row_in_ten_thousand_keeps_all_out_or_is_left_out(
    lab: ConsumeLab, tmp_path: Path
) -> None:
    path = csv_file(tmp_path / "usage.csv", "bad", range(10_000))
    lines = path.read_text().splitlines()
    lines[5000] = lines[5000].replace(",1,", ",-1,")
    path.write_text("\n".join(lines))

    dry = await imported(lab, path, "--dry-run")
    stopped = await imported(lab, path)

    expected = "line 5001: quantity: must be above 0, this is -1 → write a plain number above 0"
    assert dry.code == stopped.code == 1
    assert dry.lines[0].startswith(expected)
    assert dry.lines[-1] == "10,000 rows: 9999 sound, 1 with errors (quantity 1)"
    assert '"tenant": "bad"' in dry.lines[2]
    assert expected in stopped.out
    assert "nothing was sent" in stopped.err
    assert lab.ledger.units("bad") == {}

    skipped = await imported(lab, path, "--on-error", "skip")

    assert skipped.code == 1
    rejected = tmp_path / "usage.csv.rejected"
    assert rejected.read_text().splitlines() == [",".join(COLUMNS), lines[5000]]
    await lab.units_are("bad", {PRICE: 9999}, within_s=LEDGER_S_MAX)

    rejected.write_text(rejected.read_text().replace(",-1,", ",1,"))
    repaired = await imported(lab, rejected)

    assert repaired.code == 0, repaired.err
    await lab.units_are("bad", {PRICE: 10_000}, within_s=LEDGER_S_MAX)


async def test_a_file_from_a_spreadsheet_is_read(lab: ConsumeLab, tmp_path: Path) -> None:
    now = now_text()
    path = tmp_path / "usage.csv"
    path.write_bytes(
        (
            "\ufeffCustomer ID;Metric Name;Quantity;Occurred At;team;metadata.note\r\n"
            f'quirky;api_calls;2;{now};blue;"two\r\nlines"\r\n'
            f"quirky;api_calls;3;{now};red;\r\n"
        ).encode()
    )

    found = await imported(lab, path)

    assert found.code == 0, found.err
    await lab.units_are("quirky", {PRICE: 5})
    searched = await ran(
        *("events", "--bootstrap", lab.bootstrap, "--topic", lab.topic, "--json"),
        *("--tenant", "quirky", "--where", "metadata.team=blue"),
    )
    (event,) = [json.loads(line) for line in searched.lines]
    assert event["metadata"] == {"note": "two\r\nlines", "team": "blue"}
    assert event["source"] == "import:usage.csv"


async def test_a_second_import_of_the_same_file_sends_nothing(
    lab: ConsumeLab, tmp_path: Path
) -> None:
    path = csv_file(tmp_path / "usage.csv", "twice", range(10))
    assert (await imported(lab, path)).code == 0
    again = await imported(lab, path)
    (tmp_path / "usage.csv.aforo-import").unlink()
    resent = await imported(lab, path)
    await lab.send("twice", 5)

    assert again.code == resent.code == 0
    assert again.out.startswith(f"{path} was imported: 10 rows sent")
    assert resent.lines[-1] == "10 rows sent, 0 left out"
    await lab.units_are("twice", {PRICE: 15})


async def test_packed_json_lines_are_imported_and_a_changed_file_is_not_gone_on_with(
    lab: ConsumeLab, tmp_path: Path
) -> None:
    event = {"customerId": "plain", "metricName": "api_calls", "quantity": 2}
    line = json.dumps(event | {"occurredAt": now_text(), "idempotencyKey": "j1"})
    path = tmp_path / "usage.jsonl.gz"
    path.write_bytes(gzip.compress(line.encode()))

    assert (await imported(lab, path)).code == 0
    await lab.units_are("plain", {PRICE: 2})
    path.write_bytes(gzip.compress(line.replace("j1", "j2").encode()))
    changed = await imported(lab, path)

    assert changed.code == 1
    assert "it changed; bring the old one back, or remove" in changed.err


async def test_a_customer_that_is_no_tenant_is_refused(lab: ConsumeLab, tmp_path: Path) -> None:
    path = csv_file(tmp_path / "usage.csv", "stranger", [1])

    found = await imported(lab, path)

    assert found.code == 1
    assert "line 2: customerId: no tenant 'stranger' → write the id of a tenant" in found.out


async def test_what_is_missing_is_told_in_one_line(lab: ConsumeLab, tmp_path: Path) -> None:
    path = csv_file(tmp_path / "usage.csv", "plain", [1])
    nowhere = f"127.0.0.1:{free_port()}"
    headless = tmp_path / "headless.csv"
    headless.write_text("plain,api_calls,1\n")
    where = ["--bootstrap", lab.bootstrap]

    answers = await asyncio.gather(
        ran("import", str(path), "--bootstrap", nowhere),
        ran("import", str(path), *where, "--redis-url", f"redis://{nowhere}/0"),
        ran("import", str(tmp_path / "none.csv"), "--dry-run"),
        ran("import", str(headless), "--dry-run"),
        ran("import", str(path)),
        ran("events", "--bootstrap", lab.bootstrap, "--topic", "none"),
        ran("events", "--bootstrap", nowhere),
        ran("events", "--bootstrap", lab.bootstrap, "--from", "yesterday"),
    )

    assert [one.code for one in answers] == [1, 1, 1, 1, 2, 1, 1, 2]
    told = [one.err.splitlines()[-1] for one in answers]
    for line, part in zip(
        told,
        (
            "check --bootstrap, and that the brokers run",
            "check --redis-url",
            "there is no file",
            "line 1: the header has no column",
            "import needs --bootstrap",
            "has no topic none; name another one, or run: aforo-meter topics",
            "check --bootstrap, and that the brokers run",
            "'yesterday' is no time; write 2026-11-26",
        ),
        strict=True,
    ):
        assert part in line
