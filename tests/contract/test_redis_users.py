"""ops/redis/users.acl on a real server: who may do what is what the README beside it says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from aforo_authz.lookup import LOOKUP
from aforo_meter import redis_client as meter
from lab.redis_topologies import SERVICE, ClusterServers, Node, SentinelServers
from lab.servers import RedisServer, eventually
from tests.contract.test_redis_clients import connected
from tests.contract.test_redis_nodes import ask, following
from tests.redis_users import (
    USERS_FILE,
    guarded_redis,
    login,
    refused,
    topology_users,
    url_of,
    users,
)

pytestmark = pytest.mark.contract

READS = (("GET",), ("MGET",), ("SMEMBERS",), ("HGETALL",), ("HSCAN", "0"), ("EXISTS",))
WRITES = (
    *(("SET", "x"), ("MSET", "x"), ("SADD", "x"), ("HSET", "x", "1"), ("INCR",), ("APPEND", "x")),
    *(("EXPIREAT", "1"), ("RENAME", "other"), ("RESTORE", "0", "x"), ("LPUSH", "x")),
)
REMOVES = (("DEL",), ("UNLINK",), ("GETDEL",))
NEVER = (
    *("FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "CONFIG SET dir /", "ACL LIST", "SHUTDOWN"),
    *("MONITOR", "DEBUG SLEEP 0", "CLIENT LIST", "CLIENT KILL TYPE normal", "SAVE", "SWAPDB 0 1"),
    *("ACL SETUSER x", "REPLICAOF NO ONE", "SCRIPT FLUSH", "FUNCTION LIST", "SUBSCRIBE x"),
    *("MODULE LIST", "MIGRATE h 1 k 0 1", "RANDOMKEY", "SLOWLOG GET", "CLUSTER RESET"),
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, Any]]:
    with guarded_redis(tmp_path_factory.mktemp("users")) as both:
        yield both


@pytest.fixture(scope="module")
def server(guarded: tuple[RedisServer, Any]) -> RedisServer:
    return guarded[0]


@pytest.fixture(scope="module")
def operator(guarded: tuple[RedisServer, Any]) -> Any:  # noqa: ANN401
    return guarded[1]


def table() -> dict[tuple[str, str], set[str]]:
    """Return what the README says of each user and key."""
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in (USERS_FILE.parent / "README.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    names = rows[0][1:]
    return {
        (user, row[0]): set(re.findall(r"\w+", cell))
        for row in rows[1:]
        for user, cell in zip(names, row[1:], strict=True)
    }


TABLE = table()


def may(operator: Any, user: str, *command: str) -> bool:  # noqa: ANN401
    said = operator.execute_command("ACL", "DRYRUN", user, *command)
    return bool(said in {b"OK", "OK"})


@pytest.mark.parametrize(("user", "key"), TABLE, ids=" ".join)
def test_a_user_may_do_with_a_key_what_the_readme_says(
    operator: Any,  # noqa: ANN401
    user: str,
    key: str,
) -> None:
    kinds = {"read": READS, "write": WRITES, "remove": REMOVES}
    found = {
        kind
        for kind, commands in kinds.items()
        if any(may(operator, user, name, key, *more) for name, *more in commands)
    }

    assert found == TABLE[user, key]


def test_every_user_of_a_process_is_in_the_table() -> None:
    assert set(users()) - {"aforo-replica", "aforo-sentinel"} == {user for user, _ in TABLE}


@pytest.mark.parametrize("command", NEVER)
def test_no_process_may_look_after_the_server(
    operator: Any,  # noqa: ANN401
    command: str,
) -> None:
    for user in {user for user, _ in TABLE}:
        assert not may(operator, user, *command.split()), user


def test_nobody_is_let_in_without_a_password(server: RedisServer) -> None:
    with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("aforo:v1:sync")


def test_scripts_of_authz_do_no_more_than_it_may_itself(
    server: RedisServer,
    operator: Any,  # noqa: ANN401
) -> None:
    operator.acl_log_reset()
    with login(server, "aforo-authz") as authz:
        assert authz.eval(LOOKUP, 0, "aforo:v1:cred:x") == [None, None]
        assert refused(operator) == []
        for key in ("aforo:v1:{acme}:policy", "aforo:v1:{acme}:margin", "aforo:v1:cred:x"):
            with pytest.raises(redis.ResponseError, match="No permissions"):
                authz.eval("redis.call('SET', ARGV[1], 'x')", 0, key)

    assert not operator.keys("*")


def of(url: str, user: str, folder: Path) -> str:
    """Return the URL of servers for one of their users."""
    scheme, _, rest = url.partition("://")
    hosts, _, query = rest.partition("?")
    return url_of(user, folder, hosts, scheme=scheme, more=f"&{query}" if query else "")


async def work_as_all(url: str, folder: Path) -> None:
    """Write as sync and consume do, and read as everybody does."""
    policies = {f"aforo:v1:{{t{number}}}:policy": b"x" for number in range(20)}
    async with connected(meter.connect, of(url, "aforo-sync", folder)) as sync:
        await sync.mset({**policies, "aforo:v1:sync": b"x", "aforo:v1:metering": b"x"})
        assert len([key async for key in sync.scan_iter(match="aforo:v1:*")]) == 22
        await sync.unlink(*policies)
        await sync.mset(policies)
    async with connected(meter.connect, of(url, "aforo-consume", folder)) as consume:
        assert await consume.mget(list(policies)) == [b"x"] * 20
        await consume.mset({key.replace("policy", "margin"): b"y" for key in policies})
    for user, key in (
        ("aforo-ship", "aforo:v1:metering"),
        ("aforo-ingest", "aforo:v1:sync"),
        ("aforo-reader", "aforo:v1:{t7}:margin"),
    ):
        async with connected(meter.connect, of(url, user, folder)) as client:
            assert await client.get(key)
    async with following(of(url, "aforo-authz", folder)) as (nodes, _):
        assert await ask(nodes, "GET", "aforo:v1:{t7}:margin") == b"y"
        assert await ask(nodes, "SADD", "aforo:decisions:v1:0", "x") == 1


@pytest.mark.slow
async def test_the_users_can_do_their_work_on_a_cluster(tmp_path: Path) -> None:
    with ClusterServers(users=topology_users(tmp_path)) as servers:
        await work_as_all(servers.url, tmp_path)

        for node in servers.primaries:
            with node.client() as operator:
                assert refused(operator) == []


@pytest.mark.slow
async def test_the_users_can_do_their_work_where_sentinels_named_another_primary(
    tmp_path: Path,
) -> None:
    with SentinelServers(users=topology_users(tmp_path)) as servers:
        await work_as_all(servers.url, tmp_path)
        with servers.primary.client() as operator:
            assert refused(operator) == []
            operator.flushall()
        servers.fail_over_soon()
        servers.primary.kill()

        with servers.replica.client() as operator:
            await eventually(lambda: operator.role()[0] == b"master")
            await eventually(lambda: sentinel_names(servers, servers.replica))
            await work_as_all(servers.url, tmp_path)
            assert refused(operator) == []


def sentinel_names(servers: SentinelServers, node: Node) -> bool:
    for one in servers.sentinels:
        with redis.Redis(port=one.port) as sentinel:
            known = sentinel.sentinel_masters()[SERVICE]
            if known["port"] != node.port or known["is_sdown"] or known["is_odown"]:
                return False
    return True
