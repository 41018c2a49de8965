"""For writing in sets: charges by number, states with a revision, seen events by a digest."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy
from alembic import context, op

from aforo_meter.domain.seen import event_key
from aforo_meter.migrations.versions.v0001_ledger import CLUSTERED

revision = "0008"
down_revision = "0007"

IDENTITY = {
    "sqlite": "INTEGER PRIMARY KEY",
    "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}
BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}
# A row is changed many times in its hour. With room in its page PostgreSQL need not touch indexes.
ROOM = {"sqlite": "", "postgresql": " WITH (fillfactor = 60)"}
KEY = (
    "tenant_id, meter, hour_start_micros, subscription_id, period_start_micros, feature, provider,"
    " model, price_id, input_tokens, tool, execution_status"
)
CHARGE = """
    CREATE TABLE charge (
        charge_id {identity},
        tenant_id TEXT NOT NULL,
        subscription_id TEXT NOT NULL,
        period_start_micros BIGINT NOT NULL,
        hour_start_micros BIGINT NOT NULL,
        feature TEXT NOT NULL,
        meter TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        price_id TEXT NOT NULL,
        input_tokens BIGINT NOT NULL,
        tool TEXT NOT NULL,
        execution_status TEXT NOT NULL,
        quantity_micros BIGINT NOT NULL CHECK (quantity_micros >= 0),
        extra_micros BIGINT NOT NULL CHECK (extra_micros >= 0),
        estimated_micros BIGINT NOT NULL CHECK (estimated_micros >= 0)
    )
"""
SAME = " AND ".join(f"part.{name} = old.{name}" for name in KEY.split(", "))
# estimated_micros is the part of quantity_micros that an estimate stands for.
ESTIMATED = (
    "SELECT COALESCE(SUM(part.quantity_micros), 0) FROM call_part AS part"  # noqa: S608
    f" WHERE part.certainty = 1 AND {SAME}"
)
MOVE = (
    f"INSERT INTO charge ({KEY}, quantity_micros, extra_micros, estimated_micros)"  # noqa: S608
    f" SELECT {KEY}, quantity_micros, extra_micros, ({ESTIMATED}) FROM charge_0007 AS old"
)
UNPRICED = """
    CREATE INDEX charge_unpriced ON charge (tenant_id, meter, provider, model)
    WHERE price_id = ''
"""
CHARGES = (
    MOVE,
    "DROP TABLE charge_0007",
    f"CREATE UNIQUE INDEX charge_key ON charge ({KEY})",
    UNPRICED,
    "CREATE INDEX charge_period ON charge (tenant_id, subscription_id, period_start_micros)",
    "CREATE INDEX charge_tool ON charge (tenant_id, hour_start_micros, tool) WHERE tool <> ''",
)
# Whoever writes charges of a period raises its revision: what others remember of it is old then.
REVISION = "ALTER TABLE margin_state ADD COLUMN revision BIGINT NOT NULL DEFAULT 0"
SEEN = """
    CREATE TABLE seen_event (
        event_key {bytes} NOT NULL PRIMARY KEY,
        keep_until_hour INTEGER NOT NULL
    )
"""
# Whose usage does not come from gateways alone; before, ids of events told.
REPORTING = "CREATE TABLE reporting_tenant (tenant_id TEXT NOT NULL PRIMARY KEY)"
REPORTED = (
    "INSERT INTO reporting_tenant (tenant_id) SELECT DISTINCT tenant_id FROM seen_event_0007"
    " WHERE substr(event_id, 1, 3) IN ('ik:', 'ce:', 'im:')"
)
ROWS_AT_ONCE = 10_000


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    clustered = CLUSTERED[dialect]
    op.execute("ALTER TABLE charge RENAME TO charge_0007")
    op.execute(CHARGE.format(identity=IDENTITY[dialect]).rstrip() + ROOM[dialect])
    for statement in CHARGES:
        op.execute(statement)
    op.execute(REVISION)
    op.execute("ALTER TABLE seen_event RENAME TO seen_event_0007")
    op.execute(SEEN.format(bytes=BYTES[dialect]).rstrip() + clustered)
    op.execute(REPORTING + clustered)
    op.execute(REPORTED)
    if not context.is_offline_mode():
        _digest(op.get_bind())
    op.execute("DROP TABLE seen_event_0007")


def _digest(connection: sqlalchemy.Connection) -> None:
    """Keep what is known of events under their digests, which no SQL can make."""
    insert = sqlalchemy.text(
        "INSERT INTO seen_event (event_key, keep_until_hour) VALUES (:key, :hour)"
    )
    for rows in _old_rows(connection):
        connection.execute(
            insert,
            [
                {"key": event_key(tenant_id, event_id), "hour": keep_until // 3_600_000_000}
                for tenant_id, event_id, keep_until in rows
            ],
        )


def _old_rows(connection: sqlalchemy.Connection) -> Iterator[list[Any]]:
    after = ("", "")
    page = sqlalchemy.text(
        "SELECT tenant_id, event_id, keep_until_micros FROM seen_event_0007"
        " WHERE (tenant_id, event_id) > (:tenant_id, :event_id)"
        " ORDER BY tenant_id, event_id LIMIT :rows"
    )
    while True:
        values = {"tenant_id": after[0], "event_id": after[1], "rows": ROWS_AT_ONCE}
        rows = list(connection.execute(page, values))
        if not rows:
            return
        yield rows
        after = (rows[-1][0], rows[-1][1])
