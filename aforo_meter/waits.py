"""Waiting for what is away: said once, and then now and again."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, TypeVar

import structlog

from aforo_meter import consume_metrics as metrics
from aforo_meter import process
from aforo_meter.kafka_place import told
from aforo_meter.ledger import LedgerUnavailableError

SAY_AGAIN_S: Final = 30.0  # What is still away is said again.
AGAIN_S: Final = 1.0

T = TypeVar("T")

log = structlog.get_logger()


class Waits:
    """Says once, and then now and again, that something is away; and that it is back."""

    def __init__(self, what: str, tell: Callable[[int], object] | None = None) -> None:
        """Remember the wiring.

        Args:
            what: For the log.
            tell: Called with 1 at each failure, and with 0 when all is well again; None: the
                consumer's gauge is set.
        """
        self._what = what
        self._tell = tell or (lambda waiting: metrics.WAITING.labels(what).set(waiting))
        self._since_s: float | None = None
        self._said_s = 0.0

    def failed(self, error: BaseException) -> None:
        now_s = time.monotonic()
        self._tell(1)
        if self._since_s is None:
            self._since_s = now_s
        elif now_s - self._said_s < SAY_AGAIN_S:
            return
        self._said_s = now_s
        log.warning("waiting", what=self._what, error=f"{type(error).__name__}: {told(error)}")

    def worked(self) -> None:
        if self._since_s is not None:
            self._tell(0)
            waited_s = round(time.monotonic() - self._since_s, 1)
            log.info("going on", what=self._what, waited_s=waited_s)
            self._since_s = None


async def entered(
    stack: AsyncExitStack,
    make: Callable[[], AbstractAsyncContextManager[T]],
    stop: asyncio.Event,
    waits: Waits,
) -> T | None:
    """Open a ledger as soon as its database answers; None if the process is stopped before."""
    while not stop.is_set():
        try:
            opened = await stack.enter_async_context(make())
        except LedgerUnavailableError as error:
            waits.failed(error)
            await process.wait_for(stop, timeout_s=AGAIN_S)
        else:
            waits.worked()
            return opened
    return None
