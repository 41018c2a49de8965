"""The outbox in SQL, beside the ledger. Its table is made by the meter's migrations."""

import asyncio
import sqlite3
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self, TypeVar

from aforo_meter.outbox import Backlog, Message, OutboxError, OutboxUnavailableError

BUSY_TIMEOUT_S: Final = 5.0
T = TypeVar("T")

HAS_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'outbox'"
DUE = (
    "SELECT outbox_id, message_id, tenant_id, kind, payload, attempts FROM outbox AS mine"
    " WHERE delivered_at_micros IS NULL AND gave_up_at_micros IS NULL"
    " AND next_attempt_at_micros <= :now_micros"
    " AND NOT EXISTS (SELECT 1 FROM outbox AS older WHERE older.tenant_id = mine.tenant_id"
    " AND older.outbox_id < mine.outbox_id"
    " AND older.delivered_at_micros IS NULL AND older.gave_up_at_micros IS NULL)"
    " ORDER BY outbox_id LIMIT :count_max"
)
# The count of attempts is the fence: of two processes that saw the same one, only one updates.
CLAIM = (
    "UPDATE outbox SET attempts = attempts + 1, next_attempt_at_micros = :until_micros"
    " WHERE outbox_id = :outbox_id AND attempts = :attempts"
    " AND delivered_at_micros IS NULL AND gave_up_at_micros IS NULL"
)
DELIVERED = (
    "UPDATE outbox SET delivered_at_micros = :now_micros, last_error = NULL"
    " WHERE outbox_id = :outbox_id"
)
RETRY = (
    "UPDATE outbox SET next_attempt_at_micros = :at_micros, last_error = :error"
    " WHERE outbox_id = :outbox_id AND delivered_at_micros IS NULL"
)
GIVE_UP = (
    "UPDATE outbox SET gave_up_at_micros = :now_micros, last_error = :error"
    " WHERE outbox_id = :outbox_id AND delivered_at_micros IS NULL"
)
BACKLOG = (
    "SELECT COUNT(*) AS messages, MIN(created_at_micros) AS oldest_at_micros FROM outbox"
    " WHERE delivered_at_micros IS NULL AND gave_up_at_micros IS NULL"
)


class SqliteOutbox:
    """Works on one thread of its own: a locked database must not hold up the loop."""

    def __init__(self, ledger_url: str) -> None:
        self._path = Path(ledger_url.removeprefix("sqlite:///"))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        """Open the database.

        Raises:
            OutboxError: There is no ledger, or none with an outbox.
            OutboxUnavailableError: It does not answer.
        """
        advice = f"run: aforo-meter migrate --ledger-url sqlite:///{self._path}"
        if not self._path.is_file():
            raise OutboxError(f"there is no ledger at {self._path}; {advice}")
        self._connection = await self._in_thread(self._connect)
        if not await self._execute(HAS_TABLE, {}, lambda cursor: cursor.fetchone()):
            await self.__aexit__()
            raise OutboxError(f"{self._path} holds no outbox; {advice}")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            await self._in_thread(self._connection.close)
        self._thread.shutdown()

    async def due(self, *, now_micros: int, count_max: int) -> Sequence[Message]:
        values = {"now_micros": now_micros, "count_max": count_max}
        rows = await self._execute(DUE, values, lambda cursor: cursor.fetchall())
        return [
            Message(
                outbox_id=row["outbox_id"],
                message_id=row["message_id"],
                tenant_id=row["tenant_id"],
                kind=row["kind"],
                payload=row["payload"].encode(),
                attempts=row["attempts"],
            )
            for row in rows
        ]

    async def claim(self, message: Message, *, until_micros: int) -> bool:
        values = {"until_micros": until_micros, "attempts": message.attempts}
        return await self._update(CLAIM, message, values) == 1

    async def delivered(self, message: Message, *, now_micros: int) -> None:
        await self._update(DELIVERED, message, {"now_micros": now_micros})

    async def retry(self, message: Message, *, at_micros: int, error: str) -> None:
        await self._update(RETRY, message, {"at_micros": at_micros, "error": error})

    async def give_up(self, message: Message, *, now_micros: int, error: str) -> None:
        await self._update(GIVE_UP, message, {"now_micros": now_micros, "error": error})

    async def backlog(self) -> Backlog:
        row = await self._execute(BACKLOG, {}, lambda cursor: cursor.fetchone())
        return Backlog(messages=row["messages"], oldest_at_micros=row["oldest_at_micros"])

    async def _update(self, statement: str, message: Message, values: Mapping[str, object]) -> int:
        given = {"outbox_id": message.outbox_id, **values}
        return await self._execute(statement, given, lambda cursor: cursor.rowcount)

    async def _execute(
        self, statement: str, values: Mapping[str, object], take: Callable[[sqlite3.Cursor], T]
    ) -> T:
        """Run one statement, which is a transaction of its own."""
        connection = self._connection
        assert connection is not None, "used outside `async with`"
        return await self._in_thread(lambda: take(connection.execute(statement, values)))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            # Read-write but never created: an empty database would look like an empty outbox.
            f"file:{urllib.parse.quote(str(self._path))}?mode=rw",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.row_factory = sqlite3.Row
        return connection

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise OutboxUnavailableError(str(error)) from error
