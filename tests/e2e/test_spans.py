"""OpenTelemetry spans of a real process, at a receiver that speaks OTLP."""

import asyncio
import hashlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from aforo_authz.authorize import PATH
from lab.servers import ROOT, RedisServer, eventually
from tests.authz_redis import ReadModel
from tests.authz_requests import Request, by_xds_protos
from tests.authz_samples import make_credential, make_margin
from tests.e2e.authz_lab import KEY, Client, fill, metadata_of, ready, running
from tests.otlp_receiver import RECEIVERS, Receiver, Span, over_http

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENVOYS = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
NEVER_MS = "600000"


@pytest.fixture
def model(redis_url: str) -> Iterator[ReadModel]:
    model = fill(redis_url)
    model.put_margin("acme", make_margin())  # Its figures of money are 987654321 and 123456789.
    yield model
    model.close()


def told_to(receiver: Receiver, protocol: str = "http/protobuf") -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "AFORO_AUTHZ_STALE_MAX_S": "1000000000",  # The samples' margins are of a fixed day.
    }


def check(client: Client, headers: Mapping[str, str], *, of_envoy: str | None = None) -> None:
    """Ask as an Envoy that traces does: its own span comes in the call's metadata."""
    method = client.channel.unary_unary(PATH, None, None)
    metadata = (("traceparent", of_envoy),) if of_envoy else ()
    message = by_xds_protos(Request(headers=headers, path="/v1/chat?token=in-the-query"))
    method(message, timeout=5.0, metadata=metadata)


async def spans_of(receiver: Receiver, count: int, name: str = "aforo.check") -> list[Span]:
    await eventually(lambda: len(receiver.named(name)) >= count)
    return receiver.named(name)


@pytest.mark.parametrize("protocol", RECEIVERS)
@pytest.mark.parametrize("transport", ["ngh2", "grpcio"])
async def test_a_check_is_a_child_of_envoys_span_and_each_wait_for_redis_is_its_child(
    model: ReadModel, redis_url: str, transport: str, protocol: str
) -> None:
    assert model.redis.ping()
    with (
        RECEIVERS[protocol]() as receiver,
        running(redis_url, transport=transport, **told_to(receiver, protocol)) as (_, client),
    ):
        await ready(client)
        check(client, {"x-api-key": KEY, "traceparent": CLIENTS}, of_envoy=ENVOYS)

        (span,) = await spans_of(receiver, 1)
        _, trace_id, parent_id, _ = ENVOYS.split("-")
        assert (span.trace_id, span.parent_id) == (trace_id, parent_id)
        assert span.kind == "SPAN_KIND_SERVER"
        assert span.service == "aforo-authz"
        assert not span.failed
        (read,) = receiver.named("aforo.redis.read")
        (reserve,) = receiver.named("aforo.redis.reserve")
        for wait in (read, reserve):
            assert (wait.trace_id, wait.parent_id) == (trace_id, span.span_id)
            assert wait.kind == "SPAN_KIND_CLIENT"
            assert span.nanos[0] <= wait.nanos[0] <= wait.nanos[1] <= span.nanos[1]


@pytest.mark.parametrize("transport", ["ngh2", "grpcio"])
async def test_without_envoys_own_span_the_clients_is_the_parent_and_without_both_there_is_none(
    model: ReadModel, redis_url: str, transport: str
) -> None:
    assert model.redis.ping()
    with (
        over_http() as receiver,
        running(redis_url, transport=transport, **told_to(receiver)) as (_, client),
    ):
        await ready(client)
        check(client, {"x-api-key": KEY}, of_envoy=ENVOYS)
        check(client, {"x-api-key": KEY, "traceparent": CLIENTS})
        check(client, {"x-api-key": KEY, "traceparent": "00-nonsense"})
        check(client, {"x-api-key": KEY})

        _, clients, wrong, none = await spans_of(receiver, 4)
        assert f"00-{clients.trace_id}-{clients.parent_id}-01" == CLIENTS
        assert wrong.parent_id == none.parent_id == ""
        assert len({clients.trace_id, wrong.trace_id, none.trace_id}) == 3


