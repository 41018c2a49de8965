"""The tenants of the demo, as a catalog: a plan each, and keys made for this run."""

from dataclasses import dataclass
from decimal import Decimal

from aforo_admin.mint import mint_key, sha256_of_key


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer of the demo, with the key that only this run knows."""

    tenant_id: str
    name: str
    plan: str
    key: str
    role: str  # What there is to see.


HARD_QUOTA_CALLS = 25
PRO_FEE = Decimal("10.00")
INGEST_KEY = mint_key()  # Of a program of the owner's, which reports usage over HTTP.
CALL_COST_NANOS = 20_000  # $0.02 per 1,000 calls, as in the catalog below.

TENANTS = {
    tenant.tenant_id: tenant
    for tenant in (
        Tenant("acme", "Acme Corp", "pro", mint_key(), "its margin melts, level by level"),
        Tenant("globex", "Globex", "team", mint_key(), f"{HARD_QUOTA_CALLS} calls a day, hard"),
        Tenant("initech", "Initech", "free", mint_key(), "pays nothing, has a COGS allowance"),
        Tenant("umbrella", "Umbrella", "enterprise", mint_key(), "a big fee, low floors"),
        Tenant("hooli", "Hooli", "pro-shadow", mint_key(), "shadow mode: decided, let pass"),
    )
}


def catalog() -> str:
    return f"""\
version: 1
currency: USD

features:
  - {{id: chat, title: "Chat and messages"}}
  - {{id: api, title: "Everything else"}}

routes:
  - {{methods: [POST], path: /v1/chat/completions, features: [chat]}}
  - {{methods: [POST], path: /v1/responses, features: [chat]}}
  - {{methods: [POST], path: /v1/messages, features: [chat]}}
  - {{path: "/**", features: [api]}}

plans:
  pro:
    title: Pro
    committed_fee: {PRO_FEE}
    features: [chat, api]
  pro-shadow:
    title: Pro, in shadow mode
    committed_fee: {PRO_FEE}
    features: [chat, api]
    shadow: true
  team:
    title: Team
    committed_fee: 5.00
    features: [chat, api]
    quotas:
      - {{id: calls-per-day, meter: api.calls, limit: {HARD_QUOTA_CALLS}, window: day}}
  free:
    title: Free
    committed_fee: 0
    allowance: 0.50
    features: [chat, api]
  enterprise:
    title: Enterprise
    committed_fee: 100.00
    features: [chat, api]
    thresholds: {{warn_below: 10%, throttle_below: 5%, block_below: -20%}}

ingest_keys:
  - {{id: demo, sha256: {sha256_of_key(INGEST_KEY)}, scopes: ["usage:ingest", "quotas:read"]}}

tenants:
{"".join(_tenant(tenant) for tenant in TENANTS.values())}
costs:
  # What a model's provider asks is built in; these are what our own machines cost us.
  - {{meter: api.calls, price: 0.02, per: 1000, from: 2026-01-01}}
  - {{meter: mcp.tool_calls, price: 0.50, per: 1000, from: 2026-01-01}}
  - {{meter: mcp.sessions, price: 0, per: 1, from: 2026-01-01}}
  - {{meter: bytes.request, price: 0, per: 1, from: 2026-01-01}}
  - {{meter: bytes.response, price: 0, per: 1, from: 2026-01-01}}
"""


def _tenant(tenant: Tenant) -> str:
    return f"""\
  {tenant.tenant_id}:
    name: {tenant.name}
    subscription: {{id: sub-{tenant.tenant_id}, plan: {tenant.plan}, started_at: 2026-01-01}}
    credentials:
      - {{id: {tenant.tenant_id}-demo, sha256: {sha256_of_key(tenant.key)}}}
"""
