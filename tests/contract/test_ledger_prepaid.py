"""A prepaid balance over several periods: what is drawn follows from sums, not from arrival."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from aforo_meter.corrections import Scope, Take
from aforo_meter.corrections_sql import SqlCorrections
from aforo_meter.domain.corrections import Kind
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rate_card import Component, PerUnit, RateCard
from aforo_meter.domain.rating import Rated
from aforo_meter.domain.statement import LineKind, statement_of
from aforo_meter.domain.terms import Phase, Terms
from aforo_meter.inquiries import Choice
from aforo_meter.inquiries_sql import SqlInquiries
from aforo_meter.ledger import Ledger, Place, Watch
from aforo_meter.ledger_adjusting import Order
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.ledger_lab import DOLLAR, PARTITION, PERIOD, batch, used
from tests.contract.test_ledger_revenue import NEXT_PERIOD, measured_by, standing_of

pytestmark = pytest.mark.contract

LATER = NEXT_PERIOD.start_micros + 2 * HOUR_MICROS
EACH_CALL = RateCard(
    effective_from_micros=0,
    components=(
        Component(component_id="calls", meter="api.calls", pricing=PerUnit(price_nanos=DOLLAR)),
    ),
)
USES = {  # By event id: its period, and its calls of a dollar.
    "e1": (PERIOD, 90),
    "e2": (PERIOD, 10),
    "e3": (NEXT_PERIOD, 10),
}


def measured(period: PeriodMicros, *, prepaid: int = 105) -> dict[str, Watch]:
    one = measured_by(period=period, rate_cards=(EACH_CALL,), prepaid_nanos=prepaid * DOLLAR)
    return {one.tenant_id: one}


def event(event_id: str) -> Rated:
    period, units = USES[event_id]
    at_micros = period.end_micros - 1 if period == PERIOD else period.start_micros
    return used(event_id, units, period=period, at_micros=at_micros)


async def drawn(ledger: SqlLedger, terms: Terms) -> Mapping[PeriodMicros, int]:
    """Return the dollars that each period's statement takes from the balance."""
    inquiries = SqlInquiries(ledger)
    found = {}
    for period in (PERIOD, NEXT_PERIOD):
        record = await inquiries.record(
            Choice(tenant_id="acme", at_micros=period.start_micros, subscription_id=None)
        )
        assert record is not None
        told = statement_of(record, terms, as_of_micros=LATER)
        found[period] = sum(
            -line.amount_nanos // DOLLAR for line in told.lines if line.kind is LineKind.PREPAID
        )
    return found


def terms_of(watches: Mapping[str, Watch]) -> Terms:
    terms = watches["acme"].terms
    assert terms is not None
    return terms


@pytest.mark.parametrize("order", list(itertools.permutations(USES)), ids="-".join)
@pytest.mark.parametrize("together", [1, 2, 3])
async def test_a_balance_is_spent_once_in_whatever_order_usage_arrives(
    ledger: Ledger, order: Sequence[str], together: int
) -> None:
    """105: the first period takes 100 of it, so 5 of the second's 10 are due."""
    assert isinstance(ledger, SqlLedger)
    watches = measured(NEXT_PERIOD)
    for start in range(0, len(order), together):
        events = [event(name) for name in order[start : start + together]]
        await ledger.apply(batch(events, at=start, watches=watches, now_micros=LATER))

    await ledger.reassess(Place(PARTITION, len(USES)), watches, now_micros=LATER)

    assert await drawn(ledger, terms_of(watches)) == {PERIOD: 100, NEXT_PERIOD: 5}
    assert (await standing_of(ledger)).prepaid_left_nanos == 0


async def test_what_comes_after_a_months_end_is_missing_to_the_next_month(ledger: Ledger) -> None:
    assert isinstance(ledger, SqlLedger)
    await ledger.apply(batch([event("e1")], watches=measured(PERIOD)))
    watches = measured(NEXT_PERIOD)
    await ledger.reassess(Place(PARTITION, 1), watches, now_micros=NEXT_PERIOD.start_micros)
    assert (await standing_of(ledger)).prepaid_left_nanos == 15 * DOLLAR

    await ledger.apply(batch([event("e2")], at=1, watches=watches, now_micros=LATER))

    assert (await standing_of(ledger)).prepaid_left_nanos == 5 * DOLLAR


async def test_usage_that_is_taken_back_gives_back_what_it_drew(ledger: Ledger) -> None:
    assert isinstance(ledger, SqlLedger)
    watches = measured(NEXT_PERIOD)
    await ledger.apply(batch([event(name) for name in USES], watches=watches, now_micros=LATER))
    corrections = SqlCorrections(ledger)
    past = [
        Take(key, None)
        for key in await corrections.rows(Scope(tenant_id="acme"))
        if key.period_start_micros == PERIOD.start_micros
    ]

    await corrections.void(
        past,
        Order(kind=Kind.VOID, run_id="r", reason="a test", author="me", now_micros=LATER),
    )
    await ledger.reassess(Place(PARTITION, len(USES)), watches, now_micros=LATER)

    assert await drawn(ledger, terms_of(watches)) == {PERIOD: 0, NEXT_PERIOD: 10}
    assert (await standing_of(ledger)).prepaid_left_nanos == 95 * DOLLAR


async def test_a_balance_that_rested_goes_on_with_what_it_had_left(ledger: Ledger) -> None:
    """The plan's 105, of which 90 are drawn; a deal's own 7 in between; then the plan's again."""
    assert isinstance(ledger, SqlLedger)
    third = PeriodMicros(NEXT_PERIOD.end_micros, NEXT_PERIOD.end_micros + 30 * 24 * HOUR_MICROS)
    phases = tuple(
        Phase(
            effective_from_micros=at_micros,
            rate_cards=(EACH_CALL,),
            prepaid_nanos=prepaid * DOLLAR,
            prepaid_from_micros=since_micros,
        )
        for at_micros, prepaid, since_micros in [
            (0, 105, 0),
            (NEXT_PERIOD.start_micros, 7, NEXT_PERIOD.start_micros),
            (third.start_micros, 105, 0),
        ]
    )
    terms = Terms(tenant_id="acme", subscription_id="sub-1", phases=phases)

    left = []
    uses = [(PERIOD, 90), (NEXT_PERIOD, 3), (third, 10)]
    for at, (period, units) in enumerate(uses):
        watch = replace(measured_by(period=period), terms=terms)
        events = [used(f"e{at}", units, period=period, at_micros=period.start_micros)]
        now_micros = period.start_micros + 1
        await ledger.apply(batch(events, at=at, watches={"acme": watch}, now_micros=now_micros))
        left.append((await standing_of(ledger)).prepaid_left_nanos // DOLLAR)

    assert left == [15, 4, 5]