async def test_a_span_tells_the_decision_and_neither_credential_nor_path_nor_money(
    model: ReadModel, redis_url: str
) -> None:
    model.put_credential("revoked-key", make_credential(revoked=True))
    with over_http() as receiver, running(redis_url, **told_to(receiver)) as (_, client):
        await ready(client)
        answered = metadata_of(client.check())
        refused = metadata_of(client.check({"x-api-key": "revoked-key"}))
        check(client, {"authorization": "Bearer unknown-key"})

        first, second, stranger = (s.attributes for s in await spans_of(receiver, 3))
        assert first == {
            "aforo.decision": "allow",
            "aforo.reason": "allowed",
            "aforo.decision_id": answered["decision_id"],
            "aforo.tenant": "acme",
            "aforo.features": ["chat"],
            "aforo.stale": False,
            "aforo.uncounted": False,
        }
        assert second["aforo.reason"] == "credential_revoked"
        assert second["aforo.decision_id"] == refused["decision_id"]
        assert second["aforo.tenant"] == "acme"
        assert "aforo.tenant" not in stranger
        for secret in (KEY, "revoked-key", "unknown-key"):
            assert secret.encode() not in receiver.raw
            assert hashlib.sha256(secret.encode()).hexdigest()[:8].encode() not in receiver.raw
        for text in (b"in-the-query", b"/v1/chat", b"987654321", b"123456789"):
            assert text not in receiver.raw


async def test_a_check_without_an_answer_is_a_span_that_failed() -> None:
    with RedisServer() as server, over_http() as receiver:
        model = fill(server.url)
        with running(server.url, **told_to(receiver)) as (_, client):
            await ready(client)
            client.check()
            server.kill()
            await eventually(lambda: metadata_of(client.check()).get("stale") == "true")
            assert client.reason({"x-api-key": "unknown-key"}) == "UNAVAILABLE"

            await eventually(lambda: any(span.failed for span in receiver.named("aforo.check")))
            failed = next(span for span in receiver.named("aforo.check") if span.failed)
            assert failed.attributes == {"error.type": "RpcError", "rpc.grpc.status_code": 14}
            stale = [s for s in receiver.named("aforo.check") if s.attributes.get("aforo.stale")]
            assert stale
            assert stale[-1].attributes["aforo.uncounted"] is True
        model.close()


async def test_the_last_spans_are_sent_before_the_process_ends(
    model: ReadModel, redis_url: str
) -> None:
    assert model.redis.ping()
    with over_http() as receiver:
        settings = told_to(receiver) | {"OTEL_BSP_SCHEDULE_DELAY": NEVER_MS}
        with running(redis_url, **settings) as (authz, client):
            await ready(client)
            for _ in range(3):
                client.check()
            assert not receiver.spans

            assert authz.stop() == 0
        assert len(receiver.named("aforo.check")) == 3


async def test_every_worker_sends_its_spans(model: ReadModel, redis_url: str) -> None:
    assert model.redis.ping()
    with over_http() as receiver:
        settings = told_to(receiver) | {"AFORO_AUTHZ_WORKERS": "2"}
        with running(redis_url, **settings) as (authz, client):
            await eventually(lambda: b"200 OK" in authz.page("/readyz"))
            client.check()
            assert authz.stop() == 0
        assert len(receiver.named("aforo.check")) == 1


