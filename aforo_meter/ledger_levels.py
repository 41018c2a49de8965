"""Levels of tenants within one transaction of the ledger, with an alert for each that changes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from aforo_meter.alerts import alert_of
from aforo_meter.database import Sql
from aforo_meter.domain.guards import calls_in
from aforo_meter.domain.margin import Assessment, Level, assess, assessment
from aforo_meter.ledger import Transition, Watch
from aforo_meter.ledger_accounts import account_of, kept, revenue_of
from aforo_meter.ledger_guards import assess_guards
from aforo_meter.ledger_memory import Calm, Measure, PeriodKey, PeriodState
from aforo_meter.ledger_prepaid import Balances
from aforo_meter.ledger_states import MEASURE, estimated_part
from aforo_meter.outbox_writing import leave

CALM_PART: Final = 64  # How far ahead of its cost a level is looked at.
IN_FORCE = (
    "SELECT subscription_id, period_start_micros, level, guard_count FROM margin_state"
    " WHERE tenant_id = ? AND in_force = 1"
)
RETIRE = (
    "UPDATE margin_state SET in_force = 0, revision = revision + 1"
    " WHERE tenant_id = ? AND in_force = 1"
)
OPEN_PERIOD = (
    "INSERT INTO margin_state (tenant_id, subscription_id, period_start_micros,"
    " period_end_micros, cogs_nanos, unpriced_rows) VALUES (?, ?, ?, ?, 0, 0)"
    " ON CONFLICT (tenant_id, subscription_id, period_start_micros) DO NOTHING"
)
STATE = (
    "SELECT cogs_nanos, estimated_cogs_nanos, unpriced_rows, transition_seq, level_since_micros"
    " FROM margin_state"
    " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
)
SET_STATE = (
    "UPDATE margin_state SET in_force = 1, revision = revision + 1, period_end_micros = ?,"  # noqa: S608
    " level = ?, level_since_micros = ?, transition_seq = ?,"
    f" {', '.join(f'{name} = ?' for name in MEASURE)}, assessed_at_micros = ?, guard_count = ?,"
    " adjusted = 0 WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
)


def level_that_holds(
    watch: Watch, state: PeriodState | None, cogs_nanos: int, calm: dict[PeriodKey, Calm]
) -> Assessment | None:
    """Return how a tenant stands if nothing of its state changes but sums and the time; else None.

    Where revenue, guards or a least number of calls depend on usage, that is not known here.

    Args:
        watch: What it is measured by.
        state: As the ledger knows it.
        cogs_nanos: What it costs by now.
        calm: Within which bounds levels stay: found here, and found again here.
    """
    key = watched_period(watch)
    known = calm.get(key)
    if (
        known is not None
        and state is not None
        # Whatever else of the state has changed was read anew, and its measure with it.
        and (known.watch is watch and known.measure is state.measure)
        and known.from_nanos <= cogs_nanos < known.until_nanos
    ):
        return assessment(
            state.level,
            revenue_nanos=kept(watch.revenue_nanos),
            cogs_nanos=cogs_nanos,
            allowance_nanos=watch.allowance_nanos,
        )
    found = _level_that_holds(watch, state, cogs_nanos)
    if found is not None and state is not None:
        # The more it costs, the worse the level: if it is the same at a cost to come, it is so
        # until then.
        further = cogs_nanos + max(cogs_nanos, found.revenue_nanos) // CALM_PART + 1
        still = _level_that_holds(watch, state, further)
        until_nanos = cogs_nanos + 1 if still is None else further
        calm[key] = Calm(watch, state.measure, cogs_nanos, until_nanos)
    return found


def levels_that_hold(
    watches: Mapping[PeriodKey, Watch],
    states: Mapping[PeriodKey, PeriodState],
    calm: dict[PeriodKey, Calm],
) -> dict[str, Assessment]:
    """Return, by tenant, who was assessed just now and would be the same if it were again."""
    found = {}
    for key, watch in watches.items():
        state = states[key]
        held = level_that_holds(watch, state, state.cogs_nanos, calm)
        if held is not None:
            found[watch.tenant_id] = held
    return found


def _level_that_holds(
    watch: Watch, state: PeriodState | None, cogs_nanos: int
) -> Assessment | None:
    if (
        state is None
        or not state.in_force
        or state.adjusted
        or state.guard_count
        or watch.guards
        or watch.terms is not None
        or watch.thresholds.act_from_calls
        or state.period_end_micros != watch.period.end_micros
        or state.measure != _fixed_measure_of(watch)
    ):
        return None
    found = assess(
        revenue_nanos=kept(watch.revenue_nanos),
        cogs_nanos=cogs_nanos,
        allowance_nanos=watch.allowance_nanos,
        thresholds=watch.thresholds,
        previous=state.level,
    )
    return found if found.level is state.level else None


class Levels:
    """Assesses tenants by all that is written of them, whatever it is that has changed."""

    def __init__(self, sql: Sql, balances: Balances, *, now_micros: int) -> None:
        self._sql = sql
        self._balances = balances
        self._now_micros = now_micros
        self.transitions: list[Transition] = []

    def assess(self, watch: Watch) -> None:
        key = watched_period(watch)
        in_force: Any = self._sql.execute(IN_FORCE, (watch.tenant_id,)).fetchone()
        before, guards_before = Level.NONE, 0
        if in_force is not None:
            before, guards_before = Level(in_force[2]), in_force[3]
        if in_force is None or (in_force[0], in_force[1]) != key[1:]:
            # Another period or subscription: the level goes on from where it was.
            self._sql.execute(RETIRE, (watch.tenant_id,))
            self._sql.execute(OPEN_PERIOD, (*key, watch.period.end_micros))
        cogs_nanos, estimated_nanos, unpriced_rows, *place = self._sql.execute(
            STATE, key
        ).fetchone()
        seq, since_micros = place
        estimated_nanos = estimated_part(estimated_nanos, cogs_nanos)
        account = account_of(self._sql, watch)
        revenue = revenue_of(
            watch,
            account,
            now_micros=self._now_micros,
            drawn_before_nanos=self._balances.drawn_before(watch),
        )
        after = assess(
            revenue_nanos=kept(revenue.book_nanos),
            cogs_nanos=cogs_nanos,
            allowance_nanos=watch.allowance_nanos,
            thresholds=watch.thresholds,
            previous=before,
            calls=calls_in(account, account),
        )
        if after.level is not before:
            seq, since_micros = seq + 1, self._now_micros
            self._alert(
                Transition(
                    watch=watch,
                    seq=seq,
                    before=before,
                    after=after,
                    at_micros=self._now_micros,
                    estimated_cogs_nanos=estimated_nanos,
                    unpriced_rows=unpriced_rows,
                )
            )
        level = (int(after.level), since_micros or self._now_micros, seq)
        measure = (
            *(after.revenue_nanos, watch.allowance_nanos, watch.currency, revenue.currency),
            *(kept(revenue.total_nanos), kept(revenue.prepaid_drawn_nanos)),
            *(revenue.prepaid_left_nanos, watch.catalog_version, watch.price_book_version),
        )
        end_micros, guard_count = watch.period.end_micros, len(watch.guards)
        self._sql.execute(
            SET_STATE, (end_micros, *level, *measure, self._now_micros, guard_count, *key)
        )
        if watch.guards or guards_before:
            for transition in assess_guards(
                self._sql, watch, account, after.revenue_nanos, now_micros=self._now_micros
            ):
                self._alert(
                    replace(
                        transition,
                        estimated_cogs_nanos=estimated_nanos,
                        unpriced_rows=unpriced_rows,
                    )
                )

    def _alert(self, transition: Transition) -> None:
        tenant_id, now_micros = transition.watch.tenant_id, self._now_micros
        is_new = leave(self._sql, tenant_id, alert_of(transition), now_micros=now_micros)
        assert is_new, "the sequence of a period's transitions has no gap and no repetition"
        self.transitions.append(transition)


def watched_period(watch: Watch) -> PeriodKey:
    return (watch.tenant_id, watch.subscription_id, watch.period.start_micros)


def _fixed_measure_of(watch: Watch) -> Measure:
    """Return what a margin is measured by where revenue is fixed: as `_assess` writes it."""
    revenue_nanos = kept(watch.revenue_nanos)
    return (
        *(revenue_nanos, watch.allowance_nanos, watch.currency, watch.currency),
        *(revenue_nanos, 0, 0, watch.catalog_version, watch.price_book_version),
    )
