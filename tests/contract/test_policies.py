"""What is known of a caller: one body for memory and for the near-cache over a real Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import pytest

from aforo_authz.cache_readings import CacheReadings
from aforo_authz.domain.access import (
    Credential,
    CredentialKind,
    Known,
    Level,
    Margin,
    Policy,
    SubscriptionState,
)
from aforo_authz.domain.features import Rule, Rules
from aforo_authz.metrics import Metrics
from aforo_authz.policies import (
    STRANGER,
    InMemoryPolicies,
    Policies,
    PoliciesUnavailableError,
)
from aforo_authz.policies_redis import NearCache
from lab.servers import HANG_S, RedisServer, eventually
from tests.authz_redis import PARTITION, ReadModel, nodes_at, presented
from tests.authz_samples import NOW, make_credential, make_margin, make_policy, make_quota
from tests.contract.tcp_proxy import TcpProxy

pytestmark = pytest.mark.contract

KEY = "key-of-acme"
BUDGET_S = 20.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a Redis that is slow: on shared cores it may be, and no test here is about that."""
    monkeypatch.setattr("aforo_authz.policies_redis.READ_S_MAX", HANG_S)


async def find(
    policies: Policies, key: str = KEY, kind: CredentialKind = CredentialKind.API_KEY
) -> Known:
    found = policies.find(presented(key, kind), BUDGET_S)
    return found if isinstance(found, Known) else await found


async def becomes(policies: Policies, probe: Callable[[Known], bool], key: str = KEY) -> Known:
    """Look until the caller is as expected; the last answer is returned."""
    async with asyncio.timeout(HANG_S):
        while not probe(found := await find(policies, key)):  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.005)
    return found


# One body, both adapters


class Filled(Protocol):
    """Makes an adapter that knows one tenant, acme, with a credential."""

    async def __call__(
        self,
        *,
        credential: Credential = ...,
        policy: Policy | None = ...,
        margin: Margin | None = ...,
        rules: Mapping[str, str] = ...,
    ) -> Policies: ...


@pytest.fixture(params=["memory", "near cache"])
async def filled(request: pytest.FixtureRequest) -> AsyncIterator[Filled]:
    async with contextlib.AsyncExitStack() as stack:

        async def fill(
            *,
            credential: Credential = make_credential(),  # noqa: B008 - frozen
            policy: Policy | None = make_policy(),  # noqa: B008 - frozen
            margin: Margin | None = None,
            rules: Mapping[str, str] = {},
        ) -> Policies:
            listed = [
                Rule(methods=frozenset(), path_template=path, features=(feature,))
                for path, feature in rules.items()
            ]
            if request.param == "memory":
                return InMemoryPolicies(
                    credentials={presented(KEY).sha256_hex: credential},
                    policies={policy.tenant_id: policy} if policy else {},
                    margins={"acme": margin} if margin else {},
                    rules=Rules(listed),
                )
            model = ReadModel(request.getfixturevalue("redis_url"))
            stack.callback(model.close)
            model.put_credential(KEY, credential)
            model.put_rules(listed)
            if policy is not None:
                model.put_policy(policy)
            if margin is not None:
                model.put_margin("acme", margin)
            model.complete_sync()
            return await stack.enter_async_context(near_cache(model))

        yield fill


async def test_a_known_caller_is_found_with_all_that_is_known(filled: Filled) -> None:
    policy = make_policy(make_quota(), override=(Level.WARN, NOW + 5), shadow=True)
    margin = make_margin(Level.THROTTLE, used={"calls": (60, 7)})

    found = await find(await filled(policy=policy, margin=margin))

    assert found.presented
    assert found.credential == make_credential()
    assert found.policy is not None
    assert replace(found.policy, catalog_version="v7") == policy
    assert found.margin is not None
    assert replace(found.margin, partition=0) == margin
    assert not found.stale


async def test_an_unknown_credential_is_a_stranger(filled: Filled) -> None:
    policies = await filled()

    assert await find(policies, "another key") == STRANGER
    assert await find(policies, "another key") == STRANGER


