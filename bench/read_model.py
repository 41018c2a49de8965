"""Fills a Redis with tenants, as a sync would, for measuring decisions alone."""

import hashlib
import time

import redis

from aforo_proto import margin_pb2, policy_pb2

DAY_MICROS = 86_400_000_000
PLAIN, LIMITED = "plain", "limited"  # Kinds of tenants: with no quota, and with a hard one.


def api_key(kind: str, number: int) -> str:
    return f"bench-{kind}-{number}"


def fill(url: str, *, tenants: int) -> None:
    """Write credentials, policies and margins for `tenants` of each kind."""
    now_micros = time.time_ns() // 1000
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipe:
        for kind in (PLAIN, LIMITED):
            for number in range(tenants):
                tenant_id = f"{kind}-{number}"
                digest = hashlib.sha256(api_key(kind, number).encode()).hexdigest()
                pipe.set(f"aforo:v1:cred:{digest}", _credential(tenant_id).SerializeToString())
                policy = _policy(tenant_id, now_micros, limited=kind == LIMITED)
                pipe.set(f"aforo:v1:{{{tenant_id}}}:policy", policy.SerializeToString())
                margin = margin_pb2.Margin(tenant_id=tenant_id, as_of_micros=now_micros)
                pipe.set(f"aforo:v1:{{{tenant_id}}}:margin", margin.SerializeToString())
        routes = policy_pb2.Routes(
            rules=[policy_pb2.RouteRule(path_template="/**", features=["api"])]
        )
        pipe.set("aforo:v1:routes", routes.SerializeToString())
        pipe.set("aforo:v1:sync", policy_pb2.SyncState(tenants=tenants).SerializeToString())
        pipe.execute()


def _credential(tenant_id: str) -> policy_pb2.Credential:
    return policy_pb2.Credential(
        tenant_id=tenant_id,
        kind=policy_pb2.CREDENTIAL_KIND_API_KEY,
        status=policy_pb2.CREDENTIAL_STATUS_ACTIVE,
        credential_id=f"{tenant_id}-key",
    )


def _policy(tenant_id: str, now_micros: int, *, limited: bool) -> policy_pb2.Policy:
    quota = policy_pb2.Quota(
        quota_id="daily",
        meter="api.calls",
        limit_units=1_000_000_000,
        window=policy_pb2.WINDOW_DAY,
    )
    return policy_pb2.Policy(
        tenant_id=tenant_id,
        subscription_id=f"{tenant_id}-subscription",
        plan_id="bench",
        state=policy_pb2.SUBSCRIPTION_STATE_ACTIVE,
        period_start_micros=now_micros - DAY_MICROS,
        period_end_micros=now_micros + 29 * DAY_MICROS,
        next_period_end_micros=now_micros + 59 * DAY_MICROS,
        features=["api", "llm"],
        quotas=[quota] if limited else [],
    )
