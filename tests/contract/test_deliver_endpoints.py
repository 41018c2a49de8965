"""Messages of the outbox on their way to several endpoints, each with its own fate."""

import base64
import json
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from aforo_meter.domain.retries import RetryPolicy
from aforo_meter.endpoints import DEFAULT_ID, Endpoint, Format
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.outbox_sql import SqlOutbox
from lab.http_server import Reply
from lab.ports import free_port
from lab.servers import eventually
from tests.contract.deliver_lab import PATIENT, courier_for, delivering
from tests.contract.ledgers import AuditedLedger
from tests.contract.outbox_lab import KEY, SECRET, OutboxLab, ReceiverLab

pytestmark = pytest.mark.contract

NEW_KEY = bytes(range(32, 64))
NEW_SECRET = "whsec_" + base64.b64encode(NEW_KEY).decode()


@pytest.fixture
def ledger(file: AuditedLedger) -> OutboxLab:
    return OutboxLab(file)


@pytest.fixture
async def receiver() -> AsyncIterator[ReceiverLab]:
    lab = ReceiverLab()
    async with lab.server:
        yield lab


@pytest.fixture
async def other() -> AsyncIterator[ReceiverLab]:
    lab = ReceiverLab()
    async with lab.server:
        yield lab


async def test_each_endpoint_gets_what_it_wants(
    ledger: OutboxLab, receiver: ReceiverLab, other: ReceiverLab
) -> None:
    ledger.put("level-acme")
    ledger.put("level-globex", tenant="globex")
    ledger.put("quota-acme", kind="quota.reached")
    ledger.put("sync", tenant="", kind="sync.stale")
    to = [
        receiver.endpoint("acme", tenants=frozenset({"acme"})),
        other.endpoint("levels", kinds=frozenset({"margin.level_changed"})),
    ]
    async with courier_for(ledger, to) as courier:
        assert await courier.deliver_due()

    assert receiver.ids == ["level-acme", "quota-acme"]
    assert other.ids == ["level-acme", "level-globex"]
    assert ledger.row("sync", "acme") == ledger.row("sync", "levels") == {}