@pytest.mark.parametrize("kind", [CredentialKind.JWT_SUBJECT, CredentialKind.CERTIFICATE])
async def test_a_credential_of_another_kind_is_a_stranger(
    filled: Filled, kind: CredentialKind
) -> None:
    policies = await filled()

    assert await find(policies, KEY, kind) == STRANGER
    assert (await find(policies, KEY)).credential is not None


async def test_a_tenant_without_policy_or_margin_has_none(filled: Filled) -> None:
    found = await find(await filled(policy=None))

    assert found.credential == make_credential()
    assert found.policy is None
    assert found.margin is None


async def test_a_revoked_credential_is_found_as_such(filled: Filled) -> None:
    found = await find(await filled(credential=make_credential(revoked=True)))

    assert found.credential is not None
    assert found.credential.revoked


async def test_rules_are_the_catalogs(filled: Filled) -> None:
    policies = await filled(rules={"/v1/chat": "chat"})

    assert policies.ready
    assert policies.rules.needs_of(method="GET", path="/v1/chat").features == ("chat",)
    assert not policies.rules.needs_of(method="GET", path="/other").known


# The near-cache alone


@contextlib.asynccontextmanager
async def near_cache(
    model: ReadModel,
    *,
    through: int | None = None,
    ready: bool = True,
    entries_max: int = 1000,
    strangers_max: int = 1000,
) -> AsyncIterator[NearCache]:
    """Run a near-cache over the model's Redis, perhaps by another port."""
    port = through or model.redis.get_connection_kwargs()["port"]
    nodes = nodes_at(port)
    cache = NearCache(nodes, entries_max=entries_max, strangers_max=strangers_max)
    running = asyncio.ensure_future(cache.run())
    try:
        await eventually(lambda: nodes.connected)
        if ready:
            await eventually(lambda: cache.ready and not cache.stale)
        yield cache
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=HANG_S)
        assert running.cancelled()


@pytest.fixture
def model(redis_url: str) -> Iterator[ReadModel]:
    model = ReadModel(redis_url)
    model.put_credential(KEY, make_credential())
    model.put_policy(make_policy())
    model.complete_sync()
    yield model
    model.close()


@pytest.fixture
async def cache(model: ReadModel) -> AsyncIterator[NearCache]:
    async with near_cache(model) as cache:
        yield cache


async def test_nothing_is_decided_before_a_complete_sync_was_seen(redis_url: str) -> None:
    model = ReadModel(redis_url)
    async with near_cache(model, ready=False) as cache:
        with pytest.raises(PoliciesUnavailableError, match="is aforo-admin sync running"):
            await find(cache)
        assert not cache.ready

        model.complete_sync()

        await eventually(lambda: cache.ready)
        assert await find(cache) == STRANGER
    model.close()


async def test_who_is_remembered_is_answered_at_once(cache: NearCache) -> None:
    await find(cache)

    assert isinstance(cache.find(presented(KEY), BUDGET_S), Known)
    assert (cache.counts.hits, cache.counts.misses) == (1, 1)


async def test_changes_are_heard_of(model: ReadModel, cache: NearCache) -> None:
    await find(cache)

    model.put_policy(make_policy(state=SubscriptionState.PAUSED))
    await becomes(cache, lambda k: k.policy is not None and k.policy.state == "paused")
    model.put_margin("acme", make_margin(Level.BLOCK))
    await becomes(cache, lambda k: k.margin is not None and k.margin.level is Level.BLOCK)
    model.put_consumed(NOW)
    await becomes(cache, lambda k: k.margin_confirmed_micros == NOW)
    model.put_credential(KEY, make_credential(revoked=True))
    await becomes(cache, lambda k: k.credential is not None and k.credential.revoked)
    model.put_rules([Rule(methods=frozenset(), path_template="/a", features=("f",))])
    await eventually(lambda: cache.rules.needs_of(method="GET", path="/a").features == ("f",))


async def test_the_age_of_the_policies_is_known_though_sync_is_away(
    model: ReadModel, cache: NearCache
) -> None:
    await find(cache)
    model.complete_sync(at_micros=NOW)
    await eventually(lambda: cache.synced_micros == NOW)

    counters = Metrics()
    counters.watch(CacheReadings(cache))
    shown = counters.registry.get_sample_value("aforo_authz_synced_timestamp_seconds")
    assert shown == NOW / 1_000_000

    model.redis.flushall()
    await becomes(cache, lambda k: k.stale)
    assert cache.synced_micros == NOW


