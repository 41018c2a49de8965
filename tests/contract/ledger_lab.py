"""What tests write to a ledger."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Thresholds
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.prices import PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.rating import Measured, Rated, Usage, rate
from aforo_meter.domain.usage import API_CALLS, Outcome
from aforo_meter.ledger import Batch, Partition, Retention, Watch

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
        shadow_reason="",
        provider=provider,
        model=model,
        **(
            {
                "measures": (Measured(meter, units * UNIT),) if units else (),
                "reason": "some reason",
            }
            | more
        ),
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
    thresholds: Thresholds | None = None,
    guards: Sequence[Guard] = (),
) -> Watch:
    return Watch(
        tenant_id=tenant,
        subscription_id=subscription,
        period=period,
        revenue_nanos=revenue_nanos,
        allowance_nanos=allowance_nanos,
        currency="USD",
        thresholds=thresholds or Thresholds(),
        guards=tuple(guards),
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
    stands_at: int = 0,
    retention: Retention | None = None,
) -> Batch:
    events = list(rated)
    return Batch(
        partition=partition,
        first_offset=at,
        stands_at=stands_at,
        next_offset=at + max(1, len(events)) if next_offset is None else next_offset,
        rated=events,
        watches=watches or {},
        currency="USD",
        now_micros=now_micros,
        retention=retention or Retention(),
    )
