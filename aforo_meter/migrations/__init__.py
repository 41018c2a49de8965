"""Migrations of the ledger's database: plain SQL, run by alembic through `aforo-meter migrate`."""
