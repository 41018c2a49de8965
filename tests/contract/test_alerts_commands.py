"""`aforo-meter alerts` and `deliver` with several endpoints, as processes."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.http_server import Reply
from lab.ports import free_port
from lab.servers import ROOT, Program, eventually, python_module
from tests.contract.ledgers import AuditedLedger
from tests.contract.outbox_lab import SECRET, OutboxLab, ReceiverLab

pytestmark = pytest.mark.contract


@pytest.fixture
def ledger(file: AuditedLedger) -> OutboxLab:
    return OutboxLab(file)


@pytest.fixture
async def receiver() -> AsyncIterator[ReceiverLab]:
    lab = ReceiverLab()
    async with lab.server:
        yield lab


@pytest.fixture
async def slack() -> AsyncIterator[ReceiverLab]:
    lab = ReceiverLab(signed=False)
    async with lab.server:
        yield lab


@pytest.fixture
def env(
    ledger: OutboxLab, receiver: ReceiverLab, slack: ReceiverLab, tmp_path: Path
) -> dict[str, str]:
    """Two endpoints: one signed, one of Slack's form."""
    path = tmp_path / "endpoints.yaml"
    path.write_text(
        "endpoints:\n"
        f"  - {{id: finance, url: '{receiver.url}', secrets: [{{env: FINANCE_SECRET}}]}}\n"
        f"  - {{id: ops, url: {{env: OPS_URL}}, format: slack}}\n"
    )
    return {
        "AFORO_METER_DELIVER_LEDGER_URL": ledger.url,
        "AFORO_METER_DELIVER_ENDPOINTS": str(path),
        "AFORO_METER_DELIVER_ALLOW_PRIVATE_ADDRESSES": "true",
        "AFORO_METER_DELIVER_RETRY_FIRST_MS": "60000",
        "FINANCE_SECRET": SECRET,
        "OPS_URL": slack.url,
    }


