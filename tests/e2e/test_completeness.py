"""Envoy's log loses calls when nobody receives it: we know how many, and can fill the gap."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from demo.checks import until
from demo.observe import World
from demo.story import CHAT
from demo.tenants import catalog
from lab.servers import scratch_dir
from lab.stack import Options, Stack, run_aforo

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TENANT = "umbrella"
SETTLED_S = 2.0  # Envoy's flush, consume's batch, and a second between looks at the decisions.


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    home = scratch_dir("lost")
    path = home / "catalog.yaml"
    path.write_text(catalog())
    quick = {
        "AFORO_METER_CONSUME_DECISIONS_POLL_MS": "100",
        "AFORO_METER_CONSUME_COMPLETENESS_POLL_MS": "100",
    }
    with Stack(Options(catalog=path, home=home, consume_env=quick)) as stack:
        yield World(stack)


def completeness(world: World, *arguments: str) -> str:
    return run_aforo(
        *("aforo_meter", "completeness", "--ledger-url", world.stack.ledger_url),
        *("--tenant", TENANT, "--open", *arguments),
    )


def scores(world: World) -> dict[str, int]:
    total: dict[str, int] = json.loads(completeness(world, "--json"))["total"]
    return total


async def send(world: World, count: int) -> None:
    body: dict[str, Any] = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "question"}],
        "x_lab_usage": {"input": 100, "output": 10},
    }
    async with world.client(TENANT) as client:
        for number in range(count):
            answer = await client.post(CHAT, body) if number % 2 else await client.get("/echo")
            assert answer.status == 200, answer.text


async def at_rest(world: World) -> dict[str, int]:
    """Wait until every decision is known and nothing more arrives; return the scores."""
    served = await world.served_calls(TENANT)
    await until(lambda: async_scores(world), lambda now: now["decided"] == served, f"{served}")
    before = -1
    while (calls := await world.calls(TENANT)) != before:
        before = calls
        await asyncio.sleep(SETTLED_S)
    return scores(world)


async def async_scores(world: World) -> dict[str, int]:
    return await asyncio.to_thread(scores, world)


async def test_calls_that_the_log_lost_are_known_and_can_be_filled_in(world: World) -> None:
    await send(world, 60)
    whole = await at_rest(world)
    assert (whole["decided"], whole["logged"], whole["missing"]) == (60, 60, 0)
    assert whole["score_bp"] == 10_000

    for ship in world.stack.ships:
        ship.kill()
    await send(world, 50)
    await asyncio.sleep(1.0)  # What Envoy still held is gone by now.
    for ship in world.stack.ships:
        ship.start()
    await until(
        lambda: asyncio.to_thread(world.stack.envoy.sees_healthy, "aforo_als"), bool, "a receiver"
    )
    await send(world, 20)

    found = await at_rest(world)
    served, charged = await world.served_calls(TENANT), await world.calls(TENANT)
    assert found["missing"] > 0, "nothing was lost: then this shows nothing"
    assert found["decided"] - found["logged"] == served - charged == found["missing"]

    shown = completeness(world, "--fill")
    gaps = [int(count) for count in re.findall(r"(\d+) calls missing", shown)]
    assert sum(gaps) == found["missing"], shown
    for _ in range(2):  # Asked twice, it fills once.
        completeness(world, "--fill", "--apply", "--bootstrap", world.stack.kafka.bootstrap)
    await until(lambda: world.calls(TENANT), lambda calls: calls == served, f"{served} calls")

    filled = await at_rest(world)
    assert (filled["missing"], filled["filled"]) == (found["missing"], found["missing"])
    assert "0 estimates to send" in completeness(world, "--fill")
    assert await world.calls(TENANT) == served
    # Questions of one kind are alike here, so the average is the truth, to the token.
    assert await world.ledger_tokens(TENANT) == await world.served(TENANT)
