"""Calls that were throttled or blocked: by hour, and by tenant and reason, summed in SQL."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aforo_meter.database import Sql
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros

BY_HOUR: Final = (
    "SELECT hour_start_micros, outcome, reason, SUM(count) FROM intervention WHERE {where}"
    " GROUP BY hour_start_micros, outcome, reason"
)
BY_TENANT: Final = (
    "SELECT tenant_id, outcome, reason, SUM(count), MAX(hour_start_micros) FROM intervention"
    " WHERE {where} GROUP BY tenant_id, outcome, reason"
    " ORDER BY 4 DESC, tenant_id, outcome, reason LIMIT ? OFFSET ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionQuery:
    """Which ones; what is empty is not asked for."""

    hours: PeriodMicros
    tenant_id: str = ""
    outcome: str = ""
    reason: str = ""

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition, of these names alone, and its values."""
        terms = ["hour_start_micros >= ?", "hour_start_micros < ?"]
        values: list[Any] = [self.hours.start_micros, self.hours.end_micros]
        given = {"tenant_id": self.tenant_id, "outcome": self.outcome, "reason": self.reason}
        for name, value in given.items():
            if value:
                terms.append(f"{name} = ?")
                values.append(value)
        return " AND ".join(terms), values


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTenant:
    tenant_id: str
    outcome: str
    reason: str
    calls: int
    last_hour_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OfReason:
    outcome: str
    reason: str
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interventions:
    by_hour: Sequence[tuple[int, Mapping[str, int]]]  # Every hour asked for, calls by outcome.
    by_tenant: Sequence[OfTenant]  # Most calls first; as many as a page has, and one more.
    by_reason: Sequence[OfReason]

    @property
    def calls(self) -> int:
        return sum(one.calls for one in self.by_reason)


def read_interventions(
    sql: Sql, query: InterventionQuery, *, count_max: int, skipped: int
) -> Interventions:
    """Read them, as of one instant."""
    where, values = query.where()
    hours: defaultdict[int, Counter[str]] = defaultdict(Counter)
    reasons: Counter[tuple[str, str]] = Counter()
    for hour_micros, outcome, reason, calls in sql.execute(BY_HOUR.format(where=where), values):
        hours[hour_micros][outcome] += int(calls)
        reasons[outcome, reason] += int(calls)
    by_tenant = [
        OfTenant(
            tenant_id=row[0],
            outcome=row[1],
            reason=row[2],
            calls=int(row[3]),
            last_hour_micros=row[4],
        )
        for row in sql.execute(BY_TENANT.format(where=where), [*values, count_max + 1, skipped])
    ]
    span = range(query.hours.start_micros, query.hours.end_micros, HOUR_MICROS)
    return Interventions(
        by_hour=[(hour, hours.get(hour, {})) for hour in span],
        by_tenant=by_tenant,
        by_reason=[
            OfReason(outcome=outcome, reason=reason, calls=calls)
            for (outcome, reason), calls in sorted(
                reasons.items(), key=lambda item: (-item[1], item[0])
            )
        ],
    )
