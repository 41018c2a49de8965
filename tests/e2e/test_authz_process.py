"""aforo-authz as an operator meets it: a process with settings, sockets, signals and a Redis."""

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from lab.servers import HANG_S, ROOT, RedisServer, eventually
from tests.authz_redis import ReadModel
from tests.authz_samples import make_credential
from tests.e2e.authz_lab import (
    KEY,
    Client,
    fill,
    ready,
    running,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def model(redis_url: str) -> Iterator[ReadModel]:
    model = fill(redis_url)
    yield model
    model.close()


# Life of a process


@pytest.mark.parametrize("transport", ["ngh2", "grpcio"])
async def test_it_decides_on_tcp_and_unix_socket_and_ends_in_order(
    model: ReadModel, redis_url: str, transport: str
) -> None:
    model.put_credential("revoked", make_credential(revoked=True))
    with running(redis_url, transport=transport) as (authz, client):
        await ready(client)
        by_socket = Client(f"unix:{authz.socket}")

        for each in (client, by_socket):
            assert each.reason() == "allowed"
            assert each.reason({"authorization": f"Bearer {KEY}"}) == "allowed"
            assert each.reason({"x-api-key": "unknown"}) == "unknown_credential"
            assert each.reason({"x-api-key": "revoked"}) == "credential_revoked"
            assert each.reason({}) == "unauthenticated"
        by_socket.channel.close()
        assert b"200 OK" in authz.page("/livez")
        assert b"200 OK" in authz.page("/readyz")
        authz.signal(signal.SIGTERM)

        assert authz.wait() == 0
        assert not authz.socket.exists()
        assert [line["event"] for line in authz.logged()][-1] == "draining"
        assert "Traceback" not in authz.log_text()


def command(*arguments: str, cwd: Path = ROOT, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "aforo_authz", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        cwd=cwd,
    )


def assert_refuses_to_start(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("aforo-authz: ")
    for word in words:
        assert word in last
    assert "Traceback" not in done.stderr


def test_check_config_prints_what_holds_without_secrets() -> None:
    done = command(
        "check-config",
        AFORO_AUTHZ_LISTEN="unix:/run/aforo/authz.sock",
        AFORO_AUTHZ_REDIS_URL="redis://user:s3cret@redis:6379/0",
    )

    assert done.returncode == 0
    assert "AFORO_AUTHZ_LISTEN=unix:/run/aforo/authz.sock" in done.stdout
    assert "AFORO_AUTHZ_REDIS_URL=redis://user:***@redis:6379/0" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_an_unknown_setting_stops_the_start_and_names_the_nearest() -> None:
    done = command("serve", AFORO_AUTHZ_REDIS_TIMOUT_MS="20")

    assert_refuses_to_start(
        done, "AFORO_AUTHZ_REDIS_TIMOUT_MS", "did you mean AFORO_AUTHZ_REDIS_TIMEOUT_MS?"
    )


@pytest.mark.parametrize("transport", ["ngh2", "grpcio"])
def test_a_port_in_use_is_one_line_that_names_port_and_setting(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command("serve", "--transport", transport, AFORO_AUTHZ_LISTEN=address)

    assert_refuses_to_start(
        done, f"cannot listen on {address}", "Address already in use", "AFORO_AUTHZ_LISTEN"
    )
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_metrics_port_in_use_names_its_own_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command("serve", AFORO_AUTHZ_METRICS_LISTEN=address)

    assert_refuses_to_start(done, address, "AFORO_AUTHZ_METRICS_LISTEN")


@pytest.mark.parametrize("transport", ["ngh2", "grpcio"])
def test_a_socket_on_which_somebody_listens_is_left_alone(tmp_path: Path, transport: str) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(path))
        owner.listen()
        done = command("serve", "--transport", transport, AFORO_AUTHZ_LISTEN=f"unix:{path}")

    assert_refuses_to_start(done, str(path), "AFORO_AUTHZ_LISTEN")
    assert path.exists()


def test_help_has_examples_and_a_missing_command_is_a_wrong_usage() -> None:
    assert "aforo-authz serve --transport grpcio" in command("--help").stdout
    assert command().returncode == 2


# Redis


async def test_without_redis_at_the_start_it_waits_and_then_serves() -> None:
    server = RedisServer()
    with running(server.url) as (authz, client):
        assert client.reason() == UNAVAILABLE.name
        assert client.reason({}) == UNAVAILABLE.name
        assert not client.serving
        assert b"200 OK" in authz.page("/livez")
        assert b"503 Service Unavailable" in authz.page("/readyz")
        await eventually(
            lambda: any("no word from Redis" in line["event"] for line in authz.logged())
        )
        with server:
            await asyncio.sleep(0.3)
            assert client.reason() == UNAVAILABLE.name  # An empty Redis says nothing of anybody.
            assert not client.serving
            model = fill(server.url)

            await ready(client)
            assert client.reason() == "allowed"
            assert client.reason({"x-api-key": "unknown"}) == "unknown_credential"
            assert b"200 OK" in authz.page("/readyz")
            model.close()


async def test_a_hard_quota_lets_exactly_as_many_pass(redis_url: str) -> None:
    model = fill(redis_url, quota_limit=5)
    with running(redis_url) as (one, client), running(redis_url) as (other, second):
        await ready(client)
        await ready(second)

        reasons = [each.reason() for each in (client, second) * 5]

        assert reasons == ["allowed"] * 5 + ["quota_exceeded"] * 5
        assert one.running
        assert other.running
    model.close()


# What is written


async def test_refusals_are_logged_and_counted_and_no_key_is_ever_written(
    model: ReadModel, redis_url: str
) -> None:
    with running(redis_url, AFORO_AUTHZ_LOG_SAMPLE_RATIO="1", AFORO_AUTHZ_LOG_LEVEL="debug") as (
        authz,
        client,
    ):
        await ready(client)
        model.redis.set(f"aforo:v1:cred:{hashlib.sha256(b'bad-value-key').hexdigest()}", b"\xff")
        assert client.reason({"x-api-key": "bad-value-key"}) == UNAVAILABLE.name
        client.check({"x-api-key": "unknown-key"}, path="/v1/chat?token=in-the-query")
        client.check()

        decided = [line for line in authz.logged() if line["event"] == "decided"]
        assert [line["reason"] for line in decided] == ["unknown_credential", "allowed"]
        assert decided[0]["tenant"] is None
        assert decided[1]["tenant"] == "acme"
        assert decided[1]["credential_id"] == "acme-key-1"
        page = authz.page("/metrics").decode()
        assert 'decisions_total{decision="block",reason="unknown_credential"} 1.0' in page
        assert 'decisions_total{decision="allow",reason="allowed"} 1.0' in page
        assert "aforo_authz_unreadable_values" in page
        written = authz.log_text() + page
        for secret in (KEY, "unknown-key", "bad-value-key", "in-the-query"):
            assert secret not in written
            assert hashlib.sha256(secret.encode()).hexdigest()[:16] not in written
