"""What the overview shows, read from ledger and Redis: sums, however many tenants there are."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from aforo_admin.domain.movers import Mover
from aforo_admin.places import places
from aforo_admin.screens.in_force import Overrides, read_overrides
from aforo_admin.screens.stores import Missing, from_ledger
from aforo_admin.screens.unassessed import (
    PERIODS_MAX,
    Unassessed,
    revenue_of,
    unassessed_since,
)
from aforo_meter.database import Sql
from aforo_meter.domain.completeness import FILLED, Score
from aforo_meter.domain.margin import Assessment, Level, MarginState
from aforo_meter.domain.periods import DAY_MICROS, HOUR_MICROS, PeriodMicros, datetime_of, micros_of
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.ledger_sums import PART, parts, whole
from aforo_meter.tenant_reading import Synced, tenant_reader

MONTHS_SHOWN: Final = 12
MOVERS_SHOWN: Final = 8
UNPRICED_SHOWN: Final = 8

LEVELS = (
    "SELECT level, COUNT(*), SUM(CASE WHEN unpriced_rows > 0 THEN 1 ELSE 0 END),"  # noqa: S608
    f" {parts('COALESCE(revenue_nanos, 0)')}, {parts('cogs_nanos')}, MAX(currency),"
    " MAX(assessed_at_micros) FROM margin_state WHERE in_force = 1 GROUP BY level"
)
# Summed by the day that they begin on: which month that is, is not told alike by both databases.
PERIODS = (
    f"SELECT period_start_micros / {DAY_MICROS}, {parts('COALESCE(revenue_nanos, 0)')},"  # noqa: S608
    f" {parts('cogs_nanos')} FROM margin_state WHERE period_start_micros >= ?"
    f" GROUP BY period_start_micros / {DAY_MICROS}"
)
# Whole hours and a day at least: the rate of a period that has just begun says little.
HOURS_SO_FAR: Final = (
    "(CASE WHEN now.period_end_micros < :now THEN now.period_end_micros ELSE :now END"
    f" - now.period_start_micros) / {HOUR_MICROS}"
)
HOURS_BEFORE: Final = f"(before.period_end_micros - before.period_start_micros) / {HOUR_MICROS}"
MOVERS = (
    "SELECT now.tenant_id, now.level, now.period_start_micros, now.period_end_micros,"  # noqa: S608
    " now.cogs_nanos, before.period_start_micros, before.period_end_micros, before.cogs_nanos"
    " FROM margin_state AS now JOIN margin_state AS before ON before.tenant_id = now.tenant_id"
    " AND before.subscription_id = now.subscription_id"
    " AND before.period_end_micros = now.period_start_micros"
    f" WHERE now.in_force = 1 AND now.period_start_micros + {DAY_MICROS} <= :now"
    f" AND {HOURS_BEFORE} > 0"
    f" AND now.cogs_nanos / ({HOURS_SO_FAR}) <> before.cogs_nanos / ({HOURS_BEFORE})"
    f" ORDER BY ABS(now.cogs_nanos / ({HOURS_SO_FAR}) - before.cogs_nanos / ({HOURS_BEFORE})) DESC,"
    f" now.tenant_id LIMIT {MOVERS_SHOWN}"
)
# Tenant by tenant first: there are far fewer of them than rows, and each counts once.
UNPRICED = (
    "SELECT meter, provider, model, COUNT(*), SUM(high), SUM(low) FROM ("  # noqa: S608
    f"SELECT meter, provider, model, SUM(quantity_micros / {PART}) AS high,"
    f" SUM(quantity_micros % {PART}) AS low FROM ("
    "SELECT tenant_id, meter, provider, model, quantity_micros FROM charge WHERE price_id = ''"
    " UNION ALL SELECT tenant_id, meter, provider, model, quantity_micros FROM adjustment"
    " WHERE price_id = '') AS entry GROUP BY tenant_id, meter, provider, model) AS used"
    f" GROUP BY meter, provider, model HAVING SUM(high) * {PART} + SUM(low) > 0"
    " ORDER BY 4 DESC, meter, provider, model"
    f" LIMIT {UNPRICED_SHOWN + 1}"
)
# Decisions in the order of their key, each beside what was logged of it: nothing is to be sorted.
COMPLETE = (
    "SELECT SUM(decided),"  # noqa: S608
    " SUM(CASE WHEN decided > COALESCE(calls, 0) THEN decided - COALESCE(calls, 0) ELSE 0 END)"
    " FROM (SELECT hour_start_micros, tenant_id, feature, outcome, SUM(decisions) AS decided"
    f" FROM decided WHERE hour_start_micros = :hour AND outcome <> '{FILLED}'"
    " GROUP BY hour_start_micros, tenant_id, feature, outcome) AS beside"
    " LEFT JOIN logged USING (hour_start_micros, tenant_id, feature, outcome)"
)
LOGGED = f"SELECT SUM(calls) FROM logged WHERE hour_start_micros = :hour AND outcome <> '{FILLED}'"  # noqa: S608
PARTITIONS = "SELECT DISTINCT partition FROM position ORDER BY partition"


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLevel:
    """The tenants at one level, together."""

    level: Level
    tenants: int = 0
    with_unpriced: int = 0
    revenue_nanos: int = 0
    cogs_nanos: int = 0
    currency: str = ""
    assessed_at_micros: int = 0  # The last of them.

    @property
    def left_nanos(self) -> int:
        return self.revenue_nanos - self.cogs_nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """All billing periods that began in a month."""

    name: str  # 2026-11
    revenue_nanos: int
    cogs_nanos: int

    @property
    def ratio(self) -> Decimal | None:
        return _assessment(self.revenue_nanos, self.cogs_nanos).gross_margin_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpriced:
    meter: str
    provider: str
    model: str
    tenants: int
    quantity_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InLedger:
    """What the ledger says of all tenants."""

    levels: tuple[AtLevel, ...]  # Each level, the worst last.
    months: tuple[Month, ...]  # The last one runs.
    unassessed: tuple[Unassessed, ...]  # Periods whose revenue the months lack.
    movers: tuple[Mover, ...]
    unpriced: tuple[Unpriced, ...]
    complete: Score  # Of the last whole hour.
    hour: PeriodMicros
    partitions: tuple[int, ...]

    @property
    def tenants(self) -> int:
        return sum(one.tenants for one in self.levels)

    @property
    def with_unpriced(self) -> int:
        return sum(one.with_unpriced for one in self.levels)

    @property
    def currency(self) -> str:
        return max(one.currency for one in self.levels)

    @property
    def assessed_at_micros(self) -> int:
        return max(one.assessed_at_micros for one in self.levels)

    @property
    def total(self) -> Assessment:
        """The running periods of all tenants, together; the level is nobody's."""
        return _assessment(
            sum(one.revenue_nanos for one in self.levels),
            sum(one.cogs_nanos for one in self.levels),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InRedis:
    """How old the read model is."""

    synced: Synced
    consumed_micros: int  # Until when all usage of every partition is counted; 0: unknown.


@dataclass(slots=True, kw_only=True)
class Overview:
    """What could be read; what is None is missing."""

    ledger: InLedger | None
    redis: InRedis | None
    overrides: Overrides | None  # In force, of the movers.
    missing: list[str] = field(default_factory=list)


async def read_overview(*, now_micros: int) -> Overview:
    """Read it; what does not answer is left out, and said."""
    missing = Missing()

    async def ask(ledger: SqlLedger) -> InLedger:
        return await ledger.read(lambda sql: in_ledger(sql, now_micros=now_micros))

    ledger = await missing.of(from_ledger(ask))
    if ledger is not None and ledger.unassessed:
        ledger = await _with_unassessed(ledger, missing, now_micros)
    redis = await missing.of(_in_redis(ledger.partitions if ledger else ()))
    movers = [one.tenant_id for one in ledger.movers] if ledger else []
    overrides = await missing.of(read_overrides(movers, now_micros=now_micros))
    return Overview(ledger=ledger, redis=redis, overrides=overrides, missing=missing.said)


async def _with_unassessed(ledger: InLedger, missing: Missing, now_micros: int) -> InLedger:
    """Add what periods bring by contract that were over before anybody could assess them."""
    found = ledger.unassessed[:PERIODS_MAX]
    if len(ledger.unassessed) > PERIODS_MAX:
        missing.said.append(
            f"revenue of more than {PERIODS_MAX} periods that were over before their usage"
            " arrived: the months hold that of the last ones"
        )
    brings = await missing.of(revenue_of(found, now_micros=now_micros))
    by_month: defaultdict[str, int] = defaultdict(int)
    for period, nanos in (brings or {}).items():
        by_month[_month_of(period.start_micros)] += nanos
    months = tuple(
        replace(month, revenue_nanos=month.revenue_nanos + by_month[month.name])
        for month in ledger.months
    )
    return replace(ledger, months=months)


def in_ledger(sql: Sql, *, now_micros: int) -> InLedger:
    """Read the ledger's part, all as of one instant."""
    since_micros = _first_month_micros(now_micros)
    hour_micros = now_micros // HOUR_MICROS * HOUR_MICROS
    hour = PeriodMicros(hour_micros - HOUR_MICROS, hour_micros)
    return InLedger(
        levels=_levels(sql),
        months=_months(sql, since_micros, now_micros),
        unassessed=unassessed_since(sql, since_micros),
        movers=tuple(
            Mover(
                tenant_id=row[0],
                level=Level(row[1]),
                period=PeriodMicros(*row[2:4]),
                cogs_nanos=row[4],
                before=PeriodMicros(*row[5:7]),
                before_cogs_nanos=row[7],
            )
            for row in sql.execute(MOVERS, {"now": now_micros})
        ),
        unpriced=tuple(
            Unpriced(
                meter=row[0],
                provider=row[1],
                model=row[2],
                tenants=row[3],
                quantity_micros=whole(*row[4:]),
            )
            for row in sql.execute(UNPRICED)
        ),
        complete=_complete(sql, hour),
        hour=hour,
        partitions=tuple(row[0] for row in sql.execute(PARTITIONS)),
    )


def _levels(sql: Sql) -> tuple[AtLevel, ...]:
    found = {
        Level(level): AtLevel(
            level=Level(level),
            tenants=tenants,
            with_unpriced=int(with_unpriced),
            revenue_nanos=whole(*sums[:2]),
            cogs_nanos=whole(*sums[2:]),
            currency=currency or "",
            assessed_at_micros=assessed_at_micros or 0,
        )
        for level, tenants, with_unpriced, *sums, currency, assessed_at_micros in sql.execute(
            LEVELS
        )
    }
    return tuple(found.get(level, AtLevel(level=level)) for level in Level)


def _first_month_micros(now_micros: int) -> int:
    """Return when the first of the months that are shown began."""
    now = datetime_of(now_micros)
    count = now.year * 12 + now.month - MONTHS_SHOWN
    first = now.replace(
        year=count // 12, month=count % 12 + 1, day=1, hour=0, minute=0, second=0, microsecond=0
    )
    return micros_of(first)


def _months(sql: Sql, since_micros: int, now_micros: int) -> tuple[Month, ...]:
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for day, *summed in sql.execute(PERIODS, (since_micros,)):
        name = _month_of(day * DAY_MICROS)
        sums[name][0] += whole(*summed[:2])
        sums[name][1] += whole(*summed[2:])
    return tuple(
        Month(name=name, revenue_nanos=revenue_nanos, cogs_nanos=cogs_nanos)
        for name, (revenue_nanos, cogs_nanos) in sorted(sums.items())
        if name <= _month_of(now_micros)
    )


def _month_of(at_micros: int) -> str:
    return f"{datetime_of(at_micros):%Y-%m}"


def _complete(sql: Sql, hour: PeriodMicros) -> Score:
    values = {"hour": hour.start_micros}
    decided, missing = sql.execute(COMPLETE, values).fetchone()
    (logged,) = sql.execute(LOGGED, values).fetchone()
    return Score(
        hour_start_micros=hour.start_micros,
        decided=int(decided or 0),
        logged=int(logged or 0),
        missing=int(missing or 0),
    )


async def _in_redis(partitions: tuple[int, ...]) -> InRedis:
    async with tenant_reader(places().redis()) as tenants:
        synced = await tenants.synced()
        confirmed = await tenants.confirmed(partitions)
    known = [confirmed.get(number, 0) for number in partitions]
    return InRedis(synced=synced, consumed_micros=min(known, default=0))


def _assessment(revenue_nanos: int, cogs_nanos: int) -> Assessment:
    return Assessment(
        level=Level.NONE,
        state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
        revenue_nanos=revenue_nanos,
        cogs_nanos=cogs_nanos,
        allowance_nanos=0,
    )
