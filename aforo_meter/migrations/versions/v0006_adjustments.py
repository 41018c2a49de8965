"""Corrections: adjustments beside charges, and periods that are closed."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    # What is added to a row of `charge`, or taken off it, without editing it; there may be no such
    # row. The row and its adjustments together cost what their quantity costs, rounded once. `seq`
    # counts the adjustments of one row, from 1; `voided` is the event that one takes back, or ''.
    """
    CREATE TABLE adjustment (
        adjustment_id TEXT NOT NULL PRIMARY KEY,
        run_id TEXT NOT NULL,
        kind TEXT NOT NULL,
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
        seq BIGINT NOT NULL,
        quantity_micros BIGINT NOT NULL,
        extra_micros BIGINT NOT NULL,
        cogs_nanos BIGINT NOT NULL,
        voided TEXT NOT NULL,
        reason TEXT NOT NULL,
        author TEXT NOT NULL,
        created_at_micros BIGINT NOT NULL
    )
    """,
    # Two writers that have read the same row can't both adjust it.
    """
    CREATE UNIQUE INDEX adjustment_row ON adjustment (
        tenant_id, meter, hour_start_micros, subscription_id, period_start_micros, feature,
        provider, model, price_id, input_tokens, tool, execution_status, seq
    )
    """,
    """
    CREATE INDEX adjustment_period ON adjustment (tenant_id, subscription_id, period_start_micros)
    """,
    "CREATE INDEX adjustment_unpriced ON adjustment (tenant_id) WHERE price_id = ''",
    "CREATE INDEX adjustment_voided ON adjustment (tenant_id, voided) WHERE voided <> ''",
    # What calls have in a row moves along when the row gets another price, not only its first.
    "DROP INDEX call_part_unpriced",
    "CREATE INDEX call_part_row ON call_part (tenant_id, meter, hour_start_micros)",
    # adjusted: 1 from an adjustment until the tenant is assessed again.
    "ALTER TABLE margin_state ADD COLUMN adjusted INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE margin_state ADD COLUMN closed_at_micros BIGINT NULL",
    """
    CREATE INDEX margin_state_adjusted ON margin_state (tenant_id)
    WHERE adjusted = 1 AND in_force = 1
    """,
    """
    CREATE INDEX margin_state_open ON margin_state (period_end_micros)
    WHERE closed_at_micros IS NULL
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
