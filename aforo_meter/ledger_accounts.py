"""A period's usage summed up, and the revenue that follows: questions to the ledger's tables."""

from collections.abc import Iterator
from typing import Final

from aforo_meter.database import Sql
from aforo_meter.domain.account import NOTHING, Account, UsageKey, Used
from aforo_meter.domain.rating import amount_nanos
from aforo_meter.domain.revenue import Revenue, revenue
from aforo_meter.ledger import Watch

INT64_MAX: Final = 2**63 - 1

ROWS = (
    "SELECT charge.meter, feature, provider, model, tool, execution_status,"
    " quantity_micros, estimated_micros, price_nanos, per_units"
    " FROM charge LEFT JOIN price USING (price_id)"
    " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
)
ADJUSTMENTS = (
    "SELECT meter, feature, provider, model, tool, execution_status, price_id, quantity_micros,"
    " cogs_nanos FROM adjustment"
    " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
    " AND created_at_micros <= ?"
)


def read_account(
    sql: Sql,
    tenant_id: str,
    subscription_id: str,
    period_start_micros: int,
    *,
    adjusted_by_micros: int = INT64_MAX,
) -> dict[UsageKey, Used]:
    """Add up a period's rows, with their adjustments, by what prices and guards tell apart.

    Each row's cost is rounded by itself, as in the period's total. Adjustments that came after
    `adjusted_by_micros` are left out.
    """
    period = (tenant_id, subscription_id, period_start_micros)
    found: dict[UsageKey, Used] = {}
    for key, used in _entries(sql, period, adjusted_by_micros):
        found[key] = found[key].plus(used) if key in found else used
    return {key: used for key, used in found.items() if used != NOTHING}


def _entries(
    sql: Sql, period: tuple[str, str, int], adjusted_by_micros: int
) -> Iterator[tuple[UsageKey, Used]]:
    """Yield charges, then adjustments."""
    for *names, quantity_micros, estimated_micros, price_nanos, per_units in sql.execute(
        ROWS, period
    ):
        cogs_nanos, unpriced_micros = 0, quantity_micros
        if price_nanos is not None:
            cogs_nanos = amount_nanos(quantity_micros, price_nanos=price_nanos, per_units=per_units)
            unpriced_micros = 0
        yield UsageKey(*names), Used(quantity_micros, cogs_nanos, estimated_micros, unpriced_micros)
    for *names, price_id, quantity_micros, cogs_nanos in sql.execute(
        ADJUSTMENTS, (*period, adjusted_by_micros)
    ):
        unpriced_micros = 0 if price_id else quantity_micros
        yield UsageKey(*names), Used(quantity_micros, cogs_nanos, 0, unpriced_micros)


def account_of(sql: Sql, watch: Watch) -> Account:
    """Return the usage that a margin is measured by: empty where only its sum counts.

    Most contracts are such, and this is asked with every batch.
    """
    has_card = watch.terms is not None and watch.terms.card_of(watch.period) is not None
    if not (has_card or watch.guards or watch.thresholds.act_from_calls):
        return {}
    return read_account(sql, watch.tenant_id, watch.subscription_id, watch.period.start_micros)


def revenue_of(
    watch: Watch, account: Account, *, now_micros: int, drawn_before_nanos: int
) -> Revenue:
    """Return the revenue that a margin is measured by, with the account of `account_of`."""
    if watch.terms is None:
        return Revenue(
            lines=(),
            currency=watch.currency,
            total_nanos=watch.revenue_nanos,
            book_currency=watch.currency,
            book_nanos=watch.revenue_nanos,
        )
    return revenue(
        watch.terms,
        account,
        period=watch.period,
        now_micros=now_micros,
        book_currency=watch.currency,
        drawn_before_nanos=drawn_before_nanos,
    )


def kept(nanos: int) -> int:
    """Return an amount as the ledger holds it: of revenue beyond 64 bits, the most that fits.

    The margin of nine billion is as good as that of more, and charges must not wait for it.
    """
    return min(nanos, INT64_MAX)
