"""Steady traffic through an outage: what must hold of every answer, whatever fails."""

from __future__ import annotations  # grpc-stubs has generics that grpc has not.

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

import grpc
import grpc.aio
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from aforo_authz.authorize import PATH
from aforo_authz.domain.access import SubscriptionState
from aforo_authz.domain.quotas import WindowKind
from tests.authz_redis import ReadModel
from tests.authz_requests import Request, by_xds_protos
from tests.authz_samples import make_credential, make_policy, make_quota
from tests.e2e.authz_lab import REDIS_TIMEOUT_MS, Authz, metadata_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.name
# That a call ends at all is asked of every single one; how soon, of the middle of many.
HANG_S = 60.0
NOISE_S = 0.15
SOON_S = 60.0
PAUSE_S = 0.02  # Between two calls of one caller: an outage is no test of load.
NEWCOMERS = 200
COUNTED_UNITS = 1_000_000

KNOWN, COUNTED, PAUSED, STRANGER, NEWCOMER = "known", "counted", "paused", "stranger", "newcomer"
# What each caller hears while all is well, …
WELL = {
    KNOWN: "allowed",
    COUNTED: "allowed",  # Under a hard quota that it never reaches.
    PAUSED: "subscription_inactive",
    STRANGER: "unknown_credential",
    NEWCOMER: "allowed",  # Entitled, and not seen before.
}
# … and who may hear nothing while Redis is away: who is not remembered. Nobody ever hears more, so
# nobody who is entitled is refused, and nobody else is let through.
FORGOTTEN = (STRANGER, NEWCOMER)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call was told."""

    reason: str  # Or the name of the gRPC error.
    stale: bool
    seconds: float
    headers: dict[str, str]  # Of the client's response, if the call passed.

    @property
    def is_unavailable(self) -> bool:
        return self.reason == UNAVAILABLE

    @property
    def is_counted(self) -> bool:
        return "ratelimit" in self.headers

    @property
    def remaining_units(self) -> int:
        return int(self.headers["ratelimit"].split(";r=")[1].split(";")[0])


def key_of(kind: str) -> str:
    return f"key-of-{kind}-0123456789abcdef"


def fill(model: ReadModel) -> None:
    """Write what the traffic needs, as a pass of sync does: the mark comes last."""
    for policy in (
        make_policy(tenant_id=KNOWN),
        make_policy(
            make_quota(limit_units=COUNTED_UNITS, window=WindowKind.MONTH), tenant_id=COUNTED
        ),
        make_policy(tenant_id=PAUSED, state=SubscriptionState.PAUSED),
    ):
        model.put_policy(policy)
        model.put_credential(key_of(policy.tenant_id), make_credential(tenant_id=policy.tenant_id))
    for number in range(NEWCOMERS):
        model.put_credential(f"newcomer-{number}", make_credential(tenant_id=KNOWN))
    model.put_rules([], default_allows=True)
    complete_sync(model)


def complete_sync(model: ReadModel) -> None:
    model.complete_sync(at_micros=now_micros())


def now_micros() -> int:
    return time.time_ns() // 1000


def counter_of(model: ReadModel, tenant_id: str) -> int:
    """Return what Redis' counter of a tenant's quota says."""
    keys = model.redis.scan_iter(f"aforo:quota:*{tenant_id}*")
    return sum(int(model.redis.get(key) or 0) for key in keys)


class Caller:
    """Asks one process, without holding up the loop that a proxy may live in."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._check = channel.unary_unary(PATH, None, None)

    async def ask(self, key: str) -> Answer:
        message = by_xds_protos(Request(headers={"x-api-key": key}))
        started_s = time.monotonic()
        try:
            answer = CheckResponse.FromString(await self._check(message, timeout=HANG_S))
        except grpc.aio.AioRpcError as error:
            name = str(error.code().name)
            return Answer(name, stale=False, seconds=time.monotonic() - started_s, headers={})
        told = metadata_of(answer)
        stale = told.get("stale") == "true"
        upstream = {each.header.key: each.header.value for each in answer.ok_response.headers}
        if answer.HasField("ok_response"):
            assert (upstream.get("x-aforo-stale") == "true") is stale
        client = {e.header.key: e.header.value for e in answer.ok_response.response_headers_to_add}
        return Answer(told["reason"], stale, time.monotonic() - started_s, client)

    async def hears(self, key: str, reason: str) -> None:
        """Ask until the answer is as expected."""
        async with asyncio.timeout(SOON_S):
            while (await self.ask(key)).reason != reason:  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(PAUSE_S / 4)


