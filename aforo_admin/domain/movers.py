"""Whose usage costs more or less than it did: what a day costs now, beside a day before. Pure."""

from dataclasses import dataclass
from fractions import Fraction

from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import DAY_MICROS, PeriodMicros


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """A tenant's running period beside the one before it."""

    tenant_id: str
    level: Level
    period: PeriodMicros
    cogs_nanos: int  # So far.
    before: PeriodMicros
    before_cogs_nanos: int

    def per_day_nanos(self, now_micros: int) -> int:
        """Return what a day of the running period has cost so far, on average."""
        until_micros = min(now_micros, self.period.end_micros)
        return _per_day(self.cogs_nanos, until_micros - self.period.start_micros)

    @property
    def before_per_day_nanos(self) -> int:
        return _per_day(self.before_cogs_nanos, self.before.end_micros - self.before.start_micros)

    def change_nanos(self, now_micros: int) -> int:
        return self.per_day_nanos(now_micros) - self.before_per_day_nanos

    def change_bp(self, now_micros: int) -> int | None:
        """Return the change as a share of what it was; None: it was nothing."""
        before_nanos = self.before_per_day_nanos
        if before_nanos == 0:
            return None
        return round(Fraction(10_000 * self.change_nanos(now_micros), before_nanos))


def _per_day(cogs_nanos: int, span_micros: int) -> int:
    return round(Fraction(cogs_nanos * DAY_MICROS, span_micros)) if span_micros > 0 else 0
