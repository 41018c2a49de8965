"""Redis values → domain. The only module that knows the keys and messages of the read model."""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from aforo_authz.domain.access import (
    Credential,
    CredentialKind,
    GuardLevel,
    Level,
    Margin,
    Policy,
    SubscriptionState,
)
from aforo_authz.domain.features import Rule, Rules
from aforo_authz.domain.quotas import Quota, WindowKind
from aforo_proto import margin_pb2, policy_pb2

PREFIX = "aforo:v1:"
_CREDENTIAL_PREFIX = "aforo:v1:cred:"
_CONSUMED_PREFIX = "aforo:v1:consumed:"
ROUTES_KEY = "aforo:v1:routes"
# Its presence says that what sync writes is all there, its value since when.
SYNC_KEY = "aforo:v1:sync"

_STATES = {
    getattr(policy_pb2, f"SUBSCRIPTION_STATE_{state.name}"): state for state in SubscriptionState
}
_WINDOWS = {getattr(policy_pb2, f"WINDOW_{kind.name}"): kind for kind in WindowKind}
_KINDS = {getattr(policy_pb2, f"CREDENTIAL_KIND_{kind.name}"): kind for kind in CredentialKind}


_NO_USAGE: Mapping[str, tuple[int, int]] = {}  # One for all.
# What decoded values take, measured (CPython 3.11): the key, the object, its strings and numbers.
_CREDENTIAL_BYTES, _POLICY_BYTES, _MARGIN_BYTES = 360, 440, 280
_FEATURE_BYTES, _QUOTA_BYTES, _USAGE_BYTES, _GUARD_BYTES = 40, 160, 250, 64


class UnreadableValueError(Exception):
    """A value of the read model that this version cannot understand: never read as "nothing"."""

    def __init__(self, key: str, why: str) -> None:
        if key.startswith(_CREDENTIAL_PREFIX):
            key = key[: len(_CREDENTIAL_PREFIX) + 8] + "…"  # No whole hash in a log.
        super().__init__(
            f"cannot read {key}: {why}; the writer may be newer than this process: update it"
        )
        self.key = key


def credential_key(sha256_hex: str) -> str:
    return _CREDENTIAL_PREFIX + sha256_hex


def policy_key(tenant_id: str) -> str:
    return f"aforo:v1:{{{tenant_id}}}:policy"


def margin_key(tenant_id: str) -> str:
    return f"aforo:v1:{{{tenant_id}}}:margin"


def consumed_key(partition: int) -> str:
    return f"{_CONSUMED_PREFIX}{partition}"


def is_credential(key: str) -> bool:
    return key.startswith(_CREDENTIAL_PREFIX)


def is_consumers(key: str) -> bool:
    """Is it the consumer that writes this key?"""
    return key.endswith(":margin") or key.startswith(_CONSUMED_PREFIX)


def counter_key(tenant_id: str, quota_id: str, window_start_s: int) -> str:
    """Return the key of a quota's counter; its own prefix keeps it out of invalidation."""
    return f"aforo:quota:v1:{{{tenant_id}}}:{quota_id}:{window_start_s}"


def processes_key(hour_s: int) -> str:
    """Return the key of a set: who counted decisions in an hour. Nobody has to search for them."""
    return f"aforo:decisions:v1:{hour_s}"


def decisions_key(hour_s: int, instance: str) -> str:
    """Return the key of one process's decisions in an hour: a hash of totals."""
    return f"{processes_key(hour_s)}:{instance}"


def decisions_field(tenant_id: str, outcome: str, features: Iterable[str]) -> str:
    """Return the field of a total: no id of the catalog can hold what separates them."""
    return f"{tenant_id}|{outcome}|{','.join(features)}"


def decode(key: str, value: bytes | None) -> Any:  # noqa: ANN401 - by the kind of the key
    """Return the domain value of a key; None if it is absent.

    Raises:
        UnreadableValueError: There is a value, but this version cannot understand it.
    """
    return None if value is None else _decoder_of(key)(key, value)


def _decoder_of(key: str) -> Callable[[str, bytes], Any]:
    if key.startswith(_CREDENTIAL_PREFIX):
        return credential_of
    if key.endswith(":policy"):
        return policy_of
    if key.endswith(":margin"):
        return margin_of
    if key.startswith(_CONSUMED_PREFIX):
        return consumed_of
    if key == ROUTES_KEY:
        return rules_of
    assert key == SYNC_KEY, f"nobody asks for {key}"
    return synced_of


def bytes_of(key: str, value: Any) -> int:  # noqa: ANN401 - by the kind of the key
    """Return the memory that a decoded value takes with its key, about."""
    if isinstance(value, Policy):
        own = _FEATURE_BYTES * len(value.features) + _QUOTA_BYTES * len(value.quotas)
        return _POLICY_BYTES + len(key) + own
    if isinstance(value, Margin):
        own = _USAGE_BYTES * len(value.used_units) + _GUARD_BYTES * len(value.guards)
        return _MARGIN_BYTES + len(key) + own
    return _CREDENTIAL_BYTES + len(key)


def credential_of(key: str, value: bytes) -> Credential:
    """Decode a Credential.

    Raises:
        UnreadableValueError: Not a Credential, or of a kind that this version doesn't know.
    """
    message = _parse(policy_pb2.Credential, key, value)
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise UnreadableValueError(key, f"unknown credential kind {message.kind}")
    return Credential(
        tenant_id=message.tenant_id,
        kind=kind,
        credential_id=message.credential_id,
        # Whatever is not plainly active is refused.
        revoked=message.status != policy_pb2.CREDENTIAL_STATUS_ACTIVE,
        expires_at_micros=message.expires_at_micros or None,
    )


