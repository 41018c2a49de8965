"""The outbox in SQL, beside the ledger. Its table is made by the meter's migrations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self, TypeVar

from aforo_meter.database import Cursor, DatabaseThread, Values, database_of, migrate_advice
from aforo_meter.ledger import LedgerError, LedgerUnavailableError
from aforo_meter.outbox import Backlog, Message, OutboxError, OutboxUnavailableError

BUSY_TIMEOUT_MS: Final = 5000

T = TypeVar("T")

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


class SqlOutbox:
    """Works on one thread of its own: a locked database must not hold up the loop."""

    def __init__(self, ledger_url: str) -> None:
        """Remember the wiring.

        Raises:
            OutboxError: The URL can't be read.
        """
        try:
            self._database = database_of(ledger_url, busy_timeout_ms=BUSY_TIMEOUT_MS)
        except LedgerError as error:
            raise OutboxError(str(error)) from None
        self._thread = DatabaseThread(self._database, "outbox")

    async def __aenter__(self) -> Self:
        """Open the database.

        Raises:
            OutboxError: There is no ledger, or none with an outbox.
            OutboxUnavailableError: It does not answer.
        """
        try:
            await self._require_table()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _require_table(self) -> None:
        place, advice = self._database.name, migrate_advice(self._database)
        if self._database.is_missing:
            raise OutboxError(f"there is no ledger at {place}; {advice}")
        has_table = self._database.has_table
        if await self._execute(has_table, ("outbox",), lambda found: found.fetchone()) is None:
            raise OutboxError(f"{place} holds no outbox; {advice}")

    async def __aexit__(self, *_: object) -> None:
        await self._thread.close()

    async def due(self, *, now_micros: int, count_max: int) -> Sequence[Message]:
        values = {"now_micros": now_micros, "count_max": count_max}
        rows = await self._execute(DUE, values, lambda found: found.fetchall())
        return [
            Message(
                outbox_id=outbox_id,
                message_id=message_id,
                tenant_id=tenant_id,
                kind=kind,
                payload=payload.encode(),
                attempts=attempts,
            )
            for outbox_id, message_id, tenant_id, kind, payload, attempts in rows
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
        messages, oldest_at_micros = await self._execute(
            BACKLOG, {}, lambda found: found.fetchone()
        )
        return Backlog(messages=messages, oldest_at_micros=oldest_at_micros)

    async def _update(self, statement: str, message: Message, values: Mapping[str, object]) -> int:
        given = {"outbox_id": message.outbox_id, **values}
        return await self._execute(statement, given, lambda found: found.rowcount)

    async def _execute(self, statement: str, values: Values, take: Callable[[Cursor], T]) -> T:
        """Run one statement, which is a transaction of its own."""
        try:
            return await self._thread.begin(
                lambda sql: take(sql.execute(statement, values)),
                writes=statement.startswith("UPDATE"),
            )
        except LedgerUnavailableError as error:
            raise OutboxUnavailableError(str(error)) from error
