"""The log's line about a decision: always for refusals, up to a rate; a sample of the others."""

import random
from collections import Counter
from typing import Any

import structlog

from aforo_authz.check import Call
from aforo_authz.domain.access import PASSING, Decision, Reason

log = structlog.get_logger(__name__)

PATH_CHARS_MAX = 256


class DecisionLog:
    """Writes lines that lead from a decision id to what was decided, and on what.

    A flood of refusals must not turn the log into the bottleneck: what goes beyond the rate is
    counted, and told in one line a second.

    Args:
        sample_ratio: The share of calls that passed which is logged, 0 to 1.
        refusals_per_s_max: Refusals logged in a second.
    """

    def __init__(self, *, sample_ratio: float, refusals_per_s_max: int) -> None:
        self._sample_ratio = sample_ratio
        self._refusals_per_s_max = refusals_per_s_max
        self._second = 0
        self._refusals = 0  # In this second.
        self._left_out: Counter[Reason] = Counter()

    def note(
        self, decision: Decision, decision_id: str, seconds: float, call: Call, now_micros: int
    ) -> None:
        if decision.reason in PASSING and decision.shadow_reason is None:
            if self._sample_ratio and random.random() < self._sample_ratio:  # noqa: S311 - a sample
                log.info("decided", **told(decision, decision_id, seconds, call, now_micros))
        elif self._has_room(decision, now_micros // 1_000_000):
            log.info("decided", **told(decision, decision_id, seconds, call, now_micros))

    def _has_room(self, decision: Decision, second: int) -> bool:
        if second != self._second:
            self.tell_left_out()
            self._second, self._refusals = second, 0
        self._refusals += 1
        if self._refusals <= self._refusals_per_s_max:
            return True
        self._left_out[decision.shadow_reason or decision.reason] += 1
        return False

    def tell_left_out(self) -> None:
        """Say how many refusals have no line of their own, if any."""
        if self._left_out:
            counts = {reason.value: count for reason, count in self._left_out.items()}
            log.warning("refusals without a line of their own", **counts)
            self._left_out.clear()


def told(
    decision: Decision, decision_id: str, seconds: float, call: Call, now_micros: int
) -> dict[str, Any]:
    """Return what a line says of a decision: who, what, why, and on which values."""
    credential, policy = decision.credential, decision.policy
    return {
        "decision_id": decision_id,
        "decision": decision.outcome.value,
        "reason": decision.reason.value,
        "shadow_reason": decision.shadow_reason.value if decision.shadow_reason else None,
        "tenant": credential.tenant_id if credential else None,
        "credential_id": credential.credential_id if credential else None,
        "subscription": policy.subscription_id if policy else None,
        "plan": policy.plan_id if policy else None,
        "catalog_version": policy.catalog_version if policy else None,
        "method": printable(call.method)[:16],
        "path": printable(call.path.partition("?")[0])[:PATH_CHARS_MAX],  # A query holds secrets.
        "features": ",".join(decision.needs.features),
        "weight_units": decision.needs.weight_units,
        "margin_level": decision.level.name.lower(),
        "guard": decision.guard_id or None,
        "quotas": [
            {
                "quota": standing.quota.quota_id,
                "used_units": standing.used_units,
                "limit_units": standing.quota.limit_units,
                "window_end_s": standing.window.end_s,
            }
            for standing in decision.standings
        ],
        "stale": decision.stale,
        "uncounted": decision.uncounted,
        "decided_at_micros": now_micros,
        "micros": round(seconds * 1_000_000),
    }


def printable(text: str) -> str:
    """Return text that can't forge a line, whoever reads the log."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
