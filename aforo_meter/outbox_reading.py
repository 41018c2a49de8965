"""The delivery log, for people: what became of each message, attempt by attempt; and once more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aforo_meter.database import Sql
from aforo_meter.ledger_sql import SqlLedger

WAITING: Final = "waiting"
DELIVERED: Final = "delivered"
GAVE_UP: Final = "gave-up"
STATES: Final = (WAITING, DELIVERED, GAVE_UP)

CONDITIONS: Final = {
    WAITING: "delivered_at_micros IS NULL AND gave_up_at_micros IS NULL",
    DELIVERED: "delivered_at_micros IS NOT NULL",
    GAVE_UP: "gave_up_at_micros IS NOT NULL",
}
DELIVERY_COLUMNS: Final = (
    "outbox.outbox_id, message_id, outbox.tenant_id, kind, payload, created_at_micros, endpoint_id,"
    " attempts, failures, next_attempt_at_micros, delivered_at_micros, gave_up_at_micros,"
    " last_error"
)
FIND: Final = f"SELECT {DELIVERY_COLUMNS} FROM outbox LEFT JOIN delivery USING (outbox_id)"  # noqa: S608
ATTEMPTS = (
    "SELECT endpoint_id, number, at_micros, took_ms, status, error FROM delivery_attempt"
    " WHERE outbox_id = ? ORDER BY at_micros, endpoint_id, number"
)
# One that waits is made due now; one that has ended is opened again, out of its tenant's order.
RESEND = (
    "UPDATE delivery SET next_attempt_at_micros = ?, failures = 0, in_order = CASE WHEN"
    " delivered_at_micros IS NULL AND gave_up_at_micros IS NULL THEN in_order ELSE 0 END,"
    " delivered_at_micros = NULL, gave_up_at_micros = NULL WHERE outbox_id = ? AND endpoint_id = ?"
)
RESEND_ELSEWHERE = (
    "INSERT INTO delivery (outbox_id, endpoint_id, tenant_id, next_attempt_at_micros, in_order)"
    " VALUES (?, ?, ?, ?, 0)"
)


class DeliveryRow(NamedTuple):
    """A message and one of its deliveries; the endpoint and its figures are None if it has none."""

    outbox_id: int
    message_id: str
    tenant_id: str
    kind: str
    payload: str
    created_at_micros: int
    endpoint_id: str | None
    attempts: int | None
    failures: int | None
    next_attempt_at_micros: int | None
    delivered_at_micros: int | None
    gave_up_at_micros: int | None
    last_error: str | None

    @property
    def state(self) -> str:
        if self.endpoint_id is None:
            return "-"
        if self.delivered_at_micros is not None:
            return DELIVERED
        return WAITING if self.gave_up_at_micros is None else GAVE_UP


class AttemptRow(NamedTuple):
    endpoint_id: str
    number: int
    at_micros: int
    took_ms: int | None  # None: it is under way, or was cut off.
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    count_max: int
    tenant_id: str | None = None
    kind: str | None = None
    endpoint_id: str | None = None
    state: str | None = None
    before_outbox_id: int | None = None  # Only messages that are older than this one.

    def where(self) -> tuple[str, list[object]]:
        """Return the condition, of these names alone, and its values."""
        given = {
            "outbox.tenant_id": self.tenant_id,
            "kind": self.kind,
            "endpoint_id": self.endpoint_id,
        }
        terms = [f"{name} = ?" for name, value in given.items() if value is not None]
        if self.state is not None:
            terms += ["endpoint_id IS NOT NULL", CONDITIONS[self.state]]
        values: list[object] = [value for value in given.values() if value is not None]
        if self.before_outbox_id is not None:
            terms.append("outbox.outbox_id < ?")
            values.append(self.before_outbox_id)
        return (" WHERE " + " AND ".join(terms) if terms else ""), values


class DeliveryLog:
    """On the connections of an open ledger. LedgerUnavailableError: it can't be asked."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def find(self, query: LogQuery) -> Sequence[DeliveryRow]:
        """Return deliveries of the newest messages, oldest first."""
        where, values = query.where()
        statement = f"{FIND}{where} ORDER BY outbox_id DESC, endpoint_id DESC LIMIT ?"
        given = (*values, query.count_max)
        rows = await self._ledger.read(lambda sql: sql.execute(statement, given).fetchall())
        return [DeliveryRow._make(row) for row in reversed(rows)]

    async def get(self, message_id: str) -> Sequence[DeliveryRow]:
        """Return a message's deliveries; nothing if there is no such message."""
        statement = f"{FIND} WHERE message_id = ? ORDER BY endpoint_id"
        rows = await self._ledger.read(lambda sql: sql.execute(statement, (message_id,)).fetchall())
        return [DeliveryRow._make(row) for row in rows]

    async def attempts(self, outbox_id: int) -> Sequence[AttemptRow]:
        rows = await self._ledger.read(lambda sql: sql.execute(ATTEMPTS, (outbox_id,)).fetchall())
        return [AttemptRow._make(row) for row in rows]

    async def resend(self, row: DeliveryRow, endpoint_id: str, *, now_micros: int) -> None:
        """Make a message due for an endpoint, whatever became of it before."""

        def work(sql: Sql) -> Any:  # noqa: ANN401 - a cursor that nobody looks at.
            if sql.execute(RESEND, (now_micros, row.outbox_id, endpoint_id)).rowcount == 0:
                values = (row.outbox_id, endpoint_id, row.tenant_id, now_micros)
                sql.execute(RESEND_ELSEWHERE, values)

        await self._ledger.write(work)