def policy_of(key: str, value: bytes) -> Policy:
    """Decode a Policy.

    Raises:
        UnreadableValueError: Not a Policy, or with a state or window unknown to this version.
    """
    message = _parse(policy_pb2.Policy, key, value)
    state = _STATES.get(message.state)
    if state is None:
        raise UnreadableValueError(key, f"unknown subscription state {message.state}")
    override = message.margin_override if message.HasField("margin_override") else None
    return Policy(
        tenant_id=message.tenant_id,
        subscription_id=message.subscription_id,
        plan_id=sys.intern(message.plan_id),
        state=state,
        period_start_micros=_shared_instant(message.period_start_micros),
        period_end_micros=_shared_instant(message.period_end_micros),
        next_period_end_micros=_shared_instant(message.next_period_end_micros),
        features=_features_of(tuple(message.features)),
        quotas=tuple(_quota_of(key, quota) for quota in message.quotas),
        shadow=message.shadow,
        stale_margin_blocks=message.stale_margin_blocks,
        override_level_max=_level_of(override.level_max) if override is not None else None,
        override_until_micros=override.until_micros if override is not None else 0,
        catalog_version=message.catalog_version,
    )


def margin_of(key: str, value: bytes) -> Margin:
    """Decode a Margin.

    Raises:
        UnreadableValueError: Not a Margin.
    """
    message = _parse(margin_pb2.Margin, key, value)
    used_units = {
        sys.intern(usage.quota_id): (usage.window_start_micros // 1_000_000, usage.used_units)
        for usage in message.quota_usages
    }
    return Margin(
        level=_level_of(message.level),
        as_of_micros=message.as_of_micros,
        period_end_micros=message.period_end_micros or None,
        partition=message.partition,
        used_units=used_units or _NO_USAGE,
        guards=_guards_of(message.guards),
    )


def _guards_of(messages: Iterable[margin_pb2.GuardLevel]) -> tuple[GuardLevel, ...]:
    """Return the guards that have a level, the worst first: the first that fits a call decides."""
    levels = [
        _shared_guard(each.guard_id, tuple(each.features), _level_of(each.level))
        for each in messages
        if each.level > Level.NONE
    ]
    return tuple(sorted(levels, key=lambda guard: (-guard.level, guard.guard_id)))


def consumed_of(key: str, value: bytes) -> int:
    """Decode a ConsumeState: until when a partition is consumed, Unix time in microseconds.

    Raises:
        UnreadableValueError: Not a ConsumeState.
    """
    return _parse(margin_pb2.ConsumeState, key, value).as_of_micros


def synced_of(key: str, value: bytes) -> int:
    """Decode a SyncState: when the last complete pass ended, Unix time in microseconds.

    Raises:
        UnreadableValueError: Not a SyncState.
    """
    return _parse(policy_pb2.SyncState, key, value).completed_at_micros


def rules_of(key: str, value: bytes) -> Rules:
    """Decode Routes.

    Raises:
        UnreadableValueError: Not a Routes message, or with a template that can't be compiled.
    """
    message = _parse(policy_pb2.Routes, key, value)
    rules = [
        Rule(
            methods=frozenset(rule.methods),
            path_template=rule.path_template,
            features=tuple(rule.features),
            weight_units=max(1, rule.weight_units),
        )
        for rule in message.rules
    ]
    try:
        return Rules(rules, default_allows=message.default_rule == policy_pb2.DEFAULT_RULE_ALLOW)
    except ValueError as error:
        raise UnreadableValueError(key, str(error)) from error


def _level_of(number: int) -> Level:
    """Return a level; one from the future is taken as the worst one known."""
    return Level(max(Level.NONE, min(number, Level.BLOCK)))


def _quota_of(key: str, message: policy_pb2.Quota) -> Quota:
    window = _WINDOWS.get(message.window)
    if window is None:
        raise UnreadableValueError(key, f"quota {message.quota_id!r}: unknown window")
    return _shared_quota(
        message.quota_id,
        message.meter,
        message.limit_units,
        window,
        tuple(message.features),
        soft=message.soft,
    )


# Tenants of one plan have the same features and quotas, and many the same month: a hundred thousand
# of them share one copy.
@functools.lru_cache(maxsize=1024)
def _shared_instant(micros: int) -> int:
    return micros


@functools.lru_cache(maxsize=10_000)
def _features_of(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(names)


@functools.lru_cache(maxsize=10_000)
def _shared_guard(guard_id: str, features: tuple[str, ...], level: Level) -> GuardLevel:
    return GuardLevel(guard_id=guard_id, features=_features_of(features), level=level)


@functools.lru_cache(maxsize=10_000)
def _shared_quota(
    quota_id: str,
    meter: str,
    limit_units: int,
    window: WindowKind,
    features: tuple[str, ...],
    *,
    soft: bool,
) -> Quota:
    return Quota(
        quota_id=quota_id,
        meter=meter,
        limit_units=limit_units,
        window=window,
        features=_features_of(features),
        soft=soft,
    )


_M = TypeVar(
    "_M",
    policy_pb2.Credential,
    policy_pb2.Policy,
    policy_pb2.Routes,
    policy_pb2.SyncState,
    margin_pb2.Margin,
    margin_pb2.ConsumeState,
)


def _parse(kind: type[_M], key: str, value: bytes) -> _M:
    try:
        return kind.FromString(value)
    except DecodeError as error:
        raise UnreadableValueError(key, f"not a {kind.DESCRIPTOR.name}") from error