class Traffic:
    """Callers of every kind, calling on; all that they heard."""

    def __init__(self, authz: Authz, caller: Caller, *, budget_s: float) -> None:
        self.authz = authz
        self.caller = caller
        self.budget_s = budget_s
        self.heard: dict[str, list[Answer]] = {kind: [] for kind in WELL}

    async def call(self, kind: str, keys: Iterable[str]) -> None:
        for key in keys:
            self.heard[kind].append(await self.caller.ask(key))
            await asyncio.sleep(PAUSE_S)

    async def until(self, kind: str, probe: Callable[[Answer], bool]) -> Answer:
        """Wait for an answer to a call that was made from now on; return the first that is so."""
        seen = len(self.heard[kind]) + 1  # The next may have begun already.
        async with asyncio.timeout(SOON_S):
            while True:
                for answer in self.heard[kind][seen:]:
                    if probe(answer):
                        return answer
                await asyncio.sleep(PAUSE_S / 2)

    async def until_stale(self) -> None:
        for kind in (KNOWN, COUNTED, PAUSED):
            await self.until(kind, lambda answer: answer.stale)

    async def until_well(self) -> None:
        """Wait until everybody hears what is so, and nothing is marked stale any more."""
        for kind, reason in WELL.items():
            await self.until(kind, lambda a, r=reason: a.reason == r and not a.stale)  # type: ignore[misc]

    async def metric(self, name: str) -> float:
        """Return a metric, summed up over the labels that the name does not give."""
        page = (await asyncio.to_thread(self.authz.page, "/metrics")).decode()
        lines = [line for line in page.splitlines() if line.startswith(f"aforo_authz_{name}")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    async def until_metric(self, name: str, value: float) -> None:
        async with asyncio.timeout(SOON_S):
            while await self.metric(name) != value:  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(PAUSE_S)

    def assert_none_was_wronged(self) -> None:
        for kind, answers in self.heard.items():
            may_hear = {WELL[kind], UNAVAILABLE} if kind in FORGOTTEN else {WELL[kind]}
            assert {answer.reason for answer in answers} <= may_hear, kind
            assert statistics.median(a.seconds for a in answers) < self.budget_s + NOISE_S, kind


@contextlib.asynccontextmanager
async def calling(authz: Authz) -> AsyncIterator[Caller]:
    # A connection of its own: grpc shares one among equal channels.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{authz.port}", options=options) as channel:
        yield Caller(channel)


@contextlib.asynccontextmanager
async def traffic(
    redis_url: str, *, budget_ms: int = REDIS_TIMEOUT_MS, **settings: str
) -> AsyncIterator[Traffic]:
    """Run a process and let all kinds of callers call; in the end, nobody was wronged."""
    authz = Authz(redis_url, AFORO_AUTHZ_REDIS_TIMEOUT_MS=str(budget_ms), **settings)
    await asyncio.to_thread(authz.start)  # A proxy may live in this loop.
    try:
        async with calling(authz) as caller:
            await caller.hears("nobody's", WELL[STRANGER])
            flow = Traffic(authz, caller, budget_s=budget_ms / 1000)
            newcomers = (f"newcomer-{n}" for n in itertools.cycle(range(NEWCOMERS)))
            keys = {kind: itertools.repeat(key_of(kind)) for kind in WELL} | {NEWCOMER: newcomers}
            for kind in (KNOWN, COUNTED, PAUSED):  # Who is remembered, from here on.
                await caller.hears(key_of(kind), WELL[kind])
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(flow.call(kind, keys[kind])) for kind in WELL]
                await flow.until_well()
                yield flow
                for task in tasks:
                    task.cancel()
        flow.assert_none_was_wronged()
        assert authz.running
        assert "Traceback" not in authz.log_text()
    finally:
        await asyncio.to_thread(authz.stop)
