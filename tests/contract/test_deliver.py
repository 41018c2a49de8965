"""Messages of the outbox on their way to a receiver over HTTP."""

import asyncio
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from aforo_meter.domain.retries import RetryPolicy
from aforo_meter.endpoints import Endpoint
from aforo_meter.ledger import LedgerUnavailableError
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.outbox import Delivery
from aforo_meter.outbox_sql import SqlOutbox
from lab.http_server import Reply
from lab.ports import free_port
from lab.servers import eventually
from tests.contract.deliver_lab import PATIENT, courier_for, delivering
from tests.contract.ledgers import AuditedLedger
from tests.contract.outbox_lab import OutboxLab, ReceiverLab
from tests.missing import missing

pytestmark = pytest.mark.contract


@pytest.fixture
def ledger(file: AuditedLedger) -> OutboxLab:
    return OutboxLab(file)


@pytest.fixture
async def receiver() -> AsyncIterator[ReceiverLab]:
    lab = ReceiverLab()
    async with lab.server:
        yield lab


async def test_a_message_arrives_signed_and_exactly_as_it_was_written(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    payload = ledger.put("m-1")
    async with courier_for(ledger, receiver.url) as courier:
        assert await courier.deliver_due()

    (request,) = receiver.requests
    assert (request.method, request.target) == ("POST", "/hooks?for=aforo")
    assert request.body == payload
    assert request.header("content-type") == "application/json"
    assert request.header("host") == f"127.0.0.1:{receiver.server.port}"
    assert (request.header("user-agent") or "").startswith("aforo-meter/")
    assert abs(int(request.header("webhook-timestamp") or 0) - time.time()) < 60
    row = ledger.row("m-1")
    assert (row["attempts"], row["last_error"]) == (1, None)
    assert abs(row["delivered_at_micros"] / 1e6 - time.time()) < 60


async def test_what_is_delivered_is_not_sent_again(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    ledger.put("m-1")
    async with courier_for(ledger, receiver.url) as courier:
        await courier.deliver_due()
        ledger.time_passes()
        await courier.deliver_due()

    assert receiver.ids == ["m-1"]


async def test_a_tenants_messages_arrive_in_order_through_failures(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    answers = iter([500, 200, 503, 404, 200, 200, *[200] * 10])
    receiver.answer = lambda _: Reply(status=next(answers))
    for number in range(4):
        ledger.put(f"m-{number}")
    async with courier_for(ledger, receiver.url) as courier, delivering(courier):
        await eventually(lambda: ledger.delivered(*[f"m-{number}" for number in range(4)]))

    assert receiver.ids == ["m-0", "m-0", "m-1", "m-1", "m-1", "m-2", "m-3"]
    assert ledger.row("m-1")["attempts"] == 3


async def test_what_becomes_due_while_it_is_looked_for_is_delivered(
    ledger: OutboxLab, receiver: ReceiverLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that arrives makes the next one due, perhaps right after the ledger was asked."""
    ask = SqlOutbox.due

    async def slow(
        self: SqlOutbox, endpoint: Endpoint, *, now_micros: int, count_max: int
    ) -> Sequence[Delivery]:
        found = await ask(self, endpoint, now_micros=now_micros, count_max=count_max)
        await asyncio.sleep(0.2)  # What is under way arrives meanwhile.
        return found

    monkeypatch.setattr(SqlOutbox, "due", slow)
    receiver.answer = lambda name: Reply(status=200, delay_s=0.1 if name == "slow-0" else 0.0)
    ledger.put("quick", tenant="acme")
    ledger.put("slow-0", tenant="globex")
    ledger.put("slow-1", tenant="globex")
    async with courier_for(ledger, receiver.url) as courier:
        assert await courier.deliver_due()

    assert sorted(receiver.ids) == ["quick", "slow-0", "slow-1"]


async def test_nobody_waits_for_another_tenants_failures(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    receiver.answer = lambda name: Reply(status=500 if name.startswith("bad") else 200)
    for number in range(3):
        ledger.put(f"bad-{number}", tenant="globex")
        ledger.put(f"good-{number}", tenant="acme")
    async with courier_for(ledger, receiver.url, policy=PATIENT) as courier:
        assert not await courier.deliver_due()

    assert [one for one in receiver.ids if one.startswith("good")] == ["good-0", "good-1", "good-2"]
    assert [one for one in receiver.ids if one.startswith("bad")] == ["bad-0"]
    row = ledger.row("bad-0")
    assert row["last_error"] == "HTTP 500"
    assert 40 < row["next_attempt_at_micros"] / 1e6 - time.time() < 80


async def test_a_slow_answer_to_one_tenant_delays_no_other(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    receiver.answer = lambda name: Reply(status=200, delay_s=4.0 if name == "slow" else 0)
    ledger.put("slow", tenant="globex")
    async with (
        courier_for(ledger, receiver.url, timeout_s=60) as courier,
        delivering(courier),
    ):
        await eventually(lambda: "slow" in receiver.ids)
        ledger.put("fast", tenant="acme")
        await eventually(lambda: ledger.delivered("fast"))
        assert not ledger.delivered("slow")

    assert ledger.delivered("slow"), "what is under way at the end comes to its end"


async def test_a_message_is_given_up_after_its_last_retry_and_the_next_one_goes(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    receiver.answer = lambda name: Reply(status=404 if name == "m-1" else 200)
    ledger.put("m-1")
    ledger.put("m-2")
    brief = RetryPolicy(first_ms=1, max_ms=1, total_ms=3)
    async with courier_for(ledger, receiver.url, policy=brief) as courier, delivering(courier):
        await eventually(lambda: ledger.delivered("m-2"))

    row = ledger.row("m-1")
    assert (row["attempts"], row["last_error"]) == (4, "HTTP 404")
    assert row["gave_up_at_micros"] is not None
    assert row["delivered_at_micros"] is None
    assert receiver.ids == ["m-1"] * 4 + ["m-2"]


async def test_a_receiver_that_was_away_gets_everything_when_it_is_back(
    ledger: OutboxLab,
) -> None:
    port = free_port()
    ledger.put("m-1")
    ledger.put("m-2")
    url = f"http://127.0.0.1:{port}/"
    async with courier_for(ledger, url) as courier, delivering(courier):
        await eventually(lambda: ledger.row("m-1").get("attempts", 0) > 2)
        assert "ConnectError" in ledger.row("m-1")["last_error"]
        receiver = ReceiverLab()
        receiver.server.port = port
        async with receiver.server:
            await eventually(lambda: ledger.delivered("m-1", "m-2"))

    assert receiver.ids == ["m-1", "m-2"]


@pytest.mark.parametrize(
    ("asked", "waits_s"), [("40", 40), ("7200", 60), ("0", 0), ("soon", 0), (None, 0)]
)
async def test_a_receiver_that_asks_for_time_gets_it_within_the_policy(
    ledger: OutboxLab, receiver: ReceiverLab, asked: str | None, waits_s: int
) -> None:
    receiver.answer = lambda _: Reply(
        status=429, headers={} if asked is None else {"retry-after": asked}
    )
    ledger.put("m-1")
    policy = RetryPolicy(first_ms=1_000, max_ms=60_000, total_ms=600_000)
    begun_s = time.time()
    async with courier_for(ledger, receiver.url, policy=policy) as courier:
        await courier.deliver_due()
    ended_s = time.time()

    due_s = ledger.row("m-1")["next_attempt_at_micros"] / 1e6
    assert begun_s + max(0.7, waits_s - 1) < due_s < ended_s + max(1.3, waits_s + 1)


LONG_AGO_S = time.time() - 401 * 86_400


async def test_what_ended_long_ago_is_forgotten_with_all_that_was_kept_of_it(
    ledger: OutboxLab, receiver: ReceiverLab, file: AuditedLedger
) -> None:
    receiver.answer = lambda name: Reply(status=500 if name == "waits" else 200)
    for name in ("old", "waits", "young"):
        ledger.put(name, created_at_s=LONG_AGO_S, tenant=name)
    async with courier_for(ledger, receiver.url, policy=PATIENT) as courier:
        await courier.deliver_due()
        then = int(LONG_AGO_S * 1e6)
        ledger.execute("UPDATE outbox SET routed_at_micros = ?", then)
        ledger.execute("UPDATE delivery SET delivered_at_micros = ? WHERE tenant_id = 'old'", then)
        # One that nobody wanted.
        ledger.execute(
            "INSERT INTO outbox (message_id, tenant_id, kind, payload, created_at_micros,"
            " routed_at_micros) VALUES ('unwanted', '', 'k', '{}', ?, ?)",
            *(then, then),
        )
        await courier.deliver_due()

    kept = [("waits",), ("young",)]
    assert file.rows("SELECT message_id FROM outbox ORDER BY 1") == kept
    assert file.rows("SELECT tenant_id FROM delivery ORDER BY 1") == kept
    assert file.rows("SELECT COUNT(*) FROM delivery_attempt") == [(2,)]


async def test_a_few_at_a_time_are_forgotten_in_turn(
    ledger: OutboxLab, file: AuditedLedger
) -> None:
    for number in range(5):
        ledger.put(f"m-{number}")
    ledger.execute("UPDATE outbox SET routed_at_micros = 0 WHERE message_id <> 'm-0'")
    async with SqlLedger(file.url) as opened:
        outbox = SqlOutbox(opened)
        forgotten = [await outbox.prune(ended_before_micros=1, messages_max=2) for _ in range(4)]
    assert forgotten == [1, 2, 1, 0]
    assert file.rows("SELECT message_id FROM outbox") == [("m-0",)]


async def test_redirects_are_not_followed(ledger: OutboxLab, receiver: ReceiverLab) -> None:
    receiver.answer = lambda _: Reply(status=307, headers={"location": receiver.url})
    ledger.put("m-1")
    async with courier_for(ledger, receiver.url, policy=PATIENT) as courier:
        assert not await courier.deliver_due()

    assert "redirects are not followed" in ledger.row("m-1")["last_error"]
    assert {request.target for request in receiver.requests} == {"/hooks?for=aforo"}


async def test_an_endless_answer_is_not_read(ledger: OutboxLab, receiver: ReceiverLab) -> None:
    finished: list[bool] = []
    receiver.answer = lambda _: Reply(
        pieces=(b"x" * 50_000,) * 100_000, gap_s=0.001, on_written=lambda: finished.append(True)
    )
    ledger.put("m-1")
    async with courier_for(ledger, receiver.url, timeout_s=60) as courier:
        assert await courier.deliver_due()

    assert ledger.delivered("m-1")
    assert not finished


@pytest.mark.parametrize(
    "reply", [Reply(delay_s=60), Reply(pieces=(b"x",) * 10_000, gap_s=0.01)], ids=["mute", "drip"]
)
async def test_an_answer_that_takes_too_long_is_a_failure(
    ledger: OutboxLab, receiver: ReceiverLab, reply: Reply
) -> None:
    receiver.answer = lambda _: reply
    ledger.put("m-1")
    async with courier_for(ledger, receiver.url, timeout_s=0.3, policy=PATIENT) as courier:
        assert not await courier.deliver_due()

    assert ledger.row("m-1")["last_error"] == "no answer within 0.3 s"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "[::ffff:127.0.0.1]"])
async def test_no_request_goes_to_a_private_address_unless_allowed(
    ledger: OutboxLab, receiver: ReceiverLab, host: str
) -> None:
    ledger.put("m-1")
    url = f"http://{host}:{receiver.server.port}/"
    async with courier_for(ledger, url, allow_private_addresses=False, policy=PATIENT) as courier:
        assert not await courier.deliver_due()

    assert "not a public address" in ledger.row("m-1")["last_error"]
    assert not receiver.requests


async def test_a_proxy_in_the_environment_does_not_see_messages(
    ledger: OutboxLab, receiver: ReceiverLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    ledger.put("m-1")
    async with courier_for(ledger, receiver.url) as courier:
        assert await courier.deliver_due()


async def test_two_processes_send_each_message_once(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    names = [f"m-{number}" for number in range(40)]
    for number, name in enumerate(names):
        ledger.put(name, tenant=f"t-{number % 4}")
    async with (
        courier_for(ledger, receiver.url) as one,
        courier_for(ledger, receiver.url) as other,
    ):
        await asyncio.gather(one.deliver_due(), other.deliver_due())
        await one.deliver_due()

    assert sorted(receiver.ids) == sorted(names)
    for tenant in range(4):
        own = [name for number, name in enumerate(names) if number % 4 == tenant]
        assert [name for name in receiver.ids if name in own] == own


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for the name localhost and for no address."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(path)]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(path.with_suffix(".crt"))]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        missing("no openssl to make a certificate")
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


async def test_the_address_is_pinned_and_the_certificate_still_has_to_be_for_the_name(
    ledger: OutboxLab, certificate: Path
) -> None:
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate)
    names: list[str | None] = []
    heads: list[bytes] = []

    def note_name(_: object, name: str | None, __: object) -> None:
        names.append(name)

    served.sni_callback = note_name

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=served)
    port = server.sockets[0].getsockname()[1]
    ledger.put("m-1")
    ledger.put("m-2", tenant="globex")
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with server:
        url = f"https://localhost:{port}/hooks"
        async with courier_for(ledger, url, tls=trusting, policy=PATIENT) as courier:
            assert await courier.deliver_due()
        ledger.put("m-3")
        url = f"https://127.0.0.1:{port}/hooks"
        async with courier_for(ledger, url, tls=trusting, policy=PATIENT) as courier:
            assert not await courier.deliver_due()

    assert names[0] == "localhost"
    assert f"host: localhost:{port}".encode() in heads[0].lower()
    assert "certificate" in ledger.row("m-3")["last_error"].lower()


async def test_a_locked_database_is_waited_for(ledger: OutboxLab, receiver: ReceiverLab) -> None:
    ledger.put("m-1")
    async with courier_for(ledger, receiver.url, busy_timeout_ms=200) as courier:
        with ledger.locked():
            with pytest.raises(LedgerUnavailableError, match="lock"):
                await courier.deliver_due()
            async with delivering(courier):
                await eventually(lambda: not courier.outbox_answers)
        assert not receiver.requests
        async with delivering(courier):
            await eventually(lambda: ledger.delivered("m-1") and courier.outbox_answers)
