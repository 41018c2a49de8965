"""The port: what was decided and what was logged, kept beside the charges."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aforo_meter.alerts import Alert
from aforo_meter.domain.completeness import Basis, Compared, Score
from aforo_meter.domain.periods import PeriodMicros


class Decided(NamedTuple):
    """What one process of authz has counted so far."""

    hour_start_micros: int
    tenant_id: str
    feature: str
    outcome: str
    process: str
    decisions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreQuery:
    hours: PeriodMicros
    tenant_id: str | None = None  # None: of all.


class Completeness(Protocol):
    """Every method raises LedgerUnavailableError if the database can't be asked."""

    async def keep_decided(self, rows: Iterable[Decided]) -> None:
        """Keep totals. One that is lower than what is known is old, and changes nothing."""

    async def compared(self, query: ScoreQuery) -> Sequence[Compared]:
        """Return what was decided and logged in some hours, by tenant, features and outcome."""

    async def tenant_hours(self, hours: PeriodMicros) -> Sequence[Score]:
        """Return scores by tenant and hour, all features together; of decisions alone."""

    async def basis(self, tenant_id: str, feature: str, hours: PeriodMicros) -> Basis:
        """Return what the calls used that did arrive.

        Nothing where that can't be told: of calls that need no feature, if the tenant's usage is
        reported by others too.
        """

    async def leave(self, tenant_id: str, alert: Alert, *, now_micros: int) -> bool:
        """Leave an alert in the outbox; False if it was left before."""

    async def prune(self, *, before_micros: int, rows_max: int) -> int:
        """Forget hours that began before an instant; return how many rows."""
