"""A ledger in a file, what is written to it, and a second look at it that is not our code."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from aforo_meter.domain.margin import Thresholds
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.prices import PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.rating import Measured, Rated, Usage, rate
from aforo_meter.domain.usage import API_CALLS, Outcome
from aforo_meter.ledger import Batch, Partition, Watch
from aforo_meter.migrate import migrate

PARTITION = Partition("aforo.usage.v1", 3)
START = 1_793_491_200_000_000  # 2026-11-01
PERIOD = PeriodMicros(START, START + 30 * 24 * HOUR_MICROS)
NOW = START + 100 * HOUR_MICROS
UNIT = 1_000_000
DOLLAR = 1_000_000_000


def price(price_id: str = "p1", *, nanos: int = DOLLAR, meter: str = API_CALLS) -> PriceEntry:
    return PriceEntry(
        price_id=price_id,
        meter=meter,
        price_nanos=nanos,
        per_units=1,
        effective_from_micros=0,
        source="test",
    )


def used(  # noqa: PLR0913 - one argument for each thing that a test may vary
    event_id: str,
    units: int = 1,
    *,
    prices: Sequence[PriceEntry] = (price(),),
    tenant: str = "acme",
    subscription: str = "sub-1",
    period: PeriodMicros = PERIOD,
    at_micros: int = NOW,
    meter: str = API_CALLS,
    provider: str = "",
    model: str = "",
    features: tuple[str, ...] = ("api",),
    outcome: Outcome = Outcome.ALLOW,
    **more: Any,  # noqa: ANN401 - of Usage
) -> Rated:
    """Return a rated event that used some units of one meter."""
    usage = Usage(
        event_id=event_id,
        tenant_id=tenant,
        subscription_id=subscription,
        features=features,
        occurred_at_micros=at_micros,
        outcome=outcome,
        reason="some reason",
        shadow_reason="",
        provider=provider,
        model=model,
        **({"measures": (Measured(meter, units * UNIT),) if units else ()} | more),
    )
    book = PriceBook(version="1", currency="USD", own=(PriceList(entries=tuple(prices)),))
    return rate(usage, Prices(book), subscription_id=subscription, period=period)


def watch(
    *,
    tenant: str = "acme",
    subscription: str = "sub-1",
    period: PeriodMicros = PERIOD,
    revenue_nanos: int = 10 * DOLLAR,
    allowance_nanos: int = 0,
) -> Watch:
    return Watch(
        tenant_id=tenant,
        subscription_id=subscription,
        period=period,
        revenue_nanos=revenue_nanos,
        allowance_nanos=allowance_nanos,
        currency="USD",
        thresholds=Thresholds(),
        catalog_version="v1",
        price_book_version="b1",
    )


def watched(*watches: Watch) -> Mapping[str, Watch]:
    return {one.tenant_id: one for one in watches}


def batch(
    rated: Iterable[Rated],
    *,
    at: int = 0,
    watches: Mapping[str, Watch] | None = None,
    next_offset: int | None = None,
    now_micros: int = NOW,
    partition: Partition = PARTITION,
) -> Batch:
    events = list(rated)
    return Batch(
        partition=partition,
        first_offset=at,
        next_offset=at + max(1, len(events)) if next_offset is None else next_offset,
        rated=events,
        watches=watches or {},
        currency="USD",
        now_micros=now_micros,
    )


@dataclass(frozen=True)
class LedgerFile:
    """The database, seen by an auditor: through SQL and fractions alone."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> "LedgerFile":
        made = cls(path)
        migrate(made.url, dry_run=False)
        return made

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=5)) as sql:
            return sql.execute(query, values).fetchall()

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        names = [name for (name,) in self.rows("SELECT name FROM sqlite_master WHERE type='table'")]
        return {name: self.rows(f"SELECT * FROM {name} ORDER BY 1") for name in sorted(names)}  # noqa: S608

    def units(self, tenant: str = "acme") -> dict[str, int]:
        """Return units by price id; "" is unpriced."""
        found: Counter[str] = Counter()
        query = "SELECT price_id, quantity_micros FROM charge WHERE tenant_id = ?"
        for price_id, quantity_micros in self.rows(query, tenant):
            assert quantity_micros % UNIT == 0
            found[price_id] += quantity_micros // UNIT
        return dict(found)

    def audited_cogs(self) -> dict[tuple[str, str, int], int]:
        """Return the sum of the rows' amounts by tenant, subscription and period."""
        query = (
            "SELECT tenant_id, subscription_id, period_start_micros, quantity_micros, price_nanos,"
            " per_units FROM charge LEFT JOIN price USING (price_id)"
        )
        found: Counter[tuple[str, str, int]] = Counter()
        for tenant, subscription, start, quantity, nanos, per_units in self.rows(query):
            amount = round(Fraction(quantity * nanos, per_units * UNIT)) if nanos is not None else 0
            found[tenant, subscription, start] += amount
        return dict(found)

    def kept_cogs(self) -> dict[tuple[str, str, int], int]:
        """Return the totals that the ledger keeps up with its rows."""
        query = (
            "SELECT tenant_id, subscription_id, period_start_micros, cogs_nanos FROM margin_state"
        )
        return {(tenant, sub, start): cogs for tenant, sub, start, cogs in self.rows(query)}
