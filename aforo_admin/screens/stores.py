"""Ledger, Redis and Kafka, as the pages ask them: by the meter's own code, one at a time.

What does not answer costs a page that part only: it says what is missing, and shows the rest.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from aforo_admin.places import PREFIX, NotSetError, places
from aforo_authz.explain import UnexplainableError, UnknownTenantError
from aforo_meter.command_arguments import CommandError
from aforo_meter.ledger import LedgerError, LedgerUnavailableError
from aforo_meter.ledger_sql import SqlLedger

T = TypeVar("T")

AWAY: Final = (NotSetError, LedgerError, LedgerUnavailableError, CommandError, UnexplainableError)


def now_micros() -> int:
    return time.time_ns() // 1000


# What commands call a place, and what it is called here.
SETTINGS: Final = {
    "--redis-url": f"{PREFIX}REDIS_URL",
    "AFORO_AUTHZ_REDIS_URL": f"{PREFIX}REDIS_URL",
    "--bootstrap": f"{PREFIX}KAFKA_BOOTSTRAP",
}


def _in_our_words(text: str) -> str:
    text, run, command = text.partition("run:")  # A command is to be run as it stands.
    for theirs, ours in SETTINGS.items():
        text = text.replace(theirs, ours)
    return f"{text}{run}{command}"


@dataclass(slots=True)
class Missing:
    """What could not be read, in words for the page."""

    said: list[str] = field(default_factory=list)

    async def of(self, asked: Awaitable[T]) -> T | None:
        """Return what a store answers; None, and the reason is kept, if it does not."""
        try:
            return await asked
        except UnknownTenantError:
            raise  # That is no outage: who was named is told at the field.
        except AWAY as error:
            told = _in_our_words(str(error))
            if told not in self.said:
                self.said.append(told)
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
    """Wait for a page's questions. Views run on threads of their own, without an event loop.

    Not by asyncio.run: in a main thread it looks at a signal's handler, and for that spells out
    all that the work has found.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
