"""Totals of decisions in a real Redis: complete, whatever happens on the way."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import redis

from aforo_authz.read_model import decisions_key
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.tally import HOUR_S, Tally
from aforo_authz.tally_redis import BATCH_MAX, KEPT_S, TallyWriter
from lab.servers import HANG_S, RedisServer, eventually
from tests.authz_redis import nodes_at
from tests.unit.test_tally import decision

pytestmark = pytest.mark.contract

# The hour that is now: Redis would drop totals of one that is long over.
HOUR = int(time.time()) // HOUR_S * HOUR_S
NOW = HOUR * 1_000_000


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a Redis that is slow: who writes its total late writes it all the same."""
    monkeypatch.setattr("aforo_authz.tally_redis.WRITE_S_MAX", HANG_S)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[RedisNodes]:
    nodes = nodes_at(port)
    running = asyncio.ensure_future(nodes.run())
    try:
        await eventually(lambda: nodes.connected)
        yield nodes
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_totals_are_written_in_batches_and_expire(
    redis_server: RedisServer, redis_url: str
) -> None:
    tally = Tally()
    async with connected(redis_server.port) as nodes:
        writer = TallyWriter(tally, nodes, observe=lambda *_: None)
        tenants = BATCH_MAX * 2 + 5
        for number in range(tenants):
            tally.count(decision(f"t-{number}"), NOW)
            tally.count(decision(f"t-{number}"), NOW)
        await writer.flush()
        await writer.flush()

    with redis.Redis.from_url(redis_url) as client:
        found: Counter[bytes] = Counter()
        for key in client.scan_iter("aforo:decisions:v1:*:*"):
            totals: dict[bytes, bytes] = client.hgetall(key)
            found.update({field: int(value) for field, value in totals.items()})
        assert len(found) == tenants
        assert found[b"t-7|allow|chat"] == 2
        assert client.expiretime(decisions_key(HOUR, tally.instance)) == HOUR + KEPT_S


async def test_while_redis_is_away_nothing_is_lost() -> None:
    failures: list[object] = []
    tally = Tally()
    with RedisServer() as server:
        async with connected(server.port) as nodes:
            writer = TallyWriter(tally, nodes, observe=lambda _p, _s, why: failures.append(why))
            tally.count(decision(), NOW)
            await writer.flush()
            server.kill()
            tally.count(decision(), NOW)
            await writer.flush()
            tally.count(decision(), NOW + HOUR_S * 1_000_000)
            await writer.flush()
            assert failures == [None, "lost", "lost"]
            server.start()
            await eventually(lambda: nodes.connected)
            await writer.flush()

        with redis.Redis.from_url(server.url) as client:
            by_hour = {
                hour: client.hgetall(decisions_key(hour, tally.instance))
                for hour in (HOUR, HOUR + HOUR_S)
            }
        # Emptied with the restart; a total says it all again.
        assert by_hour[HOUR] == {b"acme|allow|chat": b"2"}
        assert by_hour[HOUR + HOUR_S] == {b"acme|allow|chat": b"1"}
