"""What a tenant's level follows from: all that is read to explain it."""

from dataclasses import dataclass

from aforo_meter.domain.inquiry import Record
from aforo_meter.domain.margin import Level, Thresholds
from aforo_meter.domain.statement import Line, LineKind, Statement
from aforo_meter.tenant_reading import Known, Override, Synced


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that a level follows from, read at one instant."""

    record: Record
    statement: Statement  # As far as its revenue has accrued by now.
    known: Known
    synced: Synced
    now_micros: int

    @property
    def revenue_lines(self) -> list[Line]:
        """What revenue is made of. What a prepaid balance pays is revenue too."""
        return [
            line
            for line in self.statement.lines
            if line.amount_nanos and line.kind is not LineKind.PREPAID
        ]

    @property
    def thresholds(self) -> Thresholds:
        return self.known.terms.thresholds if self.known.terms else Thresholds()

    @property
    def override(self) -> Override | None:
        """The override in force now."""
        override = self.known.override
        return override if override and self.now_micros < override.until_micros else None

    @property
    def decided_level(self) -> Level:
        """What decisions take the level as."""
        level = self.record.state.level
        return min(level, self.override.level_max) if self.override else level
