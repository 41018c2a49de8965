"""Quotas of a tenant, as Redis has them → what a client that asks is told."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from aforo_meter.domain.ingest_metrics import Metric
from aforo_meter.domain.ingest_values import shown
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.quota_check import (
    SECOND_MICROS,
    Advice,
    Answer,
    AskedQuota,
    advise,
    window_at,
)
from aforo_meter.domain.quotas import WindowKind
from aforo_meter.domain.usage import API_CALLS
from aforo_meter.ingest.redis_link import RedisAwayError, RedisLink
from aforo_proto import margin_pb2, policy_pb2

WINDOWS: Final[Mapping[int, WindowKind]] = {
    policy_pb2.WINDOW_MINUTE: WindowKind.MINUTE,
    policy_pb2.WINDOW_HOUR: WindowKind.HOUR,
    policy_pb2.WINDOW_DAY: WindowKind.DAY,
    policy_pb2.WINDOW_MONTH: WindowKind.MONTH,
    policy_pb2.WINDOW_BILLING_PERIOD: WindowKind.BILLING_PERIOD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    customer_id: str
    metric_name: str  # "": any.
    wanted_micros: int


def allow(reason: str) -> dict[str, Any]:
    """Return the answer where nothing can be told."""
    return _answer(Advice(answer=Answer.ALLOW, reason=reason), tier="", now_micros=0)


async def check(
    link: RedisLink, metrics: Mapping[str, Metric], question: Question
) -> dict[str, Any]:
    """Return the answer's data. Where nothing can be told it allows, and says why."""
    now_micros = time.time_ns() // 1000
    meter = None
    if question.metric_name:
        metric = metrics.get(question.metric_name)
        if metric is None:
            return allow(f"no metric {shown(question.metric_name)}")
        meter = metric.meter
    try:
        return await _check(link, meter, question, now_micros)
    except RedisAwayError:
        return allow("quotas can't be read at the moment")
    except DecodeError:
        return allow("this tenant's quotas can't be read")


async def _check(
    link: RedisLink, meter: str | None, question: Question, now_micros: int
) -> dict[str, Any]:
    tenant = question.customer_id
    ((policy_value, margin_value),) = await link.ask(
        ("MGET", f"aforo:v1:{{{tenant}}}:policy", f"aforo:v1:{{{tenant}}}:margin")
    )
    if policy_value is None:
        return allow(f"no tenant {shown(tenant)} with quotas")
    policy = policy_pb2.Policy.FromString(policy_value)
    windows = _windows(policy, meter, now_micros)
    if not windows:
        return _answer(
            advise((), wanted_micros=0, now_micros=now_micros),
            tier=policy.plan_id,
            now_micros=now_micros,
        )
    margin = margin_pb2.Margin.FromString(margin_value or b"")
    counters = await link.ask(
        *(("GET", _counter_key(tenant, quota, window)) for quota, window in windows)
    )
    quotas = [
        AskedQuota(
            quota_id=quota.quota_id,
            meter=quota.meter,
            limit_units=quota.limit_units,
            soft=quota.soft,
            window=window,
            used_units=max(_counted(quota, counter), _ledger_says(margin, quota, window)),
        )
        for (quota, window), counter in zip(windows, counters, strict=True)
    ]
    advice = advise(quotas, wanted_micros=question.wanted_micros, now_micros=now_micros)
    return _answer(advice, tier=policy.plan_id, now_micros=now_micros)


def _windows(
    policy: policy_pb2.Policy, meter: str | None, now_micros: int
) -> Sequence[tuple[policy_pb2.Quota, PeriodMicros]]:
    """Return the quotas that count the meter, with their windows.

    Those for single features are left out: a client's event names none.
    """
    periods = (
        PeriodMicros(policy.period_start_micros, policy.period_end_micros),
        PeriodMicros(policy.period_end_micros, policy.next_period_end_micros),
    )
    found = []
    for quota in policy.quotas:
        kind = WINDOWS.get(quota.window)
        if kind is None or quota.features or (meter is not None and quota.meter != meter):
            continue
        window = window_at(kind, now_micros=now_micros, periods=periods)
        if window is not None:
            found.append((quota, window))
    return found


def _counter_key(tenant: str, quota: policy_pb2.Quota, window: PeriodMicros) -> str:
    start_s = window.start_micros // SECOND_MICROS
    return f"aforo:quota:v1:{{{tenant}}}:{quota.quota_id}:{start_s}"


def _counted(quota: policy_pb2.Quota, counter: bytes | None) -> int:
    """Return what the gateway has counted; it does so for calls alone."""
    if quota.meter != API_CALLS or counter is None or not counter.isdigit():
        return 0
    return int(counter)


def _ledger_says(margin: margin_pb2.Margin, quota: policy_pb2.Quota, window: PeriodMicros) -> int:
    return next(
        (
            usage.used_units
            for usage in margin.quota_usages
            if usage.quota_id == quota.quota_id and usage.window_start_micros == window.start_micros
        ),
        0,
    )


def _answer(advice: Advice, *, tier: str, now_micros: int) -> dict[str, Any]:
    headers: dict[str, str] = {}
    if advice.limit_units is not None and advice.window is not None:
        remaining = max(0, advice.limit_units - (advice.used_units or 0))
        reset_s = max(0, -(-(advice.window.end_micros - now_micros) // SECOND_MICROS))
        headers = {
            "X-RateLimit-Limit": str(advice.limit_units),
            "X-RateLimit-Remaining": str(remaining),
            "X-RateLimit-Reset": str(reset_s),
        }
    if advice.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-advice.retry_after_ms // 1000))
    return {
        "decision": advice.answer,
        "reason": advice.reason,
        "currentUsage": advice.used_units,
        "limit": advice.limit_units,
        "retryAfterMs": advice.retry_after_ms,
        "tierName": tier or None,
        "headers": headers,
    }
