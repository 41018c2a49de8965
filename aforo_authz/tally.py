"""How many calls of each tenant were decided how, in each hour: to be compared with the log.

What Envoy logs can get lost; what was decided is counted here, so that a loss is known. Figures are
totals since this process began, under a name of its own: writing one twice changes nothing, and a
reader adds up what several processes have written.
"""

import secrets
from collections.abc import Iterable
from typing import NamedTuple

from aforo_authz.domain.access import Decision, Outcome
from aforo_authz.metrics import Reading

HOUR_S = 3600
UNHEARD = "Decisions counted no more: their callers had left before they heard of them."
NOBODY = "?"  # Whose credential is unknown: no tenant can be called so.

_Kind = tuple[str, tuple[str, ...], Outcome]  # tenant, features, outcome


class Total(NamedTuple):
    """How often it was decided so, as far as this process knows."""

    hour_s: int  # Unix time of the hour's beginning, UTC; half-open.
    tenant_id: str
    features: tuple[str, ...]
    outcome: Outcome
    decisions: int


class Tally:
    """Counts decisions in memory, until somebody has written the totals.

    Args:
        kept_max: Totals kept once they are written: beyond that, all begin anew, under a new name.
        totals_max: Totals while nothing can be written; further kinds of calls count as lost.
    """

    def __init__(self, *, kept_max: int = 20_000, totals_max: int = 200_000) -> None:
        self.lost = 0  # Decisions that found no place, because Redis was away for long.
        self.taken_back = 0  # Decisions whose callers had left before they heard of them.
        self.totals_written = 0
        self._kept_max = kept_max
        self._totals_max = totals_max
        self._name = secrets.token_hex(8)
        self._epoch = 0
        self._hour_s = 0
        self._fresh: dict[_Kind, int] = {}  # Of this hour, since the last look.
        self._totals: dict[tuple[int, _Kind], int] = {}
        self._unwritten: set[tuple[int, _Kind]] = set()

    @property
    def instance(self) -> str:
        """The name that this process's totals go by; a new one whenever they begin anew."""
        return f"{self._name}.{self._epoch}"

    def count(self, decision: Decision, now_micros: int) -> None:
        now_s = now_micros // 1_000_000
        if now_s >= self._hour_s + HOUR_S:  # A clock that is set back changes no hour.
            self.gather()
            self._hour_s = now_s - now_s % HOUR_S
        policy = decision.policy
        tenant_id = policy.tenant_id if policy is not None else _tenant_of(decision)
        kind = (tenant_id, decision.needs.features, decision.outcome)
        seen = self._fresh.get(kind)
        if seen is not None:
            self._fresh[kind] = seen + 1
        elif len(self._fresh) + len(self._totals) < self._totals_max:
            self._fresh[kind] = 1
        else:
            self.lost += 1

    def take_back(
        self, *, tenant_id: str, features: tuple[str, ...], outcome: Outcome, hour_s: int
    ) -> None:
        """Count one decision less: nobody heard of it, so nothing will be logged under it."""
        kind = (tenant_id, features, outcome)
        key = (hour_s, kind)
        fresh = self._fresh.get(kind, 0) if hour_s == self._hour_s else 0
        total = self._totals.get(key, 0)
        if fresh + total <= 0:
            return  # It found no place, or its hour is over and written.
        self.taken_back += 1
        if fresh:
            self._fresh[kind] = fresh - 1
        else:
            self._totals[key] = total - 1
            self._unwritten.add(key)

    def gather(self) -> None:
        """Add what was counted since the last look to the totals."""
        fresh, self._fresh = self._fresh, {}
        for kind, count in fresh.items():
            key = (self._hour_s, kind)
            self._totals[key] = self._totals.get(key, 0) + count
            self._unwritten.add(key)

    def take(self, totals_max: int) -> list[Total]:
        """Return some totals that are to be written: then say `written` or `give_back`."""
        taken = [self._unwritten.pop() for _ in range(min(totals_max, len(self._unwritten)))]
        return [Total(hour_s, *kind, self._totals[hour_s, kind]) for hour_s, kind in taken]

    def give_back(self, totals: Iterable[Total]) -> None:
        """Take back what could not be written: it will be taken again."""
        self._unwritten.update(map(_key_of, totals))

    def written(self, totals: Iterable[Total]) -> None:
        """Take note of what was written; make room where it is needed."""
        for total in totals:
            key = _key_of(total)
            self.totals_written += 1
            if total.hour_s != self._hour_s and key not in self._unwritten:
                del self._totals[key]  # Nothing is added to an hour that is over.
        if len(self._totals) > self._kept_max and not self._unwritten:
            self._totals.clear()
            self._epoch += 1

    def counters(self) -> list[Reading]:
        return [
            ("tally_totals_written", "Totals written to Redis.", lambda: self.totals_written),
            ("tally_decisions_lost", "Decisions in no total.", lambda: self.lost),
            ("tally_decisions_unheard", UNHEARD, lambda: self.taken_back),
        ]

    def gauges(self) -> list[Reading]:
        text = "Totals that Redis does not have yet."
        return [("tally_totals_waiting", text, lambda: len(self._unwritten) + len(self._fresh))]


def _key_of(total: Total) -> tuple[int, _Kind]:
    return total.hour_s, (total.tenant_id, total.features, total.outcome)


def _tenant_of(decision: Decision) -> str:
    return decision.credential.tenant_id if decision.credential is not None else NOBODY
