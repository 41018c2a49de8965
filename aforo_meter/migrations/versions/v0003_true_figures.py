"""True figures that wait for the estimate whose place they take."""

from alembic import op

from aforo_meter.migrations.versions.v0002_metering import CLUSTERED

revision = "0003"
down_revision = "0002"

# What the gateway reported ranks above a correction, which has the number between.
RANKS = "UPDATE call_part SET certainty = 3 WHERE certainty = 2"
TRUE_FIGURE = """
    CREATE TABLE true_figure (
        tenant_id TEXT NOT NULL,
        decision_id TEXT NOT NULL,
        meter TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        price_id TEXT NOT NULL,
        input_tokens BIGINT NOT NULL,
        quantity_micros BIGINT NOT NULL CHECK (quantity_micros >= 0),
        PRIMARY KEY (
            tenant_id, decision_id, meter, provider, model, price_id, input_tokens
        )
    )
"""


def upgrade() -> None:
    op.execute(RANKS)
    op.execute(TRUE_FIGURE.rstrip() + CLUSTERED[op.get_context().dialect.name])
