"""Ledger, Redis and Kafka, as the pages ask them: by the meter's own code, one at a time.

What does not answer costs a page that part only: it says what is missing, and shows the rest.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from django.conf import settings as django_settings

from aforo_authz.explain import UnexplainableError
from aforo_meter.command_arguments import CommandError
from aforo_meter.ledger import LedgerError, LedgerUnavailableError
from aforo_meter.ledger_sql import SqlLedger

T = TypeVar("T")

PREFIX: Final = "AFORO_ADMIN_"


class NotSetError(Exception):
    """Nobody has said where a store is; the message names the setting."""

    def __init__(self, what: str, setting: str) -> None:
        super().__init__(
            f"this process is not told where {what} is: set {PREFIX}{setting.upper()},"
            " and start aforo-admin serve again"
        )


AWAY: Final = (NotSetError, LedgerError, LedgerUnavailableError, CommandError, UnexplainableError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the stores are. Empty: nobody has said so."""

    ledger_url: str = ""
    redis_url: str = ""
    kafka_bootstrap: str = ""
    dead_letter_topic: str = "aforo.usage.dlq.v1"

    def ledger(self) -> str:
        return _said(self.ledger_url, "the ledger", "ledger_url")

    def redis(self) -> str:
        return _said(self.redis_url, "Redis", "redis_url")

    def kafka(self) -> str:
        return _said(self.kafka_bootstrap, "Kafka", "kafka_bootstrap")


def _said(value: str, what: str, setting: str) -> str:
    if not value:
        raise NotSetError(what, setting)
    return value


def places() -> Places:
    """Return where this process was told the stores are."""
    found = getattr(django_settings, "AFORO_PLACES", None)
    return found if isinstance(found, Places) else Places()


def now_micros() -> int:
    return time.time_ns() // 1000


@dataclass(slots=True)
class Missing:
    """What could not be read, in words for the page."""

    said: list[str] = field(default_factory=list)

    async def of(self, asked: Awaitable[T]) -> T | None:
        """Return what a store answers; None, and the reason is kept, if it does not."""
        try:
            return await asked
        except AWAY as error:
            if str(error) not in self.said:
                self.said.append(str(error))
            return None


@asynccontextmanager
async def opened_ledger() -> AsyncIterator[SqlLedger]:
    """Open the ledger for one page.

    Raises:
        NotSetError, LedgerError, LedgerUnavailableError: It can't be asked.
    """
    async with SqlLedger(places().ledger()) as ledger:
        yield ledger


async def from_ledger(work: Callable[[SqlLedger], Awaitable[T]]) -> T:
    """Return what some work finds in the ledger.

    Raises:
        NotSetError, LedgerError, LedgerUnavailableError: It can't be asked.
    """
    async with opened_ledger() as ledger:
        return await work(ledger)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Wait for a page's questions. Views run on threads of their own, without an event loop."""
    return asyncio.run(work)
