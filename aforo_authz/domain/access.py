"""Who may do what: the decision. Pure; the order of the checks is the order of `Reason`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from aforo_authz.domain.features import Needs
from aforo_authz.domain.quotas import (
    Quota,
    Reservation,
    Standing,
    standing_of,
    window_of,
)

API_CALLS = "api.calls"


class Reason(StrEnum):
    """Why a call was refused, marked or allowed. Listed in the order `decide` checks them."""

    UNAUTHENTICATED = "unauthenticated"
    UNKNOWN_CREDENTIAL = "unknown_credential"
    CREDENTIAL_REVOKED = "credential_revoked"
    SUBSCRIPTION_INACTIVE = "subscription_inactive"
    FEATURE_NOT_ENTITLED = "feature_not_entitled"
    MARGIN_LIMIT_EXCEEDED = "margin_limit_exceeded"
    QUOTA_EXCEEDED = "quota_exceeded"
    MARGIN_THROTTLE = "margin_throttle"
    ALLOWED = "allowed"


class Outcome(StrEnum):
    ALLOW = "allow"
    THROTTLE = "throttle"
    BLOCK = "block"


class Level(IntEnum):
    """How close the margin is to its floors. Ordered: higher is worse."""

    NONE = 0
    WARN = 1
    THROTTLE = 2
    BLOCK = 3


class SubscriptionState(StrEnum):
    CREATED = "created"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    EXPIRING_SOON = "expiring_soon"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


# What lets a call pass; every other reason refuses it.
PASSING = {Reason.ALLOWED: Outcome.ALLOW, Reason.MARGIN_THROTTLE: Outcome.THROTTLE}

SERVED_STATES = frozenset(
    {
        SubscriptionState.TRIALING,
        SubscriptionState.ACTIVE,
        SubscriptionState.PAST_DUE,
        SubscriptionState.EXPIRING_SOON,
    }
)


class CredentialKind(StrEnum):
    API_KEY = "api_key"
    JWT_SUBJECT = "jwt_subject"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What identifies a tenant. The secret itself is never here, only its public name."""

    tenant_id: str
    kind: CredentialKind
    credential_id: str
    revoked: bool = False
    expires_at_micros: int | None = None  # Refused from this instant on.


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one tenant may do, as the last sync knew it."""

    tenant_id: str
    subscription_id: str
    plan_id: str
    state: SubscriptionState
    period_start_micros: int
    period_end_micros: int  # Exclusive: the next period starts here …
    next_period_end_micros: int  # … and ends here.
    features: frozenset[str]
    quotas: tuple[Quota, ...] = ()
    shadow: bool = False
    stale_margin_blocks: bool = False
    override_level_max: Level | None = None
    override_until_micros: int = 0  # Exclusive.
    catalog_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardLevel:
    """What a guard of the contract says of the calls that it is for."""

    guard_id: str
    features: frozenset[str]  # Calls that need one of these; empty: all calls.
    level: Level

    def concerns(self, needs: Needs) -> bool:
        return not self.features or not self.features.isdisjoint(needs.features)


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """What the consumer last worked out. Figures of money stay out of the decision's reach."""

    level: Level
    as_of_micros: int
    # Of the billing period that it speaks of; exclusive. None: of no period in particular.
    period_end_micros: int | None = None
    partition: int = 0  # Of the usage topic: whose progress confirms that this is still true.
    # By quota id: (start of the window in Unix seconds, units used in it by the ledger's account).
    used_units: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    guards: tuple[GuardLevel, ...] = ()  # Those that have a level, the worst first.


# The two below are made anew for every call and then left alone. They are not frozen only because
# a frozen one takes three times as long to make (docs/decisions/0011).


@dataclass(slots=True, kw_only=True)
class Known:
    """All that is known of the caller when a call is decided; None where nothing is."""

    presented: bool  # Did the caller show any credential?
    credential: Credential | None = None
    policy: Policy | None = None
    margin: Margin | None = None
    # When all usage of the margin's partition was last known to be in it: who is silent has an
    # old margin that is still true.
    margin_confirmed_micros: int = 0
    stale: bool = False  # Redis could not confirm these values lately.


