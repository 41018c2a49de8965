"""Alerts: their delivery to several endpoints, and what was told already."""

from alembic import op

from aforo_meter.migrations.versions.v0002_metering import CLUSTERED

revision = "0007"
down_revision = "0006"

# The endpoint of AFORO_METER_DELIVER_WEBHOOK_URL, the only one there was.
FORMER_ENDPOINT = "default"

DELIVERY = (
    # failures are those since the last (re)sending: what the wait goes by. A delivery that somebody
    # asked to be sent again is out of order (in_order 0): it neither waits for others nor the
    # others for it.
    """
    CREATE TABLE delivery (
        outbox_id BIGINT NOT NULL,
        endpoint_id TEXT NOT NULL,
        tenant_id TEXT NOT NULL,
        in_order INTEGER NOT NULL DEFAULT 1,
        attempts INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        next_attempt_at_micros BIGINT NOT NULL,
        claimed_until_micros BIGINT NOT NULL DEFAULT 0,
        delivered_at_micros BIGINT NULL,
        gave_up_at_micros BIGINT NULL,
        last_error TEXT NULL,
        PRIMARY KEY (outbox_id, endpoint_id)
    )
    """,
    """
    CREATE INDEX delivery_open ON delivery (endpoint_id, tenant_id, outbox_id)
    WHERE delivered_at_micros IS NULL AND gave_up_at_micros IS NULL
    """,
    # took_ms is NULL until an attempt has ended: one that never does was cut off.
    """
    CREATE TABLE delivery_attempt (
        outbox_id BIGINT NOT NULL,
        endpoint_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        at_micros BIGINT NOT NULL,
        took_ms BIGINT NULL,
        status INTEGER NULL,
        error TEXT NULL,
        PRIMARY KEY (outbox_id, endpoint_id, number)
    )
    """,
    # An endpoint that answered 410 Gone rests while it has that URL.
    """
    CREATE TABLE endpoint_gone (
        endpoint_id TEXT NOT NULL,
        url_digest TEXT NOT NULL,
        at_micros BIGINT NOT NULL,
        PRIMARY KEY (endpoint_id, url_digest)
    )
    """,
)
MOVE = f"""
    INSERT INTO delivery (
        outbox_id, endpoint_id, tenant_id, attempts, failures, next_attempt_at_micros,
        delivered_at_micros, gave_up_at_micros, last_error
    ) SELECT
        outbox_id, '{FORMER_ENDPOINT}', tenant_id, attempts, attempts, next_attempt_at_micros,
        delivered_at_micros, gave_up_at_micros, last_error
    FROM outbox
"""  # noqa: S608 - of a constant.
OUTBOX = (
    "DROP INDEX outbox_open",
    "ALTER TABLE outbox DROP COLUMN attempts",
    "ALTER TABLE outbox DROP COLUMN next_attempt_at_micros",
    "ALTER TABLE outbox DROP COLUMN delivered_at_micros",
    "ALTER TABLE outbox DROP COLUMN gave_up_at_micros",
    "ALTER TABLE outbox DROP COLUMN last_error",
    "ALTER TABLE outbox ADD COLUMN routed_at_micros BIGINT NULL",
    "UPDATE outbox SET routed_at_micros = created_at_micros",
    "CREATE INDEX outbox_unrouted ON outbox (outbox_id) WHERE routed_at_micros IS NULL",
)
TOLD = (
    # Usage that waits for a price, as it was told: open until all of it has one.
    """
    CREATE TABLE unpriced_told (
        tenant_id TEXT NOT NULL,
        meter TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        episode INTEGER NOT NULL,
        is_open INTEGER NOT NULL,
        PRIMARY KEY (tenant_id, meter, provider, model)
    )
    """,
    # Prices that took another's place, as they were told: by the ids of those that hold then.
    """
    CREATE TABLE price_told (
        tenant_id TEXT NOT NULL,
        meter TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        state TEXT NOT NULL,
        price_ids TEXT NOT NULL,
        told_at_micros BIGINT NOT NULL,
        PRIMARY KEY (tenant_id, meter, provider, model, state, price_ids)
    )
    """,
    # For which version of the catalog that was looked for; and when another of its prices holds.
    """
    CREATE TABLE prices_checked (
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        catalog_version TEXT NOT NULL,
        until_micros BIGINT NOT NULL,
        PRIMARY KEY (topic, partition)
    )
    """,
    "DROP INDEX charge_unpriced",
    """
    CREATE INDEX charge_unpriced ON charge (tenant_id, meter, provider, model)
    WHERE price_id = ''
    """,
)


def upgrade() -> None:
    clustered = CLUSTERED[op.get_context().dialect.name]
    for statement in (*DELIVERY, MOVE, *OUTBOX, *TOLD):
        op.execute(statement.rstrip() + (clustered if "CREATE TABLE" in statement else ""))
