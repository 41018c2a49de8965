"""What alerts are made of, asked of the ledger's tables; and what was told of it already.

Each write names the place of its partition: who lost it tells nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from aforo_meter.alerts import Alert, Repricing, Unpriced, price_alert, unpriced_alert
from aforo_meter.database import Sql
from aforo_meter.domain.margin import Assessment, Level, MarginState, Thresholds, assess
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.price_changes import (
    ChangeState,
    ChargedPrice,
    ChargedRow,
    ModelUse,
    PriceChange,
    extra_nanos,
)
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.ledger import Partition, Place, UsageQuery
from aforo_meter.ledger_reading import used_units
from aforo_meter.ledger_sql import SqlLedger, require_place
from aforo_meter.ledger_sums import is_above_zero, parts, whole
from aforo_meter.outbox_writing import leave

Waiting = tuple[str, ModelUse]  # A tenant's usage that waits for a price.
Charged = Mapping[ModelUse, Sequence[ChargedPrice]]
ChargedPeriod = tuple[PeriodMicros, Charged]

# What may wait for a price. Of what was adjusted, something or nothing may be left.
CHARGED_UNPRICED: Final = (
    "SELECT DISTINCT tenant_id, meter, provider, model FROM charge WHERE price_id = ''"
)
ADJUSTED_UNPRICED: Final = (
    "SELECT DISTINCT tenant_id, meter, provider, model FROM adjustment WHERE price_id = ''"
)
TOLD: Final = "SELECT tenant_id, meter, provider, model FROM unpriced_told WHERE is_open = 1"
OF_TENANT: Final = " AND tenant_id = ?"
OF_USE: Final = " AND tenant_id = ? AND meter = ? AND provider = ? AND model = ?"
UNPRICED_HOURS = (
    f"SELECT hour_start_micros, {parts('quantity_micros')} FROM ("  # noqa: S608
    + " UNION ALL ".join(
        f"SELECT hour_start_micros, quantity_micros FROM {table} WHERE price_id = ''{OF_USE}"  # noqa: S608
        for table in ("charge", "adjustment")
    )
    + f") AS entry GROUP BY hour_start_micros HAVING {is_above_zero('quantity_micros')}"
)
OPEN_EPISODE = (
    "INSERT INTO unpriced_told (tenant_id, meter, provider, model, episode, is_open)"
    " VALUES (?, ?, ?, ?, 1, 1) ON CONFLICT (tenant_id, meter, provider, model)"
    " DO UPDATE SET is_open = 1, episode = unpriced_told.episode + 1 RETURNING episode"
)
CLOSE_EPISODE = f"UPDATE unpriced_told SET is_open = 0 WHERE is_open = 1{OF_USE}"  # noqa: S608

PRICE_COLUMNS: Final = (
    "price_id, price_nanos, per_units, effective_from_micros, tier_input_tokens_from, source,"
    " first_used_at_micros"
)
IN_PERIOD: Final = " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
KEY: Final = ", ".join(ChargeKey._fields)
# A period's rows, each a charge and its adjustments: what was moved to another price, or taken
# back, is in none of them any more.
ENTRIES = " UNION ALL ".join(
    f"SELECT {KEY}, quantity_micros FROM {table}{IN_PERIOD}"  # noqa: S608
    for table in ("charge", "adjustment")
)
USED_AT: Final = "used.meter, provider, model"
CHARGED = (
    f"SELECT {USED_AT}, {PRICE_COLUMNS}, MIN(hour_start_micros), MAX(hour_start_micros) FROM ("  # noqa: S608
    f"SELECT meter, provider, model, price_id, hour_start_micros FROM ({ENTRIES}) AS entry"
    " GROUP BY meter, provider, model, price_id, hour_start_micros"
    f" HAVING {is_above_zero('quantity_micros')}) AS used JOIN price USING (price_id)"
    f" GROUP BY {USED_AT}, {PRICE_COLUMNS}"
)
OLD_PRICES = "SELECT price_id FROM price WHERE first_used_at_micros < ?"
FORMER_PERIOD = (
    "SELECT period_start_micros, period_end_micros FROM margin_state WHERE tenant_id = ?"
    " AND subscription_id = ? AND period_start_micros < ?"
    " ORDER BY period_start_micros DESC LIMIT 1"
)
PRICES_CHECKED = (
    "SELECT catalog_version, until_micros FROM prices_checked WHERE topic = ? AND partition = ?"
)
SET_PRICES_CHECKED = (
    "INSERT INTO prices_checked (topic, partition, catalog_version, until_micros)"
    " VALUES (?, ?, ?, ?) ON CONFLICT (topic, partition) DO UPDATE SET"
    " catalog_version = excluded.catalog_version, until_micros = excluded.until_micros"
)
TELL_PRICE = (
    "INSERT INTO price_told (tenant_id, meter, provider, model, state, price_ids, told_at_micros)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (tenant_id, meter, provider, model, state, price_ids) DO NOTHING"
)
MARGIN = (
    "SELECT level, COALESCE(revenue_nanos, 0), cogs_nanos, COALESCE(allowance_nanos, 0)"  # noqa: S608
    f" FROM margin_state{IN_PERIOD}"
)
ROWS = (
    f"SELECT meter, provider, model, price_id, {parts('quantity_micros')}"  # noqa: S608
    f" FROM ({ENTRIES}) AS entry WHERE provider = ? AND model = ? GROUP BY {KEY}"
)


class Checked(NamedTuple):
    """Up to what prices were compared with what was charged."""

    catalog_version: str
    until_micros: int  # Then another of its prices begins to hold, or they are compared again.


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a tenant's margin is measured by, in one of its periods."""

    tenant_id: str
    subscription_id: str
    period: PeriodMicros
    thresholds: Thresholds
    currency: str

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.tenant_id, self.subscription_id, self.period.start_micros)


