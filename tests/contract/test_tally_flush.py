"""Totals of decisions in a real Redis: as fresh as a second, and right whatever fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from aforo_authz.domain.access import Decision, Reason
from aforo_authz.domain.features import Needs
from aforo_authz.redis_link import Failure
from aforo_authz.tally import HOUR_S, Tally
from aforo_authz.tally_redis import BATCH_MAX, KEPT_S, TallyWriter
from lab.servers import HANG_S, RedisServer, eventually
from tests.authz_redis import nodes_at
from tests.authz_samples import make_credential, make_policy
from tests.contract.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.contract, pytest.mark.slow]

NEEDS = Needs(features=("chat", "search"))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a Redis that is slow: who writes its total late writes it all the same."""
    monkeypatch.setattr("aforo_authz.tally_redis.WRITE_S_MAX", HANG_S)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


class World:
    def __init__(self, tally: Tally, writer: TallyWriter) -> None:
        self.tally = tally
        self.writer = writer
        self.failures: list[Failure | None] = []

    def count(self, tenant_id: str = "acme", *, at_s: int) -> None:
        decision = Decision(
            reason=Reason.ALLOWED,
            needs=NEEDS,
            credential=make_credential(tenant_id=tenant_id),
            policy=make_policy(tenant_id=tenant_id),
        )
        self.tally.count(decision, at_s * 1_000_000)


@contextlib.asynccontextmanager
async def world_at(port: int) -> AsyncIterator[World]:
    nodes = nodes_at(port)
    failures: list[Failure | None] = []
    tally = Tally()
    writer = TallyWriter(tally, nodes, observe=lambda _what, _s, failure: failures.append(failure))
    world = World(tally, writer)
    world.failures = failures
    running = asyncio.ensure_future(nodes.run())
    await nodes.wait_connected()
    try:
        yield world
    finally:
        running.cancel()
        await asyncio.wait([running])


def hour_to_come(client: redis.Redis) -> int:
    """Return an hour whose keys have not expired, by the clock of Redis."""
    seconds, _ = client.time()
    return int(seconds) // HOUR_S * HOUR_S


async def test_a_total_is_a_field_of_its_hour_and_its_process_and_expires(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    hour_s = hour_to_come(client)
    async with world_at(redis_server.port) as world:
        for _ in range(3):
            world.count(at_s=hour_s)
        await world.writer.flush()

        (key,) = client.keys("aforo:decisions:v1:*:*")
        assert key == f"aforo:decisions:v1:{hour_s}:{world.tally.instance}"
        assert client.hgetall(key) == {"acme|allow|chat,search": "3"}
        assert client.expiretime(key) == hour_s + KEPT_S
        world.count(at_s=hour_s)
        await world.writer.flush()
        assert client.hgetall(key) == {"acme|allow|chat,search": "4"}
        assert world.failures == [None, None]


async def test_all_of_a_second_leaves_in_one_pipeline(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    hour_s = hour_to_come(client)
    async with (
        TcpProxy(redis_server.port).serving() as proxy,
        world_at(proxy.port) as world,
    ):
        for number in range(BATCH_MAX):
            world.count(f"tenant-{number}", at_s=hour_s)
        before = proxy.requests
        await world.writer.flush()

        # One write of ours; a heartbeat of the connection may fall between.
        assert proxy.requests - before <= 2
        (key,) = client.keys("aforo:decisions:v1:*:*")
        assert client.hlen(key) == BATCH_MAX


async def test_two_processes_write_side_by_side(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    hour_s = hour_to_come(client)
    async with world_at(redis_server.port) as one, world_at(redis_server.port) as other:
        one.count(at_s=hour_s)
        other.count(at_s=hour_s)
        await one.writer.flush()
        await other.writer.flush()

    totals = [client.hgetall(key) for key in client.keys("aforo:decisions:v1:*:*")]
    assert totals == [{"acme|allow|chat,search": "1"}] * 2


async def test_while_redis_is_away_totals_wait_and_then_nothing_is_missing() -> None:
    with RedisServer() as server, redis.Redis(port=server.port, decode_responses=True) as client:
        hour_s = hour_to_come(client)
        async with world_at(server.port) as world:
            world.count(at_s=hour_s)
            server.kill()
            await eventually(lambda: world.writer._nodes.connected is False)
            await world.writer.flush()
            assert world.failures == [Failure.LOST]
            world.count(at_s=hour_s)
            server.start()
            await world.writer._nodes.wait_connected()

            await world.writer.flush()

            (key,) = client.keys("aforo:decisions:v1:*:*")
            assert client.hgetall(key) == {"acme|allow|chat,search": "2"}
            assert world.tally.lost == 0


async def test_the_last_flush_may_meet_the_one_of_the_second(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    hour_s = hour_to_come(client)
    async with world_at(redis_server.port) as world:
        for number in range(5 * BATCH_MAX):
            world.count(f"tenant-{number}", at_s=hour_s)

        await asyncio.gather(*(world.writer.flush() for _ in range(3)))

        totals = [client.hlen(key) for key in client.keys("aforo:decisions:v1:*:*")]
        assert sum(totals) == 5 * BATCH_MAX
