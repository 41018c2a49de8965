"""The part of a period's COGS that rests on estimated usage, beside its COGS."""

from collections import Counter

import sqlalchemy
from alembic import context, op

from aforo_meter.domain.rating import amount_nanos

revision = "0009"
down_revision = "0008"

COLUMN = "ALTER TABLE margin_state ADD COLUMN estimated_cogs_nanos BIGINT NOT NULL DEFAULT 0"
# One by one: each row's amount is rounded by itself.
ESTIMATED = sqlalchemy.text(
    "SELECT tenant_id, subscription_id, period_start_micros, estimated_micros, price_nanos,"
    " per_units FROM charge JOIN price USING (price_id) WHERE estimated_micros > 0"
)
SET = sqlalchemy.text(
    "UPDATE margin_state SET estimated_cogs_nanos = :nanos WHERE tenant_id = :tenant_id"
    " AND subscription_id = :subscription_id AND period_start_micros = :period_start_micros"
)


def upgrade() -> None:
    op.execute(COLUMN)
    if not context.is_offline_mode():
        _add_up(op.get_bind())


def _add_up(connection: sqlalchemy.Connection) -> None:
    """Add up what is there, which SQL can't do: its integers are too small for the products."""
    sums: Counter[tuple[str, str, int]] = Counter()
    for *period, estimated_micros, price_nanos, per_units in connection.execute(ESTIMATED):
        tenant_id, subscription_id, period_start_micros = period
        sums[tenant_id, subscription_id, period_start_micros] += amount_nanos(
            estimated_micros, price_nanos=price_nanos, per_units=per_units
        )
    names = ("tenant_id", "subscription_id", "period_start_micros")
    rows = [dict(zip(names, key, strict=True), nanos=nanos) for key, nanos in sums.items()]
    if rows:
        connection.execute(SET, rows)
