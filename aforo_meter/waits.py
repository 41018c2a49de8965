"""Says once, and then now and again, that something is away."""

import time
from typing import Final

import structlog

from aforo_meter import consume_metrics as metrics

SAY_AGAIN_S: Final = 30.0  # What is still away is said again.

log = structlog.get_logger()


class Waits:
    """Says once, and then now and again, that something is away; and that it is back."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._since_s: float | None = None
        self._said_s = 0.0

    def failed(self, error: BaseException) -> None:
        now_s = time.monotonic()
        metrics.WAITING.labels(self._what).set(1)
        if self._since_s is None:
            self._since_s = now_s
        elif now_s - self._said_s < SAY_AGAIN_S:
            return
        self._said_s = now_s
        log.warning("waiting", what=self._what, error=f"{type(error).__name__}: {error}")

    def worked(self) -> None:
        if self._since_s is not None:
            metrics.WAITING.labels(self._what).set(0)
            waited_s = round(time.monotonic() - self._since_s, 1)
            log.info("going on", what=self._what, waited_s=waited_s)
            self._since_s = None
