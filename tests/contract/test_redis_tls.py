"""A Redis that speaks TLS itself: whom our three clients believe, and what they say otherwise."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from aforo_meter import redis_client
from lab.redis_tls import RedisTls, redis_with_tls
from lab.redis_topologies import ClusterServers, Node, SentinelServers
from lab.servers import ROOT, ServerStartError, eventually
from tests.certificates import Authority, authority
from tests.contract.doctor_lab import doctor, document_of
from tests.contract.test_redis_clients import use
from tests.contract.test_redis_nodes import ask, following, why_refused
from tests.contract.test_sync_process import aforo_admin
from tests.e2e.authz_lab import fill, ready, running
from tests.missing import missing

pytestmark = [pytest.mark.contract, pytest.mark.slow]

EXAMPLE = ROOT / "catalog.example.yaml"
HERE = "IP:127.0.0.1"
Topology = Callable[..., ClusterServers | SentinelServers]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    try:
        redis_with_tls()
    except ServerStartError as error:
        missing(error)
    return authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("stranger"), "stranger")


def shown(
    by: Authority, name: str, host: str = HERE, *, days: int = 1, clients_prove: bool = False
) -> RedisTls:
    chain, key = by.certificate(name, host, days=days)
    return RedisTls(authority=by.chain, chain=chain, key=key, clients_prove=clients_prove)


@pytest.fixture(scope="module")
def server(ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node("redis", tmp_path_factory.mktemp("redis"), tls=shown(ours, "redis")) as node:
        yield node


def url_of(node: Node, authority: Path, more: str = "") -> str:
    return f"rediss://127.0.0.1:{node.port}/0?ssl_ca_certs={authority}{more}"


async def meter_uses(url: str) -> None:
    client = redis_client.connect(url, timeout_s=5.0, retry=Retry(NoBackoff(), 0))
    try:
        await use(client)
    finally:
        await client.aclose()


async def meter_refuses(url: str) -> str:
    with pytest.raises(RedisError) as refused:
        await meter_uses(url)
    return str(refused.value)


async def authz_uses(url: str) -> None:
    async with following(url) as (nodes, heard):
        assert await ask(nodes, "SET", "aforo:v1:tls", "1") == b"OK"
        await eventually(lambda: "aforo:v1:tls" in heard.keys)
        await ask(nodes, "UNLINK", "aforo:v1:tls")


async def assert_all_refuse(url: str, *words: str, or_else: str = "") -> None:
    """The clients of authz and of meter, and the command of an operator, say why.

    Args:
        url: Of the server.
        *words: What each says.
        or_else: What one may say instead. In TLS 1.3 a server refuses a client's certificate once
            the client has begun to talk: with its alert comes the end of the connection, which a
            client that is slow to read may hear of alone.
    """
    told = doctor(env={"AFORO_ADMIN_REDIS_URL": url}).stdout
    refused = await why_refused(url, *words, or_else=or_else)
    for text in (refused, await meter_refuses(url), " ".join(told.split())):
        told_why = all(word in text for word in words)
        assert told_why or (or_else and or_else in text), text
    assert "FAULT   redis" in told


async def test_a_server_whose_authority_is_known_is_used(server: Node, ours: Authority) -> None:
    url = url_of(server, ours.chain)
    await authz_uses(url)
    await meter_uses(url)


@pytest.mark.parametrize("topology", [SentinelServers, ClusterServers])
async def test_every_server_of_several_is_spoken_to_over_tls(
    topology: Topology, ours: Authority, stranger: Authority
) -> None:
    with topology(tls=shown(ours, topology.__name__)) as servers:
        await authz_uses(servers.url)
        await meter_uses(servers.url)

        unknown = servers.url.replace(str(ours.chain), str(stranger.chain))
        await assert_all_refuse(unknown, "CERTIFICATE_VERIFY_FAILED", "self-signed")


async def test_a_server_of_an_unknown_authority_is_refused(
    server: Node, stranger: Authority
) -> None:
    unknown = url_of(server, stranger.chain)
    await assert_all_refuse(unknown, "CERTIFICATE_VERIFY_FAILED", "self-signed")


@pytest.mark.parametrize(
    ("host", "days", "told"),
    [("DNS:redis.example", 1, "IP address mismatch"), (HERE, -1, "certificate has expired")],
    ids=["another-host", "expired"],
)
async def test_a_certificate_of_another_host_or_of_the_past_is_refused(
    host: str, days: int, told: str, ours: Authority, tmp_path: Path
) -> None:
    tls = shown(ours, told.replace(" ", "-"), host, days=days)
    with Node("redis", tmp_path, tls=tls) as node:
        await assert_all_refuse(url_of(node, ours.chain), "CERTIFICATE_VERIFY_FAILED", told)


async def test_who_must_prove_who_it_is_is_let_in_by_a_certificate_of_the_authority_alone(
    ours: Authority, stranger: Authority, tmp_path: Path
) -> None:
    def proof(by: Authority) -> str:
        chain, key = by.certificate("client", "DNS:aforo")
        return f"&ssl_certfile={chain}&ssl_keyfile={key}"

    with Node("redis", tmp_path, tls=shown(ours, "strict", clients_prove=True)) as node:
        for use_it in (authz_uses, meter_uses):
            await use_it(url_of(node, ours.chain, proof(ours)))

        for url, word in (
            (url_of(node, ours.chain), "certificate required"),
            (url_of(node, ours.chain, proof(stranger)), "unknown ca"),
        ):
            await assert_all_refuse(url, word, or_else="reset by peer")


async def test_tls_where_there_is_none_and_none_where_there_is_are_told(
    server: Node, ours: Authority, tmp_path: Path
) -> None:
    await assert_all_refuse(f"redis://127.0.0.1:{server.port}/0", "reset by peer")
    with Node("clear", tmp_path) as clear:
        url = url_of(clear, ours.chain)
        assert await why_refused(url) == f"127.0.0.1:{clear.port} was not reached by TLS within 1 s"
        told = doctor("--timeout-s", "3", env={"AFORO_ADMIN_REDIS_URL": url}).stdout
        assert "rediss… to TLS, redis… without" in " ".join(told.split())


async def test_sync_writes_and_authz_decides_through_tls(server: Node, ours: Authority) -> None:
    url = url_of(server, ours.chain)
    env = {"AFORO_ADMIN_REDIS_URL": url, "AFORO_ADMIN_CATALOG": str(EXAMPLE)}
    done = aforo_admin("sync", "--once", env=env)
    assert done.returncode == 0, done.stderr
    assert document_of(doctor("--json", env={"AFORO_ADMIN_REDIS_URL": url}))["worst"] != "fault"

    fill(url)
    with running(url) as (_, client):
        await ready(client)
        await eventually(lambda: client.reason() == "allowed")
