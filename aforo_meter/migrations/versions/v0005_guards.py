"""Guards: levels of a part of a tenant's usage, beside the tenant's own."""

from alembic import op

revision = "0005"
down_revision = "0004"

GUARD_STATE = """
    CREATE TABLE guard_state (
        tenant_id TEXT NOT NULL,
        subscription_id TEXT NOT NULL,
        period_start_micros BIGINT NOT NULL,
        guard_id TEXT NOT NULL,
        in_force INTEGER NOT NULL,
        level INTEGER NOT NULL,
        level_since_micros BIGINT NOT NULL,
        transition_seq BIGINT NOT NULL,
        revenue_nanos BIGINT NOT NULL,
        cogs_nanos BIGINT NOT NULL,
        PRIMARY KEY (tenant_id, subscription_id, period_start_micros, guard_id)
    )
"""


def upgrade() -> None:
    op.execute(GUARD_STATE)
    # How many guards the tenant has, so that nobody looks for those of the many without.
    op.execute("ALTER TABLE margin_state ADD COLUMN guard_count INTEGER NOT NULL DEFAULT 0")
