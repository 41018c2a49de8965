"""What is left in the outbox, exactly as it will be sent: one function for each kind of alert.

The same cause makes the same message id, so that nothing is told twice. docs/alerts.md says of each
kind what arms it again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Final

from aforo_meter.domain.completeness import Score
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Assessment, Level
from aforo_meter.domain.periods import DAY_MICROS, HOUR_MICROS, PeriodMicros, datetime_of
from aforo_meter.domain.price_changes import ChargedPrice, ModelUse, PriceChange
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.quotas import COGS, Quota
from aforo_meter.ledger import Transition

LEVEL_CHANGED: Final = "margin.level_changed"
QUOTA_REACHED: Final = "quota.reached"
USAGE_UNPRICED: Final = "usage.unpriced"
PRICE_CHANGED: Final = "price.changed"
COMPLETENESS_LOW: Final = "completeness.low"
SYNC_STALE: Final = "sync.stale"
KINDS: Final = (
    *(LEVEL_CHANGED, QUOTA_REACHED, USAGE_UNPRICED, PRICE_CHANGED),
    *(COMPLETENESS_LOW, SYNC_STALE),
)
TEST: Final = "alerts.test"  # Sent by hand, to one endpoint, and never left in the outbox.
NOBODY: Final = ""  # The tenant of what is about the installation.


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    message_id: str
    kind: str
    payload: str


def alert_of(transition: Transition) -> Alert:
    """Return the message of a transition. The same transition always makes the same one."""
    return Alert(
        message_id=_message_id(transition), kind=LEVEL_CHANGED, payload=_payload(transition)
    )


def completeness_alert(score: Score, *, threshold_bp: int, now_micros: int) -> Alert:
    """Return the message of a tenant's hour of which too little was logged: always the same id."""
    data = {
        "tenant": score.tenant_id,
        "hour_start": _rfc3339(score.hour_start_micros),
        "hour_end": _rfc3339(score.hour_start_micros + HOUR_MICROS),
        "decided": score.decided,
        "logged": score.logged,
        "missing": score.missing,
        "score_bp": score.score_bp,
        "threshold_bp": threshold_bp,
        "as_of": _rfc3339(now_micros),
    }
    return Alert(
        message_id=_id_of((COMPLETENESS_LOW, score.tenant_id, score.hour_start_micros)),
        kind=COMPLETENESS_LOW,
        payload=_json(COMPLETENESS_LOW, now_micros, data),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaReached:
    """A tenant has used so much of a quota in one of its windows."""

    tenant_id: str
    subscription_id: str
    quota: Quota
    window: PeriodMicros
    threshold_bp: int
    used_units: int
    currency: str  # Of what is counted, if that is money.
    as_of_micros: int


def quota_alert(reached: QuotaReached) -> Alert:
    """Return the message of a threshold: another window, or another limit, makes another one."""
    quota, window = reached.quota, reached.window
    parts = (
        *(QUOTA_REACHED, reached.tenant_id, reached.subscription_id, quota.quota_id),
        *(window.start_micros, quota.limit_units, reached.threshold_bp),
    )
    data = {
        "tenant": reached.tenant_id,
        "subscription": reached.subscription_id,
        "quota": quota.quota_id,
        "meter": quota.meter,
        "features": sorted(quota.features),
        "window": quota.window.value,
        "window_start": _rfc3339(window.start_micros),
        "window_end": _rfc3339(window.end_micros),
        "is_soft": quota.soft,
        "threshold_bp": reached.threshold_bp,
        "used_units": reached.used_units,
        "limit_units": quota.limit_units,
        "currency": reached.currency if quota.meter == COGS else None,
        "as_of": _rfc3339(reached.as_of_micros),
    }
    return _alert(QUOTA_REACHED, parts, data, reached.as_of_micros)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpriced:
    """A tenant's usage that waits for a price, for the n-th time."""

    tenant_id: str
    use: ModelUse
    episode: int
    quantity_micros: int
    since_micros: int  # The hour of its oldest part.


def unpriced_alert(unpriced: Unpriced, *, now_micros: int) -> Alert:
    quantity = Decimal(unpriced.quantity_micros).scaleb(-6).normalize()
    data = {
        "tenant": unpriced.tenant_id,
        **unpriced.use._asdict(),
        "quantity": f"{quantity:f}",
        "since": _rfc3339(unpriced.since_micros),
        "as_of": _rfc3339(now_micros),
    }
    parts = (USAGE_UNPRICED, unpriced.tenant_id, *unpriced.use, unpriced.episode)
    return _alert(USAGE_UNPRICED, parts, data, now_micros)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repricing:
    """New prices of one model, and a tenant's margin with its former ones and with these."""

    tenant_id: str
    subscription_id: str
    period: PeriodMicros
    currency: str
    changes: Sequence[PriceChange]  # Of one provider and model, in one state.
    before: Assessment
    after: Assessment


def price_alert(repricing: Repricing, *, now_micros: int) -> Alert:
    first = repricing.changes[0]
    data = {
        "tenant": repricing.tenant_id,
        "subscription": repricing.subscription_id,
        "provider": first.use.provider,
        "model": first.use.model,
        "state": first.state.value,
        "effective_from": _rfc3339(max(c.effective_from_micros for c in repricing.changes)),
        "changes": [
            {
                "meter": change.use.meter,
                "before": [_price(price) for price in change.before],
                "after": [_price(price) for price in change.after],
            }
            for change in repricing.changes
        ],
        "period_start": _rfc3339(repricing.period.start_micros),
        "period_end": _rfc3339(repricing.period.end_micros),
        "before": _margin(repricing.before),
        "after": _margin(repricing.after),
        "currency": repricing.currency,
        "as_of": _rfc3339(now_micros),
    }
    named = [part for change in repricing.changes for part in (*change.use, change.price_ids)]
    parts = (PRICE_CHANGED, repricing.tenant_id, first.state.value, *named)
    return _alert(PRICE_CHANGED, parts, data, now_micros)


def sync_alert(
    *, since_micros: int, stale_after_s: int, now_micros: int, is_known: bool = True
) -> Alert:
    """Return the message of a sync that stands still: the next complete one arms it again.

    Args:
        since_micros: When the last complete one ended.
        stale_after_s: The bound that was passed.
        now_micros: Unix time, UTC.
        is_known: Else no complete one is known, and it is since when somebody has looked. Whoever
            starts begins to look anew: so there is one message a day.
    """
    data = {
        "completed_at": _rfc3339(since_micros) if is_known else None,
        "age_s": (now_micros - since_micros) // 1_000_000,
        "stale_after_s": stale_after_s,
        "as_of": _rfc3339(now_micros),
    }
    cause = since_micros if is_known else f"none by day {now_micros // DAY_MICROS}"
    return _alert(SYNC_STALE, (SYNC_STALE, cause), data, now_micros)


def trial_alert(endpoint_id: str, *, nonce: str, now_micros: int) -> Alert:
    """Return a message by which an operator tries an endpoint out."""
    return _alert(TEST, (TEST, endpoint_id, nonce), {"endpoint": endpoint_id}, now_micros)


def _price(price: ChargedPrice | PriceEntry) -> dict[str, Any]:
    return {
        "price_id": price.price_id,
        "price_nanos": price.price_nanos,
        "per_units": price.per_units,
        "effective_from": _rfc3339(price.effective_from_micros),
        "tier_input_tokens_from": price.tier_input_tokens_from,
        "source": price.source,
    }


def _margin(assessment: Assessment) -> dict[str, Any]:
    ratio = assessment.gross_margin_ratio
    return {
        "level": _name(assessment.level),
        "margin_state": assessment.state.value,
        "gross_margin_ratio": None if ratio is None else str(ratio),
        "revenue_nanos": assessment.revenue_nanos,
        "cogs_nanos": assessment.cogs_nanos,
        "allowance_nanos": assessment.allowance_nanos,
    }


def _alert(
    kind: str, parts: Sequence[str | int], data: Mapping[str, object], at_micros: int
) -> Alert:
    return Alert(message_id=_id_of(parts), kind=kind, payload=_json(kind, at_micros, data))


def _message_id(transition: Transition) -> str:
    watch = transition.watch
    period = (watch.tenant_id, watch.subscription_id, watch.period.start_micros)
    guard_id = () if transition.guard is None else (transition.guard.guard_id,)
    return _id_of((*period, *guard_id, transition.seq))


def _id_of(parts: Sequence[str | int]) -> str:
    # As JSON, so that no two lists of ids read alike.
    return "msg_" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _json(kind: str, at_micros: int, data: Mapping[str, object]) -> str:
    message = {"type": kind, "timestamp": _rfc3339(at_micros), "data": data}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def _payload(transition: Transition) -> str:
    watch, after = transition.watch, transition.after
    ratio = after.gross_margin_ratio
    data = {
        "tenant": watch.tenant_id,
        "subscription": watch.subscription_id,
        "guard": None if transition.guard is None else _guard(transition.guard),
        "period_start": _rfc3339(watch.period.start_micros),
        "period_end": _rfc3339(watch.period.end_micros),
        "from": _name(transition.before),
        "to": _name(after.level),
        "direction": "worse" if after.level > transition.before else "better",
        "margin_state": after.state.value,
        "gross_margin_ratio": None if ratio is None else str(ratio),
        "revenue_nanos": after.revenue_nanos,
        "cogs_nanos": after.cogs_nanos,
        "allowance_nanos": after.allowance_nanos,
        "estimated_cogs_nanos": transition.estimated_cogs_nanos,
        "unpriced_rows": transition.unpriced_rows,
        "currency": watch.currency,
        "thresholds": asdict(transition.thresholds),
        "price_book_version": watch.price_book_version,
        "as_of": _rfc3339(transition.at_micros),
    }
    return _json(LEVEL_CHANGED, transition.at_micros, data)


def _guard(guard: Guard) -> Mapping[str, object]:
    return {
        "id": guard.guard_id,
        "features": sorted(guard.features),
        "meters": list(guard.meters),
    }


def _name(level: Level) -> str:
    return level.name.lower()


def _rfc3339(micros: int) -> str:
    return datetime_of(micros).isoformat().replace("+00:00", "Z")