async def test_what_is_removed_is_gone(model: ReadModel, cache: NearCache) -> None:
    await find(cache)

    model.redis.delete("aforo:v1:{acme}:policy")
    await becomes(cache, lambda k: k.policy is None)
    model.redis.delete(f"aforo:v1:cred:{presented(KEY).sha256_hex}")
    await becomes(cache, lambda k: k == STRANGER)


async def test_a_stranger_who_gets_a_credential_is_known(
    model: ReadModel, cache: NearCache
) -> None:
    assert await find(cache, "new") == STRANGER
    assert isinstance(cache.find(presented("new"), BUDGET_S), Known)

    model.put_credential("new", make_credential())

    await becomes(cache, lambda k: k.credential is not None, "new")


async def test_a_key_is_read_once_however_many_wait_for_it(
    model: ReadModel, cache: NearCache
) -> None:
    model.redis.config_resetstat()

    found = await asyncio.gather(*(find(cache) for _ in range(100)))

    assert all(each == found[0] for each in found)
    # Sync's mark, credential, policy and margin, all by one script.
    assert model.redis.info("commandstats")["cmdstat_get"]["calls"] == 4


async def test_a_redis_that_forgot_the_script_of_whole_callers_is_taught_it_again(
    model: ReadModel, cache: NearCache
) -> None:
    model.put_credential("second", make_credential())
    model.put_credential("third", make_credential())
    await find(cache)
    model.redis.script_flush()

    assert (await find(cache, "second")).credential == make_credential()
    assert (await find(cache, "third")).credential == make_credential()


async def test_a_policy_that_changes_while_its_caller_is_read_is_read_again(
    model: ReadModel, redis_server: RedisServer
) -> None:
    async with (
        TcpProxy(redis_server.port).serving() as proxy,
        near_cache(model, through=proxy.port) as cache,
    ):
        proxy.hold_answers()
        finding = asyncio.ensure_future(find(cache))
        await answered_a_look_up(model)
        model.put_policy(make_policy(state=SubscriptionState.PAUSED))
        model.put_margin("acme", make_margin(Level.BLOCK))
        await asyncio.sleep(0.05)  # Time for the news to get behind the answer that is held.
        proxy.let_go()
        await finding

        found = await becomes(cache, lambda k: k.policy is not None and k.policy.state == "paused")
        found = await becomes(cache, lambda k: k.margin is not None)
        assert found.margin is not None
        assert found.margin.level is Level.BLOCK


async def test_guessed_keys_push_no_tenant_out(model: ReadModel) -> None:
    async with near_cache(model, entries_max=100, strangers_max=10) as cache:
        await find(cache)
        for number in range(150):
            assert await find(cache, f"guess-{number}") == STRANGER
        model.redis.config_resetstat()

        assert isinstance(cache.find(presented(KEY), BUDGET_S), Known)
        assert len(cache.remembered.strangers) == 10


async def test_the_least_recently_used_are_forgotten_first(model: ReadModel) -> None:
    for number in range(60):
        model.put_credential(f"key-{number}", make_credential(tenant_id=f"tenant-{number}"))
    async with near_cache(model, entries_max=100) as cache:
        for number in range(60):
            await find(cache, f"key-{number}")

        assert len(cache.remembered.entries) == 100
        assert isinstance(cache.find(presented("key-59"), BUDGET_S), Known)
        assert not isinstance(forgotten := cache.find(presented("key-0"), BUDGET_S), Known)
        assert (await forgotten).credential == make_credential(tenant_id="tenant-0")


# Bad values


DAMAGES: list[Callable[[Any], object]] = [
    lambda client: client.set("aforo:v1:{acme}:policy", b"\xff\xff\xff"),
    lambda client: client.set("aforo:v1:{acme}:policy", b""),
    lambda client: client.set("aforo:v1:{acme}:policy", b"\x20\x63"),
    lambda client: client.eval(
        "redis.call('DEL', KEYS[1]) return redis.call('HSET', KEYS[1], 'a', 'b')",
        1,
        "aforo:v1:{acme}:policy",
    ),
]
DAMAGE_IDS = ["garbage", "empty", "state of the future", "another type"]


