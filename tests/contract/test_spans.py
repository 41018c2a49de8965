"""What a span says of a check that did not end well, at a receiver that speaks OTLP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hyperframe.frame import RstStreamFrame

from aforo_authz.http2 import Owner
from aforo_authz.otlp import load
from aforo_authz.server import OwnFaultError, TcpAddress, answer, guarded
from aforo_authz.server_ngh2 import Ngh2Server
from aforo_authz.spans import Spans
from aforo_authz.spans_http2 import SpannedHttp2Connection
from lab.servers import eventually
from tests.certificates import certificate
from tests.contract.http2_client import Http2Client, grpc_headers
from tests.otlp_receiver import RECEIVERS, Receiver, over_http

pytestmark = pytest.mark.contract


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    with over_http() as receiver:
        yield receiver


def spans_to(receiver: Receiver, **more: str) -> Spans:
    otlp = load({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **more})
    assert otlp is not None
    return Spans(otlp)


def break_down(_message: bytes, _budget_s: float | None) -> bytes:
    raise ZeroDivisionError("with a key in its words")


async def break_down_later(_message: bytes, _budget_s: float | None) -> bytes:
    await asyncio.sleep(0)
    raise ZeroDivisionError("with a key in its words")


@pytest.mark.parametrize("method", [break_down, break_down_later])
async def test_a_fault_of_our_own_has_the_id_that_the_log_has_and_none_of_its_words(
    receiver: Receiver, method: Callable[[bytes, float | None], bytes | Awaitable[bytes]]
) -> None:
    spans = spans_to(receiver)

    with pytest.raises(OwnFaultError) as raised:
        await answer(spans.of_checks(guarded(method)), b"", None)
    await spans.end()

    (span,) = receiver.named("aforo.check")
    assert span.failed
    assert span.attributes == {
        "error.type": "OwnFaultError",
        "rpc.grpc.status_code": 14,
        "aforo.decision_id": raised.value.decision_id,
    }
    assert b"with a key" not in receiver.raw


async def test_a_client_that_gives_up_leaves_a_span_that_says_so(receiver: Receiver) -> None:
    spans = spans_to(receiver)

    async def hang(message: bytes, _budget_s: float | None) -> bytes:
        with spans.waiting_for_redis("read"):
            await asyncio.sleep(60)
        return message

    answered = spans.of_checks(hang)(b"", None)
    assert not isinstance(answered, bytes)
    task = asyncio.ensure_future(answered)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await spans.end()

    (check,), (wait,) = receiver.named("aforo.check"), receiver.named("aforo.redis.read")
    assert wait.parent_id == check.span_id
    for span in (check, wait):
        assert not span.failed
        assert span.attributes["aforo.cancelled"] is True


@pytest.mark.parametrize("protocol", RECEIVERS)
async def test_over_tls_both_sides_show_who_they_are(tmp_path: Path, protocol: str) -> None:
    chain, key = certificate(tmp_path, "collector", "IP:127.0.0.1")
    with RECEIVERS[protocol]((chain, key)) as receiver:
        spans = spans_to(
            receiver,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(chain),
            OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=str(chain),
            OTEL_EXPORTER_OTLP_CLIENT_KEY=str(key),
        )
        assert spans.of_checks(lambda message, _: message)(b"", None) == b""
        await spans.end()

        assert len(receiver.named("aforo.check")) == 1


@pytest.mark.parametrize("protocol", RECEIVERS)
async def test_a_receiver_that_cannot_prove_its_name_gets_no_span(
    tmp_path: Path, protocol: str
) -> None:
    with RECEIVERS[protocol](certificate(tmp_path, "stranger", "IP:127.0.0.1")) as receiver:
        spans = spans_to(receiver, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        assert spans.of_checks(lambda message, _: message)(b"", None) == b""
        await spans.end()

        assert receiver.spans == []
        assert {name: read() for name, _, read in spans.counters()} == {
            "spans_sent": 0,
            "spans_lost": 1,
        }


async def test_a_call_that_never_came_leaves_nothing_of_its_parent_behind() -> None:
    heard: list[str] = []
    made: list[SpannedHttp2Connection] = []

    def connection(owner: Owner) -> SpannedHttp2Connection:
        made.append(SpannedHttp2Connection(owner, heard.append))
        return made[0]

    server = Ngh2Server({"/t.S/Echo": lambda message, _: message}, connection=connection)
    (address,) = await server.start([TcpAddress("127.0.0.1", 0)])
    client = await Http2Client.connect(address)
    parent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    begun = client.headers_frame(grpc_headers("/t.S/Echo", parent))
    client.send(begun)
    await eventually(lambda: bool(made) and bool(made[0]._traceparents))
    client.send(RstStreamFrame(begun.stream_id, error_code=8))

    assert (await client.call("/t.S/Echo", b"1", parent)).message == b"1"
    assert (await client.call("/t.S/Echo", b"2")).message == b"2"

    assert heard == [parent[1], ""]
    assert made[0]._traceparents == {}
    await client.close()
    await server.drain(0.0)
