"""What is left in the outbox, exactly as it will be sent: a change of level, an incomplete log."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from aforo_meter.domain.completeness import Score
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import HOUR_MICROS, datetime_of
from aforo_meter.ledger import Transition

LEVEL_CHANGED: Final = "margin.level_changed"
COMPLETENESS_LOW: Final = "completeness.low"


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
