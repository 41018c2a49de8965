"""The questions that publishing asks of the ledger's tables."""

from collections.abc import Sequence

from aforo_meter.database import Sql
from aforo_meter.domain.margin import Assessment, Level, MarginState
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.quotas import COGS
from aforo_meter.domain.rating import MICROS_PER_UNIT, amount_nanos
from aforo_meter.ledger import Standing, UsageQuery
from aforo_meter.ledger_guards import read_levels
from aforo_meter.ledger_states import estimated_part
from aforo_meter.ledger_sums import parts, whole

IN_FORCE = (
    "SELECT subscription_id, period_start_micros, period_end_micros, cogs_nanos, unpriced_rows,"
    " level, revenue_nanos, allowance_nanos, currency, catalog_version, price_book_version,"
    " assessed_at_micros, COALESCE(contract_currency, currency),"
    " COALESCE(contract_revenue_nanos, revenue_nanos), prepaid_left_nanos,"
    " guard_count, estimated_cogs_nanos FROM margin_state WHERE tenant_id = ? AND in_force = 1"
)
IN_WINDOW = " AND hour_start_micros >= ? AND hour_start_micros < ?"
IN_PERIOD = (
    " AND hour_start_micros > ? - 3600000000 AND hour_start_micros < ?"
    " AND subscription_id = ? AND period_start_micros = ?"
)
# With what weights add to it, as authz counts.
USED = (
    f"SELECT feature, {parts('quantity_micros')}, {parts('extra_micros')}"  # noqa: S608
    " FROM {table} WHERE tenant_id = ? AND meter = ?"
)
# Rows, since each is rounded by itself: their sum is what the margin counts too.
SPENT = (
    "SELECT feature, quantity_micros, price_nanos, per_units FROM charge JOIN price"
    " USING (price_id) WHERE tenant_id = ?"
)
ADJUSTED = f"SELECT feature, {parts('cogs_nanos')} FROM adjustment WHERE tenant_id = ?"  # noqa: S608


def read_standing(sql: Sql, tenant_id: str, queries: Sequence[UsageQuery]) -> Standing | None:
    row = sql.execute(IN_FORCE, (tenant_id,)).fetchone()
    if row is None:
        return None
    subscription_id, start, end, cogs, unpriced, level, revenue, allowance, *rest = row
    currency, catalog_version, price_book_version, assessed_at_micros, *contract = rest
    contract_currency, contract_revenue_nanos, prepaid_left_nanos, *shares = contract
    guard_count, estimated_cogs_nanos = shares
    return Standing(
        tenant_id=tenant_id,
        subscription_id=subscription_id,
        period=PeriodMicros(start, end),
        assessment=Assessment(
            level=Level(level),
            state=MarginState.DEFINED if revenue else MarginState.UNDEFINED,
            revenue_nanos=revenue,
            cogs_nanos=cogs,
            allowance_nanos=allowance,
        ),
        unpriced_rows=unpriced,
        estimated_cogs_nanos=estimated_part(estimated_cogs_nanos, cogs),
        currency=currency,
        assessed_at_micros=assessed_at_micros,
        catalog_version=catalog_version,
        price_book_version=price_book_version,
        used_units={
            query.quota_id: used_units(sql, tenant_id, subscription_id, query) for query in queries
        },
        guard_levels=read_levels(sql, tenant_id) if guard_count else {},
        contract_currency=contract_currency,
        contract_revenue_nanos=contract_revenue_nanos,
        prepaid_left_nanos=prepaid_left_nanos,
    )


def used_units(sql: Sql, tenant_id: str, subscription_id: str, query: UsageQuery) -> int:
    """Return what was used in a window; of a billing period, by that subscription."""
    where = IN_PERIOD if query.billing else IN_WINDOW
    window: tuple[object, ...] = (query.window.start_micros, query.window.end_micros)
    if query.billing:
        window = (*window, subscription_id, query.window.start_micros)
    if query.meter == COGS:
        return _spent_nanos(sql, where, (tenant_id, *window), query)
    total_micros: int = sum(
        whole(*sums[:2]) + whole(*sums[2:])
        for table in ("charge", "adjustment")
        for feature, *sums in sql.execute(
            f"{USED.format(table=table)}{where} GROUP BY feature",
            (tenant_id, query.meter, *window),
        )
        if _counts(query, feature)
    )
    return total_micros // MICROS_PER_UNIT


def _spent_nanos(sql: Sql, where: str, values: tuple[object, ...], query: UsageQuery) -> int:
    charges = sum(
        amount_nanos(quantity_micros, price_nanos=price_nanos, per_units=per_units)
        for feature, quantity_micros, price_nanos, per_units in sql.execute(SPENT + where, values)
        if _counts(query, feature)
    )
    adjustments = sum(
        whole(*sums)
        for feature, *sums in sql.execute(f"{ADJUSTED}{where} GROUP BY feature", values)
        if _counts(query, feature)
    )
    return charges + adjustments


def _counts(query: UsageQuery, feature: str) -> bool:
    return not query.features or not query.features.isdisjoint(feature.split(","))
