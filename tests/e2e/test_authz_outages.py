"""Redis fails around a running aforo-authz: what its callers notice, and what comes back.

The table in docs/operations.md, "When Redis or aforo-authz fails", says which test shows which row.
Every test lets callers of all kinds call through the outage: see `outage_lab`.
"""

import asyncio
from collections.abc import Callable

import pytest

from aforo_authz.domain.quotas import WindowKind
from lab.servers import RedisServer, eventually
from tests.authz_redis import ReadModel
from tests.authz_samples import make_credential, make_policy, make_quota
from tests.contract.tcp_proxy import TcpProxy
from tests.e2e.outage_lab import (
    COUNTED,
    COUNTED_UNITS,
    KNOWN,
    NEWCOMER,
    STRANGER,
    Answer,
    Caller,
    Traffic,
    counter_of,
    fill,
    key_of,
    traffic,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SPENDER = "spender"
LIMIT = 600
SPENDERS = 20


def url_of(proxy: TcpProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


# Redis is away


async def test_redis_killed_and_restarted_empty(server: RedisServer, model: ReadModel) -> None:
    async with traffic(server.url) as flow:
        server.kill()
        await flow.until_stale()
        await flow.until(STRANGER, lambda answer: answer.is_unavailable)
        await flow.until(NEWCOMER, lambda answer: answer.is_unavailable)
        assert await flow.metric("cache_stale") == 1
        assert await flow.metric("stale_decisions_total") > 0
        assert await flow.metric("uncounted_decisions_total") > 0
        assert await flow.metric('failed_checks_total{code="14"}') > 0

        server.start()
        await flow.until(COUNTED, lambda answer: answer.is_counted)
        # It answers, and knows nothing: no reason to believe that there is nothing.
        await flow.until_stale()
        await flow.until(STRANGER, lambda answer: answer.is_unavailable)

        fill(model)
        await flow.until_well()
        assert await flow.metric("cache_stale") == 0


async def test_cut_off_from_redis_the_last_known_serves_marked_and_comes_back(
    proxy: TcpProxy,
) -> None:
    async with traffic(url_of(proxy)) as flow:
        for _ in range(3):
            proxy.cut_lines()
            await flow.until_stale()
            await flow.until(NEWCOMER, lambda answer: answer.is_unavailable)

            proxy.mend_lines()
            await flow.until_well()


Silence = Callable[[], None]


@pytest.fixture(params=["frozen", "swallowed"])
def silence(
    request: pytest.FixtureRequest, server: RedisServer, proxy: TcpProxy
) -> tuple[Silence, Silence]:
    """What makes Redis fall silent without closing a connection, and what ends it."""
    if request.param == "frozen":
        return server.freeze, server.thaw
    return proxy.swallow, proxy.mend_lines


async def test_a_redis_that_falls_silent_costs_the_budget_until_its_connection_is_given_up(
    proxy: TcpProxy, silence: tuple[Silence, Silence]
) -> None:
    begin, end = silence
    async with traffic(url_of(proxy)) as flow:
        begin()
        # Each waits for as long as it may, and is then served or told that nothing is known.
        await flow.until(COUNTED, lambda answer: answer.stale)
        await flow.until(NEWCOMER, lambda answer: answer.is_unavailable)
        # Nobody can know at once that silence means trouble: who waits for nothing notices later.
        await flow.until_stale()
        assert await flow.metric("cache_stale") == 1
        await flow.until(STRANGER, lambda answer: answer.is_unavailable)

        end()
        await flow.until_well()
        assert await flow.metric("cache_stale") == 0


async def test_answers_that_come_too_late_are_taken_for_nobody_elses(
    model: ReadModel, proxy: TcpProxy
) -> None:
    """What we say reaches Redis, what Redis says does not reach us: for a while."""
    async with traffic(url_of(proxy)) as flow:
        proxy.hold_answers()
        await flow.until(COUNTED, lambda answer: not answer.is_counted)
        at_first = counter_of(model, COUNTED)
        await eventually(lambda: counter_of(model, COUNTED) > at_first)  # Carried out all the same.
        await flow.until(NEWCOMER, lambda answer: answer.is_unavailable)

        proxy.let_go()
        await flow.until_well()
        answer = await flow.until(COUNTED, lambda answer: answer.is_counted)
        shown = COUNTED_UNITS - answer.remaining_units
        assert at_first < shown <= counter_of(model, COUNTED)


async def spend(caller: Caller) -> list[Answer]:
    answers: list[Answer] = []
    while not answers or answers[-1].reason == "allowed":
        answers.append(await caller.ask(key_of(SPENDER)))
    assert answers.pop().reason == "quota_exceeded"
    return answers


async def test_redis_frozen_amid_reservations_lets_pass_no_more_than_it_says(
    server: RedisServer, model: ReadModel
) -> None:
    model.put_credential(key_of(SPENDER), make_credential(tenant_id=SPENDER))
    quota = make_quota(limit_units=LIMIT, window=WindowKind.MONTH)
    model.put_policy(make_policy(quota, tenant_id=SPENDER))
    async with traffic(server.url) as flow:
        await flow.caller.hears(key_of(SPENDER), "allowed")
        spenders = [asyncio.ensure_future(spend(flow.caller)) for _ in range(SPENDERS)]
        for units in (LIMIT // 10, LIMIT // 2):
            await eventually(lambda u=units: counter_of(model, SPENDER) >= u, every_s=0.005)  # type: ignore[misc]
            server.freeze()
            await flow.until(COUNTED, lambda answer: answer.stale)
            server.thaw()
        passed = [answer for answers in await asyncio.gather(*spenders) for answer in answers]

        # Each that Redis did not answer in time says so, and no other passes beyond the limit.
        unanswered = [answer for answer in passed if answer.stale]
        assert unanswered
        assert not any(answer.is_counted for answer in unanswered)
        assert len(passed) + 1 - len(unanswered) <= counter_of(model, SPENDER) == LIMIT
        assert await flow.metric("uncounted_decisions_total") >= len(unanswered)
        await flow.until_well()


# Redis is there, and does not do what it is asked


async def uncounted_but_well(flow: Traffic) -> None:
    """Quotas can't be counted; whatever is only read is as fresh as ever."""
    await flow.until(COUNTED, lambda answer: answer.stale and not answer.is_counted)
    for kind in (KNOWN, NEWCOMER):
        await flow.until(kind, lambda answer: answer.reason == "allowed" and not answer.stale)
    refused = 'redis_failures_total{failure="refused",purpose="reserve"}'
    assert await flow.metric("uncounted_decisions_total") > 0
    assert await flow.metric(refused) > 0


async def test_a_redis_without_memory_counts_nothing_and_refuses_nobody(
    server: RedisServer, model: ReadModel
) -> None:
    async with traffic(server.url) as flow:
        model.redis.config_set("maxmemory", "1")
        await uncounted_but_well(flow)

        model.redis.config_set("maxmemory", "0")
        await flow.until_well()
        await flow.until(COUNTED, lambda answer: answer.is_counted)


async def test_a_replica_that_takes_no_writes_counts_nothing_and_refuses_nobody(
    server: RedisServer, model: ReadModel
) -> None:
    with RedisServer() as primary:
        primary_model = ReadModel(primary.url)
        fill(primary_model)
        primary_model.close()
        async with traffic(server.url) as flow:
            model.redis.replicaof("127.0.0.1", primary.port)
            await uncounted_but_well(flow)

            model.redis.replicaof("NO", "ONE")
            await flow.until_well()
            await flow.until(COUNTED, lambda answer: answer.is_counted)


async def test_a_redis_within_the_budget_is_waited_for_and_a_slower_one_is_not(
    proxy: TcpProxy,
) -> None:
    async with traffic(url_of(proxy), budget_ms=400) as flow:
        proxy.answer_delay_s = 0.2
        await flow.until(COUNTED, lambda answer: answer.is_counted and answer.seconds > 0.2)
        await flow.until(NEWCOMER, lambda answer: answer.reason == "allowed")

        proxy.answer_delay_s = 0.6
        await flow.until(COUNTED, lambda answer: not answer.is_counted)
        await flow.until(NEWCOMER, lambda answer: answer.is_unavailable)
        # Who is remembered and has no quota waits for nothing.
        await flow.until(KNOWN, lambda answer: answer.seconds < 0.2 and not answer.stale)

        proxy.answer_delay_s = 0.0
        await flow.until_well()
