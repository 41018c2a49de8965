"""Corrections in SQL, on the connections of an open ledger."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from aforo_meter.corrections import ChangedMeanwhileError, LevelBasis, PeriodState, Scope, Take
from aforo_meter.database import Sql
from aforo_meter.domain.corrections import NOTHING, Adjustment, Known, Row
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.rating import ChargeKey, amount_nanos
from aforo_meter.ledger_accounts import read_account
from aforo_meter.ledger_adjusting import Adjusting, Order
from aforo_meter.ledger_calls import drop_parts, forget_counted, parts_of
from aforo_meter.ledger_guards import read_levels
from aforo_meter.ledger_sql import SqlLedger

KEY: Final = ", ".join(ChargeKey._fields)
WIDTH: Final = len(ChargeKey._fields)
TABLES: Final = ("charge", "adjustment")
FILTERS: Final = frozenset({"meter", "provider", "model", "tool"})

# First of all: whoever waits for a tenant's totals only at the end has worked in vain if a consumer
# was faster, and a busy tenant's consumer would be, time and again.
HOLD_TENANT = "UPDATE margin_state SET adjusted = adjusted WHERE tenant_id = ?"
PRICES = (
    "SELECT price_id, price_nanos, per_units, currency, effective_from_micros,"
    " tier_input_tokens_from FROM price"
)
PERIODS = (
    "SELECT tenant_id, subscription_id, period_start_micros, period_end_micros, cogs_nanos,"
    " unpriced_rows, revenue_nanos, allowance_nanos, currency, level, in_force, closed_at_micros"
    " FROM margin_state{where} ORDER BY tenant_id, period_start_micros, subscription_id"
)
SEEN = "SELECT 1 FROM seen_event WHERE event_key = ?"
VOIDED = "SELECT 1 FROM adjustment WHERE tenant_id = ? AND voided = ? AND voided <> '' LIMIT 1"


class SqlCorrections:
    """On the connections of an open ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def tenants(self, scope: Scope) -> Sequence[str]:
        where, values = _where(scope)
        query = " UNION ".join(f"SELECT tenant_id FROM {table}{where}" for table in TABLES)  # noqa: S608
        rows = await self._ledger.read(lambda sql: sql.execute(query, values * 2).fetchall())
        return sorted(row[0] for row in rows)

    async def hours(self, scope: Scope) -> PeriodMicros | None:
        where, values = _where(scope)
        both = " UNION ALL ".join(
            f"SELECT hour_start_micros FROM {table}{where}"  # noqa: S608
            for table in TABLES
        )
        query = f"SELECT MIN(hour_start_micros), MAX(hour_start_micros) FROM ({both}) AS entry"  # noqa: S608
        row = await self._ledger.read(lambda sql: sql.execute(query, values * 2).fetchone())
        return None if row[0] is None else PeriodMicros(row[0], row[1] + HOUR_MICROS)

    async def rows(self, scope: Scope) -> Mapping[ChargeKey, Row]:
        where, values = _where(scope)
        charges = f"SELECT {KEY}, quantity_micros, extra_micros FROM charge{where}"  # noqa: S608
        adjustments = (
            f"SELECT {KEY}, quantity_micros, extra_micros, cogs_nanos FROM adjustment{where}"  # noqa: S608
        )

        def work(sql: Sql) -> dict[ChargeKey, Row]:
            prices = _prices(sql)
            rows: dict[ChargeKey, Row] = {}
            for found in sql.execute(charges, values):
                key, quantity_micros = ChargeKey._make(found[:WIDTH]), found[WIDTH]
                rows[key] = Row(
                    quantity_micros, found[WIDTH + 1], _amount(quantity_micros, prices, key)
                )
            for found in sql.execute(adjustments, values):
                key = ChargeKey._make(found[:WIDTH])
                rows[key] = rows.get(key, NOTHING).plus(Row._make(found[WIDTH:]))
            return rows

        found = await self._ledger.read(work)
        return {
            key: row
            for key, row in found.items()
            if row != NOTHING
            and (not scope.features or not scope.features.isdisjoint(key.feature.split(",")))
        }

    async def prices(self) -> Mapping[str, Known]:
        return await self._ledger.read(_prices)

    async def periods(self, tenant_id: str | None) -> Sequence[PeriodState]:
        query = PERIODS.format(where="" if tenant_id is None else " WHERE tenant_id = ?")
        values = () if tenant_id is None else (tenant_id,)
        rows = await self._ledger.read(lambda sql: sql.execute(query, values).fetchall())
        return [_period(*row) for row in rows]

    async def level_basis(self, state: PeriodState) -> LevelBasis:
        key = (state.tenant_id, state.subscription_id, state.period.start_micros)
        return await self._ledger.read(
            lambda sql: LevelBasis(
                account=read_account(sql, *key), guard_levels=read_levels(sql, state.tenant_id)
            )
        )

    async def was_seen(self, event_key: bytes) -> bool:
        values = (event_key,)
        return await self._ledger.read(lambda sql: sql.execute(SEEN, values).fetchone()) is not None

    async def parts(self, tenant_id: str, decision_id: str) -> Sequence[Take]:
        found = await self._ledger.read(lambda sql: parts_of(sql, tenant_id, decision_id))
        return [Take(key, (quantity, extra)) for key, quantity, extra in found]

    async def is_voided(self, tenant_id: str, voided: str) -> bool:
        return await self._ledger.read(lambda sql: _is_voided(sql, tenant_id, voided))

    async def rerate(
        self,
        to: Mapping[ChargeKey, str],
        entries: Sequence[PriceEntry],
        currency: str,
        order: Order,
    ) -> Sequence[Adjustment]:
        def work(sql: Sql) -> Sequence[Adjustment]:
            _hold(sql, {key.tenant_id for key in to})
            adjusting = Adjusting(sql)
            adjusting.learn(entries, currency=currency, now_micros=order.now_micros)
            written = adjusting.rerate(to, order)
            adjusting.finish()
            return written

        return await self._ledger.write(work)

    async def void(
        self, takes: Sequence[Take], order: Order, *, decision_id: str = ""
    ) -> Sequence[Adjustment]:
        def work(sql: Sql) -> Sequence[Adjustment]:
            _hold(sql, {take.key.tenant_id for take in takes})
            adjusting = Adjusting(sql)
            written = []
            if order.voided and _is_voided(sql, takes[0].key.tenant_id, order.voided):
                return []
            for key, amounts in takes:
                row = adjusting.state(key).row
                quantity_micros, extra_micros = amounts or row[:2]
                if row.quantity_micros < quantity_micros or row.extra_micros < extra_micros:
                    raise ChangedMeanwhileError(
                        f"the ledger no longer has that much {key.meter} of {key.tenant_id!r};"
                        " run the command again"
                    )
                written.append(adjusting.change(key, -quantity_micros, -extra_micros, order))
                if amounts is None:
                    drop_parts(sql, key)
            if decision_id:
                forget_counted(sql, takes[0].key.tenant_id, decision_id)
            adjusting.finish()
            return [one for one in written if one.change != NOTHING]

        return await self._ledger.write(work)

    async def close(
        self, *, ended_by_micros: int, now_micros: int, tenant_id: str | None = None
    ) -> int:
        return await self._ledger.close(
            ended_by_micros=ended_by_micros, now_micros=now_micros, tenant_id=tenant_id
        )


