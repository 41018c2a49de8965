"""Asking a Redis of several servers: who is asked, and what a failover or a move costs."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from aforo_authz import read_model
from aforo_authz.redis_link import Failure, RedisAnswerError
from aforo_authz.redis_nodes import RedisNodes, slot_of
from aforo_authz.redis_url import parse_redis_url
from lab.ports import free_port
from lab.redis_topologies import ClusterServers, SentinelServers, move_slot
from lab.servers import HANG_S, RedisServer, eventually
from tests.certificates import certificate
from tests.contract.tcp_proxy import TcpProxy

pytestmark = pytest.mark.contract

BUDGET_S = 5.0


class Heard:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.story: list[str] = []

    def on_changed(self, keys: list[str] | None) -> None:
        self.keys += keys or ["everything"]

    def on_connected(self) -> None:
        self.story.append("connected")

    def on_disconnected(self, error: Exception | None) -> None:
        assert error is not None
        if self.story[-1:] != ["disconnected"]:
            self.story.append("disconnected")


@contextlib.asynccontextmanager
async def following(url: str) -> AsyncIterator[tuple[RedisNodes, Heard]]:
    nodes = RedisNodes(parse_redis_url(url), prefix=read_model.PREFIX)
    heard = nodes.follower = Heard()
    running = asyncio.ensure_future(nodes.run())
    try:
        await eventually(lambda: nodes.connected)
        yield nodes, heard
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=HANG_S)
        assert running.done()


async def ask(nodes: RedisNodes, *command: str) -> object:
    """Ask until there is an answer: a failover may be under way."""
    async with asyncio.timeout(HANG_S):
        while True:
            try:
                return await nodes.ask(command[1], *command, budget_s=BUDGET_S)
            except RedisAnswerError:
                await asyncio.sleep(0.05)


async def why_refused(url: str, *words: str, or_else: str = "") -> str:
    """Return what it says, once it says all of these, or else this one.

    It tries again, and may be late at first.
    """
    nodes = RedisNodes(parse_redis_url(url), prefix=None)
    running = asyncio.ensure_future(nodes.run())

    def says_so() -> bool:
        said = str(nodes.last_error or "")
        told_why = all(word in said for word in words)
        return bool(said) and (told_why or bool(or_else and or_else in said))

    with contextlib.suppress(TimeoutError):  # The caller shows what it says instead.
        await eventually(says_so)
    running.cancel()
    assert not nodes.connected
    return str(nodes.last_error)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers() as servers:
        yield servers


async def test_a_password_and_an_acl_user_are_used(redis_server: RedisServer) -> None:
    async with following(f"redis://127.0.0.1:{redis_server.port}/0") as (nodes, _):
        rules = ("on", ">pw", "~*", "+@all")
        await nodes.ask("", "ACL", "SETUSER", "ann", *rules, budget_s=BUDGET_S)
    try:
        async with following(f"redis://ann:pw@127.0.0.1:{redis_server.port}/2") as (nodes, _):
            assert await nodes.ask("", "ACL", "WHOAMI", budget_s=BUDGET_S) == b"ann"
        wrong = f"redis://ann:no-secret@127.0.0.1:{redis_server.port}"
        assert "WRONGPASS" in (why := await why_refused(wrong, "WRONGPASS"))
        assert "no-secret" not in why
    finally:
        async with following(f"redis://127.0.0.1:{redis_server.port}/0") as (nodes, _):
            await nodes.ask("", "ACL", "DELUSER", "ann", budget_s=BUDGET_S)


async def test_tls_is_spoken_to_who_can_prove_its_name_and_to_nobody_else(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    # The server from the wheel knows no TLS: the proxy speaks it in its place.
    chain, key = certificate(tmp_path, "redis", "IP:127.0.0.1")
    stranger, _ = certificate(tmp_path, "stranger", "IP:127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain, key)
    async with TcpProxy(redis_server.port, tls=tls).serving() as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs="
        async with following(f"{url}{chain}") as (nodes, heard):
            assert await ask(nodes, "SET", "aforo:v1:tls", "1") == b"OK"
            await eventually(lambda: "aforo:v1:tls" in heard.keys)

        assert "CERTIFICATE_VERIFY_FAILED" in await why_refused(
            f"{url}{stranger}", "CERTIFICATE_VERIFY_FAILED"
        )


@pytest.mark.parametrize("answer", [b"+OK\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_what_is_no_redis_is_left_for_a_redis_that_comes(answer: bytes) -> None:
    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        writer.close()

    stranger = await asyncio.start_server(answering, "127.0.0.1", port := free_port())
    nodes = RedisNodes(parse_redis_url(f"redis://127.0.0.1:{port}"), prefix=read_model.PREFIX)
    running = asyncio.ensure_future(nodes.run())
    try:
        await eventually(lambda: nodes.last_error is not None)
        stranger.close()

        with RedisServer(port=port):
            assert await ask(nodes, "SET", "k", "1") == b"OK"
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_without_a_connection_an_answer_is_an_error_at_once() -> None:
    nodes = RedisNodes(parse_redis_url(f"redis://127.0.0.1:{free_port()}"), prefix=None)
    with pytest.raises(RedisAnswerError) as raised:
        await nodes.ask("a", "GET", "a", budget_s=BUDGET_S)
    assert raised.value.failure is Failure.LOST


async def test_sentinels_lead_to_the_primary_and_to_the_next_one() -> None:
    with SentinelServers() as servers:
        async with following(servers.url) as (nodes, heard):
            await nodes.ask("k", "SET", "k", "before", budget_s=BUDGET_S)
            await nodes.ask("k", "WAIT", "1", "5000", budget_s=BUDGET_S)
            servers.fail_over_soon()
            servers.primary.kill()
            await eventually(lambda: heard.story[-1] == "disconnected")

            await eventually(lambda: nodes.connected)

            assert await ask(nodes, "GET", "k") == b"before"
            assert await ask(nodes, "SET", "aforo:v1:x", "1") == b"OK"
            await eventually(lambda: "aforo:v1:x" in heard.keys)
            assert heard.story == ["connected", "disconnected", "connected"]
            with servers.replica.client() as replica:
                assert replica.get("k") == b"before"


@pytest.mark.parametrize(
    "key", ["aforo:v1:{acme}:policy", "a{b}{c}", "{}x", "a{b", "a}b{c}", "{a}{", "", "ä{ö}"]
)
def test_a_key_is_in_the_slot_where_the_servers_look_for_it(
    cluster: ClusterServers, key: str
) -> None:
    with cluster.primaries[0].client() as client:
        assert client.execute_command("CLUSTER", "KEYSLOT", key) == slot_of(key)


async def test_every_primary_of_a_cluster_is_asked_and_heard(cluster: ClusterServers) -> None:
    keys = [f"aforo:v1:{{tenant-{number}}}:policy" for number in range(60)]
    async with following(cluster.url) as (nodes, heard):
        assert nodes.several
        for key in keys:
            assert await ask(nodes, "SET", key, "1") == b"OK"

        assert await nodes.ask_all([("GET", key) for key in keys], budget_s=BUDGET_S) == [b"1"] * 60
        await eventually(lambda: set(keys) <= set(heard.keys))
    for node in cluster.primaries:
        with node.client() as client:
            assert client.dbsize() > 0


async def test_a_key_that_moves_is_found_on_the_way_and_afterwards(cluster: ClusterServers) -> None:
    key = "{moving}:1"
    slot = slot_of(key)
    source = cluster.node_of(slot)
    target = next(node for node in cluster.primaries if node is not source)
    async with following(cluster.url) as (nodes, heard):
        await ask(nodes, "SET", key, "1")
        with move_slot(slot, source, target):
            assert await ask(nodes, "INCR", key) == 2  # ASK
        assert await ask(nodes, "INCR", key) == 3  # MOVED
        await eventually(lambda: heard.story[-1] == "connected")
        with target.client() as client:
            assert client.get(key) == b"3"
        with move_slot(slot, target, source):
            pass


async def test_a_primary_that_dies_is_missed_alone_and_its_replica_takes_over() -> None:
    with ClusterServers(replicas=True) as servers:
        async with following(servers.url) as (nodes, heard):
            keys = [f"{{tenant-{number}}}" for number in range(30)]
            for key in keys:
                await ask(nodes, "SET", key, "1")
            dying = servers.node_of(slot_of(keys[0]))
            living = [key for key in keys if servers.node_of(slot_of(key)) is not dying]
            with dying.client() as client:
                client.execute_command("WAIT", 1, 5000)
            dying.kill()
            await eventually(lambda: heard.story[-1] == "disconnected")

            with pytest.raises(RedisAnswerError):
                await nodes.ask(keys[0], "GET", keys[0], budget_s=BUDGET_S)
            assert await nodes.ask(living[0], "GET", living[0], budget_s=BUDGET_S) == b"1"

            servers.fail_over_soon()
            await eventually(lambda: nodes.connected)
            assert [await ask(nodes, "GET", key) for key in keys] == [b"1"] * len(keys)