async def meter(env: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run `aforo-meter` to its end; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aforo_meter", *arguments),
        env=env,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode()


def edit_endpoints(env: dict[str, str], old: str, new: str) -> None:
    path = Path(env["AFORO_METER_DELIVER_ENDPOINTS"])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def deliver(env: dict[str, str]) -> Program:
    return python_module("deliver", "aforo_meter", "deliver", env=env)


async def test_the_list_says_what_became_of_each_message(
    env: dict[str, str], ledger: OutboxLab, slack: ReceiverLab
) -> None:
    slack.answer = lambda _: Reply(status=503)
    ledger.put("m-1")
    ledger.put("m-2", tenant="globex", kind="quota.reached")
    assert (await meter(env, "deliver", "--once"))[0] == 1
    at = ("--ledger-url", ledger.url)

    code, said = await meter(env, "alerts", "list", *at)
    first, *_ = lines = said.splitlines()
    assert (code, len(lines)) == (0, 4)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  m-1  margin.level_changed", first)
    assert first.endswith("acme  finance  delivered  attempts 1")
    assert lines[1].endswith("acme  ops  waiting  attempts 1  HTTP 503")

    _, said = await meter(env, "alerts", "list", *at, "--state", "waiting", "--json")
    assert [(one["message_id"], one["endpoint"]) for one in json.loads(said)] == [
        ("m-1", "ops"),
        ("m-2", "ops"),
    ]
    for filtered in (("--tenant", "globex"), ("--kind", "quota.reached")):
        _, said = await meter(env, "alerts", "list", *at, *filtered)
        assert [line.split()[1] for line in said.splitlines()] == ["m-2", "m-2"]
    _, said = await meter(env, "alerts", "list", *at, "--endpoint", "ops", "--limit", "1")
    assert [line.split()[1] for line in said.splitlines()] == ["m-2"]


async def test_names_that_nothing_has_are_told_and_an_empty_list_says_so(
    env: dict[str, str], ledger: OutboxLab
) -> None:
    ledger.put("m-1")
    assert (await meter(env, "deliver", "--once"))[0] == 0
    at = ("alerts", "list", "--ledger-url", ledger.url)

    nobody = await meter(env, *at, "--tenant", "acne")
    nowhere = await meter(env, *at, "--endpoint", "opss")
    nothing = await meter(env, *at, "--kind", "alerts.test")

    assert nobody == (1, "aforo-meter: no tenant 'acne' in the ledger; did you mean 'acme'?\n")
    assert nowhere[0] == 1
    assert "did you mean 'ops'?" in nowhere[1]
    assert nothing == (0, "no messages\n")


async def test_one_message_is_shown_with_its_payload_and_attempts(
    env: dict[str, str], ledger: OutboxLab, slack: ReceiverLab
) -> None:
    slack.answer = lambda _: Reply(status=503)
    payload = ledger.put("m-1")
    await meter(env, "deliver", "--once")

    code, said = await meter(env, "alerts", "show", "--ledger-url", ledger.url, "m-1")
    assert code == 0
    assert json.loads(said.partition("\nfinance:")[0]) == json.loads(payload)
    assert re.search(r"finance: delivered\n  1\. .* HTTP 204  \(\d+ ms\)", said)
    assert re.search(r"ops: waiting, next attempt .*\n  1\. .* HTTP 503  \(\d+ ms\)", said)

    _, said = await meter(env, "alerts", "show", "--ledger-url", ledger.url, "m-1", "--json")
    shown = json.loads(said)
    assert [(one["endpoint_id"], one["status"]) for one in shown["attempts"]] == [
        ("finance", 204),
        ("ops", 503),
    ]


async def test_a_message_is_sent_again_with_the_same_id_to_one_endpoint(
    env: dict[str, str], ledger: OutboxLab, receiver: ReceiverLab, slack: ReceiverLab
) -> None:
    ledger.put("m-1")
    await meter(env, "deliver", "--once")
    again = ("alerts", "resend", "m-1", "--endpoint", "finance")

    code, said = await meter(env, *again, "--dry-run")
    assert code == 0
    assert "webhook-id: m-1" in said
    assert "/hooks" not in said, "the path may be a secret"
    assert receiver.ids == ["m-1"]

    assert await meter(env, *again) == (0, "finance: due now; aforo-meter deliver sends it\n")
    assert (await meter(env, "deliver", "--once"))[0] == 0
    assert receiver.ids == ["m-1", "m-1"]
    assert len(slack.requests) == 1
    assert [one["number"] for one in ledger.attempts("m-1", "finance")] == [1, 2]


async def test_another_customers_endpoint_gets_nothing_however_it_was_asked_for(
    env: dict[str, str], ledger: OutboxLab, receiver: ReceiverLab, slack: ReceiverLab
) -> None:
    """Payloads tell what a customer brings and costs."""
    edit_endpoints(env, "format: slack", "format: slack, tenants: [globex]")
    ledger.put("m-1")
    await meter(env, "deliver", "--once")

    code, said = await meter(env, "alerts", "resend", "m-1", "--endpoint", "ops")
    assert code == 1
    assert "ops is not for margin.level_changed of acme: see its `tenants` and `kinds`" in said

    # As a page of an older version left it, or as it was routed before `tenants` said so.
    ledger.execute(
        "INSERT INTO delivery (outbox_id, endpoint_id, tenant_id, next_attempt_at_micros)"
        " SELECT outbox_id, 'ops', tenant_id, 0 FROM outbox WHERE message_id = 'm-1'"
    )
    assert (await meter(env, "deliver", "--once"))[0] == 1
    _, said = await meter(env, "alerts", "show", "--ledger-url", ledger.url, "m-1")
    assert "ops: gave-up" in said
    assert "leave this message out" in said
    assert slack.requests == []
    assert receiver.ids == ["m-1"]


async def test_what_is_sent_again_holds_up_nothing_and_waits_for_nothing(
    env: dict[str, str], ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    ledger.put("old")
    await meter(env, "deliver", "--once")
    receiver.answer = lambda name: Reply(status=500 if name in {"old", "stuck"} else 200)
    ledger.put("stuck", tenant="globex")
    ledger.put("new")
    await meter(env, "alerts", "resend", "old")
    await meter(env, "deliver", "--once")

    assert receiver.ids[0] == "old"
    assert sorted(receiver.ids[1:]) == ["new", "old", "stuck"]
    assert ledger.delivered("new", endpoint="finance")


async def test_what_waits_for_its_retry_can_be_hurried(
    env: dict[str, str], ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    receiver.answer = lambda _: Reply(status=500)
    ledger.put("m-1")
    await meter(env, "deliver", "--once")
    receiver.answer = lambda _: Reply(status=200)
    assert (await meter(env, "deliver", "--once"))[0] == 0
    assert receiver.ids == ["m-1"]

    await meter(env, "alerts", "resend", "m-1", "--endpoint", "finance")
    assert (await meter(env, "deliver", "--once"))[0] == 0

    assert receiver.ids == ["m-1", "m-1"]


async def test_a_test_message_goes_out_now_and_its_outcome_is_told(
    env: dict[str, str], receiver: ReceiverLab, slack: ReceiverLab
) -> None:
    code, said = await meter(env, "alerts", "test", "finance")
    assert code == 0, said
    assert re.match(r"finance took msg_[0-9a-f]{32}: HTTP 204 after \d+ ms\n", said)
    (message,) = receiver.bodies
    assert (message["type"], message["data"]) == ("alerts.test", {"endpoint": "finance"})

    assert (await meter(env, "alerts", "test", "ops"))[0] == 0
    assert slack.bodies == [{"text": "aforo: a test of endpoint ops; nothing has happened"}]

    code, said = await meter(env, "alerts", "test", "ops", "--dry-run")
    assert (code, len(slack.requests)) == (0, 1)
    assert '{"text": "aforo: a test' in said

    receiver.answer = lambda _: Reply(status=401)
    code, said = await meter(env, "alerts", "test", "finance")
    assert (code, said) == (1, "aforo-meter: finance did not take it: HTTP 401\n")

    code, said = await meter(env, "alerts", "test", "nobody")
    assert (code, said) == (1, "aforo-meter: no endpoint 'nobody'; there are: finance, ops\n")


async def test_a_test_that_arrives_brings_an_endpoint_back(
    env: dict[str, str], ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    receiver.answer = lambda _: Reply(status=410)
    ledger.put("m-1")
    _, said = await meter(env, "deliver", "--once")
    assert "the endpoint is gone; its messages wait" in said

    receiver.answer = lambda _: Reply(status=200)
    assert (await meter(env, "deliver", "--once"))[0] == 0
    assert receiver.ids == ["m-1"]
    _, said = await meter(env, "alerts", "test", "finance")
    assert "it was gone and is back: what waits for it is sent\n" in said
    await meter(env, "deliver", "--once")

    assert receiver.ids[2:] == ["m-1"]


async def test_an_unknown_message_is_said_to_be(env: dict[str, str], ledger: OutboxLab) -> None:
    told = "aforo-meter: the outbox knows no message 'x'; see: aforo-meter alerts list\n"

    assert await meter(env, "alerts", "show", "--ledger-url", ledger.url, "x") == (1, told)
    assert await meter(env, "alerts", "resend", "x") == (1, told)


async def test_a_kill_in_mid_delivery_repeats_ids_and_loses_none(
    env: dict[str, str], ledger: OutboxLab, receiver: ReceiverLab, slack: ReceiverLab
) -> None:
    names = [f"m-{number}" for number in range(6)]
    receiver.answer = lambda name: Reply(status=200, delay_s=30 if name == "m-3" else 0)
    for name in names:
        ledger.put(name)
    with deliver(env) as program:
        await eventually(lambda: "m-3" in receiver.ids)
        await eventually(lambda: ledger.delivered(*names, endpoint="ops"))
        program.kill()
    (*_, cut_off) = ledger.attempts("m-3", "finance")
    assert cut_off["took_ms"] is None

    receiver.answer = lambda _: Reply(status=200)
    ledger.time_passes()
    with deliver(env):
        await eventually(lambda: ledger.delivered(*names, endpoint="finance"))

    assert receiver.ids == ["m-0", "m-1", "m-2", "m-3", "m-3", "m-4", "m-5"]
    assert len(slack.requests) == 6


async def test_check_config_shows_endpoints_and_no_secret(env: dict[str, str]) -> None:
    code, said = await meter(env, "check-config", "deliver")

    assert code == 0
    assert "# to finance at 127.0.0.1: standard, all kinds, all tenants, secrets: 1" in said
    assert "# to ops at 127.0.0.1: slack, all kinds, all tenants" in said
    assert SECRET not in said


async def test_a_secret_that_is_missing_refuses_the_start(env: dict[str, str]) -> None:
    del env["FINANCE_SECRET"]

    for command in (("deliver", "--once"), ("check-config", "deliver")):
        code, said = await meter(env, *command)
        assert code == 2
        assert "endpoint finance: the variable FINANCE_SECRET is not set" in said
        assert "Traceback" not in said


async def test_an_endpoint_that_refuses_connections_is_named_in_the_log(
    env: dict[str, str], ledger: OutboxLab
) -> None:
    env["OPS_URL"] = f"http://127.0.0.1:{free_port()}/secret-path"
    ledger.put("m-1")

    code, said = await meter(env, "deliver", "--once")

    assert code == 1
    failed = [json.loads(line) for line in said.splitlines() if "not delivered" in line]
    assert [(line["endpoint"], line["message_id"]) for line in failed] == [("ops", "m-1")]
    assert "secret-path" not in said
