"""Restarts of aforo-authz under load, behind the shipped Envoy: every request gets its decision.

A few of them with each run of the suite, which shares its cores and so waits as long as it takes;
`make restarts` does more, with the timeouts of the shipped configuration.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from lab.load import LoadGenerator, LoadResult
from lab.patience import patient
from lab.servers import RedisServer, eventually
from tests.e2e.gateway import (
    ALLOWED_KEY,
    BLOCKED_KEY,
    Authz,
    Gateway,
    fill,
    gateway,
    home,
)

RESTARTS = int(os.environ.get("AFORO_TEST_RESTARTS", "0"))  # 0: as few as show it.
PATIENT = not RESTARTS or os.environ.get("AFORO_TEST_PATIENT") == "1"
RATE_PER_S = 300.0
AT_ONCE = 25  # Can be under way, where a test says so.
TAKE_OVER = {"AFORO_AUTHZ_TAKE_OVER": "true"}
WORKERS = {"AFORO_AUTHZ_WORKERS": "2"}

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600 + 15 * RESTARTS),
]


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """One of its own: a counter in it is compared with what Envoy let through."""
    with RedisServer() as server:
        model = fill(server.url)
        yield server
        model.close()


def request(number: int) -> bytes:
    """Return a request of a tenant who may call, or, every other time, of one who may not."""
    key = BLOCKED_KEY if number % 2 else ALLOWED_KEY
    return f"GET /v1/things HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n".encode()


def shipped_or_patient(document: dict[str, Any]) -> None:
    if PATIENT:
        patient(document)


@contextlib.asynccontextmanager
async def load(running: Gateway, *, at_once: int = 64) -> AsyncIterator[LoadResult]:
    """Send requests at a constant rate while the body runs, and to their end."""
    generator = LoadGenerator(
        port=running.port,
        rate_per_s=RATE_PER_S,
        duration_s=3600,
        request=request,
        connections=at_once,
    )
    sending = asyncio.create_task(generator.run())
    try:
        await asyncio.sleep(0.3)
        yield generator.result
        await asyncio.sleep(0.3)
    finally:
        generator.stop()
        await sending


def assert_every_request_was_decided(
    running: Gateway, result: LoadResult, server: RedisServer
) -> None:
    allowed, blocked = result.statuses[200], result.statuses[429]
    checks = running.checks()
    assert checks["error"] == checks["failure_mode_allowed"] == 0, (
        f"{checks['error']} undecided; of these {running.timeouts()} took longer than Envoy waits."
        f" If all: has this machine time left? Starts of requests were up to"
        f" {result.late_s_max:.2f} s late. `make restarts PATIENT=1` waits as long as it takes"
    )
    assert not result.errors
    assert set(result.statuses) == {200, 429}
    assert allowed > 10
    assert abs(allowed - blocked) <= 1
    assert (checks["ok"], checks["denied"]) == (allowed, blocked)
    # What the upstream saw: no request without the name that only a decision gives it.
    assert running.api.tally.calls == {"acme": allowed}
    # No decision was lost with the process that made it, and none was made twice.
    with redis.Redis.from_url(server.url) as client:
        (counter,) = client.scan_iter("aforo:quota:*acme*")
        assert int(client.get(counter) or 0) == allowed


def told(what: str, restarts: int, result: LoadResult) -> None:
    """Say what was seen, for those who asked for more than the suite's few restarts."""
    if RESTARTS:
        sys.stderr.write(
            f"\n{what}: {restarts} restarts, {result.statuses.total()} requests, 0 failed;"
            f" p50 {result.quantile_ms(0.5):.1f} ms, p99 {result.quantile_ms(0.99):.1f} ms,"
            f" longest {result.quantile_ms(1.0):.1f} ms\n"
        )


async def ends_in_order(authz: Authz) -> None:
    authz.signal(signal.SIGTERM)
    assert await asyncio.to_thread(authz.wait) == 0
    assert "Traceback" not in authz.log_text()


@pytest.mark.parametrize("settings", [TAKE_OVER, TAKE_OVER | WORKERS], ids=["one", "workers"])
async def test_a_process_that_takes_over_before_the_old_one_ends_costs_no_request(
    redis_server: RedisServer, settings: dict[str, str]
) -> None:
    folder = home()
    path = folder / "authz.sock"

    def next_process() -> Authz:
        authz = Authz(f"unix:{path}", redis_server.url, folder, **settings).start()
        stack.callback(authz.stop)
        return authz

    restarts = RESTARTS or 3
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            gateway(folder, [path], edit=shipped_or_patient, concurrency=2)
        )
        serving = next_process()
        await running.finds_authz_healthy()
        async with load(running) as result:
            for _ in range(restarts):
                old, serving = serving, await asyncio.to_thread(next_process)
                await ends_in_order(old)

        assert_every_request_was_decided(running, result, redis_server)
        told(f"taken over ({' '.join(settings)})", restarts, result)
        assert [each for each in folder.iterdir() if each.suffix not in {".log", ".yaml"}] == [path]


async def test_two_replicas_that_are_restarted_in_turn_cost_no_request(
    redis_server: RedisServer,
) -> None:
    restarts = RESTARTS or 4
    async with two_replicas(redis_server, shipped_or_patient) as (running, replicas):
        async with load(running) as result:
            for number in range(restarts):
                restarted = replicas[number % 2]
                await ends_in_order(restarted)
                await asyncio.to_thread(restarted.start)
                await running.finds_authz_healthy()

        assert_every_request_was_decided(running, result, redis_server)
        told("two replicas in turn", restarts, result)


async def test_a_replica_that_is_killed_costs_at_most_what_it_was_deciding(
    redis_server: RedisServer,
) -> None:
    async with two_replicas(redis_server, patient) as (running, replicas):
        async with load(running, at_once=AT_ONCE) as result:
            replicas[0].kill()
            await asyncio.sleep(0.5)

        # What was under way: nobody waits, and no other is let through. In half a second 75 come to
        # each replica.
        assert running.checks()["error"] <= AT_ONCE
        assert not result.errors


@contextlib.asynccontextmanager
async def two_replicas(
    server: RedisServer, edit: Callable[[dict[str, Any]], None]
) -> AsyncIterator[tuple[Gateway, list[Authz]]]:
    """Run two, each on an address of its own, which Envoy asks by turns."""
    folder = home()
    paths = [folder / "authz-a.sock", folder / "authz-b.sock"]
    async with contextlib.AsyncExitStack() as stack:
        replicas = [
            stack.enter_context(Authz(f"unix:{path}", server.url, folder)) for path in paths
        ]
        running = await stack.enter_async_context(gateway(folder, paths, edit=edit))
        await running.finds_authz_healthy()
        yield running, replicas


async def test_the_old_process_serves_until_the_new_one_is_ready(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """A new process that finds no Redis takes nothing over."""
    folder = home()
    path = folder / "authz.sock"
    nowhere = f"unix://{tmp_path / 'no-redis.sock'}"
    with Authz(f"unix:{path}", redis_server.url, folder, **TAKE_OVER):
        before = path.stat().st_ino
        waiting = Authz(f"unix:{path}", nowhere, folder, **TAKE_OVER)
        waiting.start(wait=False)
        async with gateway(folder, [path], edit=patient) as running:
            await running.finds_authz_healthy()
            async with load(running) as result:
                await eventually(lambda: b" 503 " in waiting.page("/readyz"))
                assert path.stat().st_ino == before
                assert waiting.stop() == 0

            assert path.stat().st_ino == before
            assert_every_request_was_decided(running, result, redis_server)