def _hold(sql: Sql, tenant_ids: Collection[str]) -> None:
    for tenant_id in sorted(tenant_ids):
        sql.execute(HOLD_TENANT, (tenant_id,))


def _where(scope: Scope) -> tuple[str, tuple[object, ...]]:
    """Return a condition on either table, and its values; the features are looked at later."""
    assert scope.equal.keys() <= FILTERS, "columns are named by us alone"
    found: dict[str, object] = {}
    if scope.tenant_id is not None:
        found["tenant_id = ?"] = scope.tenant_id
    if scope.hours is not None:
        found["hour_start_micros >= ?"] = scope.hours.start_micros
        found["hour_start_micros < ?"] = scope.hours.end_micros
    found |= {f"{name} = ?": value for name, value in scope.equal.items()}
    where = f" WHERE {' AND '.join(found)}" if found else ""
    return where, tuple(found.values())


def _prices(sql: Sql) -> dict[str, Known]:
    return {price_id: Known._make(rest) for price_id, *rest in sql.execute(PRICES)}


def _amount(quantity_micros: int, prices: Mapping[str, Known], key: ChargeKey) -> int:
    price = prices.get(key.price_id)
    if price is None:
        return 0
    return amount_nanos(quantity_micros, price_nanos=price.price_nanos, per_units=price.per_units)


def _is_voided(sql: Sql, tenant_id: str, voided: str) -> bool:
    return sql.execute(VOIDED, (tenant_id, voided)).fetchone() is not None


def _period(  # noqa: PLR0913, PLR0917 - the columns of its table.
    tenant_id: str,
    subscription_id: str,
    start_micros: int,
    end_micros: int,
    cogs_nanos: int,
    unpriced_rows: int,
    revenue_nanos: int | None,
    allowance_nanos: int | None,
    currency: str | None,
    level: int,
    in_force: int,
    closed_at_micros: int | None,
) -> PeriodState:
    return PeriodState(
        tenant_id=tenant_id,
        subscription_id=subscription_id,
        period=PeriodMicros(start_micros, end_micros),
        cogs_nanos=cogs_nanos,
        unpriced_rows=unpriced_rows,
        revenue_nanos=revenue_nanos,
        allowance_nanos=allowance_nanos,
        currency=currency,
        level=Level(level),
        in_force=bool(in_force),
        is_closed=closed_at_micros is not None,
    )
