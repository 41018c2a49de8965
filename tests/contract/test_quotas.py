"""Counting calls: one body for memory and for a real Redis, and what only Redis can do."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace

import pytest
import redis

from aforo_authz.domain.quotas import Quota, Reservation, Standing, Window
from aforo_authz.quotas import InMemoryQuotas, Quotas, QuotasUnavailableError
from aforo_authz.quotas_redis import EXPIRES_AFTER_S, RedisQuotas
from aforo_authz.read_model import counter_key
from lab.servers import RedisServer, eventually
from tests.authz_redis import nodes_at
from tests.authz_samples import make_quota
from tests.contract.tcp_proxy import TcpProxy

pytestmark = pytest.mark.contract

BUDGET_S = 5.0
START_S = int(time.time())
# Counters expire by Redis' own clock: no run of the tests may reach the end of the window.
WINDOW = Window(start_s=START_S, end_s=START_S + 86_400)


def wish(
    quota: Quota | None = None,
    *,
    units: int = 1,
    seed_units: int = 0,
    enforced: bool = True,
    window: Window = WINDOW,
) -> Reservation:
    quota = quota or make_quota(limit_units=3)
    return Reservation(
        quota=quota,
        window=window,
        units=units,
        seed_units=seed_units,
        enforced=enforced and not quota.soft,
    )


async def reserve(
    quotas: Quotas, *wishes: Reservation, tenant_id: str = "acme"
) -> tuple[Standing, ...]:
    return await quotas.reserve(tenant_id, wishes or (wish(),), BUDGET_S)


def allowed(standings: Sequence[Standing]) -> bool:
    """Did the call pass, by what the decision makes of it?"""
    return not any(s.exceeded and not s.quota.soft for s in standings)


async def used(quotas: Quotas, quota: Quota, *, tenant_id: str = "acme") -> int:
    """Return where a counter stands, by asking for nothing."""
    (standing,) = await reserve(quotas, wish(quota, units=0, enforced=False), tenant_id=tenant_id)
    return standing.used_units


@contextlib.asynccontextmanager
async def redis_quotas(port: int) -> AsyncIterator[RedisQuotas]:
    nodes = nodes_at(port)
    running = asyncio.ensure_future(nodes.run())
    await eventually(lambda: nodes.connected)
    yield RedisQuotas(nodes)
    running.cancel()
    await asyncio.wait([running], timeout=BUDGET_S)


@pytest.fixture(params=["memory", "redis"])
async def quotas(request: pytest.FixtureRequest) -> AsyncIterator[Quotas]:
    if request.param == "memory":
        yield InMemoryQuotas()
        return
    request.getfixturevalue("redis_url")
    async with redis_quotas(request.getfixturevalue("redis_server").port) as quotas:
        yield quotas


# One body, both adapters


async def test_a_quota_of_three_allows_three(quotas: Quotas) -> None:
    answers = [(await reserve(quotas))[0] for _ in range(5)]

    assert [s.exceeded for s in answers] == [False, False, False, True, True]
    assert [s.used_units for s in answers] == [1, 2, 3, 3, 3]
    assert [s.remaining_units for s in answers] == [2, 1, 0, 0, 0]


async def test_of_calls_at_once_exactly_as_many_pass_as_the_limit_says(quotas: Quotas) -> None:
    quota = make_quota(limit_units=37)

    answers = await asyncio.gather(*(reserve(quotas, wish(quota)) for _ in range(200)))

    assert Counter(map(allowed, answers)) == {True: 37, False: 163}
    assert await used(quotas, quota) == 37


async def test_tenants_quotas_and_windows_are_counted_apart(quotas: Quotas) -> None:
    one = make_quota("one", limit_units=1)
    other = make_quota("other", limit_units=1)
    later = Window(start_s=WINDOW.end_s, end_s=WINDOW.end_s + 3600)
    await reserve(quotas, wish(one))

    assert not allowed(await reserve(quotas, wish(one)))
    assert allowed(await reserve(quotas, wish(one), tenant_id="globex"))
    assert allowed(await reserve(quotas, wish(other)))
    assert allowed(await reserve(quotas, wish(one, window=later)))


async def test_several_quotas_count_a_call_all_or_none(quotas: Quotas) -> None:
    wide, narrow = make_quota("wide", limit_units=100), make_quota("narrow", limit_units=2)

    answers = [await reserve(quotas, wish(wide), wish(narrow)) for _ in range(4)]

    assert [allowed(each) for each in answers] == [True, True, False, False]
    assert [[s.quota.quota_id for s in each] for each in answers] == [["wide", "narrow"]] * 4
    assert [s.exceeded for s in answers[3]] == [False, True]
    assert await used(quotas, wide) == 2


async def test_a_call_may_weigh_more_than_one(quotas: Quotas) -> None:
    quota = make_quota(limit_units=10)

    answers = [(await reserve(quotas, wish(quota, units=4)))[0] for _ in range(3)]

    assert [(s.exceeded, s.used_units) for s in answers] == [(False, 4), (False, 8), (True, 8)]
    assert allowed(await reserve(quotas, wish(quota, units=2)))


async def test_a_call_heavier_than_the_quota_never_fits(quotas: Quotas) -> None:
    (standing,) = await reserve(quotas, wish(make_quota(limit_units=3), units=4))

    assert standing.exceeded
    assert not standing.fits_later


async def test_a_changed_limit_counts_at_once(quotas: Quotas) -> None:
    quota = make_quota(limit_units=2)
    await reserve(quotas, wish(quota))
    await reserve(quotas, wish(quota))
    assert not allowed(await reserve(quotas, wish(quota)))

    raised, lowered = replace(quota, limit_units=3), replace(quota, limit_units=1)
    assert allowed(await reserve(quotas, wish(raised)))
    (standing,) = await reserve(quotas, wish(lowered))

    assert standing.exceeded
    assert standing.remaining_units == 0
    assert standing.used_units == 3


async def test_a_soft_quota_counts_beyond_its_limit(quotas: Quotas) -> None:
    soft = make_quota(limit_units=2, soft=True)

    answers = [(await reserve(quotas, wish(soft)))[0] for _ in range(4)]

    assert [(s.exceeded, s.used_units) for s in answers] == [
        (False, 1),
        (False, 2),
        (True, 3),
        (True, 4),
    ]


async def test_what_is_not_enforced_is_counted_and_shown(quotas: Quotas) -> None:
    """As in shadow mode: the call passes, and it is known that it would not have."""
    quota = make_quota(limit_units=1)

    answers = [(await reserve(quotas, wish(quota, enforced=False)))[0] for _ in range(3)]

    assert [(s.exceeded, s.used_units) for s in answers] == [(False, 1), (True, 2), (True, 3)]


async def test_counting_starts_at_what_the_ledger_has_seen(quotas: Quotas) -> None:
    quota = make_quota(limit_units=10)

    (first,) = await reserve(quotas, wish(quota, seed_units=9))
    (second,) = await reserve(quotas, wish(quota, seed_units=9))

    assert (first.used_units, first.exceeded) == (10, False)
    assert (second.used_units, second.exceeded) == (10, True)


async def test_a_ledger_that_lags_lowers_no_counter(quotas: Quotas) -> None:
    quota = make_quota(limit_units=10)
    for _ in range(5):
        await reserve(quotas, wish(quota))

    (standing,) = await reserve(quotas, wish(quota, seed_units=2))

    assert standing.used_units == 6


async def test_a_counter_that_missed_calls_is_lifted_to_what_the_ledger_has_seen(
    quotas: Quotas,
) -> None:
    """Calls that passed while Redis was away were not counted; the ledger knows them."""
    quota = make_quota(limit_units=10)
    await reserve(quotas, wish(quota))

    (standing,) = await reserve(quotas, wish(quota, seed_units=8))
    (refused,) = await reserve(quotas, wish(quota, seed_units=12))

    assert standing.used_units == 9
    assert (refused.exceeded, refused.used_units) == (True, 12)


async def test_large_counters_stay_exact(quotas: Quotas) -> None:
    quota = make_quota(limit_units=2**62)
    seed_units = 2**52

    (standing,) = await reserve(quotas, wish(quota, seed_units=seed_units))
    (next_one,) = await reserve(quotas, wish(quota, seed_units=seed_units))

    assert (standing.used_units, next_one.used_units) == (seed_units + 1, seed_units + 2)


# Redis alone


@pytest.fixture
async def shared(redis_server: RedisServer, redis_url: str) -> AsyncIterator[RedisQuotas]:
    assert redis_url
    async with redis_quotas(redis_server.port) as quotas:
        yield quotas


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


async def test_two_processes_share_one_count(
    shared: RedisQuotas, redis_server: RedisServer
) -> None:
    """200 clients over two instances, each calling three times: 250 allowed means 250."""
    day, month = make_quota("day", limit_units=250), make_quota("month", limit_units=10_000)
    async with redis_quotas(redis_server.port) as other:

        async def one_client(quotas: Quotas) -> list[bool]:
            return [allowed(await reserve(quotas, wish(day), wish(month))) for _ in range(3)]

        instances = itertools.islice(itertools.cycle([shared, other]), 200)
        answers = await asyncio.gather(*map(one_client, instances))

    assert Counter(itertools.chain.from_iterable(answers)) == {True: 250, False: 350}
    assert await used(shared, day) == 250
    assert await used(shared, month) == 250


async def test_calls_of_one_turn_of_the_loop_travel_together(
    redis_server: RedisServer, redis_url: str
) -> None:
    assert redis_url
    async with (
        TcpProxy(redis_server.port).serving() as proxy,
        redis_quotas(proxy.port) as quotas,
    ):
        await reserve(quotas)
        before = proxy.requests

        await asyncio.gather(*(reserve(quotas) for _ in range(50)))

        assert proxy.requests == before + 1


async def test_counters_expire_after_their_window(shared: RedisQuotas, client: redis.Redis) -> None:
    await reserve(shared)

    assert client.expiretime(counter_key("acme", "calls", START_S)) == (
        WINDOW.end_s + EXPIRES_AFTER_S
    )


async def test_counting_wakes_nobody_who_follows_the_read_model(
    shared: RedisQuotas, client: redis.Redis
) -> None:
    await reserve(shared)

    assert [key for key in client.scan_iter() if key.startswith(b"aforo:v1:")] == []


async def test_an_emptied_redis_is_seeded_from_the_ledger(
    shared: RedisQuotas, client: redis.Redis
) -> None:
    quota = make_quota(limit_units=100)
    for _ in range(60):
        await reserve(shared, wish(quota))
    client.flushall()

    (standing,) = await reserve(shared, wish(quota, seed_units=60))

    assert standing.used_units == 61


@pytest.mark.parametrize("callers", [1, 50])
async def test_a_redis_that_forgot_the_script_is_taught_it_again(
    shared: RedisQuotas, client: redis.Redis, callers: int
) -> None:
    quota = make_quota(limit_units=1000)
    await reserve(shared, wish(quota))
    client.script_flush()

    answers = await asyncio.gather(*(reserve(shared, wish(quota)) for _ in range(callers)))

    assert sorted(s.used_units for (s,) in answers) == list(range(2, callers + 2))


async def test_teaching_a_slow_redis_the_script_costs_no_second_budget(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    client.script_flush()
    async with (
        TcpProxy(redis_server.port).serving() as proxy,
        redis_quotas(proxy.port) as quotas,
    ):
        proxy.answer_delay_s = 2.0  # Twice that is more than the budget.
        with pytest.raises(QuotasUnavailableError):
            await quotas.reserve("acme", (wish(),), 3.5)
        proxy.answer_delay_s = 0.0

        (standing,) = await reserve(quotas)
        assert standing.used_units == 2  # What came too late was counted all the same.


async def test_a_restarted_redis_counts_on_without_a_restart_of_ours() -> None:
    with RedisServer() as server:
        async with redis_quotas(server.port) as quotas:
            quota = make_quota(limit_units=100)
            await reserve(quotas, wish(quota))
            server.kill()
            with pytest.raises(QuotasUnavailableError):
                await reserve(quotas, wish(quota))
            server.start()

            async with asyncio.timeout(10.0):
                while True:
                    with contextlib.suppress(QuotasUnavailableError):
                        (standing,) = await reserve(quotas, wish(quota, seed_units=1))
                        break
                    await asyncio.sleep(0.02)
            assert standing.used_units == 2


async def test_a_frozen_redis_costs_no_more_than_the_budget() -> None:
    with RedisServer() as server:
        async with redis_quotas(server.port) as quotas:
            await reserve(quotas)
            server.freeze()
            started_s = time.monotonic()

            answers = await asyncio.gather(
                *(quotas.reserve("acme", (wish(),), 0.05) for _ in range(300)),
                return_exceptions=True,
            )

            assert all(isinstance(each, QuotasUnavailableError) for each in answers)
            # One after another they would take 15 s.
            assert time.monotonic() - started_s < 7.5
            server.thaw()
            async with asyncio.timeout(10.0):
                while True:
                    with contextlib.suppress(QuotasUnavailableError):
                        await quotas.reserve("globex", (wish(),), 1.0)
                        break


@pytest.mark.parametrize("value", [b"no number", None], ids=["garbage", "another type"])
async def test_a_broken_counter_is_an_outage_of_that_tenant_alone(
    shared: RedisQuotas, client: redis.Redis, value: bytes | None
) -> None:
    key = counter_key("acme", "calls", START_S)
    if value is None:
        client.hset(key, "a", "b")
    else:
        client.set(key, value)

    broken, fine = await asyncio.gather(
        reserve(shared), reserve(shared, tenant_id="globex"), return_exceptions=True
    )

    assert isinstance(broken, QuotasUnavailableError)
    assert not isinstance(fine, BaseException)
    assert allowed(fine)


async def test_a_caller_who_leaves_disturbs_nobody_in_the_same_turn(shared: RedisQuotas) -> None:
    quota = make_quota(limit_units=100)
    leaving = asyncio.ensure_future(reserve(shared, wish(quota)))
    staying = asyncio.ensure_future(reserve(shared, wish(quota)))
    await asyncio.sleep(0)
    leaving.cancel()

    assert allowed(await staying)
    with contextlib.suppress(asyncio.CancelledError):
        await leaving