@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGE_IDS)
async def test_what_cannot_be_read_leaves_the_last_value_and_stops_nothing(
    model: ReadModel, cache: NearCache, damage: Callable[[object], object]
) -> None:
    before = await find(cache)

    damage(model.redis)

    await eventually(lambda: cache.counts.unreadable)
    assert await find(cache) == before
    model.put_margin("acme", make_margin(Level.WARN))
    await becomes(cache, lambda k: k.margin is not None)
    model.put_policy(make_policy(state=SubscriptionState.PAUSED))
    await becomes(cache, lambda k: k.policy is not None and k.policy.state == "paused")
    assert not cache.stale


@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGE_IDS)
async def test_a_value_that_was_never_readable_is_an_outage_of_that_tenant(
    model: ReadModel, cache: NearCache, damage: Callable[[object], object]
) -> None:
    damage(model.redis)

    with pytest.raises(PoliciesUnavailableError, match=r"cannot read aforo:v1:\{acme\}:policy"):
        await find(cache)
    assert await find(cache, "nobody's") == STRANGER


async def test_keys_that_nobody_knows_disturb_nothing(model: ReadModel, cache: NearCache) -> None:
    await find(cache)

    model.redis.set(b"aforo:v1:\xff\xfe", b"x")
    model.redis.set("aforo:v1:something:else", b"x")
    model.put_policy(make_policy(state=SubscriptionState.PAUSED))

    await becomes(cache, lambda k: k.policy is not None and k.policy.state == "paused")
    assert not cache.stale


async def test_what_redis_refused_to_tell_is_asked_for_again(
    model: ReadModel, cache: NearCache
) -> None:
    """As a cluster that is down in part refuses some keys, and an operator's mistake does."""
    before = await find(cache)
    port = model.redis.get_connection_kwargs()["port"]
    model.redis.acl_setuser("sync", enabled=True, nopass=True, keys=["*"], commands=["+@all"])
    writer = ReadModel(f"redis://sync:@127.0.0.1:{port}/0")
    let_read = partial(writer.redis.acl_setuser, "default", enabled=True, reset_keys=True)
    try:
        let_read(keys=["aforo:v1:sync"])
        writer.put_policy(make_policy(state=SubscriptionState.PAUSED))

        assert await becomes(cache, lambda k: k.stale) == replace(before, stale=True)
        with pytest.raises(PoliciesUnavailableError):
            await find(cache, "another")
    finally:
        let_read(keys=["*"])
    found = await becomes(cache, lambda k: not k.stale)
    assert found.policy is not None
    assert found.policy.state == "paused"
    assert cache.counts.unreadable == 0
    writer.close()
    model.redis.acl_deluser("sync")


# Redis emptied


async def test_in_an_emptied_redis_the_last_known_serves_and_nobody_is_a_stranger(
    model: ReadModel, cache: NearCache
) -> None:
    before = await find(cache)
    assert await find(cache, "stranger") == STRANGER

    model.redis.flushall()

    after = await becomes(cache, lambda k: k.stale)
    assert after == replace(before, stale=True)
    with pytest.raises(PoliciesUnavailableError):
        await find(cache, "stranger")
    with pytest.raises(PoliciesUnavailableError):
        await find(cache, "another")
    assert cache.ready


async def test_after_the_next_sync_what_was_not_written_again_is_gone(
    model: ReadModel, cache: NearCache
) -> None:
    model.put_credential("old", make_credential(tenant_id="gone"))
    await find(cache)
    await find(cache, "old")
    model.redis.flushall()
    await becomes(cache, lambda k: k.stale)

    model.put_credential(KEY, make_credential())
    model.put_policy(make_policy(shadow=True))
    half_way = await becomes(cache, lambda k: k.policy is not None and k.policy.shadow)
    assert half_way.stale
    assert (await find(cache, "old")).credential is not None
    model.complete_sync()

    await becomes(cache, lambda k: not k.stale)
    await becomes(cache, lambda k: k == STRANGER, "old")


