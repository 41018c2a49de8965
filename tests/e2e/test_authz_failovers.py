"""A Redis of several servers loses one of them: what callers notice, and what comes back.

The table in docs/operations.md, "When Redis or aforo-authz fails", says which test shows which row.
"""

import asyncio
from collections.abc import Callable, Iterator

import pytest
import redis

from aforo_authz.read_model import policy_key
from aforo_authz.redis_nodes import slot_of
from lab.redis_topologies import ClusterServers, Node, SentinelServers, move_slot
from tests.authz_redis import ReadModel
from tests.e2e.outage_lab import COUNTED, WELL, complete_sync, counter_of, fill, traffic

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

REPLICATED_MS = 5000


def model_at(node: Node) -> ReadModel:
    return ReadModel(f"redis://127.0.0.1:{node.port}/0")


@pytest.fixture
def sentinels() -> Iterator[SentinelServers]:
    """A primary with what all callers need, its replica, and a Sentinel."""
    with SentinelServers() as servers:
        model = model_at(servers.primary)
        fill(model)
        model.redis.wait(1, REPLICATED_MS)
        model.close()
        yield servers


@pytest.mark.parametrize("fail", [Node.kill, Node.freeze], ids=["killed", "frozen"])
async def test_sentinels_name_another_primary_and_all_go_on_there(
    sentinels: SentinelServers, fail: Callable[[Node], None]
) -> None:
    async with traffic(sentinels.url) as flow:
        fail(sentinels.primary)
        await flow.until(COUNTED, lambda answer: answer.stale)
        sentinels.fail_over_soon()

        await flow.until_well()
        promoted = model_at(sentinels.replica)
        before = counter_of(promoted, COUNTED)
        await flow.until(COUNTED, lambda answer: answer.is_counted)
        assert counter_of(promoted, COUNTED) > before

        # The old one comes back, and believes for a while that it is the primary still.
        if fail is Node.kill:
            sentinels.primary.start()
        sentinels.primary.thaw()
        await asyncio.sleep(0.5)
        await flow.until_well()
        before = counter_of(promoted, COUNTED)
        await flow.until(COUNTED, lambda answer: answer.is_counted)
        assert counter_of(promoted, COUNTED) > before
        promoted.close()


async def test_without_sentinels_the_primary_serves_on_and_nobody_can_be_sure_of_it(
    sentinels: SentinelServers,
) -> None:
    async with traffic(sentinels.url) as flow:
        for sentinel in sentinels.sentinels:
            sentinel.kill()

        await flow.until_stale()
        for kind, reason in WELL.items():
            await flow.until(kind, lambda answer, r=reason: answer.reason == r)  # type: ignore[misc]
        await flow.until(COUNTED, lambda answer: answer.is_counted)

        for sentinel in sentinels.sentinels:
            sentinel.start()
        await flow.until_well()


async def test_a_slot_that_moves_under_its_callers_costs_none_of_them_an_answer() -> None:
    with ClusterServers(primaries=2) as servers:
        model = ReadModel(servers.url)
        fill(model)
        slot = slot_of(policy_key(COUNTED))
        source = servers.node_of(slot)
        (target,) = (node for node in servers.primaries if node is not source)
        async with traffic(servers.url) as flow:
            before = counter_of(model, COUNTED)
            with move_slot(slot, source, target):
                await flow.until(COUNTED, lambda answer: answer.is_counted)
            await flow.until(COUNTED, lambda answer: answer.is_counted)

            await flow.until_well()
            with target.client() as client:
                assert client.exists(policy_key(COUNTED))
            assert counter_of(model, COUNTED) > before
        model.close()


async def test_a_replica_takes_over_in_a_cluster_and_the_next_sync_makes_all_fresh() -> None:
    with ClusterServers(replicas=True) as servers:
        model = ReadModel(servers.url)
        fill(model)
        async with traffic(servers.url) as flow:
            dying = servers.node_of(slot_of(policy_key(COUNTED)))
            with dying.client() as client:
                client.execute_command("WAIT", 1, REPLICATED_MS)
            before = counter_of(model, COUNTED)
            dying.kill()
            await flow.until_stale()
            await flow.until(COUNTED, lambda answer: not answer.is_counted)
            servers.fail_over_soon()

            await flow.until(COUNTED, lambda answer: answer.is_counted)
            # One server may have lost what it knew, and sync's mark is on another.
            await flow.until_stale()
            await synced(model)
            await flow.until_well()
            assert counter_of(model, COUNTED) > before
        model.close()


async def synced(model: ReadModel) -> None:
    """Let sync complete a pass; its client, too, has to find the new primary."""
    while True:
        try:
            complete_sync(model)
        except redis.RedisError:
            await asyncio.sleep(0.1)
        else:
            return
