"""Why a decision came out as it did: every check, in order, with what it compared. Pure.

`decide` does not use this and this decides nothing: it tells, from the same facts, and a test holds
the two together: the first check that failed is the reason.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from aforo_authz.domain.access import (
    SERVED_STATES,
    Decision,
    Known,
    Level,
    Policy,
    Reason,
    level_in_force,
    true_at_micros,
)
from aforo_authz.domain.features import Needs
from aforo_authz.domain.quotas import Standing

MICROS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what it would have refused with, whether it passed, and what was compared.

    `passed` is None where an earlier check failed, so that there was nothing to compare.
    """

    reason: Reason
    passed: bool | None
    detail: str


def trace(
    known: Known, decision: Decision, *, now_micros: int, stale_max_micros: int
) -> tuple[Check, ...]:
    """Return all checks of a final decision, in the order in which they were made.

    Args:
        known: What the decision was made on.
        decision: A settled one.
        now_micros: When it was made, Unix time in microseconds, UTC.
        stale_max_micros: As given to `decide`.
    """
    checks = [
        *_of_the_caller(known, now_micros),
        *_of_the_policy(known, decision, now_micros, stale_max_micros),
    ]
    told: list[Check] = []
    for check in checks:
        if told and told[-1].passed is not True:
            check = Check(reason=check.reason, passed=None, detail="not reached")  # noqa: PLW2901
        told.append(check)
    return tuple(told)


def _of_the_caller(known: Known, now_micros: int) -> list[Check]:
    credential = known.credential
    presented = "a credential came with the call" if known.presented else "no credential came"
    if credential is None:
        whose, revoked, good = "nobody's, as far as the read model knows", "unknown", False
    else:
        expiry = credential.expires_at_micros
        expired = expiry is not None and now_micros >= expiry
        whose = f"{credential.kind} {credential.credential_id} of tenant {credential.tenant_id}"
        when = "never expires" if expiry is None else f"expires {moment(expiry)}"
        revoked = "revoked" if credential.revoked else when
        good = not (credential.revoked or expired)
    return [
        Check(reason=Reason.UNAUTHENTICATED, passed=known.presented, detail=presented),
        Check(reason=Reason.UNKNOWN_CREDENTIAL, passed=credential is not None, detail=whose),
        Check(reason=Reason.CREDENTIAL_REVOKED, passed=good, detail=revoked),
    ]


def _of_the_policy(
    known: Known, decision: Decision, now_micros: int, stale_max_micros: int
) -> list[Check]:
    policy, needs = known.policy, decision.needs
    if policy is None:
        none = "the tenant has no policy: no subscription, or sync has not written it"
        return [
            Check(reason=Reason.SUBSCRIPTION_INACTIVE, passed=False, detail=none),
            Check(reason=Reason.FEATURE_NOT_ENTITLED, passed=None, detail=""),
            Check(reason=Reason.MARGIN_LIMIT_EXCEEDED, passed=None, detail=""),
            Check(reason=Reason.QUOTA_EXCEEDED, passed=None, detail=""),
        ]
    missing = sorted(set(needs.features) - policy.features)
    features = f"needs {', '.join(needs.features) or 'nothing'}"
    if not needs.known:
        features = "no rule names this path, and the default denies"
    elif missing:
        features += f"; not in the plan: {', '.join(missing)}"
    level, why = _level(known, policy, needs, now_micros, stale_max_micros)
    exceeded = [s for s in decision.standings if s.exceeded and not s.quota.soft]
    return [
        Check(
            reason=Reason.SUBSCRIPTION_INACTIVE,
            passed=policy.state in SERVED_STATES,
            detail=f"{policy.subscription_id} is {policy.state}, plan {policy.plan_id}",
        ),
        Check(
            reason=Reason.FEATURE_NOT_ENTITLED, passed=needs.known and not missing, detail=features
        ),
        Check(reason=Reason.MARGIN_LIMIT_EXCEEDED, passed=level is not Level.BLOCK, detail=why),
        Check(
            reason=Reason.QUOTA_EXCEEDED,
            passed=not exceeded,
            detail="; ".join(map(_quota, decision.standings)) or "no quota counts this call",
        ),
    ]


def _level(
    known: Known, policy: Policy, needs: Needs, now_micros: int, stale_max_micros: int
) -> tuple[Level, str]:
    margin = known.margin
    if margin is None:
        return Level.NONE, "level none: no margin has been worked out yet"
    stale = now_micros - true_at_micros(known, margin) > stale_max_micros
    level, guard_id = level_in_force(
        margin, policy, needs, now_micros=now_micros, margin_stale=stale
    )
    told = f"level {level.name.lower()}"
    if guard_id:
        told += f" by the guard {guard_id}; the tenant's own is {margin.level.name.lower()}"
    guards = [guard for guard in margin.guards if guard.concerns(needs)]
    worst = max([margin.level, *(guard.level for guard in guards)])
    if level is worst:
        return level, told
    why = "an override is in force until " + moment(policy.override_until_micros)
    if margin.period_end_micros is not None and now_micros >= margin.period_end_micros:
        why = "its billing period is over"
    elif policy.override_level_max is None or now_micros >= policy.override_until_micros:
        why = "it was last confirmed too long ago to block"
    whose = "the margin's own" if worst is margin.level else f"the guard {guards[0].guard_id}'s"
    return level, f"{told}, although {whose} is {worst.name.lower()}: {why}"


def _quota(standing: Standing) -> str:
    quota = standing.quota
    kind = "soft quota" if quota.soft else "quota"
    state = "exceeded" if standing.exceeded else "left"
    return (
        f"{kind} {quota.quota_id}: {standing.used_units} of {quota.limit_units} {quota.meter},"
        f" {state}, until {moment(standing.window.end_s * MICROS)}"
    )


def moment(micros: int) -> str:
    """Return an instant as people read it: UTC, to the second."""
    return datetime.fromtimestamp(micros // MICROS, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
