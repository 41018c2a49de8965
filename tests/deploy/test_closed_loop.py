"""On the Envoy configuration of each overlay the loop closes: decided, used, charged, decided.

For Istio and Envoy Gateway, which can't run here, on what they are documented to make of our
resources (`control_planes.py`). Steps are the demo's, which say what they expected and saw.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

import pytest

from demo.checks import until
from demo.observe import World
from demo.story import (
    CHAT,
    MESSAGES,
    allowed_at_first,
    below_0_percent_blocked,
    below_10_percent_throttled_and_rerouted,
    below_20_percent_one_webhook,
    cogs_mount,
    completion,
    hard_quota_is_exact,
    spend,
    spoofing_changes_nothing,
    streams_are_metered_to_the_token,
    usage_arrives_to_the_token,
)
from lab.http_client import HttpClient
from lab.midnight import wait_out_midnight
from lab.servers import HANG_S, Program
from tests.deploy.overlay_lab import OVERLAYS, Overlay, leads_to_an_envoy, stack_of
from tests.deploy.rendering import RENDERED
from tests.e2e.kills_witness import Told, read_completeness

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BURST = 300
BURSTS_WHILE_PAUSED = 5


def test_every_overlay_that_leads_to_an_envoy_is_played() -> None:
    played = {overlay.name for overlay in OVERLAYS}
    # Cases that have prod, or an authority, beside one that is played.
    besides = {"prod-and-sidecar", "sidecar-ca"}
    leading = {name for name in RENDERED if leads_to_an_envoy(name)} - besides

    assert played == leading


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: overlay.name)
async def test_the_loop_closes_on_the_configuration_of_an_overlay(overlay: Overlay) -> None:
    stack = stack_of(overlay)
    await asyncio.to_thread(wait_out_midnight)
    await asyncio.to_thread(stack.start)
    try:
        world = World(stack)
        await a_burst_is_logged_whole(world)
        await allowed_at_first(world)
        await usage_arrives_to_the_token(world)
        await settled(world, "acme")
        await hard_quota_is_exact(world)
        await settled(world, "globex")
        await spoofing_changes_nothing(world)
        if overlay.asks_for_usage:
            await streams_are_metered_to_the_token(world)
        elif overlay.reads_streams:
            await streams_that_tell_are_metered(world)
        await cogs_mount(world)
        await below_20_percent_one_webhook(world)
        if overlay.reroutes:
            await below_10_percent_throttled_and_rerouted(world)
        else:
            await below_10_percent_throttled(world)
        await below_0_percent_blocked(world)
        for tenant_id in ("acme", "globex", "initech", "umbrella"):
            await settled(world, tenant_id)
        await nothing_is_missing(world)
    finally:
        await asyncio.to_thread(stack.stop)


async def a_burst_is_logged_whole(world: World) -> None:
    """However many calls end while Envoy opens its stream to ship, and while ship stands still."""
    async with world.client("umbrella") as client:
        await at_once(client, BURST)
        await settled(world, "umbrella")
        with paused(world.stack.ships):
            for _ in range(BURSTS_WHILE_PAUSED):
                await at_once(client, BURST)
            await asyncio.sleep(1)
            await at_once(client, BURST)
    await settled(world, "umbrella")


async def at_once(client: HttpClient, calls: int) -> None:
    answers = await asyncio.gather(*(client.get("/echo") for _ in range(calls)))
    assert {answer.status for answer in answers} == {200}


@contextlib.contextmanager
def paused(programs: Iterable[Program]) -> Iterator[None]:
    """Let processes stand still while the body runs."""
    for program in programs:
        program.freeze()
    try:
        yield
    finally:
        for program in programs:
            program.thaw()


async def below_10_percent_throttled(world: World) -> None:
    """Where no route depends on it, client and upstream are told all the same."""
    async with world.client("acme") as client:
        await spend(client, 70_000)
        await until(
            lambda: client.post(CHAT, completion(10)),
            lambda seen: seen.header("x-aforo-throttle") == "true",
            "X-Aforo-Throttle: true towards the client",
            within_s=HANG_S,
        )
    assert (await world.last_headers(world.upstream))["x-aforo-throttle"] == "true"


async def streams_that_tell_are_metered(world: World) -> None:
    """Where nothing asks OpenAI for the usage of a stream, the client does."""
    asked = completion(123, stream=True) | {"stream_options": {"include_usage": True}}
    async with world.client("umbrella") as client:
        for path, body in (
            (CHAT, asked),
            (MESSAGES, completion(77, model="claude-sonnet-4-5", stream=True)),
        ):
            assert (await client.post(path, body)).status == 200
    await settled(world, "umbrella")


async def settled(world: World, tenant_id: str) -> None:
    """Wait until ledger and margin say what the upstreams say: tokens, calls, nanos of COGS."""
    served, calls = await world.served(tenant_id), await world.served_calls(tenant_id)
    cogs_nanos = await world.reckoned_cogs(tenant_id)
    await until(
        lambda: world.ledger_tokens(tenant_id),
        lambda seen: seen == served,
        f"{served}",
        within_s=HANG_S,
    )
    await until(
        lambda: world.calls(tenant_id),
        lambda seen: seen == calls,
        f"{calls} calls",
        within_s=HANG_S,
    )
    await until(
        lambda: world.margin(tenant_id),
        lambda seen: seen.cogs_nanos == cogs_nanos,
        f"COGS of {cogs_nanos} nanos",
        within_s=HANG_S,
    )


async def nothing_is_missing(world: World) -> None:
    """Wait until each call that was let through is known as decided, and none lacks its entry."""
    calls = await world.served_calls("acme")

    async def told() -> Told:
        said = await asyncio.to_thread(read_completeness, world.stack)
        return said.get("acme", Told(0, 0))

    await until(
        told,
        lambda seen: seen.decided > calls and seen.missing == 0,
        f"{calls} decided and some refused, none missing",
        within_s=HANG_S,
    )
