"""What a tenant's page shows, read from ledger and Redis by what explain and forecast read."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from aforo_admin.places import places
from aforo_admin.screens.stores import Missing, opened_ledger
from aforo_meter import answers
from aforo_meter.answers import Sources
from aforo_meter.completeness import ScoreQuery
from aforo_meter.completeness_sql import SqlCompleteness
from aforo_meter.domain import completeness
from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.completeness import Score
from aforo_meter.domain.inquiry import Record
from aforo_meter.domain.periods import DAY_MICROS, HOUR_MICROS, PeriodMicros
from aforo_meter.domain.quotas import COGS, Quota, window_of
from aforo_meter.explanation import Explanation
from aforo_meter.forecast_text import Forecast
from aforo_meter.inquiries import Choice, Inquiries
from aforo_meter.inquiries_sql import SqlInquiries
from aforo_meter.tenant_reading import Known, tenant_reader

BP: Final = 10_000
NO_MODEL: Final = "of no model"  # Calls, bytes, and all that has one price for everybody.
NO_FEATURE: Final = "of no feature"


@dataclass(slots=True, kw_only=True)
class TenantTold:
    """What could be read; what is None is missing, or there is nothing of it."""

    record: Record | None = None  # Of the running period.
    explanation: Explanation | None = None
    forecast: Forecast | None = None
    known: Known | None = None  # What Redis holds.
    complete: Score | None = None  # Of the last day.
    missing: list[str] = field(default_factory=list)


class _Once:
    """Reads each record once: explanation and forecast go by the same one."""

    def __init__(self, inquiries: Inquiries) -> None:
        self._inquiries = inquiries
        self._read: dict[Choice, Record | None] = {}

    async def record(self, choice: Choice) -> Record | None:
        if choice not in self._read:
            self._read[choice] = await self._inquiries.record(choice)
        return self._read[choice]

    async def tenants(self) -> Sequence[str]:
        return await self._inquiries.tenants()


async def read_tenant(tenant_id: str, *, now_micros: int) -> TenantTold:
    """Read it; what does not answer is left out, and said."""
    told, missing = TenantTold(), Missing()
    told.known = await missing.of(_known(tenant_id))
    await missing.of(_from_ledger(told, missing, tenant_id, now_micros))
    told.missing = missing.said
    return told


async def _known(tenant_id: str) -> Known:
    async with tenant_reader(places().redis()) as tenants:
        return (await tenants.known([tenant_id]))[tenant_id]


async def _from_ledger(told: TenantTold, missing: Missing, tenant_id: str, now_micros: int) -> None:
    choice = Choice(tenant_id=tenant_id, at_micros=now_micros)
    async with opened_ledger() as ledger:
        inquiries = _Once(SqlInquiries(ledger))
        told.record = await inquiries.record(choice)
        day = PeriodMicros(_day_before(now_micros), now_micros // HOUR_MICROS * HOUR_MICROS)
        query = ScoreQuery(hours=day, tenant_id=tenant_id)
        told.complete = completeness.score(await SqlCompleteness(ledger).compared(query))
        if told.known is None or told.known.terms is None:
            return  # Redis has said nothing, or has no contract: nothing to measure by.
        async with tenant_reader(places().redis()) as tenants:
            of = Sources(inquiries=inquiries, tenants=tenants)
            told.explanation = await missing.of(
                answers.explanation(of, choice, now_micros=now_micros)
            )
            told.forecast = await missing.of(
                answers.tenant_forecast(of, tenant_id, now_micros=now_micros)
            )


def _day_before(now_micros: int) -> int:
    return now_micros // HOUR_MICROS * HOUR_MICROS - DAY_MICROS


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something has cost in the period."""

    name: str
    cogs_nanos: int
    share_bp: int  # Of all.
    unpriced: bool = False


def costs_by_model(record: Record) -> list[Cost]:
    return _costs(record, lambda key: " ".join(filter(None, (key.provider, key.model))) or NO_MODEL)


def costs_by_feature(record: Record) -> list[Cost]:
    return _costs(record, lambda key: key.feature or NO_FEATURE)


def _costs(record: Record, name_of: Callable[[UsageKey], str]) -> list[Cost]:
    sums: Counter[str] = Counter()
    unpriced: set[str] = set()
    for key, used in record.account.items():
        name = name_of(key)
        sums[name] += used.cogs_nanos
        if used.unpriced_micros > 0:
            unpriced.add(name)
    all_nanos = sum(sums.values())
    return [
        Cost(
            name=name,
            cogs_nanos=nanos,
            share_bp=nanos * BP // all_nanos if all_nanos else 0,
            unpriced=name in unpriced,
        )
        for name, nanos in sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """How much of a quota is used."""

    quota: Quota
    window: PeriodMicros | None  # None: shorter than what the ledger can tell.
    used_units: int | None  # None: not told.

    @property
    def is_money(self) -> bool:
        return self.quota.meter == COGS

    @property
    def used_bp(self) -> int | None:
        """Return the share of the limit that is used; None: not told."""
        if self.used_units is None:
            return None
        limit_units = self.quota.limit_units
        return self.used_units * BP // limit_units if limit_units > 0 else BP

    @property
    def shown(self) -> int:
        """Return hundredths of the bar, which ends where the limit is."""
        return min(100, (self.used_bp or 0) // 100)


def gauges(known: Known, *, now_micros: int) -> list[Gauge]:
    """Return how far quotas are used, by the ledger's account."""
    terms = known.terms
    if terms is None:
        return []
    period = terms.period_at(now_micros)
    found = []
    for quota in terms.quotas:
        window = window_of(quota, period=period, now_micros=now_micros)
        used_units = None
        if window is not None and known.published is not None:
            start_micros, units = known.published.used_units.get(quota.quota_id, (0, 0))
            # A figure of another window says that nothing was used in this one yet.
            used_units = units if window.start_micros == start_micros else 0
        found.append(Gauge(quota=quota, window=window, used_units=used_units))
    return found
