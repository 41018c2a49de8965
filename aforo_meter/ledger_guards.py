"""The levels of guards in the ledger: assessed with the tenant's margin, in its transaction."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from aforo_meter.database import Sql
from aforo_meter.domain.account import Account
from aforo_meter.domain.guards import WHOLE, assess_guard
from aforo_meter.domain.margin import Level
from aforo_meter.domain.revenue import recognised
from aforo_meter.ledger import Transition, Watch
from aforo_meter.ledger_accounts import kept

LEVELS: Final = "SELECT guard_id, level FROM guard_state WHERE tenant_id = ? AND in_force = 1"
SEQUENCES: Final = (
    "SELECT guard_id, transition_seq, level_since_micros FROM guard_state"
    " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
)
RETIRE: Final = "UPDATE guard_state SET in_force = 0 WHERE tenant_id = ? AND in_force = 1"
SET_STATE: Final = (
    "INSERT INTO guard_state (tenant_id, subscription_id, period_start_micros, guard_id, in_force,"
    " level, level_since_micros, transition_seq, revenue_nanos, cogs_nanos)"
    " VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?)"
    " ON CONFLICT (tenant_id, subscription_id, period_start_micros, guard_id) DO UPDATE SET"
    " in_force = 1, level = excluded.level, level_since_micros = excluded.level_since_micros,"
    " transition_seq = excluded.transition_seq, revenue_nanos = excluded.revenue_nanos,"
    " cogs_nanos = excluded.cogs_nanos"
)


class _Place(NamedTuple):
    """Where a guard stands in its sequence of transitions in one period."""

    seq: int = 0
    since_micros: int = 0  # 0: it never stood anywhere.


def read_levels(sql: Sql, tenant_id: str) -> Mapping[str, Level]:
    """Return the levels of a tenant's guards, by guard id."""
    return {guard_id: Level(level) for guard_id, level in sql.execute(LEVELS, (tenant_id,))}


def assess_guards(
    sql: Sql, watch: Watch, account: Account, contract_revenue_nanos: int, *, now_micros: int
) -> Iterator[Transition]:
    """Bring a tenant's guards up to date; yield each change of a level.

    A guard's level goes on into another period or subscription, as the tenant's own does. One that
    the contract no longer has ends with it.
    """
    key = (watch.tenant_id, watch.subscription_id, watch.period.start_micros)
    before = read_levels(sql, watch.tenant_id)
    share = WHOLE
    if watch.terms is not None:
        share = recognised(watch.terms, watch.period, now_micros=now_micros)
    places = {guard_id: _Place(*rest) for guard_id, *rest in sql.execute(SEQUENCES, key)}
    sql.execute(RETIRE, (watch.tenant_id,))
    for guard in watch.guards:
        previous = before.get(guard.guard_id, Level.NONE)
        after = assess_guard(
            guard,
            account,
            contract_revenue_nanos=contract_revenue_nanos,
            previous=previous,
            recognised=share,
        )
        seq, since_micros = places.get(guard.guard_id, _Place())
        if after.level is not previous:
            seq, since_micros = seq + 1, now_micros
            yield Transition(
                watch=watch,
                seq=seq,
                before=previous,
                after=after,
                at_micros=now_micros,
                guard=guard,
            )
        figures = (kept(after.revenue_nanos), after.cogs_nanos)
        state = (int(after.level), since_micros or now_micros, seq, *figures)
        sql.execute(SET_STATE, (*key, guard.guard_id, *state))
