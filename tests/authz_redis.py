"""Writes the read model of aforo_authz into Redis, as sync and consume do."""

from collections.abc import Sequence
from typing import Any

import redis
import redis.cluster

from aforo_authz import read_model
from aforo_authz.check import sha256_hex
from aforo_authz.domain.access import Credential, CredentialKind, Margin, Policy
from aforo_authz.domain.features import Rule
from aforo_authz.domain.quotas import Quota
from aforo_authz.policies import Presented
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.redis_url import parse_redis_url
from aforo_proto import margin_pb2, policy_pb2

PARTITION = 4


def presented(key: str, kind: CredentialKind = CredentialKind.API_KEY) -> Presented:
    return Presented(kind=kind, sha256_hex=sha256_hex(key))


class ReadModel:
    """A synchronous client, so that a test controls what is written when."""

    def __init__(self, url: str) -> None:
        self.redis: redis.Redis = _client(url)

    def close(self) -> None:
        self.redis.close()

    def put_credential(self, key: str, credential: Credential) -> None:
        statuses = (policy_pb2.CREDENTIAL_STATUS_ACTIVE, policy_pb2.CREDENTIAL_STATUS_REVOKED)
        message = policy_pb2.Credential(
            tenant_id=credential.tenant_id,
            kind=policy_pb2.CredentialKind.Value(f"CREDENTIAL_KIND_{credential.kind.name}"),
            status=statuses[credential.revoked],
            expires_at_micros=credential.expires_at_micros or 0,
            credential_id=credential.credential_id,
        )
        self.redis.set(read_model.credential_key(sha256_hex(key)), message.SerializeToString())

    def put_policy(self, policy: Policy) -> None:
        message = policy_pb2.Policy(
            tenant_id=policy.tenant_id,
            subscription_id=policy.subscription_id,
            plan_id=policy.plan_id,
            state=policy_pb2.SubscriptionState.Value(f"SUBSCRIPTION_STATE_{policy.state.name}"),
            period_start_micros=policy.period_start_micros,
            period_end_micros=policy.period_end_micros,
            next_period_end_micros=policy.next_period_end_micros,
            features=sorted(policy.features),
            quotas=[_quota(quota) for quota in policy.quotas],
            shadow=policy.shadow,
            stale_margin_blocks=policy.stale_margin_blocks,
            catalog_version=policy.catalog_version,
        )
        if policy.override_level_max is not None:
            message.margin_override.level_max = margin_pb2.Level.ValueType(
                policy.override_level_max
            )
            message.margin_override.until_micros = policy.override_until_micros
        self.redis.set(read_model.policy_key(policy.tenant_id), message.SerializeToString())

    def put_margin(self, tenant_id: str, margin: Margin, *, partition: int = PARTITION) -> None:
        message = margin_pb2.Margin(
            tenant_id=tenant_id,
            level=margin_pb2.Level.ValueType(margin.level),
            as_of_micros=margin.as_of_micros,
            period_end_micros=margin.period_end_micros or 0,
            partition=partition,
            # Figures of money, so that a test can look for them where they must not be.
            revenue_nanos=987_654_321,
            cogs_nanos=123_456_789,
            quota_usages=[
                margin_pb2.QuotaUsage(
                    quota_id=quota_id, window_start_micros=start_s * 1_000_000, used_units=units
                )
                for quota_id, (start_s, units) in margin.used_units.items()
            ],
            guards=[
                margin_pb2.GuardLevel(
                    guard_id=guard.guard_id,
                    features=sorted(guard.features),
                    level=margin_pb2.Level.ValueType(guard.level),
                )
                for guard in margin.guards
            ],
        )
        self.redis.set(read_model.margin_key(tenant_id), message.SerializeToString())

    def put_consumed(self, as_of_micros: int, *, partition: int = PARTITION) -> None:
        message = margin_pb2.ConsumeState(as_of_micros=as_of_micros)
        self.redis.set(read_model.consumed_key(partition), message.SerializeToString())

    def put_rules(self, rules: Sequence[Rule], *, default_allows: bool = False) -> None:
        message = policy_pb2.Routes(
            rules=[
                policy_pb2.RouteRule(
                    methods=sorted(rule.methods),
                    path_template=rule.path_template,
                    features=rule.features,
                    weight_units=rule.weight_units,
                )
                for rule in rules
            ],
            default_rule=(
                policy_pb2.DEFAULT_RULE_ALLOW if default_allows else policy_pb2.DEFAULT_RULE_DENY
            ),
        )
        self.redis.set(read_model.ROUTES_KEY, message.SerializeToString())

    def complete_sync(self, *, at_micros: int = 0) -> None:
        """What sync does at the end of a pass."""
        state = policy_pb2.SyncState(tenants=1, completed_at_micros=at_micros)
        self.redis.set(read_model.SYNC_KEY, state.SerializeToString())


def _client(url: str) -> Any:  # noqa: ANN401 - the two kinds of client have no type in common
    scheme, _, hosts = url.partition("://")
    if scheme == "redis-cluster":
        return redis.cluster.RedisCluster.from_url(f"redis://{hosts.partition(',')[0]}")
    return redis.Redis.from_url(url)


def _quota(quota: Quota) -> policy_pb2.Quota:
    return policy_pb2.Quota(
        quota_id=quota.quota_id,
        meter=quota.meter,
        features=sorted(quota.features),
        limit_units=quota.limit_units,
        window=policy_pb2.Window.Value(f"WINDOW_{quota.window.name}"),
        soft=quota.soft,
    )


def nodes_at(port: int) -> RedisNodes:
    """Return what asks the Redis at a port, and follows its read model once it runs."""
    target = parse_redis_url(f"redis://127.0.0.1:{port}/0")
    return RedisNodes(target, prefix=read_model.PREFIX)