@dataclass(slots=True, kw_only=True)
class Decision:
    """The answer to one call. With `reservations` it holds only if they succeed: see `settle`."""

    reason: Reason
    needs: Needs
    credential: Credential | None = None
    policy: Policy | None = None
    standings: tuple[Standing, ...] = ()  # Every quota that counts this call.
    reservations: tuple[Reservation, ...] = ()
    retry_after_s: int | None = None  # None: waiting does not help.
    shadow_reason: Reason | None = None  # Why it would have been refused or marked.
    level: Level = Level.NONE
    guard_id: str = ""  # Whose level that is; empty: the tenant's own.
    stale: bool = False
    uncounted: bool = False  # A quota should have counted it, and the store did not answer.

    @property
    def outcome(self) -> Outcome:
        return PASSING.get(self.reason, Outcome.BLOCK)


def decide(known: Known, needs: Needs, *, now_micros: int, stale_max_micros: int) -> Decision:
    """Decide whether one call may proceed.

    The first check that fails gives the reason, so a refusal names the most basic cause.

    Args:
        known: What the cache holds of the caller.
        needs: The features that the call needs, and its weight.
        now_micros: Unix time in microseconds, UTC. Passed in, so that a replay decides alike.
        stale_max_micros: A margin older than this no longer blocks, unless the policy says so.

    Returns:
        A final decision, or one with `reservations`: hard quotas are counted by the store,
        atomically, and `settle` turns the store's answer into the final decision.
    """
    refusal = _refuse_caller(known, now_micros)
    if refusal is not None:
        return Decision(reason=refusal, needs=needs, credential=known.credential, stale=known.stale)
    policy = known.policy
    assert policy is not None, "a caller without a policy was refused above"
    margin_stale = _is_margin_stale(known, now_micros, stale_max_micros)
    level, guard_id = level_in_force(
        known.margin, policy, needs, now_micros=now_micros, margin_stale=margin_stale
    )
    found = _reason_of(policy, needs, level)
    standings: tuple[Standing, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    # In shadow mode the call passes whatever was found, so its quotas count it.
    if policy.quotas and (found in PASSING or policy.shadow):
        standings, reservations = _stand_in_quotas(policy, needs, known.margin, now_micros)
        if reservations and not policy.shadow and any(_refuses(each) for each in standings):
            reservations = ()  # Refused by a quota that is known already: nothing is counted.
    reason, shadow_reason, retry_after_s = found, None, None
    if not reservations:
        reason, shadow_reason, retry_after_s = _conclude(found, policy, standings, now_micros)
    return Decision(
        reason=reason,
        needs=needs,
        credential=known.credential,
        policy=policy,
        standings=standings,
        reservations=reservations,
        retry_after_s=retry_after_s,
        shadow_reason=shadow_reason,
        level=level,
        guard_id=guard_id,
        stale=known.stale or margin_stale,
    )


def settle(
    decision: Decision, counted: tuple[Standing, ...] | None, *, now_micros: int
) -> Decision:
    """Turn the store's answer to `decision.reservations` into the final decision.

    Args:
        decision: From `decide`, with reservations.
        counted: The standing of each reservation, in order; None if the store did not answer.
            Then the call passes, marked stale: an outage is no reason to turn a customer away.
        now_micros: Unix time in microseconds, UTC.
    """
    policy = decision.policy
    assert policy is not None, "only a policy has quotas"
    standings = decision.standings + (counted or ())
    reason, shadow_reason, retry_after_s = _conclude(decision.reason, policy, standings, now_micros)
    return Decision(
        reason=reason,
        needs=decision.needs,
        credential=decision.credential,
        policy=policy,
        standings=standings,
        retry_after_s=retry_after_s,
        shadow_reason=shadow_reason,
        level=decision.level,
        guard_id=decision.guard_id,
        stale=decision.stale or counted is None,
        uncounted=counted is None,
    )


def level_in_force(
    margin: Margin | None, policy: Policy, needs: Needs, *, now_micros: int, margin_stale: bool
) -> tuple[Level, str]:
    """Return the level to act on, and the guard that it comes from; "": it is the tenant's own.

    Of the tenant's level and those of the guards that the call concerns the worst holds: in the
    margin's period, softened by override and age.
    """
    if margin is None:
        return Level.NONE, ""
    if margin.period_end_micros is not None and now_micros >= margin.period_end_micros:
        # A new period begins with nothing spent, even if nobody has told us yet: who was blocked
        # sends nothing that would make anyone work it out again.
        return Level.NONE, ""
    level, guard_id = margin.level, ""
    if margin.guards:
        level, guard_id = _worst(margin, needs)
    if policy.override_level_max is not None and now_micros < policy.override_until_micros:
        level = min(level, policy.override_level_max)
    if margin_stale and not policy.stale_margin_blocks:
        # Old news may slow a customer down; it never turns one away.
        level = min(level, Level.THROTTLE)
    # A guard whose level is softened to the tenant's own decides nothing, and is not named.
    return level, guard_id if level > margin.level else ""


def _worst(margin: Margin, needs: Needs) -> tuple[Level, str]:
    guard = next((each for each in margin.guards if each.concerns(needs)), None)
    if guard is None or guard.level <= margin.level:
        return margin.level, ""
    return guard.level, guard.guard_id


def true_at_micros(known: Known, margin: Margin) -> int:
    """Return when a margin was last known to be true, by its own word or its partition's."""
    return max(margin.as_of_micros, known.margin_confirmed_micros)


def _is_margin_stale(known: Known, now_micros: int, stale_max_micros: int) -> bool:
    if known.margin is None:
        return False
    return now_micros - true_at_micros(known, known.margin) > stale_max_micros


def _refuse_caller(known: Known, now_micros: int) -> Reason | None:
    if not known.presented:
        return Reason.UNAUTHENTICATED
    credential = known.credential
    if credential is None:
        return Reason.UNKNOWN_CREDENTIAL
    expires_at_micros = credential.expires_at_micros
    if credential.revoked or (expires_at_micros is not None and now_micros >= expires_at_micros):
        return Reason.CREDENTIAL_REVOKED
    if known.policy is None:
        # Policies are written before credentials: no policy means no subscription.
        return Reason.SUBSCRIPTION_INACTIVE
    return None


def _reason_of(policy: Policy, needs: Needs, level: Level) -> Reason:
    if policy.state not in SERVED_STATES:
        return Reason.SUBSCRIPTION_INACTIVE
    if not needs.known or not policy.features.issuperset(needs.features):
        return Reason.FEATURE_NOT_ENTITLED
    if level is Level.BLOCK:
        return Reason.MARGIN_LIMIT_EXCEEDED
    return Reason.MARGIN_THROTTLE if level is Level.THROTTLE else Reason.ALLOWED


def _stand_in_quotas(
    policy: Policy, needs: Needs, margin: Margin | None, now_micros: int
) -> tuple[tuple[Standing, ...], tuple[Reservation, ...]]:
    """Return how the call stands in quotas whose usage is known, and what the store must count."""
    used_units = margin.used_units if margin is not None else {}
    period_micros = (
        policy.period_start_micros,
        policy.period_end_micros,
        policy.next_period_end_micros,
    )
    reservations: list[Reservation] = []
    standings: list[Standing] = []
    for quota in policy.quotas:
        if not quota.counts(needs.features):
            continue
        window = window_of(quota.window, now_micros=now_micros, period_micros=period_micros)
        window_start_s, used = used_units.get(quota.quota_id, (0, 0))
        ledger_units = used if window_start_s == window.start_s else 0
        if quota.meter == API_CALLS:
            reservations.append(
                Reservation(
                    quota=quota,
                    window=window,
                    units=needs.weight_units,
                    seed_units=ledger_units,
                    # Shadow mode counts what it would have refused.
                    enforced=not (quota.soft or policy.shadow),
                )
            )
        else:
            standings.append(standing_of(quota, window, used_units=ledger_units, asked_units=1))
    return tuple(standings), tuple(reservations)


def _refuses(standing: Standing) -> bool:
    return standing.exceeded and not standing.quota.soft


def _conclude(
    found: Reason, policy: Policy, standings: tuple[Standing, ...], now_micros: int
) -> tuple[Reason, Reason | None, int | None]:
    """Return the reason, what shadow mode kept from being it, and the seconds to wait."""
    retry_after_s = None
    refusing = [each for each in standings if _refuses(each)]
    if refusing and found in PASSING:
        found = Reason.QUOTA_EXCEEDED
        waits_s = [standing.retry_after_s(now_micros) for standing in refusing]
        # All of them must have room again; a call larger than a whole quota never fits.
        retry_after_s = None if None in waits_s else max(s for s in waits_s if s is not None)
    if policy.shadow and found is not Reason.ALLOWED:
        return Reason.ALLOWED, found, None  # It passes untouched.
    return found, None, retry_after_s
