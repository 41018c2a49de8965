"""`aforo-meter deliver`: the outbox → signed webhooks, at least once, in order per tenant."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from prometheus_client import Counter, Gauge, Histogram

from aforo_meter import process
from aforo_meter.database import without_password
from aforo_meter.domain.retries import RetryPolicy, wait_ms
from aforo_meter.outbox import Message, Outbox, OutboxUnavailableError
from aforo_meter.outbox_sql import SqlOutbox
from aforo_meter.sending import Receiver, Sender, SendError
from aforo_meter.settings import variable
from aforo_meter.settings_deliver import DeliverSettings
from aforo_meter.webhooks import parse_secret

RETRY_WAIT_MAX_MS: Final = 3_600_000
# A claim outlives its attempt by this, so that a slow write of the result does not repeat it.
CLAIM_MARGIN_S: Final = 30
BACKLOG_EVERY_S: Final = 5.0
FINISH_S_MAX: Final = 5.0

ATTEMPTS = Counter("aforo_deliver_attempts_total", "Attempts to deliver, by result.", ["result"])
GAVE_UP = Counter("aforo_deliver_gave_up_total", "Messages given up after the last retry.")
LATENCY = Histogram("aforo_deliver_attempt_seconds", "How long an attempt took.")
WAITING = Gauge("aforo_deliver_waiting_messages", "Messages neither delivered nor given up.")
OLDEST = Gauge("aforo_deliver_oldest_seconds", "Age of the oldest of them.")
ERRORS = Counter("aforo_deliver_outbox_errors_total", "Times that the database did not answer.")

log = structlog.get_logger()


async def run(settings: DeliverSettings, *, once: bool = False) -> int:
    """Deliver until SIGTERM or SIGINT, or `once` what is due; then return 1 if some of it failed.

    Raises:
        OutboxError: There is no outbox to deliver from.
        ListenError: The address for metrics is in use.
    """
    stop = process.stop_on_signals()
    receiver = Receiver(
        url=settings.webhook_url,
        key=parse_secret(settings.webhook_secret.get_secret_value()),
        timeout_s=settings.timeout_ms / 1000,
        allow_private_addresses=settings.allow_private_addresses,
    )
    async with SqlOutbox(settings.ledger_url) as outbox, Sender(receiver) as sender:
        courier = Courier(
            outbox,
            sender,
            RetryPolicy(
                first_ms=settings.retry_first_ms,
                max_ms=max(RETRY_WAIT_MAX_MS, settings.retry_first_ms),
                total_ms=settings.retry_total_s * 1000,
            ),
            timeout_s=receiver.timeout_s,
            concurrency_max=settings.concurrency_max,
        )
        if once:
            return 0 if await courier.deliver_due() else 1
        async with process.health_server(
            settings.metrics_listen,
            setting=variable(DeliverSettings, "metrics_listen"),
            ready=lambda: courier.outbox_answers,
        ):
            log.info("delivering", ledger=without_password(settings.ledger_url))
            await courier.deliver_until(stop, poll_s=settings.poll_ms / 1000)
    log.info("stopped")
    return 0


def now_micros() -> int:
    return time.time_ns() // 1000


class Courier:
    """Takes messages that are due, sends each in a task of its own, and notes what came of it."""

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        policy: RetryPolicy,
        *,
        timeout_s: float,
        concurrency_max: int,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._sender = sender
        self._policy = policy
        self._timeout_s = timeout_s
        self._concurrency_max = concurrency_max
        self._jitter = jitter
        self._under_way: set[asyncio.Task[bool]] = set()
        self.outbox_answers = True

    async def deliver_until(self, stop: asyncio.Event, *, poll_s: float) -> None:
        """Deliver until `stop`, then let what is under way come to its end."""
        stopping = asyncio.ensure_future(stop.wait())
        next_backlog_s = 0.0
        while not stop.is_set():
            try:
                await self._start_due()
                if time.monotonic() >= next_backlog_s:
                    await self._measure_backlog()
                    next_backlog_s = time.monotonic() + BACKLOG_EVERY_S
                self._heard_from_outbox()
            except OutboxUnavailableError as error:
                self._missed_outbox(error)
            # A message that arrives makes the tenant's next one due: look again at once.
            await asyncio.wait(
                {stopping, *self._under_way},
                timeout=poll_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=FINISH_S_MAX)
        for task in self._under_way:
            task.cancel()  # Its claim ends by itself, and the message is sent again.
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def deliver_due(self) -> bool:
        """Deliver until nothing is due; return whether every attempt succeeded."""
        succeeded = True
        while True:
            await self._start_due()
            if not self._under_way:
                return succeeded
            done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            succeeded = succeeded and all(task.result() for task in done)

    async def _start_due(self) -> None:
        free = self._concurrency_max - len(self._under_way)
        if free <= 0:
            return
        now = now_micros()
        lease_micros = int((self._timeout_s + CLAIM_MARGIN_S) * 1_000_000)
        for message in await self._outbox.due(now_micros=now, count_max=free):
            if await self._outbox.claim(message, until_micros=now + lease_micros):
                task = asyncio.create_task(self._attempt(message))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _attempt(self, message: Message) -> bool:
        """Send one message and note the result; return whether it arrived."""
        lines = log.bind(message_id=message.message_id, kind=message.kind, tenant=message.tenant_id)
        try:
            with LATENCY.time():
                await self._sender.send(message, now_s=int(time.time()))
        except SendError as error:
            ATTEMPTS.labels("failed").inc()
            await self._note_failure(message, str(error), lines)
            return False
        ATTEMPTS.labels("delivered").inc()
        await self._note(lambda: self._outbox.delivered(message, now_micros=now_micros()))
        lines.info("delivered", attempts=message.attempts + 1)
        return True

    async def _note_failure(
        self, message: Message, error: str, lines: structlog.typing.FilteringBoundLogger
    ) -> None:
        failures = message.attempts + 1
        delay_ms = wait_ms(self._policy, failures=failures, jitter=self._jitter())
        if delay_ms is None:
            GAVE_UP.inc()
            lines.error("gave a message up", attempts=failures, error=error)
            await self._note(
                lambda: self._outbox.give_up(message, now_micros=now_micros(), error=error)
            )
            return
        lines.warning("not delivered", attempts=failures, error=error, retry_in_s=delay_ms / 1000)
        at_micros = now_micros() + delay_ms * 1000
        await self._note(lambda: self._outbox.retry(message, at_micros=at_micros, error=error))

    async def _note(self, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Write down a result. If that fails, the claim ends in time and the message is resent."""
        try:
            await write()
        except OutboxUnavailableError as error:
            self._missed_outbox(error)

    async def _measure_backlog(self) -> None:
        backlog = await self._outbox.backlog()
        WAITING.set(backlog.messages)
        age_micros = now_micros() - (backlog.oldest_at_micros or now_micros())
        OLDEST.set(max(0, age_micros) / 1_000_000)

    def _missed_outbox(self, error: OutboxUnavailableError) -> None:
        ERRORS.inc()
        if self.outbox_answers:
            log.warning("the outbox does not answer; trying on", error=str(error))
        self.outbox_answers = False

    def _heard_from_outbox(self) -> None:
        if not self.outbox_answers:
            log.info("the outbox answers again")
        self.outbox_answers = True