async def test_an_endpoint_that_is_dead_holds_up_no_other(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    names = [f"m-{number}" for number in range(5)]
    for name in names:
        ledger.put(name)
    dead = Endpoint(endpoint_id="dead", url=f"http://127.0.0.1:{free_port()}/", keys=(KEY,))
    async with courier_for(ledger, [dead, receiver.endpoint("live")], policy=PATIENT) as courier:
        assert not await courier.deliver_due()

    assert receiver.ids == names
    assert ledger.delivered(*names, endpoint="live")
    assert [ledger.row(name, "dead")["attempts"] for name in names] == [1, 0, 0, 0, 0]
    (attempt,) = ledger.attempts("m-0", "dead")
    assert attempt["status"] is None
    assert "ConnectError" in attempt["error"]


async def test_an_endpoint_that_is_slow_holds_up_no_other(
    ledger: OutboxLab, receiver: ReceiverLab, other: ReceiverLab
) -> None:
    receiver.answer = lambda _: Reply(status=200, delay_s=60)
    for number in range(20):
        ledger.put(f"m-{number}", tenant=f"t-{number}")
    to = [receiver.endpoint("slow"), other.endpoint("fast")]
    async with courier_for(ledger, to, timeout_s=60) as courier, delivering(courier):
        await eventually(lambda: len(other.ids) == 20)
        assert not ledger.delivered("m-0", endpoint="slow")


async def test_a_name_server_that_does_not_answer_holds_up_no_other_endpoint(
    ledger: OutboxLab, receiver: ReceiverLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, look_up = threading.Event(), socket.getaddrinfo

    def slow(host: str, *rest: Any, **more: Any) -> Any:  # noqa: ANN401 - as it is called.
        if host == "slow.invalid":
            answers.wait(60)
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    for number in range(40):
        ledger.put(f"m-{number}", tenant=f"t-{number}")
    slow_one = Endpoint(endpoint_id="slow", url="http://slow.invalid/", keys=(KEY,))
    try:
        async with courier_for(
            ledger, [slow_one, receiver.endpoint("fast")], timeout_s=2.0, policy=PATIENT
        ) as courier:
            assert not await courier.deliver_due()
    finally:
        answers.set()

    assert len(receiver.ids) == 40
    assert ledger.row("m-0", "slow")["last_error"] == "no answer within 2 s"


async def test_the_connection_goes_to_the_address_that_was_checked(
    ledger: OutboxLab, receiver: ReceiverLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere when it is asked again must not be asked again."""
    asked: list[str] = []
    look_up = socket.getaddrinfo

    def rebinding(host: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401 - as it is called.
        if host != "rebinds.test":
            return look_up(host, *rest, **more)
        asked.append(host)
        return look_up("127.0.0.1" if len(asked) == 1 else "127.0.0.9", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    ledger.put("m-1")
    async with courier_for(ledger, f"http://rebinds.test:{receiver.server.port}/") as courier:
        assert await courier.deliver_due()

    assert asked == ["rebinds.test"]
    assert receiver.requests[0].header("host") == f"rebinds.test:{receiver.server.port}"


async def test_order_holds_per_tenant_and_endpoint(
    ledger: OutboxLab, receiver: ReceiverLab, other: ReceiverLab
) -> None:
    failures = {"a-0": 3, "b-1": 2}

    def answer(name: str) -> Reply:
        failures[name] = failures.get(name, 0) - 1
        return Reply(status=500 if failures[name] >= 0 else 200)

    receiver.answer = answer
    for number in range(3):
        ledger.put(f"a-{number}", tenant="a")
        ledger.put(f"b-{number}", tenant="b")
    to = [receiver.endpoint("shaky"), other.endpoint("steady")]
    async with courier_for(ledger, to) as courier, delivering(courier):
        await eventually(
            lambda: (
                ledger.delivered("a-2", "b-2", endpoint="shaky")
                and ledger.delivered("a-2", "b-2", endpoint="steady")
            )
        )

    for lab, expected in (
        (receiver, {"a": "000012", "b": "01112"}),
        (other, {"a": "012", "b": "012"}),
    ):
        for tenant, order in expected.items():
            assert "".join(one[2] for one in lab.ids if one[0] == tenant) == order


async def test_an_endpoint_that_comes_later_gets_what_comes_later(
    ledger: OutboxLab, receiver: ReceiverLab, other: ReceiverLab
) -> None:
    ledger.put("before")
    async with courier_for(ledger, [receiver.endpoint("first")]) as courier:
        await courier.deliver_due()
    ledger.put("after")
    async with courier_for(ledger, [receiver.endpoint("first"), other.endpoint("new")]) as courier:
        await courier.deliver_due()

    assert receiver.ids == ["before", "after"]
    assert other.ids == ["after"]


async def test_an_endpoint_that_is_gone_rests_and_loses_nothing(
    ledger: OutboxLab, receiver: ReceiverLab, other: ReceiverLab
) -> None:
    receiver.answer = lambda _: Reply(status=410)
    ledger.put("m-1")
    ledger.put("m-2", tenant="globex")
    async with courier_for(ledger, receiver.url) as courier:
        assert not await courier.deliver_due()
    asked = len(receiver.ids)
    async with courier_for(ledger, receiver.url) as courier:
        ledger.time_passes()
        assert await courier.deliver_due(), "there is nothing to fail"

    assert len(receiver.ids) == asked
    assert ledger.row("m-1")["last_error"] == "HTTP 410"
    assert ledger.row("m-1")["gave_up_at_micros"] is None
    # Another URL of the same endpoint is worth another try.
    async with courier_for(ledger, other.url) as courier:
        assert await courier.deliver_due()
    assert sorted(other.ids) == ["m-1", "m-2"]


async def test_an_endpoint_that_is_back_gets_what_waited(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    receiver.answer = lambda _: Reply(status=410)
    ledger.put("m-1")
    async with courier_for(ledger, receiver.url) as courier:
        await courier.deliver_due()
    receiver.answer = lambda _: Reply(status=200)

    async with SqlLedger(ledger.url) as opened:
        outbox, endpoint = SqlOutbox(opened), receiver.endpoint()
        assert (await outbox.backlog(endpoint)).is_gone
        assert await outbox.back(endpoint)
        assert not await outbox.back(endpoint)
    async with courier_for(ledger, receiver.url) as courier:
        assert await courier.deliver_due()

    assert receiver.ids == ["m-1", "m-1"]


async def test_while_a_secret_is_changed_both_verify_by_the_reference_library(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    ledger.put("m-1")
    async with courier_for(ledger, [receiver.endpoint(keys=(NEW_KEY, KEY))]) as courier:
        assert await courier.deliver_due()

    (request,) = receiver.requests
    headers = dict(request.headers)
    for secret in (SECRET, NEW_SECRET):
        assert Webhook(secret).verify(request.body, headers)["data"]["n"] == "m-1"
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"x" * 32).decode()).verify(request.body, headers)


async def test_slack_gets_a_sentence_and_no_signature(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    receiver.signed = False
    ledger.put("m-1", kind="some.future_kind")
    slack = Endpoint(endpoint_id="slack", url=receiver.url, format=Format.SLACK)
    async with courier_for(ledger, [slack]) as courier:
        assert await courier.deliver_due()

    (request,) = receiver.requests
    assert json.loads(request.body) == {"text": "acme: some.future_kind"}
    assert request.header("content-type") == "application/json"
    assert request.header("webhook-signature") is None


async def test_every_attempt_is_kept_with_what_was_answered(
    ledger: OutboxLab, receiver: ReceiverLab
) -> None:
    answers = iter([500, 302, 204])
    receiver.answer = lambda _: Reply(status=next(answers))
    ledger.put("m-1")
    async with courier_for(ledger, receiver.url) as courier, delivering(courier):
        await eventually(lambda: ledger.delivered("m-1"))

    attempts = ledger.attempts("m-1")
    assert [(one["number"], one["status"]) for one in attempts] == [(1, 500), (2, 302), (3, 204)]
    assert "redirects are not followed" in attempts[1]["error"]
    assert attempts[2]["error"] is None
    assert all(one["took_ms"] >= 0 for one in attempts)


async def test_after_a_message_is_given_up_at_one_endpoint_the_other_has_it(
    ledger: OutboxLab, receiver: ReceiverLab, other: ReceiverLab
) -> None:
    receiver.answer = lambda name: Reply(status=500 if name == "m-1" else 200)
    ledger.put("m-1")
    ledger.put("m-2")
    brief = RetryPolicy(first_ms=1, max_ms=1, total_ms=2)
    to = [receiver.endpoint(DEFAULT_ID), other.endpoint("other")]
    async with courier_for(ledger, to, policy=brief) as courier, delivering(courier):
        await eventually(
            lambda: ledger.delivered("m-2") and ledger.delivered("m-2", endpoint="other")
        )

    assert ledger.row("m-1")["gave_up_at_micros"] is not None
    assert receiver.ids == ["m-1"] * 3 + ["m-2"]
    assert other.ids == ["m-1", "m-2"]


async def test_a_message_that_can_not_be_rendered_holds_up_no_other(
    ledger: OutboxLab, receiver: ReceiverLab, other: ReceiverLab
) -> None:
    receiver.signed = False
    ledger.put("m-1")
    ledger.execute("UPDATE outbox SET payload = ?", "no json")
    ledger.put("m-2", tenant="globex", kind="kind.of_tomorrow")
    slack = Endpoint(endpoint_id="slack", url=receiver.url, format=Format.SLACK)
    async with courier_for(ledger, [slack, other.endpoint("other")], policy=PATIENT) as courier:
        assert not await courier.deliver_due()

    assert receiver.bodies == [{"text": "globex: kind.of_tomorrow"}]
    assert sorted(other.ids) == ["m-1", "m-2"]
    assert "JSONDecodeError" in ledger.row("m-1", "slack")["last_error"]
