"""The outbox in SQL, on the connections of an open ledger."""

from collections.abc import Sequence
from typing import Any, Final

from aforo_meter.database import Sql
from aforo_meter.endpoints import Endpoint
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.outbox import Backlog, Delivery, Result

ROUTE_MAX: Final = 1000  # Messages in one transaction.

UNROUTED = (
    "SELECT outbox_id, tenant_id, kind FROM outbox WHERE routed_at_micros IS NULL"
    " ORDER BY outbox_id LIMIT ?"
)
ROUTED = "UPDATE outbox SET routed_at_micros = ? WHERE outbox_id = ?"
NEW = (
    "INSERT INTO delivery (outbox_id, endpoint_id, tenant_id, next_attempt_at_micros)"
    " VALUES (?, ?, ?, ?) ON CONFLICT (outbox_id, endpoint_id) DO NOTHING"
)
OPEN: Final = "delivered_at_micros IS NULL AND gave_up_at_micros IS NULL"
GONE = "SELECT 1 FROM endpoint_gone WHERE endpoint_id = ? AND url_digest = ?"
DUE = (
    "SELECT outbox_id, endpoint_id, message_id, mine.tenant_id, kind, payload, attempts, failures"  # noqa: S608
    " FROM delivery AS mine JOIN outbox USING (outbox_id)"
    f" WHERE endpoint_id = ? AND {OPEN} AND next_attempt_at_micros <= ?"
    " AND claimed_until_micros <= ? AND (in_order = 0 OR NOT EXISTS ("
    "SELECT 1 FROM delivery AS older WHERE older.endpoint_id = mine.endpoint_id"
    " AND older.tenant_id = mine.tenant_id AND older.outbox_id < mine.outbox_id"
    " AND older.in_order = 1 AND older.delivered_at_micros IS NULL"
    " AND older.gave_up_at_micros IS NULL)) ORDER BY outbox_id LIMIT ?"
)
# The count of attempts is the fence: of two processes that saw the same one, only one updates.
CLAIM = (
    "UPDATE delivery SET attempts = attempts + 1, claimed_until_micros = ?"  # noqa: S608
    f" WHERE outbox_id = ? AND endpoint_id = ? AND attempts = ? AND {OPEN}"
)
BEGIN_ATTEMPT = (
    "INSERT INTO delivery_attempt (outbox_id, endpoint_id, number, at_micros) VALUES (?, ?, ?, ?)"
)
END_ATTEMPT = (
    "UPDATE delivery_attempt SET took_ms = ?, status = ?, error = ?"
    " WHERE outbox_id = ? AND endpoint_id = ? AND number = ?"
)
DELIVERED = (
    "UPDATE delivery SET delivered_at_micros = ?, gave_up_at_micros = NULL,"
    " claimed_until_micros = 0, last_error = NULL WHERE outbox_id = ? AND endpoint_id = ?"
)
# What is said of an attempt counts only while it is the last one.
LAST: Final = f" WHERE outbox_id = ? AND endpoint_id = ? AND attempts = ? AND {OPEN}"
RETRY = (
    "UPDATE delivery SET next_attempt_at_micros = ?, failures = failures + 1,"  # noqa: S608
    f" claimed_until_micros = 0, last_error = ?{LAST}"
)
GIVE_UP = (
    "UPDATE delivery SET gave_up_at_micros = ?, failures = failures + 1,"  # noqa: S608
    f" claimed_until_micros = 0, last_error = ?{LAST}"
)
MARK_GONE = (
    "INSERT INTO endpoint_gone (endpoint_id, url_digest, at_micros) VALUES (?, ?, ?)"
    " ON CONFLICT (endpoint_id, url_digest) DO NOTHING"
)
BACK = "DELETE FROM endpoint_gone WHERE endpoint_id = ? AND url_digest = ?"
BACKLOG = (
    "SELECT COUNT(*), MIN(created_at_micros) FROM delivery JOIN outbox USING (outbox_id)"  # noqa: S608
    f" WHERE endpoint_id = ? AND {OPEN}"
)
# In turn, by the key, which grows with time: nothing that is kept is looked at twice in a round.
PRUNE_UNTIL = (
    "SELECT MAX(outbox_id), COUNT(*) FROM (SELECT outbox_id FROM outbox WHERE outbox_id > ?"
    " ORDER BY outbox_id LIMIT ?) AS next"
)
ENDED_LONG_AGO = (
    "SELECT outbox_id FROM outbox WHERE outbox_id > ? AND outbox_id <= ?"
    " AND routed_at_micros < ? AND NOT EXISTS (SELECT 1 FROM delivery"
    " WHERE delivery.outbox_id = outbox.outbox_id"
    " AND (COALESCE(delivered_at_micros, gave_up_at_micros) IS NULL"
    " OR COALESCE(delivered_at_micros, gave_up_at_micros) >= ?))"
)
FORGET = tuple(
    f"DELETE FROM {table} WHERE outbox_id = ?"  # noqa: S608
    for table in ("delivery_attempt", "delivery", "outbox")
)


