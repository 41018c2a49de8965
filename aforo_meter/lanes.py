"""One endpoint's deliveries: each in a task of its own, and what came of it noted."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from prometheus_client import Counter, Gauge, Histogram

from aforo_meter.domain.retries import RetryPolicy, wait_ms
from aforo_meter.endpoints import Endpoint
from aforo_meter.ledger import LedgerUnavailableError
from aforo_meter.outbox import Delivery, Outbox, Result
from aforo_meter.sending import Sender, SendError

# A claim outlives its attempt by this, so that a slow write of the result does not repeat it.
CLAIM_MARGIN_S: Final = 30

NOT_FOR_IT: Final = "the endpoint's `tenants` or `kinds` leave this message out"

ATTEMPTS = Counter(
    "aforo_deliver_attempts_total", "Attempts to deliver, by result.", ["endpoint", "result"]
)
GAVE_UP = Counter(
    "aforo_deliver_gave_up_total", "Messages given up after the last retry.", ["endpoint"]
)
LATENCY = Histogram("aforo_deliver_attempt_seconds", "How long an attempt took.", ["endpoint"])
WAITING = Gauge(
    "aforo_deliver_waiting_messages", "Messages neither delivered nor given up.", ["endpoint"]
)
OLDEST = Gauge("aforo_deliver_oldest_seconds", "Age of the oldest of them.", ["endpoint"])
GONE = Gauge(
    "aforo_deliver_gone", "1: the endpoint answered 410 Gone; its messages wait.", ["endpoint"]
)
ERRORS = Counter("aforo_deliver_outbox_errors_total", "Times that the database did not answer.")

log = structlog.get_logger()


def now_micros() -> int:
    return time.time_ns() // 1000


class Lane:
    """What is under way to one endpoint. Nothing of it holds up another endpoint's lane."""

    def __init__(
        self,
        endpoint: Endpoint,
        outbox: Outbox,
        sender: Sender,
        policy: RetryPolicy,
        *,
        timeout_s: float,
        concurrency_max: int,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.endpoint = endpoint
        # Shown as 0: a count that comes as 1 has not grown, to Prometheus, and raises no alert.
        GAVE_UP.labels(endpoint.endpoint_id)
        self.under_way: set[asyncio.Task[None]] = set()
        self.failed = 0  # Attempts.
        self._outbox = outbox
        self._sender = sender
        self._policy = policy
        self._lease_micros = int((timeout_s + CLAIM_MARGIN_S) * 1_000_000)
        self._concurrency_max = concurrency_max
        self._jitter = jitter

    async def start_due(self) -> bool:
        """Begin what is due, as far as there is room. Return whether anything was begun.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        free = self._concurrency_max - len(self.under_way)
        if free <= 0:
            return False
        now = now_micros()
        until = now + self._lease_micros
        began = False
        for delivery in await self._outbox.due(self.endpoint, now_micros=now, count_max=free):
            if await self._outbox.claim(delivery, now_micros=now, until_micros=until):
                task = asyncio.create_task(self._attempt(delivery))
                self.under_way.add(task)
                task.add_done_callback(self.under_way.discard)
                began = True
        return began

    async def measure_backlog(self) -> None:
        """Say in numbers what waits.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        backlog = await self._outbox.backlog(self.endpoint)
        name = self.endpoint.endpoint_id
        WAITING.labels(name).set(backlog.messages)
        age_micros = now_micros() - (backlog.oldest_at_micros or now_micros())
        OLDEST.labels(name).set(max(0, age_micros) / 1_000_000)
        GONE.labels(name).set(backlog.is_gone)

    async def _attempt(self, delivery: Delivery) -> None:
        """Send one message and note the result."""
        name = self.endpoint.endpoint_id
        lines = log.bind(
            endpoint=name,
            message_id=delivery.message_id,
            kind=delivery.kind,
            tenant=delivery.tenant_id,
        )
        if not self.endpoint.wants(tenant_id=delivery.tenant_id, kind=delivery.kind):
            await self._refuse(delivery, lines)
            return
        started_s = time.monotonic()
        try:
            with LATENCY.labels(name).time():
                status = await self._sender.send(
                    delivery.message_id, delivery.payload.encode(), now_s=int(time.time())
                )
        except Exception as error:  # noqa: BLE001 - one that can't be sent holds up no other.
            if not isinstance(error, SendError):
                lines.exception("a message can't be sent")
                error = SendError(f"{type(error).__name__}: {error}")
            self.failed += 1
            ATTEMPTS.labels(name, "failed").inc()
            result = Result(took_ms=_ms_since(started_s), status=error.status, error=str(error))
            if error.is_gone:
                await self._note_gone(delivery, result, lines)
            else:
                await self._note_failure(delivery, result, lines, asked_ms=error.retry_after_ms)
            return
        ATTEMPTS.labels(name, "delivered").inc()
        result = Result(took_ms=_ms_since(started_s), status=status)
        await _note(lambda: self._outbox.delivered(delivery, result, now_micros=now_micros()))
        lines.info("delivered", attempts=delivery.attempts + 1)

    async def _refuse(
        self, delivery: Delivery, lines: structlog.typing.FilteringBoundLogger
    ) -> None:
        """Send nothing: since it was routed, the endpoint has become one for others."""
        self.failed += 1
        GAVE_UP.labels(self.endpoint.endpoint_id).inc()
        result = Result(took_ms=0, status=None, error=NOT_FOR_IT)
        lines.error("gave a message up", attempts=delivery.attempts + 1, error=result.error)
        await _note(lambda: self._outbox.give_up(delivery, result, now_micros=now_micros()))

    async def _note_failure(
        self,
        delivery: Delivery,
        result: Result,
        lines: structlog.typing.FilteringBoundLogger,
        *,
        asked_ms: int,
    ) -> None:
        attempts, failures = delivery.attempts + 1, delivery.failures + 1
        jitter = self._jitter()
        delay_ms = wait_ms(self._policy, failures=failures, jitter=jitter, asked_ms=asked_ms)
        if delay_ms is None:
            GAVE_UP.labels(self.endpoint.endpoint_id).inc()
            lines.error("gave a message up", attempts=attempts, error=result.error)
            await _note(lambda: self._outbox.give_up(delivery, result, now_micros=now_micros()))
            return
        retry_in_s = delay_ms / 1000
        lines.warning("not delivered", attempts=attempts, error=result.error, retry_in_s=retry_in_s)
        at_micros = now_micros() + delay_ms * 1000
        await _note(lambda: self._outbox.retry(delivery, result, at_micros=at_micros))

    async def _note_gone(
        self, delivery: Delivery, result: Result, lines: structlog.typing.FilteringBoundLogger
    ) -> None:
        GONE.labels(self.endpoint.endpoint_id).set(1)
        lines.error(
            "the endpoint is gone; its messages wait. Take it out, change its URL, or once it is"
            " back run: aforo-meter alerts test",
            error=result.error,
        )
        await _note(
            lambda: self._outbox.gone(delivery, result, self.endpoint, now_micros=now_micros())
        )


async def _note(write: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Write down a result. If that fails, the claim ends in time and the message is resent."""
    try:
        await write()
    except LedgerUnavailableError as error:
        ERRORS.inc()
        log.warning("what came of an attempt is not noted: it is made again", error=str(error))


def _ms_since(started_s: float) -> int:
    return int((time.monotonic() - started_s) * 1000)
