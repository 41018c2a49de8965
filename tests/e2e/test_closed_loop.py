"""The closed loop on real servers: a request is decided, metered, rated, and decides the next."""

import asyncio
from collections.abc import Iterator

import pytest

from demo.checks import until
from demo.observe import World
from demo.story import CHAT, MESSAGES
from demo.tenants import catalog
from lab.http_client import HttpClient
from lab.midnight import wait_out_midnight
from lab.servers import scratch_dir
from lab.stack import Options, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

REQUESTS = 2000
AT_ONCE = 25


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    wait_out_midnight()
    home = scratch_dir("loop")
    path = home / "catalog.yaml"
    path.write_text(catalog())
    with Stack(Options(catalog=path, home=home, patient=True)) as stack:
        yield World(stack)


def mixed(number: int) -> tuple[str, dict[str, object]]:
    """Return the path and body of the n-th request: every shape, kinds of tokens that differ."""
    usage = {
        "input": 10 + number % 977,
        "cached": number % 311,
        "cache_creation": number % 89 if number % 3 == 1 else 0,
        "output": 1 + number % 613,
        "reasoning": number % 47 if number % 3 != 1 else 0,
    }
    body: dict[str, object] = {
        "messages": [{"role": "user", "content": f"question {number}"}],
        "x_lab_usage": usage,
        "stream": number % 2 == 0,
    }
    if number % 3 == 0:
        return CHAT, {**body, "model": ("gpt-4o", "gpt-4o-mini", "gpt-5")[number % 5 % 3]}
    if number % 3 == 1:
        model = ("claude-sonnet-4-5", "claude-haiku-4-5")[number % 2]
        return MESSAGES, {**body, "model": model, "max_tokens": 1000}
    return "/v1/responses", {**body, "model": "gpt-4.1", "input": "question"}


async def test_the_ledger_equals_what_the_upstream_served_to_the_token_and_the_nano(
    world: World,
) -> None:
    tenants = ("umbrella", "hooli")
    before = {tenant_id: await world.served_calls(tenant_id) for tenant_id in tenants}
    numbers = iter(range(REQUESTS))

    async def work(clients: dict[str, HttpClient]) -> None:
        for number in numbers:
            tenant_id = tenants[number % 2]
            if number % 10 == 9:
                answer = await clients[tenant_id].get(f"/echo?n={number}")
            else:
                path, body = mixed(number)
                answer = await clients[tenant_id].post(path, body)
            assert answer.status == 200, answer.text

    async with world.client(tenants[0]) as first, world.client(tenants[1]) as second:
        clients = dict(zip(tenants, (first, second), strict=True))
        await asyncio.gather(*(work(clients) for _ in range(AT_ONCE)))

    for tenant_id in tenants:
        assert await world.served_calls(tenant_id) == before[tenant_id] + REQUESTS // 2
        await ledger_agrees(world, tenant_id)


async def ledger_agrees(world: World, tenant_id: str) -> None:
    """Wait until ledger and margin say what the upstreams say: tokens, calls, nanos of COGS."""
    served = await world.served(tenant_id)
    calls = await world.served_calls(tenant_id)
    cogs_nanos = await world.reckoned_cogs(tenant_id)
    await until(
        lambda: world.ledger_tokens(tenant_id),
        lambda seen: seen == served,
        f"{served}",
        within_s=60,
    )
    await until(lambda: world.calls(tenant_id), lambda seen: seen == calls, f"{calls} calls")
    await until(
        lambda: world.margin(tenant_id),
        lambda seen: seen.cogs_nanos == cogs_nanos,
        f"COGS of {cogs_nanos} nanos",
    )


async def test_metering_goes_on_when_a_receiver_is_killed(world: World) -> None:
    before = await world.calls("initech")
    async with world.client("initech") as client:
        await client.get("/echo")
        await until(lambda: world.calls("initech"), lambda n: n == before + 1, "the first call")
        first, _ = world.stack.ships
        first.kill()
        await until(
            lambda: asyncio.to_thread(world.stack.envoy.healthy_hosts, "aforo_als"),
            lambda hosts: hosts == 1,
            "one receiver that Envoy sees to be well",
        )
        for _ in range(10):
            assert (await client.get("/echo")).status == 200

    await until(
        lambda: world.calls("initech"), lambda n: n == before + 11, "ten more calls in the ledger"
    )
    first.start()


async def test_authz_killed_lets_envoy_decide_and_comes_back(world: World) -> None:
    async with world.client("umbrella") as client:
        world.stack.authz.kill()
        open_answer = await client.get("/echo")
        world.stack.authz.start()
        answer, _ = await until(
            lambda: client.get("/echo"), lambda seen: seen.header("x-aforo-decision"), "a decision"
        )

    assert open_answer.status == 200  # failure_mode_allow: true in the shipped configuration.
    assert open_answer.header("x-aforo-decision") is None
    assert answer.header("x-aforo-decision") == "allow"
