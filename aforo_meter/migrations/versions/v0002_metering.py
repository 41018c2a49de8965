"""Metering: calls told more than once, what was decided beside what was logged, and sessions."""

from alembic import op

revision = "0002"
down_revision = "0001"

# A key's columns can't be added to a table of either database in one way: rows move to a new one.
CHARGE = (
    "ALTER TABLE charge RENAME TO charge_0001",
    # extra_micros is what weights add on quotas: quantity_micros times (weight - 1).
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
        tool TEXT NOT NULL,
        execution_status TEXT NOT NULL,
        quantity_micros BIGINT NOT NULL CHECK (quantity_micros >= 0),
        extra_micros BIGINT NOT NULL CHECK (extra_micros >= 0),
        PRIMARY KEY (
            tenant_id, meter, hour_start_micros, subscription_id, period_start_micros,
            feature, provider, model, price_id, input_tokens, tool, execution_status
        )
    )
    """,
    """
    INSERT INTO charge (
        tenant_id, subscription_id, period_start_micros, hour_start_micros, feature, meter,
        provider, model, price_id, input_tokens, tool, execution_status, quantity_micros,
        extra_micros
    ) SELECT
        tenant_id, subscription_id, period_start_micros, hour_start_micros, feature, meter,
        provider, model, price_id, input_tokens, '', '', quantity_micros, 0
    FROM charge_0001
    """,
    "DROP TABLE charge_0001",
    "CREATE INDEX charge_unpriced ON charge (tenant_id) WHERE price_id = ''",
    "CREATE INDEX charge_period ON charge (tenant_id, subscription_id, period_start_micros)",
    # How many tools a tenant has named in an hour is asked with every event that names one.
    "CREATE INDEX charge_tool ON charge (tenant_id, hour_start_micros, tool) WHERE tool <> ''",
)
# How long an event's id is kept depends on how late its source may send it again.
SEEN = (
    "DROP INDEX seen_event_hour",
    "ALTER TABLE seen_event RENAME COLUMN seen_hour_micros TO keep_until_micros",
    "UPDATE seen_event SET keep_until_micros = keep_until_micros + 35 * 86400000000",
    "CREATE INDEX seen_event_keep ON seen_event (keep_until_micros)",
)
TABLES = (
    # A call of which more than one event tells. Once it has ended, totals from before say nothing.
    """
    CREATE TABLE call (
        tenant_id TEXT NOT NULL,
        decision_id TEXT NOT NULL,
        ended INTEGER NOT NULL,
        logged INTEGER NOT NULL,
        keep_until_micros BIGINT NOT NULL,
        PRIMARY KEY (tenant_id, decision_id)
    )
    """,
    "CREATE INDEX call_keep ON call (keep_until_micros)",
    # What is counted of such a call, by the row of charge that holds it.
    """
    CREATE TABLE call_part (
        tenant_id TEXT NOT NULL,
        decision_id TEXT NOT NULL,
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
        certainty INTEGER NOT NULL,
        PRIMARY KEY (
            tenant_id, decision_id, meter, hour_start_micros, subscription_id,
            period_start_micros, feature, provider, model, price_id, input_tokens, tool,
            execution_status
        )
    )
    """,
    # Unpriced rows move to their price; what calls have in them moves along.
    """
    CREATE INDEX call_part_unpriced ON call_part (tenant_id, meter, hour_start_micros)
    WHERE price_id = ''
    """,
    # Totals as each process of authz told them: they only grow.
    """
    CREATE TABLE decided (
        hour_start_micros BIGINT NOT NULL,
        tenant_id TEXT NOT NULL,
        feature TEXT NOT NULL,
        outcome TEXT NOT NULL,
        process TEXT NOT NULL,
        decisions BIGINT NOT NULL,
        PRIMARY KEY (hour_start_micros, tenant_id, feature, outcome, process)
    )
    """,
    # Calls that the access log told of; outcome 'filled' are those that an estimate stands for.
    """
    CREATE TABLE logged (
        hour_start_micros BIGINT NOT NULL,
        tenant_id TEXT NOT NULL,
        feature TEXT NOT NULL,
        outcome TEXT NOT NULL,
        calls BIGINT NOT NULL,
        PRIMARY KEY (hour_start_micros, tenant_id, feature, outcome)
    )
    """,
    """
    CREATE TABLE session (
        tenant_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        product TEXT NOT NULL,
        agent TEXT NOT NULL,
        opened_micros BIGINT NOT NULL,
        last_seen_micros BIGINT NOT NULL,
        started_micros BIGINT NULL,
        ended_micros BIGINT NULL,
        steps BIGINT NOT NULL,
        ended_by TEXT NOT NULL,
        killed_micros BIGINT NULL,
        PRIMARY KEY (tenant_id, session_id)
    )
    """,
    "CREATE INDEX session_open ON session (last_seen_micros) WHERE ended_by = ''",
    "CREATE INDEX session_last_seen ON session (last_seen_micros)",
)
# The only word in which the databases differ.
CLUSTERED = {"sqlite": " WITHOUT ROWID", "postgresql": ""}


def upgrade() -> None:
    clustered = CLUSTERED[op.get_context().dialect.name]
    for statement in (*CHARGE, *SEEN, *TABLES):
        op.execute(statement.rstrip() + (clustered if "CREATE TABLE" in statement else ""))
