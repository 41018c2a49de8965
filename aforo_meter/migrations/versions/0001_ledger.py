"""charges, prices, position, periods, interventions, outbox."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    # A sum of one meter at one price in one hour; amounts are derived from it, never stored.
    """
    CREATE TABLE charge (
        tenant_id TEXT NOT NULL,             -- '' where nobody is known to have called
        subscription_id TEXT NOT NULL,       -- '' where there was no contract
        period_start_micros BIGINT NOT NULL, -- Unix time, UTC, as all columns of this name's kind
        hour_start_micros BIGINT NOT NULL,
        feature TEXT NOT NULL,               -- sorted, joined by ','
        meter TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        price_id TEXT NOT NULL,              -- '' where no price covers it yet
        quantity_micros BIGINT NOT NULL CHECK (quantity_micros >= 0), -- 10^-6 units
        PRIMARY KEY (tenant_id, subscription_id, period_start_micros, hour_start_micros, feature,
                     meter, provider, model, price_id)
    )
    """,
    "CREATE INDEX charge_by_meter ON charge (tenant_id, meter, hour_start_micros)",
    "CREATE INDEX charge_unpriced ON charge (tenant_id, subscription_id, period_start_micros)"
    " WHERE price_id = ''",
    # What the prices that charges refer to were: so that the ledger explains itself.
    """
    CREATE TABLE price (
        price_id TEXT NOT NULL PRIMARY KEY,
        meter TEXT NOT NULL,
        price_nanos BIGINT NOT NULL CHECK (price_nanos >= 0), -- for per_units units
        per_units BIGINT NOT NULL CHECK (per_units > 0),
        effective_from_micros BIGINT NOT NULL,
        source TEXT NOT NULL
    )
    """,
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
        hour_start_micros BIGINT NOT NULL,
        PRIMARY KEY (tenant_id, event_id)
    )
    """,
    "CREATE INDEX seen_event_by_hour ON seen_event (hour_start_micros)",
    # A tenant's billing period: the sum of its rows' amounts, and the level of its margin.
    """
    CREATE TABLE period (
        tenant_id TEXT NOT NULL,
        subscription_id TEXT NOT NULL,
        period_start_micros BIGINT NOT NULL,
        cogs_nanos BIGINT NOT NULL,
        level INTEGER NOT NULL DEFAULT 0,    -- 0 none, 1 warn, 2 throttle, 3 block
        level_since_micros BIGINT NULL,
        transitions INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (tenant_id, subscription_id, period_start_micros)
    )
    """,
    """
    CREATE TABLE intervention (
        tenant_id TEXT NOT NULL,
        hour_start_micros BIGINT NOT NULL,
        outcome TEXT NOT NULL,               -- block, throttle
        reason TEXT NOT NULL,
        calls BIGINT NOT NULL,
        PRIMARY KEY (tenant_id, hour_start_micros, outcome, reason)
    )
    """,
    """
    CREATE TABLE outbox (
        outbox_id INTEGER PRIMARY KEY AUTOINCREMENT,
        message_id TEXT NOT NULL UNIQUE,
        tenant_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        payload TEXT NOT NULL,               -- JSON, exactly as it is sent
        created_at_micros BIGINT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        next_attempt_at_micros BIGINT NOT NULL,
        delivered_at_micros BIGINT NULL,
        gave_up_at_micros BIGINT NULL,
        last_error TEXT NULL
    )
    """,
    "CREATE INDEX outbox_waiting ON outbox (tenant_id, outbox_id)"
    " WHERE delivered_at_micros IS NULL AND gave_up_at_micros IS NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
