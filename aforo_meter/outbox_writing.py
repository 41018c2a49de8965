"""How an alert gets into the outbox: in the transaction of what caused it."""

from typing import Final

from aforo_meter.alerts import Alert
from aforo_meter.database import Sql

LEAVE: Final = (
    "INSERT INTO outbox (message_id, tenant_id, kind, payload, created_at_micros)"
    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (message_id) DO NOTHING"
)


def leave(sql: Sql, tenant_id: str, alert: Alert, *, now_micros: int) -> bool:
    """Leave an alert; False if it was left before."""
    values = (alert.message_id, tenant_id, alert.kind, alert.payload, now_micros)
    return sql.execute(LEAVE, values).rowcount == 1