async def test_a_margin_holds_until_its_own_consumer_has_published_it_again(
    model: ReadModel, cache: NearCache
) -> None:
    model.put_margin("acme", make_margin(Level.BLOCK))
    model.put_consumed(NOW)
    await find(cache)
    model.redis.flushall()
    model.put_credential(KEY, make_credential())
    model.put_policy(make_policy(shadow=True))
    model.complete_sync()

    after_sync = await becomes(
        cache, lambda k: not k.stale and k.policy is not None and k.policy.shadow
    )
    assert after_sync.margin is not None
    assert after_sync.margin.level is Level.BLOCK

    # Of several consumers, another one is done with its partitions.
    model.redis.set("aforo:v1:published", b"1")
    model.put_margin("globex", make_margin(Level.NONE), partition=PARTITION + 1)
    model.put_policy(make_policy(shadow=False))
    meanwhile = await becomes(cache, lambda k: k.policy is not None and not k.policy.shadow)
    assert meanwhile.margin == after_sync.margin
    assert meanwhile.margin_confirmed_micros == NOW

    model.put_margin("acme", make_margin(Level.WARN))
    await becomes(cache, lambda k: k.margin is not None and k.margin.level is Level.WARN)


# Redis away


async def test_with_redis_away_the_last_known_serves_and_comes_current_by_itself() -> None:
    with RedisServer() as server:
        model = ReadModel(server.url)
        model.put_credential(KEY, make_credential())
        model.put_policy(make_policy())
        model.complete_sync()
        async with near_cache(model) as cache:
            before = await find(cache)
            server.kill()

            assert await becomes(cache, lambda k: k.stale) == replace(before, stale=True)
            with pytest.raises(PoliciesUnavailableError, match="nothing is remembered"):
                await find(cache, "another")

            server.start()
            model.put_credential(KEY, make_credential())
            model.put_policy(make_policy(state=SubscriptionState.PAUSED))
            model.complete_sync()
            await becomes(cache, lambda k: not k.stale and k.policy is not None)
            await becomes(cache, lambda k: k.policy is not None and k.policy.state == "paused")
            assert await find(cache, "another") == STRANGER
        model.close()


async def test_a_frozen_redis_costs_no_more_than_the_budget() -> None:
    with RedisServer() as server:
        model = ReadModel(server.url)
        model.put_credential(KEY, make_credential())
        model.put_policy(make_policy())
        model.complete_sync()
        async with near_cache(model) as cache:
            await find(cache)
            server.freeze()

            async with asyncio.timeout(2.5):
                for number in range(3):
                    with pytest.raises(PoliciesUnavailableError):
                        await cache.find(presented(f"another-{number}"), 0.05)  # type: ignore[misc]
            assert isinstance(cache.find(presented(KEY), 0.05), Known)
            await eventually(lambda: cache.stale)
            server.thaw()

            await eventually(lambda: not cache.stale)
            assert await find(cache, "another-0") == STRANGER
        model.close()


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(redis_server.port).serving() as proxy:
        yield proxy


async def test_a_read_that_failed_is_made_up_for(model: ReadModel, proxy: TcpProxy) -> None:
    """The connection that tells of changes lives all the time: it will not make anyone look."""
    async with near_cache(model, through=proxy.port) as cache:
        await find(cache)
        proxy.cut_lines()
        model.put_policy(make_policy(state=SubscriptionState.PAUSED))
        await becomes(cache, lambda k: k.stale)
        proxy.mend_lines()

        found = await becomes(cache, lambda k: not k.stale)
        assert found.policy is not None
        assert found.policy.state == "paused"


async def test_while_redis_is_cut_off_nobody_is_a_stranger(
    model: ReadModel, proxy: TcpProxy
) -> None:
    async with near_cache(model, through=proxy.port) as cache:
        assert await find(cache, "new") == STRANGER
        proxy.cut_lines()
        await eventually(lambda: cache.stale)
        with pytest.raises(PoliciesUnavailableError):
            await find(cache, "new")

        model.put_credential("new", make_credential())
        proxy.mend_lines()
        await eventually(lambda: not cache.stale)

        assert (await find(cache, "new")).credential == make_credential()


async def test_a_change_during_a_read_is_not_lost(model: ReadModel, proxy: TcpProxy) -> None:
    async with near_cache(model, through=proxy.port) as cache:
        proxy.hold_answers()
        finding = asyncio.ensure_future(find(cache, "new"))
        await answered_a_look_up(model)
        model.put_credential("new", make_credential())
        await asyncio.sleep(0.05)  # Time for a newer answer to overtake the one that is held.
        proxy.let_go()
        await finding

        await becomes(cache, lambda k: k.credential is not None, "new")