class SqlOutbox:
    """On the connections of an open ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger
        self._pruned_to = 0  # Messages up to this one were looked at.

    async def route(self, endpoints: Sequence[Endpoint], *, now_micros: int) -> int:
        def look(sql: Sql) -> list[Any]:
            return sql.execute(UNROUTED, (ROUTE_MAX,)).fetchall()

        def work(sql: Sql) -> int:
            found = look(sql)  # Once more: another process may have routed them.
            for outbox_id, tenant_id, kind in found:
                for endpoint in endpoints:
                    if endpoint.wants(tenant_id=tenant_id, kind=kind):
                        values = (outbox_id, endpoint.endpoint_id, tenant_id, now_micros)
                        sql.execute(NEW, values)
                sql.execute(ROUTED, (now_micros, outbox_id))
            return len(found)

        # Nearly always there is nothing, and nobody who writes is held up.
        return await self._ledger.write(work) if await self._ledger.read(look) else 0

    async def due(
        self, endpoint: Endpoint, *, now_micros: int, count_max: int
    ) -> Sequence[Delivery]:
        def work(sql: Sql) -> list[Any]:
            if sql.execute(GONE, (endpoint.endpoint_id, endpoint.url_digest)).fetchone():
                return []
            values = (endpoint.endpoint_id, now_micros, now_micros, count_max)
            return sql.execute(DUE, values).fetchall()

        return [Delivery._make(row) for row in await self._ledger.read(work)]

    async def claim(self, delivery: Delivery, *, now_micros: int, until_micros: int) -> bool:
        def work(sql: Sql) -> bool:
            key = _key(delivery)
            if sql.execute(CLAIM, (until_micros, *key, delivery.attempts)).rowcount != 1:
                return False
            sql.execute(BEGIN_ATTEMPT, (*key, delivery.attempts + 1, now_micros))
            return True

        return await self._ledger.write(work)

    async def delivered(self, delivery: Delivery, result: Result, *, now_micros: int) -> None:
        await self._end(delivery, result, DELIVERED, (now_micros, *_key(delivery)))

    async def retry(self, delivery: Delivery, result: Result, *, at_micros: int) -> None:
        await self._end(delivery, result, RETRY, (at_micros, result.error, *_attempt(delivery)))

    async def give_up(self, delivery: Delivery, result: Result, *, now_micros: int) -> None:
        await self._end(delivery, result, GIVE_UP, (now_micros, result.error, *_attempt(delivery)))

    async def gone(
        self, delivery: Delivery, result: Result, endpoint: Endpoint, *, now_micros: int
    ) -> None:
        def work(sql: Sql) -> None:
            _end_attempt(sql, delivery, result)
            sql.execute(RETRY, (now_micros, result.error, *_attempt(delivery)))
            sql.execute(MARK_GONE, (endpoint.endpoint_id, endpoint.url_digest, now_micros))

        await self._ledger.write(work)

    async def back(self, endpoint: Endpoint) -> bool:
        values = (endpoint.endpoint_id, endpoint.url_digest)
        return await self._ledger.write(lambda sql: sql.execute(BACK, values).rowcount == 1)

    async def prune(self, *, ended_before_micros: int, messages_max: int) -> int:
        begin, before = self._pruned_to, ended_before_micros

        def look(sql: Sql) -> tuple[int, int, bool]:
            until, count = sql.execute(PRUNE_UNTIL, (begin, messages_max)).fetchone()
            found = sql.execute(ENDED_LONG_AGO, (begin, until or 0, before, before)).fetchone()
            return until, count, found is not None

        def work(sql: Sql) -> int:
            # Once more: somebody may have asked for one to be sent again.
            ids = sql.execute(ENDED_LONG_AGO, (begin, until, before, before)).fetchall()
            for statement in FORGET:
                sql.executemany(statement, ids)
            return len(ids)

        until, looked_at, is_due = await self._ledger.read(look)
        forgotten = await self._ledger.write(work) if is_due else 0
        self._pruned_to = until if looked_at == messages_max else 0
        return forgotten

    async def backlog(self, endpoint: Endpoint) -> Backlog:
        def work(sql: Sql) -> Backlog:
            messages, oldest = sql.execute(BACKLOG, (endpoint.endpoint_id,)).fetchone()
            gone = sql.execute(GONE, (endpoint.endpoint_id, endpoint.url_digest)).fetchone()
            return Backlog(messages=messages, oldest_at_micros=oldest, is_gone=gone is not None)

        return await self._ledger.read(work)

    async def _end(
        self, delivery: Delivery, result: Result, statement: str, values: tuple[object, ...]
    ) -> None:
        def work(sql: Sql) -> None:
            _end_attempt(sql, delivery, result)
            sql.execute(statement, values)

        await self._ledger.write(work)


def _end_attempt(sql: Sql, delivery: Delivery, result: Result) -> None:
    values = (result.took_ms, result.status, result.error, *_attempt(delivery))
    sql.execute(END_ATTEMPT, values)


def _key(delivery: Delivery) -> tuple[int, str]:
    return (delivery.outbox_id, delivery.endpoint_id)


def _attempt(delivery: Delivery) -> tuple[int, str, int]:
    """Name the attempt that was begun with the delivery as it was read."""
    return (*_key(delivery), delivery.attempts + 1)
