"""What people ask the ledger about a tenant's period, in SQL."""

from collections.abc import Sequence
from typing import Any, Final

from aforo_meter.database import Sql
from aforo_meter.domain.account import Account
from aforo_meter.domain.inquiry import (
    Adjusted,
    GuardState,
    Intervention,
    PeriodState,
    Record,
)
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.inquiries import Choice
from aforo_meter.inquiries_usage import read_usage
from aforo_meter.ledger_accounts import read_account
from aforo_meter.ledger_prepaid import EARLIER
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.ledger_states import estimated_part
from aforo_meter.ledger_sums import parts, whole

STATES = (
    "SELECT subscription_id, period_start_micros, period_end_micros, in_force, level,"
    " level_since_micros, revenue_nanos, allowance_nanos, cogs_nanos, unpriced_rows, currency,"
    " COALESCE(contract_currency, currency), COALESCE(contract_revenue_nanos, revenue_nanos),"
    " catalog_version, price_book_version, assessed_at_micros, closed_at_micros,"
    " estimated_cogs_nanos FROM margin_state"
    " WHERE tenant_id = ?"
)
COVERING = f"{STATES} AND period_start_micros <= ? AND period_end_micros > ?"
IN_FORCE = f"{STATES} AND in_force = 1"
PERIOD: Final = "WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
ADJUSTED = (
    "SELECT MIN(created_at_micros), kind, author, reason, COUNT(*),"  # noqa: S608
    f" {parts('cogs_nanos')} FROM adjustment {PERIOD}"
    " GROUP BY run_id, kind, author, reason ORDER BY 1, 2, 3, 4"
)
CLOSED_AND_ADJUSTED = f"SELECT 1 FROM adjustment {PERIOD} AND created_at_micros > ? LIMIT 1"  # noqa: S608
INTERVENTIONS = (
    "SELECT outcome, reason, SUM(count) FROM intervention WHERE tenant_id = ?"
    " AND hour_start_micros > ? - 3600000000 AND hour_start_micros < ?"
    " GROUP BY outcome, reason ORDER BY outcome, reason"
)
HAS_BALANCE = (
    "SELECT 1 FROM margin_state WHERE tenant_id = ? AND subscription_id = ?"
    " AND (prepaid_drawn_nanos > 0 OR prepaid_left_nanos > 0) LIMIT 1"
)
GUARDS = (
    "SELECT guard_id, in_force, level, level_since_micros, revenue_nanos, cogs_nanos"  # noqa: S608
    f" FROM guard_state {PERIOD} ORDER BY guard_id"
)
TENANTS = "SELECT tenant_id FROM margin_state WHERE in_force = 1 ORDER BY tenant_id"


class SqlInquiries:
    """On the connections of an open ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def record(self, choice: Choice) -> Record | None:
        return await self._ledger.read(lambda sql: _record(sql, choice))

    async def tenants(self) -> Sequence[str]:
        return await self._ledger.read(lambda sql: [row[0] for row in sql.execute(TENANTS)])


def _record(sql: Sql, choice: Choice) -> Record | None:
    states = _states(sql, choice)
    wanted = [state for state in states if choice.subscription_id in (None, state.subscription_id)]
    if not wanted:
        return None
    state = max(wanted, key=lambda one: (one.in_force, one.period.start_micros))
    whose, period = (state.tenant_id, state.subscription_id), state.period
    usage = read_usage(sql, *whose, period.start_micros)
    interventions = sql.execute(
        INTERVENTIONS, (choice.tenant_id, period.start_micros, period.end_micros)
    )
    return Record(
        state=state,
        costs=usage.costs,
        interventions=tuple(
            Intervention(outcome, reason, int(calls)) for outcome, reason, calls in interventions
        ),
        adjusted=tuple(
            Adjusted._make([*row[:5], whole(*row[5:])])
            for row in sql.execute(ADJUSTED, (*whose, period.start_micros))
        ),
        account_at_close=_account_at_close(sql, state),
        account_by_hour=usage.account_by_hour,
        guards=tuple(_guard(*row) for row in sql.execute(GUARDS, (*whose, period.start_micros))),
        accounts_before=_accounts_before(sql, state),
        other_subscriptions=tuple(
            sorted(one.subscription_id for one in states if one is not state)
        ),
    )


def _account_at_close(sql: Sql, state: PeriodState) -> Account | None:
    if state.closed_at_micros is None:
        return None
    key = (state.tenant_id, state.subscription_id, state.period.start_micros)
    if sql.execute(CLOSED_AND_ADJUSTED, (*key, state.closed_at_micros)).fetchone() is None:
        return None
    return read_account(sql, *key, adjusted_by_micros=state.closed_at_micros)


def _accounts_before(sql: Sql, state: PeriodState) -> dict[PeriodMicros, Account]:
    whose = (state.tenant_id, state.subscription_id)
    if sql.execute(HAS_BALANCE, whose).fetchone() is None:
        return {}
    rows = sql.execute(EARLIER, (*whose, state.period.start_micros)).fetchall()
    return {PeriodMicros(start, end): read_account(sql, *whose, start) for start, end, _ in rows}


def _states(sql: Sql, choice: Choice) -> list[PeriodState]:
    at_micros = choice.at_micros
    if at_micros is None:
        rows = sql.execute(IN_FORCE, (choice.tenant_id,)).fetchall()
    else:
        rows = sql.execute(COVERING, (choice.tenant_id, at_micros, at_micros)).fetchall()
    return [_state(choice.tenant_id, *row) for row in rows]


def _state(tenant_id: str, *row: Any) -> PeriodState:  # noqa: ANN401 - columns of STATES
    subscription_id, start, end, in_force, level, since, revenue, allowance, cogs, *rest = row
    unpriced_rows, currency, contract_currency, contract_revenue_nanos, *versions = rest
    catalog_version, price_book_version, assessed_at_micros, *rest = versions
    closed_at_micros, estimated_cogs_nanos = rest
    return PeriodState(
        tenant_id=tenant_id,
        subscription_id=subscription_id,
        period=PeriodMicros(start, end),
        in_force=bool(in_force),
        level=Level(level),
        level_since_micros=since,
        revenue_nanos=revenue,
        allowance_nanos=allowance,
        cogs_nanos=cogs,
        estimated_cogs_nanos=estimated_part(estimated_cogs_nanos, cogs),
        unpriced_rows=unpriced_rows,
        currency=currency,
        contract_currency=contract_currency,
        contract_revenue_nanos=contract_revenue_nanos,
        catalog_version=catalog_version,
        price_book_version=price_book_version,
        assessed_at_micros=assessed_at_micros,
        closed_at_micros=closed_at_micros,
    )


def _guard(guard_id: str, in_force: int, level: int, since_micros: int, *nanos: int) -> GuardState:
    revenue_nanos, cogs_nanos = nanos
    return GuardState(
        guard_id=guard_id,
        in_force=bool(in_force),
        level=Level(level),
        level_since_micros=since_micros,
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
    )
