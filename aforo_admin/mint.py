"""Make API keys. A key is shown once, to whoever asked for it; only its hash is kept."""

import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from aforo_admin.domain.catalog import sha256_hex
from aforo_admin.domain.problems import day

KEY_PREFIX: Final = "aforo_"
RANDOM_BYTES: Final = 24  # 192 bits, as 32 URL-safe characters.


def mint_key() -> str:
    """Return a new API key: `aforo_` and 32 URL-safe random characters."""
    return KEY_PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def sha256_of_key(key: str) -> str:
    """Return what the catalog holds of a key: lower-case hex of SHA-256 over its UTF-8."""
    return sha256_hex(key)


def catalog_lines(
    *, tenant_id: str, credential_id: str, sha256: str, expires_at: datetime | None = None
) -> str:
    """Return the lines to paste into the catalog, indented as they stand there."""
    lines = [
        "tenants:",
        f"  {_word(tenant_id)}:",
        "    credentials:",
        f"      - id: {_word(credential_id)}",
        # Quoted: a hash of digits alone stays text for other readers of YAML.
        f'        sha256: "{sha256}"',
    ]
    if expires_at is not None:
        lines.append(f"        expires_at: {day(expires_at)}")
    return "\n".join(lines)


def ingest_lines(
    *, key_id: str, sha256: str, scopes: Sequence[str], expires_at: datetime | None = None
) -> str:
    """Return the lines of an ingest key, as they stand in the catalog."""
    lines = [
        "ingest_keys:",
        f"  - id: {_word(key_id)}",
        f'    sha256: "{sha256}"',
        f"    scopes: {json.dumps(list(scopes))}",
    ]
    if expires_at is not None:
        lines.append(f"    expires_at: {day(expires_at)}")
    return "\n".join(lines)


def _word(given: str) -> str:
    """Quote an id that YAML would read as something else: 1e3, null, 2026."""
    return given if given[:1].isalpha() and given not in _YAML_WORDS else json.dumps(given)


_YAML_WORDS: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
