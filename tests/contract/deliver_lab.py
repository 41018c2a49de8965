"""Couriers for tests: from a ledger's outbox to endpoints, in this process."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aforo_meter.deliver import Courier
from aforo_meter.domain.retries import RetryPolicy
from aforo_meter.endpoints import DEFAULT_ID, Endpoint
from aforo_meter.lanes import Lane
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.outbox_sql import SqlOutbox
from aforo_meter.sending import Sender
from tests.contract.outbox_lab import KEY, OutboxLab

PATIENT: Final = RetryPolicy(first_ms=60_000, max_ms=60_000, total_ms=600_000)
KEEP_DAYS: Final = 400
QUICK: Final = RetryPolicy(first_ms=1, max_ms=20, total_ms=100_000)


@asynccontextmanager
async def courier_for(
    ledger: OutboxLab,
    to: str | Sequence[Endpoint],
    *,
    policy: RetryPolicy = QUICK,
    timeout_s: float = 20.0,
    busy_timeout_ms: int = 10_000,
    allow_private_addresses: bool = True,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Courier]:
    if isinstance(to, str):
        to = [Endpoint(endpoint_id=DEFAULT_ID, url=to, keys=(KEY,))]
    async with AsyncExitStack() as stack:
        opened = SqlLedger(ledger.url, busy_timeout_ms=busy_timeout_ms)
        outbox = SqlOutbox(await stack.enter_async_context(opened))
        lanes = []
        for endpoint in to:
            sender = Sender(
                endpoint,
                timeout_s=timeout_s,
                allow_private_addresses=allow_private_addresses,
                tls=tls,
            )
            await stack.enter_async_context(sender)
            lanes.append(
                Lane(endpoint, outbox, sender, policy, timeout_s=timeout_s, concurrency_max=16)
            )
        yield Courier(outbox, lanes, keep_days=KEEP_DAYS)


@asynccontextmanager
async def delivering(courier: Courier) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(courier.deliver_until(stop, poll_s=0.01))
    try:
        yield
    finally:
        stop.set()
        await task
