"""The ledger, asked and never written: which events it has seen, which sessions were killed.

It may be locked or away at any time. Then nothing is known to be a duplicate: what is sent on twice
the ledger counts once.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Final

import structlog
from prometheus_client import Gauge

from aforo_meter.database import DatabaseThread, Sql, database_of
from aforo_meter.domain.seen import event_key

BUSY_TIMEOUT_MS: Final = 200
# What a client waits for it at most. A batch of 1,000 is looked up in some 3 ms.
PATIENCE_S: Final = 0.5

Pair = tuple[str, str]
Query = Callable[[Sql, Collection[Pair]], set[Pair]]

REACHABLE = Gauge(
    "aforo_ingest_ledger_reachable", "0 if the ledger did not answer when it was last asked."
)
REACHABLE.set(1)  # Until it is asked, nothing is known to be wrong.

# One row for each that is asked for, found by the primary key of the table.
SEEN: Final = (
    "SELECT s.event_key FROM {given} CROSS JOIN seen_event AS s WHERE s.event_key = given.event_key"
)
KILLED: Final = (
    "SELECT s.tenant_id, s.session_id FROM {given} CROSS JOIN session AS s"
    " WHERE s.tenant_id = given.tenant_id AND s.session_id = given.name"
    " AND s.killed_micros IS NOT NULL"
)

log = structlog.get_logger()


class LedgerLook:
    """One connection on a thread of its own. Lives in one event loop.

    Args:
        ledger_url: As every process has it; "" if there is none to ask.

    Raises:
        LedgerError: The URL can't be read.
    """

    def __init__(self, ledger_url: str) -> None:
        self._database = (
            database_of(ledger_url, busy_timeout_ms=BUSY_TIMEOUT_MS, only_reads=True)
            if ledger_url
            else None
        )
        self._thread = (
            DatabaseThread(self._database, "ledger-look") if self._database is not None else None
        )
        self._stuck: asyncio.Future[set[Pair]] | None = None
        self._complaint = ""

    @property
    def there(self) -> bool:
        """Is the ledger where it should be, as far as can be told? So too if there is none."""
        return self._database is None or not self._database.is_missing

    async def seen(self, events: Collection[Pair]) -> set[Pair]:
        """Return those (tenant, event id) that the ledger has; none if it does not answer."""
        return await self._ask(_seen, events)

    async def killed(self, sessions: Collection[Pair]) -> set[Pair] | None:
        """Return those (tenant, session id) that were killed; None if it does not answer."""
        found = await self._ask(_killed, sessions)
        return None if self._complaint else found

    def close(self) -> None:
        if self._thread is not None:
            self._thread.abandon()

    async def _ask(self, query: Query, pairs: Collection[Pair]) -> set[Pair]:
        if self._thread is None or self._database is None or not pairs:
            return set()
        if self._stuck is not None and not self._stuck.done():
            return set()  # One question at a time: they would only queue up behind it.
        asking = self._thread.begin(lambda sql: query(sql, pairs), writes=False)
        try:
            found = await asyncio.wait_for(asyncio.shield(asking), PATIENCE_S)
        except TimeoutError:
            self._stuck = asking
            asking.add_done_callback(_forget)
            self._complain("it did not answer in time")
            return set()
        except self._database.errors as error:
            self._complain(f"{type(error).__name__}: {error}")
            return set()
        self._complain("")
        return found

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


def _seen(sql: Sql, events: Collection[Pair]) -> set[Pair]:
    by_key = {event_key(*event): event for event in events}
    given, values = sql.given_keys(list(by_key))
    return {by_key[bytes(key)] for (key,) in sql.execute(SEEN.format(given=given), values)}


def _killed(sql: Sql, sessions: Collection[Pair]) -> set[Pair]:
    tenant_ids, names = zip(*sessions, strict=True)
    given, values = sql.given(tenant_id=tenant_ids, name=names)
    return set(sql.execute(KILLED.format(given=given), values).fetchall())


def _forget(asking: asyncio.Future[set[Pair]]) -> None:
    if not asking.cancelled():
        asking.exception()  # Said to have been looked at: the time-out was told already.
