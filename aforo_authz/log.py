"""Structured logs on standard error: JSON lines, or columns where a person watches."""

import contextlib
import logging
import sys
from typing import TextIO, cast

import structlog


def configure_logging(level: str) -> None:
    """Set up structlog for this process."""
    watched = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if watched else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _BestEffort(sys.stderr))),
        cache_logger_on_first_use=True,
    )


class _BestEffort:
    """A stream whose failures are nobody's: a full disk or a reader that left costs lines only.

    Without it they would be raised where a decision is being told, and take it along.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed.
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()
