"""What a tenant's level follows from: all that is read to explain it."""

from dataclasses import dataclass

from aforo_meter.domain.inquiry import Record
from aforo_meter.domain.margin import Level, Thresholds
from aforo_meter.domain.statement import Statement
from aforo_meter.tenant_reading import Known, Override, Synced


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that a level follows from, read at one instant."""

    record: Record
    statement: Statement
    known: Known
    synced: Synced
    now_micros: int

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
