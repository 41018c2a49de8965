"""What corrections do to tenants' periods: COGS, margin and level, before and after."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from aforo_meter.corrections import Corrections, LevelBasis, PeriodState
from aforo_meter.domain.account import Account, UsageKey, Used, total
from aforo_meter.domain.corrections import Adjustment, cogs_by_period
from aforo_meter.domain.guards import GuardChange, calls_in, guard_changes
from aforo_meter.domain.margin import Assessment, Level, MarginState, assess
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.domain.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One tenant's period."""

    before: PeriodState
    rows: int  # Rows that are put right or taken back; where their usage moves to is not counted.
    cogs_nanos: int  # Afterwards.
    level: Level | None  # That the next assessment gives; None: the period is not in force.
    guards: tuple[GuardChange, ...] = ()  # Whose level it changes.

    @property
    def change_nanos(self) -> int:
        return self.cogs_nanos - self.before.cogs_nanos

    @property
    def margin_before(self) -> Decimal | None:
        return _margin(self.before)

    @property
    def margin_after(self) -> Decimal | None:
        return _margin(replace(self.before, cogs_nanos=self.cogs_nanos))


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """A tenant's periods, and what its levels go by, before anything is corrected."""

    states: Sequence[PeriodState]
    terms: Terms | None  # Without them no level is told.
    basis: LevelBasis | None = None  # Of the period in force, where more than its totals counts.


async def read_before(corrections: Corrections, tenant_id: str, terms: Terms | None) -> Before:
    """Read what `effects` needs, before corrections are written."""
    states = await corrections.periods(tenant_id)
    current = next((state for state in states if state.in_force), None)
    basis = None
    if current is not None and terms and (terms.guards or terms.thresholds.act_from_calls):
        basis = await corrections.level_basis(current)
    return Before(states=states, terms=terms, basis=basis)


def effects(before: Before, adjustments: Sequence[Adjustment]) -> list[Effect]:
    """Return what adjustments do, or would do, to the periods that they fall into.

    The revenue is taken as it was last assessed.
    """
    changes = cogs_by_period(adjustments)
    rows: Counter[tuple[str, str, int]] = Counter()
    for one in adjustments:
        key = one.key
        period = (key.tenant_id, key.subscription_id, key.period_start_micros)
        rows[period] += one.change.quantity_micros <= 0
    found = []
    for state in before.states:
        period = (state.tenant_id, state.subscription_id, state.period.start_micros)
        if period not in rows:
            continue
        cogs_nanos = state.cogs_nanos + changes[period]
        effect = Effect(before=state, rows=rows[period], cogs_nanos=cogs_nanos, level=None)
        if state.in_force and before.terms is not None:
            effect = _with_levels(effect, before.terms, before.basis, adjustments)
        found.append(effect)
    return found


def _with_levels(
    effect: Effect, terms: Terms, basis: LevelBasis | None, adjustments: Iterable[Adjustment]
) -> Effect:
    state = effect.before
    account = None if basis is None else _changed(basis.account, state, adjustments)
    level = assess(
        revenue_nanos=state.revenue_nanos or 0,
        cogs_nanos=effect.cogs_nanos,
        allowance_nanos=state.allowance_nanos or 0,
        thresholds=terms.thresholds,
        previous=state.level,
        calls=None if account is None else calls_in(account, account),
    ).level
    if basis is None or account is None:
        return replace(effect, level=level)
    guards = guard_changes(
        terms.guards,
        account,
        contract_revenue_nanos=state.revenue_nanos or 0,
        levels=basis.guard_levels,
    )
    return replace(effect, level=level, guards=guards)


def _changed(account: Account, state: PeriodState, adjustments: Iterable[Adjustment]) -> Account:
    period = (state.tenant_id, state.subscription_id, state.period.start_micros)
    changes = (
        {_usage(one.key): Used(one.change.quantity_micros, one.change.cogs_nanos)}
        for one in adjustments
        if one.key[:3] == period
    )
    return total((account, *changes))


def _usage(key: ChargeKey) -> UsageKey:
    return UsageKey(
        meter=key.meter,
        feature=key.feature,
        provider=key.provider,
        model=key.model,
        tool=key.tool,
        execution_status=key.execution_status,
    )


def _margin(state: PeriodState) -> Decimal | None:
    assessment = Assessment(
        level=state.level,
        state=MarginState.DEFINED if state.revenue_nanos else MarginState.UNDEFINED,
        revenue_nanos=state.revenue_nanos or 0,
        cogs_nanos=state.cogs_nanos,
        allowance_nanos=state.allowance_nanos or 0,
    )
    return assessment.gross_margin_ratio
