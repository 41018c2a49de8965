"""Revenue in the contract's own currency, and what a period draws from a prepaid balance."""

from alembic import op

revision = "0004"
down_revision = "0003"

COLUMNS = (
    "contract_currency TEXT NULL",
    "contract_revenue_nanos BIGINT NULL",
    "prepaid_drawn_nanos BIGINT NOT NULL DEFAULT 0",
    "prepaid_left_nanos BIGINT NOT NULL DEFAULT 0",
)


def upgrade() -> None:
    for column in COLUMNS:
        op.execute(f"ALTER TABLE margin_state ADD COLUMN {column}")
