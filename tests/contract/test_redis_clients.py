"""The client of aforo-meter and aforo-admin: one server, Sentinels, and a cluster."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from aforo_meter import redis_client as meter
from aforo_meter.redis_faults import address_of
from lab.redis_topologies import ClusterServers, SentinelServers
from lab.servers import HANG_S
from tests.certificates import certificate
from tests.contract.tcp_proxy import TcpProxy
from tests.redis_users import guarded_redis, password_of, url_of

pytestmark = pytest.mark.contract

TENANTS = 50
KEYS = {b"aforo:v1:{t%d}:policy" % number: b"%d" % number for number in range(TENANTS)}

Connect = Callable[..., Redis]


@contextlib.asynccontextmanager
async def connected(connect: Connect, url: str) -> AsyncIterator[Any]:
    client = connect(url, timeout_s=5.0, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    finally:
        await client.aclose()


async def use(client: Any) -> None:  # noqa: ANN401 - redis-py's commands are half typed.
    """Do what our processes do: write, read, find and remove keys of many tenants at once."""
    await client.mset(KEYS)
    assert await client.mget([*KEYS, b"aforo:v1:nothing"]) == [*KEYS.values(), None]
    found = {key async for key in client.scan_iter(match=b"aforo:v1:*", count=10)}
    assert found == set(KEYS)
    pipeline = client.pipeline(transaction=False)
    for key in KEYS:
        pipeline.get(key)
    pipeline.execute_command("MGET", "aforo:v1:{t1}:policy", "aforo:v1:{t1}:margin")
    assert await pipeline.execute() == [*KEYS.values(), [b"1", None]]
    await client.unlink(*KEYS)
    assert await client.exists(*KEYS) == 0


@pytest.mark.slow
async def test_a_cluster_is_used_like_one_server() -> None:
    with ClusterServers() as servers:
        async with connected(meter.connect, servers.url) as client:
            await use(client)


@pytest.mark.slow
async def test_a_cluster_goes_on_after_a_replica_took_over() -> None:
    with ClusterServers(replicas=True) as servers:
        async with connected(meter.connect, servers.url) as client:
            await client.mset(KEYS)
            servers.fail_over_soon()
            servers.primaries[0].kill()

            await answers(lambda: client.mset(KEYS))
            assert await client.mget(list(KEYS)) == list(KEYS.values())


@pytest.mark.slow
async def test_sentinels_name_another_primary_and_the_same_client_goes_on_there() -> None:
    with SentinelServers() as servers:
        async with connected(meter.connect, servers.url) as client:
            await use(client)
            servers.fail_over_soon()
            servers.primary.kill()

            await answers(lambda: client.set("aforo:v1:after", b"1"))
            with servers.replica.client() as promoted:
                assert promoted.get("aforo:v1:after") == b"1"


async def answers(ask: Callable[[], Any]) -> None:
    """Ask until it is answered. All errors on the way are those that our processes wait out."""
    async with asyncio.timeout(HANG_S):
        while True:
            try:
                await ask()
            except (RedisError, OSError):
                await asyncio.sleep(0.1)
            else:
                return


async def test_what_is_away_is_told_as_of_one_server() -> None:
    for url in ("redis-cluster://127.0.0.1:1", "redis-sentinel://127.0.0.1:1?service=main"):
        async with connected(meter.connect, url) as client:
            with pytest.raises(RedisError):
                await client.get("x")
            pipeline = client.pipeline(transaction=False)
            pipeline.get("x")
            with pytest.raises(RedisError):
                await pipeline.execute()


async def test_an_address_is_shown_whatever_it_is_made_of() -> None:
    for url, shown in (
        ("redis://ann:pw@cache:6380", "cache:6380"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        ("redis-cluster://ann:pw@a:7000,b:7001", "a:7000,b:7001"),
        ("redis-sentinel://ann:pw@a,b?service=main", "main, by its Sentinels,"),
    ):
        async with connected(meter.connect, url) as client:
            assert address_of(client) == shown


async def test_tls_and_a_login_are_spoken_to_who_can_prove_its_name_and_to_nobody_else(
    tmp_path: Path,
) -> None:
    # The server from the wheel knows no TLS: the proxy speaks it in its place.
    chain, key = certificate(tmp_path, "redis", "IP:127.0.0.1")
    stranger, _ = certificate(tmp_path, "stranger", "IP:127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain, key)
    with guarded_redis(tmp_path) as (server, _):
        async with TcpProxy(server.port, tls=tls).serving() as proxy:
            where = f"127.0.0.1:{proxy.port}"
            good, bad = (
                url_of("aforo-sync", tmp_path, where, scheme="rediss", more=f"&ssl_ca_certs={file}")
                for file in (chain, stranger)
            )
            async with connected(meter.connect, good) as client:
                assert await client.set("aforo:v1:sync", b"1")
            async with connected(meter.connect, bad) as client:
                with pytest.raises(RedisError, match="CERTIFICATE_VERIFY_FAILED") as unknown:
                    await client.get("aforo:v1:sync")
        wrong = f"redis://aforo-sync:not-the-s3cret@127.0.0.1:{server.port}"
        async with connected(meter.connect, wrong) as client:
            with pytest.raises(AuthenticationError) as refused:
                await client.get("aforo:v1:sync")

    told = f"{unknown.value!r} {refused.value!r}"
    assert "s3cret" not in told
    assert password_of("aforo-sync") not in told
