"""The outbox in SQL, beside the ledger. Its table is made by the meter's migrations."""

import asyncio
import functools
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from aforo_meter.outbox import Backlog, Message, OutboxError, OutboxUnavailableError

BUSY_TIMEOUT_MS = 5000
T = TypeVar("T")

DUE = text(
    "SELECT outbox_id, message_id, tenant_id, kind, payload, attempts FROM outbox AS mine"
    " WHERE delivered_at_micros IS NULL AND gave_up_at_micros IS NULL"
    " AND next_attempt_at_micros <= :now_micros"
    " AND NOT EXISTS (SELECT 1 FROM outbox AS older WHERE older.tenant_id = mine.tenant_id"
    " AND older.outbox_id < mine.outbox_id"
    " AND older.delivered_at_micros IS NULL AND older.gave_up_at_micros IS NULL)"
    " ORDER BY outbox_id LIMIT :count_max"
)
# The count of attempts is the fence: of two processes that saw the same one, only one updates.
CLAIM = text(
    "UPDATE outbox SET attempts = attempts + 1, next_attempt_at_micros = :until_micros"
    " WHERE outbox_id = :outbox_id AND attempts = :attempts"
    " AND delivered_at_micros IS NULL AND gave_up_at_micros IS NULL"
)
DELIVERED = text(
    "UPDATE outbox SET delivered_at_micros = :now_micros, last_error = NULL"
    " WHERE outbox_id = :outbox_id"
)
RETRY = text(
    "UPDATE outbox SET next_attempt_at_micros = :at_micros, last_error = :error"
    " WHERE outbox_id = :outbox_id AND delivered_at_micros IS NULL"
)
GIVE_UP = text(
    "UPDATE outbox SET gave_up_at_micros = :now_micros, last_error = :error"
    " WHERE outbox_id = :outbox_id AND delivered_at_micros IS NULL"
)
BACKLOG = text(
    "SELECT COUNT(*) AS messages, MIN(created_at_micros) AS oldest_at_micros FROM outbox"
    " WHERE delivered_at_micros IS NULL AND gave_up_at_micros IS NULL"
)


class SqlOutbox:
    """Works on one thread of its own: a locked database must not hold up the loop."""

    def __init__(self, ledger_url: str) -> None:
        path = ledger_url.removeprefix("sqlite:///")
        # Read-write but never created: an empty database would look like an empty outbox.
        self._engine = sqlalchemy.create_engine(
            f"sqlite:///file:{urllib.parse.quote(path)}?mode=rw&uri=true",
            connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
            poolclass=sqlalchemy.StaticPool,
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._path = Path(path)

    async def __aenter__(self) -> Self:
        """Open the database.

        Raises:
            OutboxError: There is no ledger, or none with an outbox.
            OutboxUnavailableError: It does not answer.
        """
        advice = f"run: aforo-meter migrate --ledger-url sqlite:///{self._path}"
        if not self._path.is_file():
            raise OutboxError(f"there is no ledger at {self._path}; {advice}")
        if not await self._transact(lambda connection: inspect(connection).has_table("outbox")):
            raise OutboxError(f"{self._path} holds no outbox; {advice}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._in_thread(self._engine.dispose)
        self._thread.shutdown()

    async def due(self, *, now_micros: int, count_max: int) -> Sequence[Message]:
        values = {"now_micros": now_micros, "count_max": count_max}
        rows = await self._read(DUE, values)
        return [
            Message(
                outbox_id=row.outbox_id,
                message_id=row.message_id,
                tenant_id=row.tenant_id,
                kind=row.kind,
                payload=row.payload.encode(),
                attempts=row.attempts,
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
        (row,) = await self._read(BACKLOG, {})
        return Backlog(messages=row.messages, oldest_at_micros=row.oldest_at_micros)

    async def _read(
        self, query: sqlalchemy.TextClause, values: Mapping[str, object]
    ) -> Sequence[sqlalchemy.Row[Any]]:
        return await self._transact(lambda connection: connection.execute(query, values).all())

    async def _update(
        self, query: sqlalchemy.TextClause, message: Message, values: Mapping[str, object]
    ) -> int:
        given = {"outbox_id": message.outbox_id, **values}
        return await self._transact(lambda connection: connection.execute(query, given).rowcount)

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        def transaction() -> T:
            with self._engine.begin() as connection:
                return work(connection)

        try:
            return await self._in_thread(transaction)
        except SQLAlchemyError as error:
            raise OutboxUnavailableError(str(error.__cause__ or error)) from error

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, functools.partial(work))
