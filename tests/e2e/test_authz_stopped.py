"""aforo-authz itself is killed, or stopped for a while: what its callers notice.

The table in docs/operations.md, "When Redis or aforo-authz fails", says which test shows which row.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from aforo_authz.domain.quotas import WindowKind
from lab.servers import RedisServer, eventually
from tests.authz_redis import ReadModel
from tests.authz_samples import make_credential, make_policy, make_quota
from tests.contract.tcp_proxy import TcpProxy
from tests.e2e.authz_lab import Authz, Client, ready
from tests.e2e.outage_lab import (
    COUNTED,
    KNOWN,
    STRANGER,
    UNAVAILABLE,
    WELL,
    Caller,
    calling,
    counter_of,
    fill,
    key_of,
    traffic,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LIMIT = 5
# A budget that a call in this file spends only where its Redis is held back.
PATIENT_S = 1.5
PATIENT = {"AFORO_AUTHZ_REDIS_TIMEOUT_MS": f"{PATIENT_S * 1000:.0f}"}
# After so long without an answer a connection to Redis is given up; see redis_link.SILENCE_S_MAX.
LONGER_THAN_SILENCE_S = 3.3


@pytest.fixture(autouse=True)
def _small_quota(model: ReadModel) -> None:
    quota = make_quota(limit_units=LIMIT, window=WindowKind.MONTH)
    model.put_policy(make_policy(quota, tenant_id=COUNTED))


@pytest.fixture
async def authz(proxy: TcpProxy) -> AsyncIterator[Authz]:
    authz = Authz(f"redis://127.0.0.1:{proxy.port}/0", **PATIENT)
    await asyncio.to_thread(authz.start)
    yield authz
    await asyncio.to_thread(authz.stop)


@pytest.fixture
async def caller(authz: Authz) -> AsyncIterator[Caller]:
    async with calling(authz) as caller:
        await caller.hears("nobody's", WELL[STRANGER])
        yield caller


async def uncounted(authz: Authz) -> float:
    page = (await asyncio.to_thread(authz.page, "/metrics")).decode()
    return float(page.split("\naforo_authz_uncounted_decisions_total ")[1].split()[0])


async def test_a_killed_process_is_replaced_on_the_same_addresses_and_serves_when_it_knows_all(
    model: ReadModel, proxy: TcpProxy, authz: Authz, caller: Caller
) -> None:
    await caller.ask(key_of(COUNTED))
    proxy.hold_answers()
    waiting = asyncio.ensure_future(caller.ask(key_of(COUNTED)))
    await eventually(lambda: counter_of(model, COUNTED) == 2)
    authz.kill()

    # Whoever waits is told at once; then Envoy's failure_mode_allow decides.
    answer = await waiting
    assert answer.reason == UNAVAILABLE
    assert answer.seconds < 10.0
    assert authz.socket.exists()

    model.redis.flushall()
    authz.log_path.write_text("")
    await asyncio.to_thread(authz.start)
    client = Client(f"unix:{authz.socket}")
    with client.channel:
        assert not await asyncio.to_thread(lambda: client.serving)
        headers = {"x-api-key": key_of(KNOWN)}
        assert await asyncio.to_thread(client.reason, headers) == UNAVAILABLE
        assert b" 503 " in await asyncio.to_thread(authz.page, "/readyz")
        fill(model)
        await ready(client)
        assert await asyncio.to_thread(client.reason, headers) == "allowed"


async def test_a_process_that_was_stopped_first_hears_what_redis_had_answered(
    model: ReadModel, proxy: TcpProxy, authz: Authz, caller: Caller
) -> None:
    """As happens to whoever has used up a limit of CPU: time was over, the answers were there."""
    await caller.ask(key_of(COUNTED))
    proxy.hold_answers()
    asked = [asyncio.ensure_future(caller.ask(key_of(COUNTED))) for _ in range(LIMIT * 2)]
    await eventually(lambda: counter_of(model, COUNTED) == LIMIT)
    authz.freeze()
    proxy.let_go()
    await asyncio.sleep(PATIENT_S + 0.2)
    authz.thaw()

    reasons = sorted(answer.reason for answer in await asyncio.gather(*asked))

    assert reasons == ["allowed"] * (LIMIT - 1) + ["quota_exceeded"] * (LIMIT + 1)
    assert await uncounted(authz) == 0
    assert authz.running


async def test_a_process_that_was_stopped_for_long_takes_no_silence_of_its_own_for_redis(
    model: ReadModel, authz: Authz, caller: Caller
) -> None:
    reasons = [(await caller.ask(key_of(COUNTED))).reason for _ in range(LIMIT + 1)]
    assert reasons == ["allowed"] * LIMIT + ["quota_exceeded"]
    assert (await caller.ask(key_of(KNOWN))).reason == "allowed"
    await asyncio.sleep(1.5)  # The totals of these calls are written, and all is quiet.
    authz.freeze()
    model.put_credential(key_of(KNOWN), make_credential(tenant_id=KNOWN, revoked=True))
    await asyncio.sleep(LONGER_THAN_SILENCE_S)
    asked = [asyncio.ensure_future(caller.ask(key_of(COUNTED))) for _ in range(3)]
    await asyncio.sleep(0.1)  # They are there before it wakes.
    authz.thaw()

    answers = await asyncio.gather(*asked)
    assert [answer.reason for answer in answers] == ["quota_exceeded"] * 3
    await caller.hears(key_of(KNOWN), "credential_revoked")  # Meanwhile.
    assert await uncounted(authz) == 0
    assert "fell silent" not in authz.log_text()
    assert authz.running


async def test_a_process_that_wakes_to_dead_connections_and_another_redis(
    server: RedisServer, model: ReadModel
) -> None:
    fill(model)
    async with traffic(server.url) as flow:
        flow.authz.freeze()
        server.kill()
        server.start()
        fill(model)
        await asyncio.sleep(0.3)
        flow.authz.thaw()

        await flow.until_well()
