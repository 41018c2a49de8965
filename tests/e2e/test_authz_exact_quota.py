"""A hard quota of 10,000 means 10,000, whoever asks, wherever, and whoever dies meanwhile."""

from __future__ import annotations  # grpc-stubs has generics that grpc has not.

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import grpc
import grpc.aio
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from aforo_authz.authorize import PATH
from aforo_authz.domain.quotas import WindowKind
from lab.servers import RedisServer
from tests.authz_redis import ReadModel
from tests.authz_requests import Request, by_xds_protos
from tests.authz_samples import make_policy, make_quota
from tests.e2e.authz_lab import TENANT_HEADERS, Authz, Client, fill, ready, running

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LIMIT = 10_000
CLIENTS = 200
KILL_AFTER = 3_000
# A budget that nobody spends: two noisy cores must not turn a reservation into a guess.
PATIENT = {"AFORO_AUTHZ_REDIS_TIMEOUT_MS": "10000"}
TIMEOUT_S = 60.0
MESSAGE = by_xds_protos(Request(headers=TENANT_HEADERS))


class Tally:
    """What all clients saw together."""

    def __init__(self) -> None:
        self.allowed = 0
        self.refused = 0
        self.unanswered = 0  # Nobody knows whether these were counted.


@pytest.fixture
def model() -> Iterator[ReadModel]:
    """A tenant with a quota of 10,000 in this month, in a Redis of its own."""
    with RedisServer() as server:
        model = fill(server.url)
        model.put_policy(make_policy(make_quota(limit_units=LIMIT, window=WindowKind.MONTH)))
        yield model
        model.close()


@pytest.fixture
def replicas(model: ReadModel) -> Iterator[list[Authz]]:
    port = model.redis.connection_pool.connection_kwargs["port"]
    url = f"redis://127.0.0.1:{port}/0"
    with running(url, **PATIENT) as (one, _), running(url, **PATIENT) as (two, _):
        yield [one, two]


def counted(model: ReadModel) -> int:
    """Return what Redis' counter says."""
    (key,) = model.redis.scan_iter("aforo:quota:*")
    return int(model.redis.get(key) or 0)


async def spend(channels: Sequence[grpc.aio.Channel], tally: Tally) -> None:
    """Call until refused; who gets no answer goes on at the next replica."""
    for channel in channels:
        check = channel.unary_unary(PATH, None, None)
        with contextlib.suppress(grpc.aio.AioRpcError):
            while True:
                tally.unanswered += 1
                answer = CheckResponse.FromString(await check(MESSAGE, timeout=TIMEOUT_S))
                tally.unanswered -= 1
                if answer.status.message == "quota_exceeded":
                    tally.refused += 1
                    return
                assert answer.status.code == 0, answer.status
                tally.allowed += 1


@contextlib.asynccontextmanager
async def spending(replicas: Sequence[Authz], tally: Tally) -> AsyncIterator[None]:
    """Let all clients spend, half of them at each replica; end when all were refused."""
    for replica in replicas:
        client = Client(f"127.0.0.1:{replica.port}")
        with client.channel:
            await ready(client)
    # A connection for each client: grpc would share one among equal channels.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for number in range(CLIENTS):
            first, second = replicas if number % 2 else reversed(replicas)
            channels = [
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(f"127.0.0.1:{each.port}", options=options)
                )
                for each in (first, second)
            ]
            clients.append(asyncio.ensure_future(spend(channels, tally)))
        yield
        await asyncio.gather(*clients)


async def test_two_replicas_and_200_clients_share_exactly_10_000(
    model: ReadModel, replicas: list[Authz]
) -> None:
    tally = Tally()
    async with spending(replicas, tally):
        pass

    assert (tally.allowed, tally.refused, tally.unanswered) == (LIMIT, CLIENTS, 0)
    assert counted(model) == LIMIT


async def test_a_killed_replica_lets_none_over_and_loses_what_was_in_flight_at_most(
    model: ReadModel, replicas: list[Authz]
) -> None:
    tally = Tally()
    async with spending(replicas, tally):
        while tally.allowed < KILL_AFTER:  # noqa: ASYNC110 - a number that grows, not an event
            await asyncio.sleep(0.005)
        replicas[0].kill()

    assert tally.unanswered <= CLIENTS // 2
    assert LIMIT - tally.unanswered <= tally.allowed <= LIMIT
    assert tally.refused == CLIENTS
    assert counted(model) == LIMIT
