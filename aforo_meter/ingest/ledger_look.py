"""The ledger, asked and never written: which events it has seen, which sessions were killed.

It may be locked or away at any time. Then nothing is known to be a duplicate: what is sent on twice
the ledger counts once.
"""

import asyncio
import json
import sqlite3
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import Gauge

BUSY_TIMEOUT_S: Final = 0.2
# What a client waits for it at most. A batch of 1,000 is looked up in some 3 ms.
PATIENCE_S: Final = 0.5

Pair = tuple[str, str]

REACHABLE = Gauge("aforo_ingest_ledger_reachable", "1 if the ledger answered when last asked.")

# One row for each pair asked for, found by the primary key of the table.
SEEN: Final = (
    "SELECT s.tenant_id, s.event_id FROM json_each(?) AS asked CROSS JOIN seen_event AS s"
    " ON s.tenant_id = json_extract(asked.value, '$[0]')"
    " AND s.event_id = json_extract(asked.value, '$[1]')"
)
KILLED: Final = (
    "SELECT s.tenant_id, s.session_id FROM json_each(?) AS asked CROSS JOIN session AS s"
    " ON s.tenant_id = json_extract(asked.value, '$[0]')"
    " AND s.session_id = json_extract(asked.value, '$[1]')"
    " WHERE s.killed_micros IS NOT NULL"
)

log = structlog.get_logger()


class LedgerLook:
    """One connection on a thread of its own. Lives in one event loop.

    Args:
        ledger_url: sqlite:////absolute/path; "" if there is none to ask.
    """

    def __init__(self, ledger_url: str) -> None:
        self._path = Path(ledger_url.removeprefix("sqlite:///")) if ledger_url else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-look")
        self._connection: sqlite3.Connection | None = None
        self._stuck: asyncio.Future[set[Pair]] | None = None
        self._complaint = ""

    @property
    def there(self) -> bool:
        """Is the ledger where it should be? So too if there is none to ask."""
        return self._path is None or self._path.is_file()

    async def seen(self, events: Collection[Pair]) -> set[Pair]:
        """Return those (tenant, event id) that the ledger has; none if it does not answer."""
        return await self._ask(SEEN, events)

    async def killed(self, sessions: Collection[Pair]) -> set[Pair] | None:
        """Return those (tenant, session id) that were killed; None if it does not answer."""
        found = await self._ask(KILLED, sessions)
        return None if self._complaint else found

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, query: str, pairs: Collection[Pair]) -> set[Pair]:
        if self._path is None or not pairs:
            return set()
        if self._stuck is not None and not self._stuck.done():
            return set()  # One question at a time: they would only queue up behind it.
        question = json.dumps(list(pairs))
        loop = asyncio.get_running_loop()
        asking = loop.run_in_executor(self._thread, self._look, query, question)
        try:
            found = await asyncio.wait_for(asyncio.shield(asking), PATIENCE_S)
        except TimeoutError:
            self._stuck = asking
            asking.add_done_callback(_forget)
            self._complain("it did not answer in time")
            return set()
        except (sqlite3.Error, OSError) as error:
            self._complain(f"{type(error).__name__}: {error}")
            return set()
        self._complain("")
        return found

    def _look(self, query: str, question: str) -> set[Pair]:
        try:
            if self._connection is None:
                assert self._path is not None, "asked only if there is a ledger"
                self._connection = sqlite3.connect(
                    f"{self._path.as_uri()}?mode=ro",
                    uri=True,
                    timeout=BUSY_TIMEOUT_S,
                    isolation_level=None,
                    check_same_thread=False,
                )
            return set(self._connection.execute(query, (question,)).fetchall())
        except sqlite3.Error:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            raise

    def _complain(self, complaint: str) -> None:
        REACHABLE.set(0 if complaint else 1)
        if complaint and not self._complaint:
            log.warning(
                "the ledger does not answer; repeated events are sent on, and it drops them",
                error=complaint,
            )
        elif self._complaint and not complaint:
            log.info("the ledger answers again")
        self._complaint = complaint


def _forget(asking: asyncio.Future[set[Pair]]) -> None:
    if not asking.cancelled():
        asking.exception()  # Said to have been looked at: the time-out was told already.
