"""Redis becomes equal to the catalog and stays so; what belongs to others is left alone."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aforo_admin import show
from aforo_admin.catalog_yaml import read_file, read_text
from aforo_admin.differences import report
from aforo_admin.read_model import SYNC_KEY, ReadModel, build
from aforo_admin.sync import KEYS_PER_COMMAND, apply, compare, mark_complete
from aforo_meter import redis_client
from aforo_proto.margin_pb2 import LEVEL_WARN, MARGIN_STATE_DEFINED, ConsumeState, Margin
from aforo_proto.policy_pb2 import SyncState
from lab.redis_topologies import ClusterServers

pytestmark = pytest.mark.contract

EXAMPLE = Path(__file__).resolve().parents[2] / "catalog.example.yaml"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OTHERS = {
    b"aforo:v1:{acme}:margin": b"m",
    b"aforo:v1:consumed:0": b"c",
    b"aforo:v1:published": b"1",
    b"aforo:v1:of-the-future": b"x",
    b"aforo:quota:v1:{gone}:calls:1": b"7",
    b"else": b"y",
}


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture(scope="module")
def model() -> ReadModel:
    return build(read_file(EXAMPLE), NOW)


async def make_equal(redis: Redis, model: ReadModel) -> int:
    differences = await compare(redis, model)
    await apply(redis, model, differences)
    await mark_complete(redis, model, NOW)
    return len(differences)


async def dump(redis: Redis) -> dict[bytes, bytes]:
    held: dict[bytes, bytes] = {}
    async for key in redis.scan_iter():
        value = await redis.get(key)
        assert isinstance(value, bytes)
        held[key] = value
    return held


async def test_an_empty_redis_is_filled_with_the_whole_model(
    redis: Redis, model: ReadModel
) -> None:
    assert await make_equal(redis, model) == len(model.keys)

    held = await dump(redis)
    state = SyncState.FromString(held.pop(SYNC_KEY))
    assert held == {**model.basis, **model.credentials}
    assert (state.catalog_version, state.tenants) == (model.version, 4)


async def test_a_second_pass_writes_nothing_but_its_mark(redis: Redis, model: ReadModel) -> None:
    await make_equal(redis, model)

    assert await make_equal(redis, model) == 0


async def test_drift_is_repaired(redis: Redis, model: ReadModel) -> None:
    await make_equal(redis, model)
    await redis.set("aforo:v1:{acme}:policy", b"not what it was")
    await redis.delete("aforo:v1:{globex}:contract")
    await redis.delete("aforo:v1:routes")
    await redis.hset("aforo:v1:routes", "another", "type")

    assert await make_equal(redis, model) == 3
    assert await redis.get("aforo:v1:{acme}:policy") == model.basis[b"aforo:v1:{acme}:policy"]
    assert await redis.get("aforo:v1:routes") == model.basis[b"aforo:v1:routes"]


async def test_what_is_gone_is_removed_and_what_is_others_stays(
    redis: Redis, model: ReadModel
) -> None:
    await make_equal(redis, model)
    await redis.mset(OTHERS)
    await redis.mset({b"aforo:v1:{initech}:margin": b"m", b"aforo:v1:cred:" + b"0" * 64: b"z"})
    text = EXAMPLE.read_text()
    start, end = text.index("  initech:"), text.index("# What usage costs us.")
    smaller = build(read_text((text[:start] + text[end:]).encode(), name="c"), NOW)

    await make_equal(redis, smaller)

    held = await dump(redis)
    assert held.items() >= OTHERS.items()
    assert set(held) == smaller.keys | set(OTHERS) | {SYNC_KEY}


@pytest.mark.slow
async def test_a_cluster_is_made_equal_like_one_server(model: ReadModel) -> None:
    with ClusterServers() as servers:
        client = redis_client.connect(servers.url, timeout_s=5.0, retry=Retry(NoBackoff(), 0))
        try:
            looks = 0

            async def look() -> None:
                nonlocal looks
                looks += 1

            await make_equal(client, model)
            assert await make_equal(client, model) == 0
            await client.delete("aforo:v1:{globex}:contract")
            gone = {b"aforo:v1:{t%d}:policy" % number: b"p" for number in range(KEYS_PER_COMMAND)}
            await client.mset(gone)
            differences = await compare(client, model, between=look)
            assert set(differences.gone) == set(gone)
            assert list(differences.stale) == [b"aforo:v1:{globex}:contract"]
            assert looks > 2, "while it scans it looks for changes, too"
            await make_equal(client, model)
            assert set(await dump(client)) == {*model.keys, SYNC_KEY}
        finally:
            await client.aclose()


async def test_credentials_come_after_their_policies_and_go_before_them(
    redis: Redis, model: ReadModel
) -> None:
    """Watched through MONITOR, so that no reader could ever have seen another order."""
    empty = replace(model, basis={}, credentials={}, tenants={})
    async with redis.monitor() as monitor:
        await make_equal(redis, model)
        await make_equal(redis, empty)
        await redis.ping()
        commands = []
        async for seen in monitor.listen():
            if seen["command"] == "PING":
                break
            commands.append(seen["command"])

    writes = [command for command in commands if command.startswith(("MSET", "UNLINK", "SET"))]
    kinds = [
        (
            write.split(" ", 1)[0],
            "aforo:v1:cred:" in write,
            ":policy" in write,
        )
        for write in writes
    ]
    assert kinds == [
        ("MSET", False, True),
        ("MSET", True, False),
        ("SET", False, False),
        ("UNLINK", True, False),
        ("UNLINK", False, True),
        ("SET", False, False),
    ]


async def test_more_keys_than_fit_into_one_command_are_compared_and_written(redis: Redis) -> None:
    tenants = "".join(
        f"  t{n}:\n    subscription: {{id: s{n}, plan: p, started_at: 2026-01-01}}\n"
        for n in range(KEYS_PER_COMMAND)
    )
    text = "version: 1\ncurrency: USD\nplans: {p: {committed_fee: 1, features: []}}\n"
    many = build(read_text((text + "tenants:\n" + tenants).encode(), name="c"), NOW)
    few = build(read_text(text.encode(), name="c"), NOW)

    assert await make_equal(redis, many) == 2 * KEYS_PER_COMMAND + 3
    assert await make_equal(redis, many) == 0
    assert await make_equal(redis, few) == 2 * KEYS_PER_COMMAND  # Nothing else says another thing.


async def test_a_dry_run_tells_everything_and_writes_nothing(
    redis: Redis, model: ReadModel
) -> None:
    await make_equal(redis, model)
    before = await dump(redis)
    text = EXAMPLE.read_text().replace("committed_fee: 500 USD", "committed_fee: 800 USD")
    edited = build(read_text(text.encode(), name="c"), NOW)

    told = report(edited, await compare(redis, edited, with_gone_values=True))

    assert told.lines == [
        "~ tenant globex",
        "    contract.committed_fee: 500 USD → 800 USD",
        (
            "    contract.phases[2026-03-31 00:00:00Z]: "
            "500 USD a period (plan:pro) → 800 USD a period (plan:pro)"
        ),
    ]
    assert told.only_version == 1  # Of that tenant's policy: the two have one version.
    assert await dump(redis) == before


async def test_a_tenant_is_shown_with_its_margin_and_how_old_it_is(
    redis: Redis, model: ReadModel
) -> None:
    await make_equal(redis, model)
    margin = Margin(
        tenant_id="acme",
        level=LEVEL_WARN,
        state=MARGIN_STATE_DEFINED,
        revenue_nanos=100 * 10**9,
        cogs_nanos=81_660_000_000,
        currency="USD",
        as_of_micros=int(NOW.timestamp()) * 10**6 - 90_000_000,
        partition=2,
    )
    confirmed = ConsumeState(as_of_micros=int(NOW.timestamp()) * 10**6 - 1_000_000)
    await redis.set("aforo:v1:{acme}:margin", margin.SerializeToString())
    await redis.set("aforo:v1:consumed:2", confirmed.SerializeToString())

    text = await show.tenant_text(redis, "acme", NOW)

    lines = {
        line.split("  ")[1]: line.split("  ")[-1].strip()
        for line in text.splitlines()
        if "  " in line
    }
    assert lines["gross_margin_ratio"] == "0.1834"
    assert lines["cogs"] == "81.66 USD"
    assert lines["level"] == "warn"
    assert lines["committed_fee"] == "36,000 USD"
    assert lines["margin worked out"] == "1 min 30 s ago"
    assert lines["usage complete as of"] == "1 s ago"
    assert lines["last complete sync"].startswith("0 s ago")


async def test_a_tenant_that_is_partly_there_is_shown_as_that(redis: Redis) -> None:
    await redis.set("aforo:v1:{acme}:policy", b"\xff\xff")

    text = await show.tenant_text(redis, "acme", NOW)

    assert "unreadable: its writer may be newer" in text
    assert text.count("not in Redis") == 2
    assert "none: Redis was emptied, or sync has not run" in text
    with pytest.raises(show.UnknownTenantError, match="holds nothing of a tenant 'nobody'"):
        await show.tenant_text(redis, "nobody", NOW)
