"""Several processes on one address: how connections are dealt out, and what a death costs."""

import contextlib
import os
import signal
from collections import Counter

import psutil
import pytest

from lab.servers import RedisServer, eventually
from tests.e2e.authz_lab import Client, fill, running

pytestmark = pytest.mark.e2e

WORKERS = {"AFORO_AUTHZ_WORKERS": "2"}


def decisions_by_worker(page: bytes) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in page.decode().splitlines():
        if line.startswith("aforo_authz_decision_seconds_count{"):
            found[line.split('worker="')[1][0]] += int(float(line.rsplit(" ", 1)[1]))
    return found


async def test_connections_are_dealt_out_evenly_and_one_page_shows_all(
    redis_server: RedisServer, redis_url: str
) -> None:
    model = fill(redis_url, quota_limit=1000)
    with running(redis_server.url, **WORKERS) as (authz, _):
        await eventually(lambda: b" 200 " in authz.page("/readyz"))
        # Each with connections of its own: grpcio would share them among equal channels.
        options = [("grpc.use_local_subchannel_pool", 1)]
        addresses = [f"127.0.0.1:{authz.port}", f"unix:{authz.socket}"] * 3
        with contextlib.ExitStack() as clients:  # A worker with fewer connections gets the next.
            for address in addresses:
                client = Client(address, options)
                clients.enter_context(client.channel)
                assert [client.reason() for _ in range(5)] == ["allowed"] * 5

            assert decisions_by_worker(authz.page("/metrics")) == {"0": 15, "1": 15}
    model.close()


async def test_a_worker_that_dies_is_replaced_and_the_others_serve_on(
    redis_server: RedisServer, redis_url: str
) -> None:
    model = fill(redis_url, quota_limit=1000)
    with running(redis_server.url, **WORKERS) as (authz, client):
        await eventually(lambda: b" 200 " in authz.page("/readyz"))
        children = psutil.Process(authz.pid).children()
        assert len(children) == 2
        os.kill(children[0].pid, signal.SIGKILL)

        # Its connections are gone, and new ones go to who lives.
        await eventually(lambda: client.reason() == "allowed")
        await eventually(lambda: len(psutil.Process(authz.pid).children()) == 2)
        await eventually(lambda: b" 200 " in authz.page("/readyz"))
        assert "a worker ended" in {line.get("event") for line in authz.logged()}
    model.close()


async def test_sigterm_ends_all_of_them_and_removes_the_socket(
    redis_server: RedisServer, redis_url: str
) -> None:
    model = fill(redis_url)
    with running(redis_server.url, **WORKERS) as (authz, client):
        await eventually(lambda: b" 200 " in authz.page("/readyz"))
        assert client.reason() == "allowed"
        children = psutil.Process(authz.pid).children()

        assert authz.stop() == 0
        assert not authz.socket.exists()
        assert not any(child.is_running() for child in children)
    model.close()


async def test_workers_end_with_a_parent_that_was_killed(
    redis_server: RedisServer, redis_url: str
) -> None:
    model = fill(redis_url)
    with running(redis_server.url, **WORKERS) as (authz, _):
        await eventually(lambda: b" 200 " in authz.page("/readyz"))
        children = psutil.Process(authz.pid).children()

        authz.kill()

        await eventually(lambda: not any(child.is_running() for child in children))
    model.close()
