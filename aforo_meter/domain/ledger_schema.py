"""Which tables a ledger has: what consume, and whoever looks at it, must find."""

from typing import Final

SCHEMA_VERSION: Final = "0010"  # The last of aforo_meter/migrations/versions.
