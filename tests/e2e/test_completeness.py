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
from lab.patience import PATIENT_AUTHZ, patient
from lab.servers import ask_tcp, scratch_dir
from lab.stack import Options, Stack, run_aforo, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

METRICS_PAGE = b"GET /metrics HTTP/1.0\r\n\r\n"
TENANT = "umbrella"
LATE_TENANT = "hooli"
DECIDED_S = 4.0  # So long Envoy waits for a decision.
SETTLED_S = 2.0  # Envoy's flush, consume's batch, and a second between looks at the decisions.


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    home = scratch_dir("lost")
    path = home / "catalog.yaml"
    path.write_text(catalog())
    quick = {
        "AFORO_METER_CONSUME_CALM_MS_MAX": "0",  # Nothing gathers: rest is soon seen.
        "AFORO_METER_CONSUME_DECISIONS_POLL_MS": "100",
        "AFORO_METER_CONSUME_COMPLETENESS_POLL_MS": "100",
    }
    with Stack(
        Options(
            catalog=path, home=home, consume_env=quick, authz_env=PATIENT_AUTHZ, envoy_edit=edit
        )
    ) as stack:
        yield World(stack)


def edit(document: dict[str, Any]) -> None:
    """Wait longer for decisions, and keep no more than one entry of the log.

    With its megabyte, Envoy may outlast what we do to it.
    """
    patient(document, check_s=DECIDED_S)
    (log,) = (
        log["typed_config"]["common_config"]
        for listener in document["static_resources"]["listeners"]
        for chain in listener["filter_chains"]
        for network_filter in chain["filters"]
        for log in network_filter["typed_config"]["access_log"]
    )
    log["buffer_size_bytes"] = 1


def completeness(world: World, *arguments: str, tenant_id: str = TENANT) -> str:
    return run_aforo(
        *("aforo_meter", "completeness", "--ledger-url", world.stack.ledger_url),
        *("--tenant", tenant_id, "--open", *arguments),
    )


def scores(world: World, tenant_id: str = TENANT) -> dict[str, int]:
    total: dict[str, int] = json.loads(completeness(world, "--json", tenant_id=tenant_id))["total"]
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


async def unheard(world: World) -> int:
    """Return how many decisions authz took back from its tally."""
    page = await asyncio.to_thread(
        ask_tcp, world.stack.ports["authz"], METRICS_PAGE, bytes_max=1 << 17
    )
    found = re.search(rb"aforo_authz_tally_decisions_unheard_total (\d+)", page)
    return int(found[1]) if found else -1


async def checks_under_way(world: World) -> int:
    path = b"/stats?filter=^cluster.aforo_authz.upstream_rq_active$"
    request = b"GET " + path + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    page = await asyncio.to_thread(
        ask_tcp, world.stack.envoy.admin_port, request, bytes_max=1 << 16
    )
    found = re.search(rb"upstream_rq_active: (\d+)", page)
    return int(found[1]) if found else -1


def wait_until_healthy(world: World) -> None:
    wait_until(lambda: world.stack.envoy.sees_healthy("aforo_authz"), "Envoy's checks")


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


async def test_what_was_decided_too_late_or_for_callers_who_had_left_is_not_missing(
    world: World,
) -> None:
    """Envoy logs them without a decision, as calls of nobody: the tenant owes nothing for them."""
    authz = world.stack.authz
    async with world.client(LATE_TENANT) as client:
        assert (await client.get("/echo")).header("x-aforo-decision") == "allow"
        before, _ = await until(lambda: unheard(world), lambda n: n >= 0, "authz's page")
        authz.freeze()
        try:
            patient = [asyncio.create_task(client.get("/echo")) for _ in range(20)]
            hasty = [asyncio.create_task(client.get("/echo")) for _ in range(20)]
            await until(lambda: checks_under_way(world), lambda n: n >= 40, "40 checks under way")
            for call in hasty:
                call.cancel()
            late = await asyncio.gather(*patient)
            left = await asyncio.gather(*hasty, return_exceptions=True)
        finally:
            authz.thaw()
        expected = before + 40
        await until(lambda: unheard(world), lambda n: n == expected, "40 decisions unheard")
        await asyncio.to_thread(wait_until_healthy, world)
        for _ in range(3):
            assert (await client.get("/echo")).header("x-aforo-decision") == "allow"
    assert {answer.header("x-aforo-decision") for answer in late} == {None}, "Envoy did not wait"
    assert all(isinstance(each, asyncio.CancelledError) for each in left)

    told, _ = await until(
        lambda: asyncio.to_thread(scores, world, LATE_TENANT),
        lambda seen: (seen["decided"], seen["logged"]) == (4, 4),
        "4 calls decided and logged",
    )
    assert (told["missing"], told["score_bp"]) == (0, 10_000)
