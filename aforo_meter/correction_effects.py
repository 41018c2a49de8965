"""What corrections do to tenants' periods: COGS, margin and level, before and after."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from aforo_meter.corrections import PeriodState
from aforo_meter.domain.corrections import Adjustment, cogs_by_period
from aforo_meter.domain.margin import Assessment, Level, MarginState, Thresholds, assess


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One tenant's period."""

    before: PeriodState
    rows: int  # Rows that are put right or taken back; where their usage moves to is not counted.
    cogs_nanos: int  # Afterwards.
    level: Level | None  # That the next assessment gives; None: the period is not in force.

    @property
    def change_nanos(self) -> int:
        return self.cogs_nanos - self.before.cogs_nanos

    @property
    def margin_before(self) -> Decimal | None:
        return _margin(self.before)

    @property
    def margin_after(self) -> Decimal | None:
        return _margin(replace(self.before, cogs_nanos=self.cogs_nanos))


def effects(
    states: Iterable[PeriodState],
    adjustments: Sequence[Adjustment],
    thresholds: Mapping[str, Thresholds],
) -> list[Effect]:
    """Return what adjustments do, or would do, to the periods that they fall into.

    The revenue is taken as it was last assessed.

    Args:
        states: The periods before.
        adjustments: All of them.
        thresholds: By tenant; without them no level is told.
    """
    changes = cogs_by_period(adjustments)
    rows: Counter[tuple[str, str, int]] = Counter()
    for one in adjustments:
        key = one.key
        period = (key.tenant_id, key.subscription_id, key.period_start_micros)
        rows[period] += one.change.quantity_micros <= 0
    found = []
    for state in states:
        period = (state.tenant_id, state.subscription_id, state.period.start_micros)
        if period not in rows:
            continue
        cogs_nanos = state.cogs_nanos + changes[period]
        level = _level(state, cogs_nanos, thresholds.get(state.tenant_id))
        found.append(Effect(before=state, rows=rows[period], cogs_nanos=cogs_nanos, level=level))
    return found


def _level(state: PeriodState, cogs_nanos: int, thresholds: Thresholds | None) -> Level | None:
    if not state.in_force or thresholds is None:
        return None
    return assess(
        revenue_nanos=state.revenue_nanos or 0,
        cogs_nanos=cogs_nanos,
        allowance_nanos=state.allowance_nanos or 0,
        thresholds=thresholds,
        previous=state.level,
    ).level


def _margin(state: PeriodState) -> Decimal | None:
    assessment = Assessment(
        level=state.level,
        state=MarginState.DEFINED if state.revenue_nanos else MarginState.UNDEFINED,
        revenue_nanos=state.revenue_nanos or 0,
        cogs_nanos=state.cogs_nanos,
        allowance_nanos=state.allowance_nanos or 0,
    )
    return assessment.gross_margin_ratio