async def test_a_change_of_what_is_forgotten_during_its_reload_is_not_lost(
    model: ReadModel, proxy: TcpProxy
) -> None:
    async with near_cache(model, through=proxy.port, entries_max=10) as cache:
        await find(cache)
        hear = cache.on_changed

        def hear_and_hold(keys: list[str] | None) -> None:
            proxy.hold_answers()
            hear(keys)

        cache.on_changed = hear_and_hold  # type: ignore[method-assign]
        before = reads_of(model)
        model.put_policy(make_policy(state=SubscriptionState.PAUSED))
        await eventually(lambda: reads_of(model) >= before + 3)
        for number in range(10):
            cache.remembered.put(f"aforo:v1:{{other-{number}}}:policy", None)
        model.put_policy(make_policy(state=SubscriptionState.EXPIRED))
        await asyncio.sleep(0.05)  # Time for the news to get behind the answer that is held.
        cache.on_changed = hear  # type: ignore[method-assign]
        proxy.let_go()

        await becomes(cache, lambda k: k.policy is not None and k.policy.state == "expired")


async def test_a_read_ends_with_its_connection_and_not_with_its_budget(
    model: ReadModel, proxy: TcpProxy
) -> None:
    async with near_cache(model, through=proxy.port) as cache:
        proxy.hold_answers()
        finding = asyncio.ensure_future(find(cache))
        await answered_a_look_up(model)
        model.put_credential(KEY, make_credential(revoked=True))
        proxy.cut_lines()

        async with asyncio.timeout(BUDGET_S / 2):
            with pytest.raises(PoliciesUnavailableError):
                await finding
        proxy.mend_lines()
        await eventually(lambda: not cache.stale)
        found = await find(cache)
        assert found.credential is not None
        assert found.credential.revoked


async def test_who_gives_up_leaves_the_reading_to_the_others(
    model: ReadModel, proxy: TcpProxy
) -> None:
    async with near_cache(model, through=proxy.port) as cache:
        proxy.hold_answers()
        patient = asyncio.ensure_future(find(cache))
        gone = asyncio.ensure_future(find(cache))
        await answered_a_look_up(model)
        gone.cancel()
        with pytest.raises(PoliciesUnavailableError, match="did not answer in time"):
            await cache.find(presented(KEY), 0.02)  # type: ignore[misc]
        assert not patient.done()
        proxy.let_go()

        assert (await patient).credential == make_credential()
        assert cache.counts.misses == 3


async def answered_a_look_up(model: ReadModel) -> None:
    """Wait until Redis has answered another read, held back or not."""
    before = reads_of(model)
    await eventually(lambda: reads_of(model) > before)


def reads_of(model: ReadModel) -> int:
    return int(model.redis.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"])


@pytest.mark.parametrize("entries_max", [1000, 100, 30])
async def test_in_the_end_the_cache_equals_redis(model: ReadModel, entries_max: int) -> None:
    """Readers all the time, a writer all the time; afterwards what was written last is known.

    Also where there is no room for all, so that what changes may have been forgotten meanwhile.
    """
    async with near_cache(model, entries_max=entries_max) as cache:
        await read_and_write(model, cache)


async def read_and_write(model: ReadModel, cache: NearCache) -> None:
    reading = True

    async def read() -> None:
        while reading:
            await asyncio.gather(*(find(cache, f"key-{n}") for n in range(20)))
            await asyncio.sleep(0)

    readers = [asyncio.ensure_future(read()) for _ in range(4)]
    for turn in range(30):
        for number in range(20):
            tenant_id = f"tenant-{number}"
            model.put_credential(f"key-{number}", make_credential(tenant_id=tenant_id))
            model.put_policy(make_policy(make_quota(limit_units=turn), tenant_id=tenant_id))
        await asyncio.sleep(0.001)
    reading = False
    await asyncio.gather(*readers)

    for number in range(20):
        await becomes(
            cache,
            lambda k: k.policy is not None and k.policy.quotas[0].limit_units == 29,
            f"key-{number}",
        )
