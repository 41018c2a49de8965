"""Revenue of billing periods that nobody assessed: they were over before their usage arrived.

A margin is for deciding, so consume assesses the period in force alone. What a past period brings
follows from its contract and its usage all the same, as in a statement.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aforo_admin.domain.scenario_usage import Row
from aforo_admin.domain.simulate import Recorded
from aforo_admin.ledger_periods import with_rows
from aforo_admin.places import places
from aforo_admin.screens.stores import from_ledger
from aforo_meter.database import Sql
from aforo_meter.domain.account import NOTHING, Account, UsageKey, Used
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.revenue import MissingRateError, revenue
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.tenant_reading import tenant_reader

PERIODS_MAX: Final = 200  # A page has no time for more.
UNASSESSED: Final = (
    "SELECT tenant_id, subscription_id, period_start_micros, period_end_micros"  # noqa: S608
    " FROM margin_state"
    " WHERE revenue_nanos IS NULL AND period_start_micros >= ?"
    f" ORDER BY period_start_micros DESC, tenant_id LIMIT {PERIODS_MAX + 1}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unassessed:
    tenant_id: str
    subscription_id: str
    period: PeriodMicros


def unassessed_since(sql: Sql, since_micros: int) -> tuple[Unassessed, ...]:
    """Return periods that have usage and no assessment, the last first: one more than fits."""
    return tuple(
        Unassessed(tenant_id=tenant_id, subscription_id=name, period=PeriodMicros(start, end))
        for tenant_id, name, start, end in sql.execute(UNASSESSED, (since_micros,))
    )


async def revenue_of(found: Sequence[Unassessed], *, now_micros: int) -> Mapping[PeriodMicros, int]:
    """Return what periods bring by the contracts known now, added up, in the price book's currency.

    Those without a known contract, or without an exchange rate, bring nothing that can be told.

    Raises:
        NotSetError, CommandError, LedgerError, LedgerUnavailableError: A store can't be asked.
    """
    async with tenant_reader(places().redis()) as tenants:
        synced = await tenants.synced()
        known = await tenants.known(sorted({one.tenant_id for one in found}))
    contracts = [
        (one, terms)
        for one in found
        if (held := known[one.tenant_id].terms) is not None
        and (terms := held.of_subscription(one.subscription_id)) is not None
    ]
    accounts = await _accounts(one for one, terms in contracts if terms.card_of(one.period))
    sums: defaultdict[PeriodMicros, int] = defaultdict(int)
    for one, terms in contracts:
        with contextlib.suppress(MissingRateError):
            sums[one.period] += revenue(
                terms,
                accounts.get(one, {}),
                period=one.period,
                now_micros=now_micros,
                book_currency=synced.currency,
            ).book_nanos
    return sums


async def _accounts(found: Iterable[Unassessed]) -> Mapping[Unassessed, Account]:
    """Read the usage of periods that is charged by a rate card."""
    wanted = {(one.tenant_id, one.subscription_id, one.period): one for one in found}
    if not wanted:
        return {}

    def read(sql: Sql) -> dict[Unassessed, Account]:
        def ask(statement: str, values: Sequence[Any]) -> list[Sequence[Any]]:
            return list(sql.execute(statement, values))

        return {
            wanted[one.tenant_id, one.subscription_id, one.period]: account_of(one.rows)
            for one in with_rows(ask, list(map(_recorded, wanted.values())))
        }

    async def work(ledger: SqlLedger) -> dict[Unassessed, Account]:
        return await ledger.read(read)

    return await from_ledger(work)


def _recorded(one: Unassessed) -> Recorded:
    return Recorded(
        tenant_id=one.tenant_id,
        subscription_id=one.subscription_id,
        period=one.period,
        as_of_micros=one.period.end_micros,
        revenue_nanos=0,
        cogs_nanos=0,
        level=Level.NONE,
        level_before=Level.NONE,
        is_assessed=False,
    )


def account_of(rows: Iterable[Row]) -> Account:
    """Add up rows by what prices tell apart."""
    found: dict[UsageKey, Used] = {}
    for row in rows:
        used = Used(row.quantity_micros, row.cogs_nanos, 0, 0)
        found[row.key] = found.get(row.key, NOTHING).plus(used)
    return found