async def test_standard_variables_name_service_sampler_headers_and_compression(
    model: ReadModel, redis_url: str
) -> None:
    assert model.redis.ping()
    with over_http() as receiver:
        settings = told_to(receiver) | {
            "OTEL_SERVICE_NAME": "edge-authz",
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
        with running(redis_url, **settings) as (authz, client):
            await ready(client)
            check(client, {"x-api-key": KEY})
            check(client, {"x-api-key": KEY}, of_envoy=UNSAMPLED)
            check(client, {"x-api-key": KEY}, of_envoy=ENVOYS)
            assert authz.stop() == 0

        (span,) = receiver.named("aforo.check")
        assert span.trace_id == ENVOYS.split("-")[1]
        assert span.service == "edge-authz"
        assert set(receiver.paths) == {"/v1/traces"}
        assert receiver.requests[0]["x-key"] == "a b"
        assert receiver.requests[0]["content-encoding"] == "gzip"


async def test_a_receiver_that_is_away_costs_spans_and_nothing_else(
    model: ReadModel, redis_url: str
) -> None:
    assert model.redis.ping()
    with over_http() as receiver:
        receiver.answer = 500
        settings = told_to(receiver) | {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=s3cret"}
        with running(redis_url, **settings) as (authz, client):
            await ready(client)
            assert client.reason() == "allowed"
            await eventually(lambda: b"spans_lost_total 0.0" not in authz.page("/metrics"))
            assert client.reason() == "allowed"
            receiver.answer = 200

            await eventually(lambda: client.reason() and bool(receiver.named("aforo.check")))
            # Authz says it when it has read the answer, which is after the receiver has them.
            await eventually(lambda: "spans are sent again" in authz.log_text())
            events = [line["event"] for line in authz.logged()]
            assert events.count("spans can't be sent; decisions go on") == 1
            assert events.count("spans are sent again") == 1
            assert "s3cret" not in authz.log_text()
            assert "Traceback" not in authz.log_text()


@pytest.mark.parametrize("protocol", RECEIVERS)
async def test_a_receiver_that_never_answers_holds_up_neither_decisions_nor_the_end(
    model: ReadModel, redis_url: str, protocol: str
) -> None:
    assert model.redis.ping()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        receiver = Receiver(url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with running(redis_url, **told_to(receiver, protocol)) as (authz, client):
            await ready(client)
            for _ in range(20):
                assert client.reason() == "allowed"
                await asyncio.sleep(0.01)

            # FLUSH_S_MAX, drain and two noisy cores; nobody sends it a SIGKILL.
            authz.signal(signal.SIGTERM)
            assert authz.wait(30.0) == 0
            assert "the last spans were not sent in time" in authz.log_text()


async def test_without_an_endpoint_nothing_of_opentelemetry_is_imported(
    model: ReadModel, redis_url: str
) -> None:
    assert model.redis.ping()
    imports = {"PYTHONPROFILEIMPORTTIME": "1"}
    with running(redis_url, **imports) as (authz, client):
        await ready(client)
        check(client, {"x-api-key": KEY, "traceparent": CLIENTS}, of_envoy=ENVOYS)
        assert "aforo_authz.serving" in authz.log_text()
        assert "opentelemetry" not in authz.log_text()
    with over_http() as receiver, running(redis_url, **imports, **told_to(receiver)) as (authz, _):
        assert "opentelemetry.sdk.trace" in authz.log_text()


def test_without_its_packages_the_start_says_what_to_install() -> None:
    hidden = (
        "import sys; sys.modules['opentelemetry.sdk'] = None;"
        " from aforo_authz.__main__ import main; sys.exit(main(['serve']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden],
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 2
    assert done.stderr == (
        "aforo-authz: OTEL_EXPORTER_OTLP_ENDPOINT is set, but opentelemetry-sdk is not installed:"
        " pip install 'aforo[otel]', or set OTEL_TRACES_EXPORTER=none\n"
    )


def test_check_config_says_where_spans_go_without_what_is_secret() -> None:
    def told(**env: str) -> str:
        command = [sys.executable, "-m", "aforo_authz", "check-config"]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
        ).stdout

    assert "# spans: off (OTEL_EXPORTER_OTLP_ENDPOINT)" in told()
    on = told(
        OTEL_EXPORTER_OTLP_ENDPOINT="https://user:s3cret@collector",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=s3cret",
    )
    assert "# spans: collector:4318 by http/protobuf (OTEL_EXPORTER_OTLP_ENDPOINT)" in on
    assert "s3cret" not in on
