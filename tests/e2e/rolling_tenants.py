"""Who uses an installation whose processes are replaced: what they send, and are charged."""

from collections.abc import Sequence

import psycopg

from aforo_admin.mint import sha256_of_key
from demo.story import CHAT
from demo.tenants import TENANTS, catalog

CALLERS = ("umbrella", "hooli")
MADE = "round-{}"  # The tenant of a round.
UNIT = 1_000_000
QUANTITIES = "SELECT tenant_id, meter, SUM(quantity_micros) FROM charge GROUP BY tenant_id, meter"


def request_of(number: int) -> bytes:
    """Return a request of one of two tenants; each tenth is a call to a model."""
    key = TENANTS[CALLERS[number % len(CALLERS)]].key
    head = f"host: a\r\nx-api-key: {key}\r\n"
    if number % 10 < 8:
        return f"GET /echo HTTP/1.1\r\n{head}\r\n".encode()
    usage = '{"input": 7, "output": 3}'
    body = f'{{"model": "gpt-4o", "messages": [], "x_lab_usage": {usage}}}'
    told = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"POST {CHAT} HTTP/1.1\r\n{head}{told}\r\n{body}".encode()


def catalog_with(keys: Sequence[str]) -> str:
    """Return the demo's catalog with a tenant for each key."""
    plans, rest = catalog().split("ingest_keys:", 1)
    tenants, costs = rest.split("costs:", 1)
    made = "".join(
        f"  {MADE.format(number)}:\n"
        f"    subscription: {{id: sub-{number}, plan: small, started_at: 2026-01-01}}\n"
        f"    credentials: [{{id: key-{number}, sha256: {sha256_of_key(key)}}}]\n"
        for number, key in enumerate(keys)
    )
    small = "  small: {title: Small, committed_fee: 1.00, features: [chat, api]}\n\n"
    return f"{plans.rstrip()}\n{small}ingest_keys:{tenants}{made}costs:{costs}"


def calls_and_tokens(url: str) -> dict[str, tuple[int, int]]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(QUANTITIES).fetchall()
    found: dict[str, tuple[int, int]] = {}
    for tenant_id, meter, micros in rows:
        calls, tokens = found.get(tenant_id, (0, 0))
        units = int(micros) // UNIT
        if meter == "api.calls":
            calls += units
        elif meter.startswith("llm."):
            tokens += units
        found[tenant_id] = (calls, tokens)
    return found
