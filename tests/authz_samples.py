"""Policies, margins and calls for the tests of aforo_authz: what is not said is ordinary."""

import calendar
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from aforo_authz.domain.access import (
    API_CALLS,
    Credential,
    CredentialKind,
    GuardLevel,
    Known,
    Level,
    Margin,
    Policy,
    SubscriptionState,
)
from aforo_authz.domain.quotas import Quota, WindowKind


def micros(text: str) -> int:
    """Return Unix time in microseconds of an ISO time, UTC."""
    at = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return calendar.timegm(at.utctimetuple()) * 1_000_000 + at.microsecond


NOW = micros("2026-03-15T12:00:00")
PERIOD = (micros("2026-03-10"), micros("2026-04-10"), micros("2026-05-10"))
STALE_MAX = 300_000_000


def make_credential(
    *,
    tenant_id: str = "acme",
    kind: CredentialKind = CredentialKind.API_KEY,
    revoked: bool = False,
    expires_at_micros: int | None = None,
) -> Credential:
    return Credential(
        tenant_id=tenant_id,
        kind=kind,
        credential_id=f"{tenant_id}-key-1",
        revoked=revoked,
        expires_at_micros=expires_at_micros,
    )


def make_quota(
    quota_id: str = "calls",
    *,
    meter: str = API_CALLS,
    limit_units: int = 100,
    window: WindowKind = WindowKind.DAY,
    features: Collection[str] = (),
    soft: bool = False,
) -> Quota:
    return Quota(
        quota_id=quota_id,
        meter=meter,
        limit_units=limit_units,
        window=window,
        features=frozenset(features),
        soft=soft,
    )


def make_policy(
    *quotas: Quota,
    tenant_id: str = "acme",
    state: SubscriptionState = SubscriptionState.ACTIVE,
    features: Collection[str] = ("search", "chat"),
    period_micros: tuple[int, int, int] = PERIOD,
    shadow: bool = False,
    stale_margin_blocks: bool = False,
    override: tuple[Level, int] | None = None,
) -> Policy:
    start, end, next_end = period_micros
    level_max, until = override or (None, 0)
    return Policy(
        tenant_id=tenant_id,
        subscription_id=f"sub-{tenant_id}",
        plan_id="pro",
        state=state,
        period_start_micros=start,
        period_end_micros=end,
        next_period_end_micros=next_end,
        features=frozenset(features),
        quotas=quotas,
        shadow=shadow,
        stale_margin_blocks=stale_margin_blocks,
        override_level_max=level_max,
        override_until_micros=until,
        catalog_version="v7",
    )


def make_guard(
    level: Level, *, guard_id: str = "chat-margin", features: Collection[str] = ("chat",)
) -> GuardLevel:
    return GuardLevel(guard_id=guard_id, features=frozenset(features), level=level)


def make_margin(
    level: Level = Level.NONE,
    *guards: GuardLevel,
    as_of_micros: int = NOW,
    period_end_micros: int | None = PERIOD[1],
    used: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> Margin:
    """Return a margin; `used` by quota id: start of the window in s, units."""
    return Margin(
        level=level,
        as_of_micros=as_of_micros,
        period_end_micros=period_end_micros,
        used_units=used,
        guards=guards,
    )


def make_known(
    policy: Policy | None = None,
    margin: Margin | None = None,
    *,
    credential: Credential | None = None,
    stale: bool = False,
    margin_confirmed_micros: int = 0,
) -> Known:
    return Known(
        presented=True,
        credential=credential or make_credential(),
        policy=policy or make_policy(),
        margin=margin,
        stale=stale,
        margin_confirmed_micros=margin_confirmed_micros,
    )
