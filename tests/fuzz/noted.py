"""What is said while a case runs: the log, and what the event loop complains of."""

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from tests.fuzz.engine import Finding


class Noted:
    """Log lines of one case. An error among them is a finding."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self._errors: list[str] = []

    def listen(self) -> None:
        """Take the place of the log and of the loop's complaints."""
        structlog.configure(processors=[self._take], cache_logger_on_first_use=False)
        asyncio.get_running_loop().set_exception_handler(self._complain)

    def _take(self, _logger: object, level: str, event: MutableMapping[str, Any]) -> Any:  # noqa: ANN401 - structlog's
        line = str(event.get("event"))
        if level in {"error", "exception", "critical"}:
            self._errors.append(f"{line} {event}")
        self.lines.append((line, str(event.get("error", ""))))
        raise structlog.DropEvent

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        self._errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def taken(self) -> set[tuple[str, str]]:
        """Return the lines since the last time.

        Raises:
            Finding: One of them is an error.
        """
        lines, errors = set(self.lines), self._errors
        self.lines, self._errors = [], []
        if errors:
            raise Finding("; ".join(errors))
        return lines