class SqlAlerts:
    """On the connections of an open ledger. LedgerUnavailableError: it can't be asked."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def leave(
        self, place: Place, alerts: Iterable[tuple[str, Alert]], *, now_micros: int
    ) -> int:
        """Leave alerts, each with its tenant; return how many were not left before.

        Raises:
            PartitionLostError: The stored position is another.
        """
        given = list(alerts)

        def work(sql: Sql) -> int:
            require_place(sql, place)
            return sum(leave(sql, tenant, alert, now_micros=now_micros) for tenant, alert in given)

        return await self._ledger.write(work)

    async def used(self, queries: Iterable[tuple[str, str, UsageQuery]]) -> Sequence[int]:
        """Return how many units tenants, by their subscriptions, have used in windows."""
        given = list(queries)
        return await self._ledger.read(lambda sql: [used_units(sql, *one) for one in given])

    async def unpriced_changes(self) -> frozenset[str]:
        """Return the tenants whose usage without a price is not what was told."""

        def work(sql: Sql) -> frozenset[str]:
            differ = _waiting(sql) ^ _told(sql)
            return frozenset(tenant_id for tenant_id, _ in differ)

        return await self._ledger.read(work)

    async def tell_unpriced(
        self, place: Place, tenant_ids: Iterable[str], *, now_micros: int
    ) -> Sequence[Unpriced]:
        """Tell of what waits for a price and was not told, and arm what has one; return the former.

        Raises:
            PartitionLostError: The stored position is another.
        """
        names = list(tenant_ids)

        def work(sql: Sql) -> list[Unpriced]:
            require_place(sql, place)
            return [told for name in names for told in _tell_unpriced(sql, name, now_micros)]

        return await self._ledger.write(work)

    async def charged(self, measures: Iterable[Measure]) -> Sequence[Sequence[ChargedPeriod]]:
        """Return the prices that tenants were charged at: in each one's period, and that before."""
        given = list(measures)
        return await self._ledger.read(lambda sql: [_charged(sql, one) for one in given])

    async def prices_checked(self, partition: Partition) -> Checked:
        """Return up to what the prices of a partition's tenants were compared."""
        row = await self._ledger.read(lambda sql: sql.execute(PRICES_CHECKED, partition).fetchone())
        return Checked("", 0) if row is None else Checked._make(row)

    async def set_prices_checked(self, place: Place, checked: Checked) -> bool:
        """Note up to what the prices of a partition's tenants were compared; return True.

        Raises:
            PartitionLostError: The stored position is another.
        """

        def work(sql: Sql) -> bool:
            require_place(sql, place)
            return sql.execute(SET_PRICES_CHECKED, (*place.partition, *checked)).rowcount == 1

        return await self._ledger.write(work)

    async def old_price_ids(self, before_micros: int) -> frozenset[str]:
        """Return the prices by which somebody was charged before an instant."""

        def work(sql: Sql) -> frozenset[str]:
            return frozenset(name for (name,) in sql.execute(OLD_PRICES, (before_micros,)))

        return await self._ledger.read(work)

    async def tell_prices(
        self, place: Place, measure: Measure, changes: Sequence[PriceChange], *, now_micros: int
    ) -> Sequence[Repricing]:
        """Tell of changes that were not told, a model each; return those.

        Raises:
            PartitionLostError: The stored position is another.
        """

        def model_of(change: PriceChange) -> tuple[str, str, ChangeState]:
            return (change.use.provider, change.use.model, change.state)

        def work(sql: Sql) -> list[Repricing]:
            require_place(sql, place)
            told = []
            for _, group in groupby(sorted(changes, key=model_of), key=model_of):
                new = [change for change in group if _is_news(sql, measure, change, now_micros)]
                if new:
                    repricing = _repricing(sql, measure, new)
                    alert = price_alert(repricing, now_micros=now_micros)
                    leave(sql, measure.tenant_id, alert, now_micros=now_micros)
                    told.append(repricing)
            return told

        return await self._ledger.write(work)


