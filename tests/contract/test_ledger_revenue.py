"""Revenue that follows from the ledger's rows: usage by the rate card, time, a prepaid balance."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from aforo_meter.domain.account import UsageKey, Used
from aforo_meter.domain.margin import Level, MarginState
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rate_card import Component, Graduated, PerUnit, RateCard, Tier
from aforo_meter.domain.statement import statement_of
from aforo_meter.domain.terms import ExchangeRate, Phase, RevenueBasis, Terms
from aforo_meter.inquiries import Choice
from aforo_meter.inquiries_sql import SqlInquiries
from aforo_meter.ledger import Ledger, Place, Standing, Watch
from aforo_meter.ledger_accounts import read_account
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.ledger_lab import (
    DOLLAR,
    NOW,
    PARTITION,
    PERIOD,
    START,
    UNIT,
    batch,
    price,
    used,
    watch,
    watched,
)

pytestmark = pytest.mark.contract

NEXT_PERIOD = PeriodMicros(PERIOD.end_micros, PERIOD.end_micros + 31 * 24 * HOUR_MICROS)
CARD = RateCard(
    effective_from_micros=0,
    components=(
        Component(
            component_id="calls",
            meter="api.calls",
            included_units=10,
            pricing=Graduated(
                tiers=(
                    Tier(up_to_units=5, price=PerUnit(price_nanos=2 * DOLLAR)),
                    Tier(up_to_units=None, price=PerUnit(price_nanos=DOLLAR)),
                )
            ),
        ),
    ),
)


def measured_by(*, period: PeriodMicros = PERIOD, basis: str = "period", **phase: object) -> Watch:
    """Return a watch whose revenue follows from terms."""
    terms = Terms(
        tenant_id="acme",
        subscription_id="sub-1",
        phases=(Phase(**phase),),  # type: ignore[arg-type]
        basis=RevenueBasis(basis),
        exchange_rates=(
            ExchangeRate(
                currency="EUR", to_currency="USD", rate_nanos=1_100_000_000, effective_from_micros=0
            ),
        ),
    )
    return replace(watch(period=period), terms=terms)


async def standing_of(ledger: Ledger) -> Standing:
    return (await ledger.standings({"acme": []}))["acme"]


async def test_usage_beyond_what_is_included_raises_revenue_and_so_the_margin(
    ledger: Ledger,
) -> None:
    watches = watched(measured_by(committed_fee_nanos=20 * DOLLAR, rate_cards=(CARD,)))

    await ledger.apply(batch([used("e1", 10, prices=[price()])], watches=watches))
    before = (await standing_of(ledger)).assessment
    await ledger.apply(batch([used("e2", 7)], at=1, watches=watches))
    after = (await standing_of(ledger)).assessment

    assert (before.revenue_nanos, before.cogs_nanos) == (20 * DOLLAR, 10 * DOLLAR)
    assert (after.revenue_nanos, after.cogs_nanos) == ((20 + 10 + 2) * DOLLAR, 17 * DOLLAR)


async def test_without_a_fee_the_first_usage_defines_the_margin(ledger: Ledger) -> None:
    per_call = Component(
        component_id="calls", meter="api.calls", pricing=PerUnit(price_nanos=2 * DOLLAR)
    )
    card = RateCard(effective_from_micros=0, components=(per_call,))
    watches = watched(measured_by(rate_cards=(card,)))

    await ledger.set_offset(PARTITION, 0)
    await ledger.reassess(Place(PARTITION, 0), watches, now_micros=NOW)
    assert (await standing_of(ledger)).assessment.state is MarginState.UNDEFINED

    await ledger.apply(batch([used("e1", 3)], watches=watches))

    assessment = (await standing_of(ledger)).assessment
    assert assessment.state is MarginState.DEFINED
    assert (assessment.revenue_nanos, assessment.level) == (6 * DOLLAR, Level.NONE)


async def test_usage_without_a_cost_price_is_charged_all_the_same(ledger: Ledger) -> None:
    watches = watched(measured_by(rate_cards=(CARD,)))

    await ledger.apply(batch([used("e1", 13, prices=[])], watches=watches))

    assert (await standing_of(ledger)).assessment.revenue_nanos == 6 * DOLLAR


async def test_time_alone_changes_what_has_accrued_and_the_level_with_it(ledger: Ledger) -> None:
    watches = watched(measured_by(committed_fee_nanos=30 * DOLLAR, basis="accrued"))
    await ledger.apply(batch([used("e1", 2)], watches=watches, now_micros=START + 24 * HOUR_MICROS))
    early = (await standing_of(ledger)).assessment

    written = await ledger.reassess(
        Place(PARTITION, 1), watches, now_micros=START + 15 * 24 * HOUR_MICROS
    )
    later = (await standing_of(ledger)).assessment

    assert (early.revenue_nanos, early.level) == (DOLLAR, Level.BLOCK)
    assert (later.revenue_nanos, later.level) == (15 * DOLLAR, Level.NONE)
    assert [change.after.level for change in written.transitions] == [Level.NONE]


async def test_an_amount_stands_in_both_currencies(ledger: Ledger) -> None:
    watches = watched(measured_by(committed_fee_nanos=30 * DOLLAR, currency="EUR"))

    await ledger.apply(batch([used("e1", 1)], watches=watches))
    standing = await standing_of(ledger)

    assert (standing.currency, standing.assessment.revenue_nanos) == ("USD", 33 * DOLLAR)
    assert (standing.contract_currency, standing.contract_revenue_nanos) == ("EUR", 30 * DOLLAR)


async def test_a_prepaid_balance_is_drawn_down_from_period_to_period(ledger: Ledger) -> None:
    prepaid: dict[str, object] = {"rate_cards": (CARD,), "prepaid_nanos": 20 * DOLLAR}
    first = watched(measured_by(**prepaid))  # type: ignore[arg-type]
    second = watched(measured_by(period=NEXT_PERIOD, **prepaid))  # type: ignore[arg-type]

    await ledger.apply(batch([used("e1", 17)], watches=first))
    assert (await standing_of(ledger)).prepaid_left_nanos == 8 * DOLLAR

    event = used("e2", 13, at_micros=NEXT_PERIOD.start_micros, period=NEXT_PERIOD)
    now_micros = NEXT_PERIOD.start_micros + 1
    await ledger.apply(batch([event], at=1, watches=second, now_micros=now_micros))
    assert (await standing_of(ledger)).prepaid_left_nanos == 2 * DOLLAR

    event = used("e3", 50, at_micros=NEXT_PERIOD.start_micros, period=NEXT_PERIOD)
    await ledger.apply(batch([event], at=2, watches=second, now_micros=now_micros))
    standing = await standing_of(ledger)

    assert standing.prepaid_left_nanos == 0
    assert standing.assessment.revenue_nanos == (10 + 48) * DOLLAR


async def test_a_balance_of_a_later_date_is_not_touched_by_earlier_periods(ledger: Ledger) -> None:
    def prepaid(period: PeriodMicros, since_micros: int) -> dict[str, Watch]:
        return dict(
            watched(
                measured_by(
                    period=period,
                    rate_cards=(CARD,),
                    prepaid_nanos=20 * DOLLAR,
                    prepaid_from_micros=since_micros,
                )
            )
        )

    await ledger.apply(batch([used("e1", 17)], watches=prepaid(PERIOD, START)))
    now_micros = NEXT_PERIOD.start_micros + 1
    await ledger.reassess(
        Place(PARTITION, 1),
        prepaid(NEXT_PERIOD, NEXT_PERIOD.start_micros),
        now_micros=now_micros,
    )

    assert (await standing_of(ledger)).prepaid_left_nanos == 20 * DOLLAR


async def test_revenue_beyond_what_the_ledger_holds_stops_no_charge(ledger: Ledger) -> None:
    watches = watched(measured_by(rate_cards=(CARD,), currency="EUR"))

    await ledger.apply(batch([used("e1", 9 * 10**9, prices=[price(nanos=0)])], watches=watches))

    assessment = (await standing_of(ledger)).assessment
    assert (assessment.revenue_nanos, assessment.level) == (2**63 - 1, Level.NONE)


async def test_an_account_sums_hours_and_prices_and_rounds_each_row(ledger: Ledger) -> None:
    assert isinstance(ledger, SqlLedger)
    third = [price("p3", nanos=1), price("p0", nanos=0, meter="free")]
    sixth = replace(third[0], price_id="p6", per_units=2)
    events: Sequence[object] = [
        used("e1", 1, prices=[sixth], model="gpt"),
        used("e2", 3, prices=[sixth], model="gpt", at_micros=NOW + HOUR_MICROS),
        used("e3", 5, prices=[], model="gpt"),
        used("e4", 7, prices=[], meter="other", tool="search", execution_status="TIMEOUT"),
        used("e5", 9, period=NEXT_PERIOD),
        used("e6", 9, subscription="sub-0"),
        used("e7", 9, tenant="globex"),
    ]
    await ledger.apply(batch(events))  # type: ignore[arg-type]

    account = await ledger.read(lambda sql: read_account(sql, "acme", "sub-1", START))

    assert account == {
        UsageKey("api.calls", "api", "", "gpt", "", ""): Used(
            # Half a nano is none, one and a half are two.
            quantity_micros=9 * UNIT,
            cogs_nanos=2,
            unpriced_micros=5 * UNIT,
        ),
        UsageKey("other", "api", "", "", "search", "TIMEOUT"): Used(
            quantity_micros=7 * UNIT, unpriced_micros=7 * UNIT
        ),
    }


async def test_a_former_subscription_is_billed_to_its_end_with_its_late_usage(
    ledger: Ledger,
) -> None:
    """Fifteen days of 300 are 150, and 20 calls of a dollar 20, ten of them told afterwards."""
    assert isinstance(ledger, SqlLedger)
    each_call = Component(
        component_id="calls", meter="api.calls", pricing=PerUnit(price_nanos=DOLLAR)
    )
    cards = (RateCard(effective_from_micros=0, components=(each_call,)),)
    ends_micros = START + 15 * 24 * HOUR_MICROS
    before = measured_by(committed_fee_nanos=300 * DOLLAR, rate_cards=cards)
    assert before.terms is not None
    terms = Terms(
        tenant_id="acme",
        subscription_id="sub-2",
        anchor_micros=ends_micros,
        phases=(Phase(effective_from_micros=ends_micros, committed_fee_nanos=900 * DOLLAR),),
        former=(
            replace(
                before.terms,
                phases=(replace(before.terms.phases[0], effective_from_micros=START),),
                ended_at_micros=ends_micros,
            ),
        ),
    )
    after = replace(watch(subscription="sub-2", period=terms.period_at(ends_micros)), terms=terms)

    await ledger.apply(batch([used("e1", 10)], watches=watched(before)))
    late = used("e2", 10, at_micros=ends_micros - 1)
    await ledger.apply(batch([late], at=1, watches=watched(after), now_micros=ends_micros + UNIT))

    record = await SqlInquiries(ledger).record(
        Choice(tenant_id="acme", at_micros=START, subscription_id="sub-1")
    )
    assert record is not None
    told = statement_of(record, terms, as_of_micros=ends_micros + 2 * UNIT)
    assert [line.amount_nanos // DOLLAR for line in told.lines] == [150, 20]
