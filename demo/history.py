"""What the tenants did before the demo began, reported over HTTP: months to compare."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from demo.checks import check
from demo.observe import World
from demo.tenants import INGEST_KEY
from lab.http_client import HttpClient

DAYS = 80  # What is older than 90 days, ingest refuses.
BATCH_EVENTS = 200
CALLS_A_DAY = {"acme": 5_000, "globex": 20, "initech": 300, "umbrella": 60_000, "hooli": 8_000}


async def tell(world: World, *, now: datetime) -> int:
    """Report calls of each day until yesterday; return how many events that took.

    Calls alone: tokens would have to agree with what the stand-ins served.
    """
    events = list(_events(now))
    async with HttpClient(world.stack.ingest_url, api_key=INGEST_KEY) as client:
        for start in range(0, len(events), BATCH_EVENTS):
            batch = {"events": events[start : start + BATCH_EVENTS]}
            answer = await client.post("/v1/ingest/batch", batch)
            check(answer.status == HTTPStatus.ACCEPTED, "202 for the history", answer.text[:300])
            check(answer.json()["data"]["failed"] == 0, "no failed event", answer.text[:300])
    return len(events)


def _events(now: datetime) -> Iterator[dict[str, object]]:
    noon = now.astimezone(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    for tenant_id, calls in CALLS_A_DAY.items():
        chance = random.Random(tenant_id)  # noqa: S311 - usage, not secrets.
        for days_ago in range(DAYS, 0, -1):
            at = noon - timedelta(days=days_ago)
            growing = calls * (2 * DAYS - days_ago) // (2 * DAYS)
            yield {
                "customerId": tenant_id,
                "metricName": "api_calls",
                "quantity": chance.randint(growing * 8 // 10, growing),
                "occurredAt": int(at.timestamp()),
                "idempotencyKey": f"history-{tenant_id}-{at:%Y-%m-%d}",
            }
