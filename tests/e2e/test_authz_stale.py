"""What is known grows old: Redis emptied, nobody who confirms, changes that nobody told of.

The table in docs/operations.md, "When Redis or aforo-authz fails", says which test shows which row.
"""

import asyncio
import time

import pytest

from aforo_authz.domain.access import Level
from aforo_authz.domain.quotas import WindowKind, window_of
from aforo_authz.read_model import credential_key
from lab.servers import RedisServer
from tests.authz_redis import ReadModel, presented
from tests.authz_samples import PERIOD, make_credential, make_margin, make_policy
from tests.e2e.outage_lab import (
    COUNTED,
    COUNTED_UNITS,
    KNOWN,
    NEWCOMER,
    STRANGER,
    fill,
    key_of,
    now_micros,
    traffic,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COSTLY, STRICT, LEAVING = "costly", "strict", "leaving"


def month_start_s() -> int:
    return window_of(WindowKind.MONTH, now_micros=now_micros(), period_micros=PERIOD).start_s


async def test_in_an_emptied_redis_counters_start_where_the_ledger_stands(
    server: RedisServer, model: ReadModel
) -> None:
    used = {"calls": (month_start_s(), 1000)}
    margin = make_margin(as_of_micros=now_micros(), period_end_micros=None, used=used)
    model.put_margin(COUNTED, margin)
    model.put_credential(key_of(COSTLY), make_credential(tenant_id=COSTLY))
    model.put_policy(make_policy(tenant_id=COSTLY))
    throttling = make_margin(Level.THROTTLE, as_of_micros=now_micros(), period_end_micros=None)
    model.put_margin(COSTLY, throttling)
    async with traffic(server.url) as flow:
        await flow.caller.hears(key_of(COSTLY), "margin_throttle")

        model.redis.flushall()
        await flow.until_stale()
        answer = await flow.until(COUNTED, lambda answer: answer.is_counted)
        # From nought it would take a thousand calls to come here.
        assert answer.remaining_units < COUNTED_UNITS - 1000
        await flow.until(STRANGER, lambda answer: answer.is_unavailable)
        await flow.until(NEWCOMER, lambda answer: answer.is_unavailable)
        assert (await flow.caller.ask(key_of(COSTLY))).reason == "margin_throttle"

        fill(model)
        await flow.until_well()
        # What the consumer has not written again holds on.
        answer = await flow.until(COUNTED, lambda answer: answer.is_counted)
        assert answer.remaining_units < COUNTED_UNITS - 1000


def fill_blocked(model: ReadModel) -> None:
    for tenant_id in (COSTLY, STRICT):
        model.put_credential(key_of(tenant_id), make_credential(tenant_id=tenant_id))
        strict = tenant_id == STRICT
        model.put_policy(make_policy(tenant_id=tenant_id, stale_margin_blocks=strict))
        blocking = make_margin(Level.BLOCK, as_of_micros=now_micros(), period_end_micros=None)
        model.put_margin(tenant_id, blocking)


async def confirm(model: ReadModel) -> None:
    """Do as the consumer does, whose progress says that margins are still true."""
    while True:
        model.put_consumed(now_micros())
        await asyncio.sleep(0.2)


async def test_a_margin_that_nobody_confirms_blocks_no_more_unless_the_policy_says_so(
    server: RedisServer, model: ReadModel
) -> None:
    fill_blocked(model)
    async with traffic(server.url, AFORO_AUTHZ_STALE_MAX_S="2") as flow:
        consumer = asyncio.ensure_future(confirm(model))
        for tenant_id in (COSTLY, STRICT):
            await flow.caller.hears(key_of(tenant_id), "margin_limit_exceeded")

        consumer.cancel()  # It is away, and Redis is there.
        await flow.caller.hears(key_of(COSTLY), "margin_throttle")
        assert (await flow.caller.ask(key_of(STRICT))).reason == "margin_limit_exceeded"
        await flow.until_well()  # Who has no margin is not concerned.

        server.kill()
        await flow.until_stale()
        assert (await flow.caller.ask(key_of(COSTLY))).reason == "margin_throttle"
        assert (await flow.caller.ask(key_of(STRICT))).reason == "margin_limit_exceeded"

        server.start()
        fill_blocked(model)
        fill(model)
        consumer = asyncio.ensure_future(confirm(model))
        await flow.caller.hears(key_of(COSTLY), "margin_limit_exceeded")
        await flow.until_well()
        consumer.cancel()


async def test_while_sync_is_away_decisions_go_on_and_their_age_is_a_metric(
    server: RedisServer, model: ReadModel
) -> None:
    an_hour_ago_s = int(time.time()) - 3600
    async with traffic(server.url) as flow:
        model.complete_sync(at_micros=an_hour_ago_s * 1_000_000)

        await flow.until_metric("synced_timestamp_seconds", an_hour_ago_s)
        await flow.until_well()


async def test_what_changes_while_nobody_tells_of_changes_is_found_afterwards(
    server: RedisServer, model: ReadModel
) -> None:
    model.put_credential(key_of(LEAVING), make_credential(tenant_id=KNOWN))
    model.put_credential("aside", make_credential(tenant_id=KNOWN, revoked=True))
    async with traffic(server.url) as flow:
        await flow.caller.hears(key_of(LEAVING), "allowed")
        with model.redis.pipeline(transaction=True) as at_once:
            at_once.client_kill_filter(_type="normal", skipme=True)
            at_once.rename(
                *(credential_key(presented(k).sha256_hex) for k in ("aside", key_of(LEAVING)))
            )
            at_once.execute()

        await flow.caller.hears(key_of(LEAVING), "credential_revoked")
        await flow.until_well()
