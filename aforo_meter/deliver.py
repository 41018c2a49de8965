"""`aforo-meter deliver`: the outbox → webhooks, at least once, in order per tenant and endpoint."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog

from aforo_meter import process
from aforo_meter.database import without_password
from aforo_meter.domain.periods import DAY_MICROS
from aforo_meter.domain.retries import RetryPolicy
from aforo_meter.endpoints import Endpoint, endpoints_of
from aforo_meter.lanes import ERRORS, Lane, now_micros
from aforo_meter.ledger import LedgerUnavailableError
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.outbox import Outbox
from aforo_meter.outbox_sql import SqlOutbox
from aforo_meter.sending import Sender
from aforo_meter.settings import variable
from aforo_meter.settings_deliver import DeliverSettings
from aforo_meter.waits import Waits, entered

RETRY_WAIT_MAX_MS: Final = 3_600_000
BACKLOG_EVERY_S: Final = 5.0
FINISH_S_MAX: Final = 5.0
PRUNE_EVERY_S: Final = 60.0
PRUNE_MESSAGES_MAX: Final = 1000  # Looked at each time: 1.4 million in a day.

log = structlog.get_logger()


async def run(settings: DeliverSettings, *, once: bool = False) -> int:
    """Deliver until SIGTERM or SIGINT, or `once` what is due; then return 1 if some of it failed.

    Raises:
        EndpointsError: It is not said whom to deliver to.
        LedgerError: There is no outbox to deliver from.
        LedgerUnavailableError: Its database does not answer, and it is for `once`.
        ListenError: The address for metrics is in use.
    """
    endpoints = endpoints_of(settings)
    stop = process.stop_on_signals()
    courier: Courier | None = None
    async with contextlib.AsyncExitStack() as stack:
        # First: who waits for the ledger lives, and says so. Once, nobody asks.
        await stack.enter_async_context(
            process.health_server(
                "" if once else settings.metrics_listen,
                kind="deliver",
                setting=variable(DeliverSettings, "metrics_listen"),
                ready=lambda: courier is not None and courier.outbox_answers,
            )
        )
        ledger = await _ledger(stack, settings, stop, once=once)
        if ledger is None:
            return 0
        lanes = await stack.enter_async_context(_lanes(settings, endpoints, SqlOutbox(ledger)))
        courier = Courier(SqlOutbox(ledger), lanes, keep_days=settings.keep_days)
        if once:
            return 0 if await courier.deliver_due() else 1
        names = [endpoint.endpoint_id for endpoint in endpoints]
        log.info("delivering", ledger=without_password(settings.ledger_url), endpoints=names)
        await courier.deliver_until(stop, poll_s=settings.poll_ms / 1000)
    log.info("stopped")
    return 0


async def _ledger(
    stack: contextlib.AsyncExitStack, settings: DeliverSettings, stop: asyncio.Event, *, once: bool
) -> SqlLedger | None:
    """Open the ledger; wait for its database, unless it is for once. None: stopped meanwhile."""
    if once:
        return await stack.enter_async_context(SqlLedger(settings.ledger_url))
    waits = Waits("the ledger", tell=ERRORS.inc)
    return await entered(stack, lambda: SqlLedger(settings.ledger_url), stop, waits)


@contextlib.asynccontextmanager
async def _lanes(
    settings: DeliverSettings, endpoints: Sequence[Endpoint], outbox: Outbox
) -> AsyncIterator[Sequence[Lane]]:
    policy = RetryPolicy(
        first_ms=settings.retry_first_ms,
        max_ms=max(RETRY_WAIT_MAX_MS, settings.retry_first_ms),
        total_ms=settings.retry_total_s * 1000,
    )
    async with contextlib.AsyncExitStack() as stack:
        yield [
            Lane(
                endpoint,
                outbox,
                await stack.enter_async_context(sender_of(settings, endpoint)),
                policy,
                timeout_s=settings.timeout_ms / 1000,
                concurrency_max=settings.concurrency_max,
            )
            for endpoint in endpoints
        ]


def sender_of(settings: DeliverSettings, endpoint: Endpoint) -> Sender:
    """Return what posts to an endpoint, by the operator's rules."""
    return Sender(
        endpoint,
        timeout_s=settings.timeout_ms / 1000,
        allow_private_addresses=settings.allow_private_addresses,
    )


class Courier:
    """Routes new messages to the endpoints that want them, and keeps their lanes going."""

    def __init__(self, outbox: Outbox, lanes: Sequence[Lane], *, keep_days: int) -> None:
        self._outbox = outbox
        self._lanes = lanes
        self._keep_micros = keep_days * DAY_MICROS
        self._endpoints = [lane.endpoint for lane in lanes]
        self.outbox_answers = True

    @property
    def _under_way(self) -> set[asyncio.Task[None]]:
        return {task for lane in self._lanes for task in lane.under_way}

    async def deliver_until(self, stop: asyncio.Event, *, poll_s: float) -> None:
        """Deliver until `stop`, then let what is under way come to its end."""
        stopping = asyncio.ensure_future(stop.wait())
        next_backlog_s = next_prune_s = 0.0
        while not stop.is_set():
            try:
                await self._start_due()
                if time.monotonic() >= next_backlog_s:
                    for lane in self._lanes:
                        await lane.measure_backlog()
                    next_backlog_s = time.monotonic() + BACKLOG_EVERY_S
                if time.monotonic() >= next_prune_s:
                    await self._prune()
                    next_prune_s = time.monotonic() + PRUNE_EVERY_S
                self._heard_from_outbox()
            except LedgerUnavailableError as error:
                self._missed_outbox(error)
            # A message that arrives makes the tenant's next one due: look again at once.
            await asyncio.wait(
                {stopping, *self._under_way},
                timeout=poll_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        await self._finish()

    async def deliver_due(self) -> bool:
        """Deliver until nothing is due; return whether every attempt succeeded.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        while True:
            # What ends while it is looked for what is due makes more due.
            had = self._under_way
            began = await self._start_due()
            under_way = self._under_way
            if under_way:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            elif not had and not began:
                await self._prune()
                return not any(lane.failed for lane in self._lanes)

    async def _start_due(self) -> bool:
        while await self._outbox.route(self._endpoints, now_micros=now_micros()):
            pass
        return any([await lane.start_due() for lane in self._lanes])

    async def _prune(self) -> None:
        before = now_micros() - self._keep_micros
        await self._outbox.prune(ended_before_micros=before, messages_max=PRUNE_MESSAGES_MAX)

    async def _finish(self) -> None:
        under_way = self._under_way
        if under_way:
            await asyncio.wait(under_way, timeout=FINISH_S_MAX)
        for task in under_way:
            task.cancel()  # Its claim ends by itself, and the message is sent again.
        await asyncio.gather(*under_way, return_exceptions=True)

    def _missed_outbox(self, error: LedgerUnavailableError) -> None:
        ERRORS.inc()
        if self.outbox_answers:
            log.warning("the outbox does not answer; trying on", error=str(error))
        self.outbox_answers = False

    def _heard_from_outbox(self) -> None:
        if not self.outbox_answers:
            log.info("the outbox answers again")
        self.outbox_answers = True