def _charged(sql: Sql, measure: Measure) -> Sequence[ChargedPeriod]:
    former = sql.execute(FORMER_PERIOD, measure.key).fetchone()
    periods = [measure.period] if former is None else [measure.period, PeriodMicros(*former)]
    return [(period, _charged_in(sql, measure, period)) for period in periods]


def _charged_in(sql: Sql, measure: Measure, period: PeriodMicros) -> Charged:
    key = (measure.tenant_id, measure.subscription_id, period.start_micros)
    found: dict[ModelUse, list[ChargedPrice]] = {}
    for row in sql.execute(CHARGED, key * 2):
        found.setdefault(ModelUse._make(row[:3]), []).append(ChargedPrice._make(row[3:]))
    return found


def _waiting(sql: Sql, tenant_id: str | None = None) -> set[Waiting]:
    """Return what waits for a price: of a tenant, or of all."""
    charged = _uses(sql, CHARGED_UNPRICED, tenant_id)
    adjusted = _uses(sql, ADJUSTED_UNPRICED, tenant_id)
    return (charged - adjusted) | {one for one in adjusted if _unpriced_hours(sql, one)}


def _told(sql: Sql, tenant_id: str | None = None) -> set[Waiting]:
    return _uses(sql, TOLD, tenant_id)


def _uses(sql: Sql, query: str, tenant_id: str | None) -> set[Waiting]:
    asked = (query, ()) if tenant_id is None else (query + OF_TENANT, (tenant_id,))
    return {(name, ModelUse(*use)) for name, *use in sql.execute(*asked) if name}


def _unpriced_hours(sql: Sql, waiting: Waiting) -> Mapping[int, int]:
    """Return what of a usage waits for a price, in 10^-6 units, by hour."""
    tenant_id, use = waiting
    hours = sql.execute(UNPRICED_HOURS, (tenant_id, *use) * 2)
    return {hour_start_micros: whole(*sums) for hour_start_micros, *sums in hours}


def _tell_unpriced(sql: Sql, tenant_id: str, now_micros: int) -> list[Unpriced]:
    waiting, told = _waiting(sql, tenant_id), _told(sql, tenant_id)
    for _, use in told - waiting:
        sql.execute(CLOSE_EPISODE, (tenant_id, *use))
    found = []
    for one in sorted(waiting - told):
        use = one[1]
        (episode,) = sql.execute(OPEN_EPISODE, (tenant_id, *use)).fetchone()
        hours = _unpriced_hours(sql, one)
        unpriced = Unpriced(
            tenant_id=tenant_id,
            use=use,
            episode=episode,
            quantity_micros=sum(hours.values()),
            since_micros=min(hours),
        )
        leave(
            sql, tenant_id, unpriced_alert(unpriced, now_micros=now_micros), now_micros=now_micros
        )
        found.append(unpriced)
    return found


def _is_news(sql: Sql, measure: Measure, change: PriceChange, now_micros: int) -> bool:
    values = (measure.tenant_id, *change.use, change.state.value, change.price_ids, now_micros)
    return sql.execute(TELL_PRICE, values).rowcount == 1


def _repricing(sql: Sql, measure: Measure, changes: Sequence[PriceChange]) -> Repricing:
    level, revenue_nanos, cogs_nanos, allowance_nanos = sql.execute(MARGIN, measure.key).fetchone()
    before = Assessment(
        level=Level(level),
        state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
        allowance_nanos=allowance_nanos,
    )
    use = changes[0].use
    rows = [
        ChargedRow(ModelUse(*row[:3]), row[3], whole(*row[4:]))
        for row in sql.execute(ROWS, (*measure.key, *measure.key, use.provider, use.model))
    ]
    return Repricing(
        tenant_id=measure.tenant_id,
        subscription_id=measure.subscription_id,
        period=measure.period,
        currency=measure.currency,
        changes=changes,
        before=before,
        after=assess(
            revenue_nanos=revenue_nanos,
            cogs_nanos=cogs_nanos + sum(extra_nanos(rows, change) for change in changes),
            allowance_nanos=allowance_nanos,
            thresholds=measure.thresholds,
            previous=before.level,
        ),
    )
