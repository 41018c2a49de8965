"""The ledger: charges, prices, position, levels, interventions and the outbox."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = (
    # A row is a sum, so no order, split or repetition of events changes it. What it costs is
    # quantity_micros * price_nanos / (per_units * 1000000) of its price, rounded half to even.
    # price_id '' is usage that no price covers yet; only such rows keep input_tokens.
    """
    CREATE TABLE charge (
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
        quantity_micros BIGINT NOT NULL CHECK (quantity_micros >= 0),
        PRIMARY KEY (
            tenant_id, meter, hour_start_micros, subscription_id, period_start_micros,
            feature, provider, model, price_id, input_tokens
        )
    )
    """,
    "CREATE INDEX charge_unpriced ON charge (tenant_id) WHERE price_id = ''",
    "CREATE INDEX charge_period ON charge (tenant_id, subscription_id, period_start_micros)",
    # The prices that charges were made with, as they were: the ledger explains itself.
    """
    CREATE TABLE price (
        price_id TEXT NOT NULL PRIMARY KEY,
        meter TEXT NOT NULL,
        price_nanos BIGINT NOT NULL CHECK (price_nanos >= 0),
        per_units BIGINT NOT NULL CHECK (per_units > 0),
        currency TEXT NOT NULL,
        effective_from_micros BIGINT NOT NULL,
        tier_input_tokens_from BIGINT NOT NULL,
        source TEXT NOT NULL,
        first_used_at_micros BIGINT NOT NULL
    )
    """,
    # COGS and unpriced rows of each period, kept up with the charges; and of each period that was
    # assessed, its last level. One row of a tenant is in force: its level is the tenant's.
    """
    CREATE TABLE margin_state (
        tenant_id TEXT NOT NULL,
        subscription_id TEXT NOT NULL,
        period_start_micros BIGINT NOT NULL,
        period_end_micros BIGINT NOT NULL,
        cogs_nanos BIGINT NOT NULL,
        unpriced_rows BIGINT NOT NULL,
        in_force INTEGER NOT NULL DEFAULT 0,
        level INTEGER NOT NULL DEFAULT 0,
        level_since_micros BIGINT NULL,
        transition_seq BIGINT NOT NULL DEFAULT 0,
        revenue_nanos BIGINT NULL,
        allowance_nanos BIGINT NULL,
        currency TEXT NULL,
        catalog_version TEXT NULL,
        price_book_version TEXT NULL,
        assessed_at_micros BIGINT NULL,
        PRIMARY KEY (tenant_id, subscription_id, period_start_micros)
    )
    """,
    "CREATE UNIQUE INDEX margin_state_in_force ON margin_state (tenant_id) WHERE in_force = 1",
    """
    CREATE TABLE position (
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        next_offset BIGINT NOT NULL,
        PRIMARY KEY (topic, partition)
    )
    """,
    """
    CREATE TABLE seen_event (
        tenant_id TEXT NOT NULL,
        event_id TEXT NOT NULL,
        seen_hour_micros BIGINT NOT NULL,
        PRIMARY KEY (tenant_id, event_id)
    )
    """,
    "CREATE INDEX seen_event_hour ON seen_event (seen_hour_micros)",
    """
    CREATE TABLE intervention (
        tenant_id TEXT NOT NULL,
        hour_start_micros BIGINT NOT NULL,
        outcome TEXT NOT NULL,
        reason TEXT NOT NULL,
        count BIGINT NOT NULL,
        PRIMARY KEY (tenant_id, hour_start_micros, outcome, reason)
    )
    """,
)

OUTBOX = """
    CREATE TABLE outbox (
        outbox_id {identity},
        message_id TEXT NOT NULL UNIQUE,
        tenant_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        payload TEXT NOT NULL,
        created_at_micros BIGINT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        next_attempt_at_micros BIGINT NOT NULL,
        delivered_at_micros BIGINT NULL,
        gave_up_at_micros BIGINT NULL,
        last_error TEXT NULL
    )
"""
OPEN_MESSAGES = (
    "CREATE INDEX outbox_open ON outbox (tenant_id, outbox_id)"
    " WHERE delivered_at_micros IS NULL AND gave_up_at_micros IS NULL"
)
# The only words in which the databases differ.
CLUSTERED = {"sqlite": " WITHOUT ROWID", "postgresql": ""}
IDENTITY = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    for statement in TABLES:
        clustered = CLUSTERED[dialect] if "CREATE TABLE" in statement else ""
        op.execute(statement.rstrip() + clustered)
    op.execute(OUTBOX.format(identity=IDENTITY[dialect]))
    op.execute(OPEN_MESSAGES)
