"""What a client that asks before it acts is told of a tenant's quotas. Pure.

It decides nothing at the gateway: that is aforo_authz, which also reserves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aforo_meter.domain.periods import PeriodMicros, calendar_month
from aforo_meter.domain.quotas import WindowKind

SECOND_MICROS: Final = 1_000_000
WARN_PERCENT: Final = 80
FIXED_S: Final = {WindowKind.MINUTE: 60, WindowKind.HOUR: 3600, WindowKind.DAY: 86_400}


class Answer(StrEnum):
    """Ordered: the last is the worst."""

    ALLOW = "ALLOW"
    WARN = "WARN"
    DENY = "DENY"


_RANK: Final = {answer: rank for rank, answer in enumerate(Answer)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuota:
    """A quota, and how a tenant stands in its current window."""

    quota_id: str
    meter: str
    limit_units: int
    soft: bool
    window: PeriodMicros
    used_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What the client is told. None: nothing is known of it."""

    answer: Answer
    reason: str
    used_units: int | None = None
    limit_units: int | None = None
    retry_after_ms: int | None = None
    window: PeriodMicros | None = None


def window_at(
    kind: WindowKind, *, now_micros: int, periods: Sequence[PeriodMicros]
) -> PeriodMicros | None:
    """Return the window that a moment is in; None if it lies in no known billing period.

    Args:
        kind: What the quota counts in.
        now_micros: Unix time in microseconds, UTC.
        periods: The tenant's billing period and the next one.
    """
    if kind is WindowKind.BILLING_PERIOD:
        return next((period for period in periods if now_micros in period), None)
    if kind is WindowKind.MONTH:
        return calendar_month(now_micros)
    length_micros = FIXED_S[kind] * SECOND_MICROS
    start_micros = now_micros - now_micros % length_micros
    return PeriodMicros(start_micros, start_micros + length_micros)


def advise(quotas: Sequence[AskedQuota], *, wanted_micros: int, now_micros: int) -> Advice:
    """Return what to tell of the quota that is closest to its end.

    A hard quota that the wanted units do not fit into denies; a soft one warns, as does either from
    80 % of its limit on.

    Args:
        quotas: Those that count what is asked for.
        wanted_micros: How much the client is about to use, in millionths of a unit.
        now_micros: Unix time in microseconds, UTC.
    """
    if not quotas:
        return Advice(answer=Answer.ALLOW, reason="no quota counts this metric")
    told = [_of_one(quota, wanted_micros, now_micros) for quota in quotas]
    return max(told, key=lambda one: (_RANK[one.answer], _share(one)))


def _of_one(quota: AskedQuota, wanted_micros: int, now_micros: int) -> Advice:
    after_micros = quota.used_units * SECOND_MICROS + wanted_micros
    limit_micros = quota.limit_units * SECOND_MICROS
    answer, reason, retry_after_ms = Answer.ALLOW, "within the quota", None
    if after_micros > limit_micros:
        if quota.soft:
            answer, reason = Answer.WARN, f"over the soft quota {quota.quota_id}"
        else:
            answer, reason = Answer.DENY, f"the quota {quota.quota_id} is used up"
            if wanted_micros <= limit_micros:  # Else waiting would not help.
                retry_after_ms = max(0, -(-(quota.window.end_micros - now_micros) // 1000))
    elif after_micros * 100 >= limit_micros * WARN_PERCENT:
        answer = Answer.WARN
        reason = f"{WARN_PERCENT} % of the quota {quota.quota_id} will be used"
    return Advice(
        answer=answer,
        reason=reason,
        used_units=quota.used_units,
        limit_units=quota.limit_units,
        retry_after_ms=retry_after_ms,
        window=quota.window,
    )


def _share(advice: Advice) -> float:
    used, limit = advice.used_units or 0, advice.limit_units or 0
    return used / limit if limit else float(bool(used)) + 1
