"""`aforo-meter deliver` as a process: its exit codes, its end by signals, what it says."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator

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


def variables(ledger: OutboxLab, receiver: ReceiverLab, **more: str) -> dict[str, str]:
    return {
        "AFORO_METER_DELIVER_LEDGER_URL": ledger.url,
        "AFORO_METER_DELIVER_WEBHOOK_URL": receiver.url,
        "AFORO_METER_DELIVER_WEBHOOK_SECRET": SECRET,
        "AFORO_METER_DELIVER_ALLOW_PRIVATE_ADDRESSES": "true",
        "AFORO_METER_DELIVER_RETRY_FIRST_MS": "50",
    } | {f"AFORO_METER_DELIVER_{name}": value for name, value in more.items()}


async def run_once(env: dict[str, str]) -> tuple[int, str]:
    """Run `deliver --once` to its end; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aforo_meter", "deliver", "--once"),
        env=env,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def started(env: dict[str, str]) -> Program:
    return python_module("deliver", "aforo_meter", "deliver", env=env)


async def test_once_delivers_what_is_due_and_ends(ledger: OutboxLab, receiver: ReceiverLab) -> None:
    ledger.put("m-1")
    ledger.put("m-2")

    code, said = await run_once(variables(ledger, receiver))

    assert code == 0, said
    assert receiver.ids == ["m-1", "m-2"]
    assert SECRET not in said


async def test_once_says_by_its_exit_code_that_a_message_did_not_arrive(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    receiver.answer = lambda _: Reply(status=500)
    ledger.put("m-1")

    code, said = await run_once(variables(ledger, receiver, RETRY_FIRST_MS="60000"))

    assert code == 1
    (line,) = [json.loads(line) for line in said.splitlines()]
    assert (line["event"], line["message_id"], line["error"]) == (
        "not delivered",
        "m-1",
        "HTTP 500",
    )


async def test_a_process_that_dies_in_mid_delivery_loses_no_message(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    ledger.put("m-1")
    receiver.answer = lambda _: Reply(delay_s=30)
    with started(variables(ledger, receiver)) as program:
        await eventually(lambda: receiver.ids == ["m-1"])
        program.kill()
    assert not ledger.delivered("m-1")

    # Its claim holds others off for a while: then the message is due again.
    receiver.answer = lambda _: Reply(status=200)
    assert await run_once(variables(ledger, receiver)) == (0, "")
    assert receiver.ids == ["m-1"]
    ledger.time_passes()
    assert (await run_once(variables(ledger, receiver)))[0] == 0
    assert receiver.ids == ["m-1", "m-1"]
    assert ledger.delivered("m-1")


async def test_sigterm_lets_an_attempt_come_to_its_end(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    ledger.put("m-1")
    receiver.answer = lambda _: Reply(delay_s=1)
    with started(variables(ledger, receiver)) as program:
        await eventually(lambda: receiver.ids == ["m-1"])
        code = await asyncio.to_thread(program.stop)

    assert code == 0, program.log_text()
    assert ledger.delivered("m-1")


async def test_it_tells_probes_and_prometheus_how_it_is(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    ledger.put("m-1")
    port = free_port()
    env = variables(ledger, receiver, METRICS_LISTEN=f"127.0.0.1:{port}")
    with started(env) as program:
        await eventually(lambda: b"200 OK" in ask(port, "/readyz"))
        await eventually(lambda: ledger.delivered("m-1"))
        assert b"200 OK" in ask(port, "/livez")
        assert b"404 Not Found" in ask(port, "/nothing")
        metrics = await eventually(
            lambda: b'attempts_total{endpoint="default",result="delivered"} 1.0' in ask(port)
        )
        assert metrics, program.log_text()
        # Before one is given up: else the first would be no growth, and alert nobody.
        assert b'gave_up_total{endpoint="default"} 0.0' in ask(port)


def ask(port: int, path: str = "/metrics") -> bytes:
    """Return the whole answer, or nothing if nobody answers."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 5) as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


async def test_a_port_in_use_is_one_clear_line(ledger: OutboxLab, receiver: ReceiverLab) -> None:
    port = receiver.server.port
    program = started(variables(ledger, receiver, METRICS_LISTEN=f"127.0.0.1:{port}"))
    program.start()

    assert await asyncio.to_thread(program.wait) == 2
    assert program.log_text() == (
        f"aforo-meter: 127.0.0.1:{port} is already in use: stop what listens there, or change "
        "AFORO_METER_DELIVER_METRICS_LISTEN\n"
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"WEBHOOK_SECRET": "hunter2"}, "AFORO_METER_DELIVER_WEBHOOK_SECRET: a webhook secret"),
        ({"WEBHOOK_URL": "hooks.example.com"}, "AFORO_METER_DELIVER_WEBHOOK_URL: expected https"),
        ({"ALLOW_PRIVATE_ADDRESSES": "false"}, "not a public address"),
        ({"WEBHOOK_ULR": "x"}, "did you mean AFORO_METER_DELIVER_WEBHOOK_URL?"),
        ({"LEDGER_URL": "sqlite:////nowhere/ledger.db"}, "run: aforo-meter migrate --ledger-url"),
    ],
)
async def test_wrong_settings_refuse_the_start(
    ledger: OutboxLab, receiver: ReceiverLab, change: dict[str, str], complaint: str
) -> None:
    code, said = await run_once(variables(ledger, receiver, **change))

    assert code == 2
    assert complaint in said
    assert "hunter2" not in said
    assert "Traceback" not in said
