"""How old events may be, with a ledger that knows their ids for a time."""

import asyncio
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from aforo_meter.ingest.ages import CONSUMED_KEY, Ages
from aforo_meter.ingest.redis_link import RedisLink
from aforo_meter.publish import consumed_key
from aforo_proto import margin_pb2
from lab.servers import KafkaServer
from tests.conftest import KafkaAt
from tests.contract.ingest_lab import event, ingest_lab

pytestmark = pytest.mark.contract

DAY_S = 86_400


def told(days: int) -> bytes:
    return margin_pb2.ConsumeState(as_of_micros=1, ingest_ids_days=days).SerializeToString()


async def test_no_event_is_taken_that_the_ledger_would_not_know_again(redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    ages = Ages(RedisLink(redis), 365)
    assert consumed_key(0) == CONSUMED_KEY

    for value, taken_days in (
        (None, 90),  # Consume never keeps ids for less than 91 days.
        (told(200), 199),
        (b"\xff", 199),
        (told(0), 199),  # A consume that does not tell.
        (told(1000), 365),
        (None, 365),  # Redis was emptied.
        (told(91), 90),
    ):
        await (redis.delete(CONSUMED_KEY) if value is None else redis.set(CONSUMED_KEY, value))
        await ages.look()
        assert ages.days_max == taken_days

    assert Ages(RedisLink(redis), 30).days_max == 30
    await redis.aclose()


async def test_a_running_ingest_follows_what_consume_says(
    kafka_server: KafkaServer | KafkaAt, tmp_path: Path
) -> None:
    async with ingest_lab(
        kafka_server.bootstrap, tmp_path, consuming=False, age_days_max="365"
    ) as lab:
        assert "AFORO_METER_CONSUME_INGEST_IDS_DAYS" in lab.program.log_tail()
        old = event("warm-up", occurredAt=int(time.time()) - 100 * DAY_S)
        refused = await lab.post("/v1/ingest", old)
        assert (refused.status, "at most 90 days old" in refused.problem) == (400, True)

        lab.consume.redis.set(CONSUMED_KEY, told(366))

        async with asyncio.timeout(20):
            while (await lab.post("/v1/ingest", old)).status != 202:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
