"""Statements, explanations and forecasts of contracts with rate cards, balances and currencies."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import redis

from aforo_meter import answers, explain_text
from aforo_meter import statement_focus as focus
from aforo_meter import statement_text as statements
from aforo_meter.contract_messages import terms_of
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.statement import LineKind
from aforo_meter.inquiries import Choice
from aforo_meter.ledger_sql import SqlLedger
from aforo_proto import contract_pb2
from tests.conftest import Golden
from tests.contract.answers_lab import publish
from tests.contract.consume_lab import Catalog
from tests.contract.ledger_lab import (
    DOLLAR,
    NOW,
    PERIOD,
    START,
    batch,
    price,
    used,
    watch,
    watched,
)
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract

GLOBEX = Choice(tenant_id="globex")
DAY = 24 * HOUR_MICROS


def tier(up_to_units: int, *, price_nanos: int, per_units: int = 1) -> contract_pb2.PriceTiers.Tier:
    return contract_pb2.PriceTiers.Tier(
        up_to_units=up_to_units,
        price=contract_pb2.UnitPrice(price_nanos=price_nanos, per_units=per_units),
    )


CARD = contract_pb2.RateCard(
    components=[
        # 15,000 at .001 to 1,000, .0008 to 10,000, .0005 beyond: 1.00 + 7.20 + 2.50.
        contract_pb2.RateComponent(
            component_id="calls",
            meter="api.calls",
            graduated=contract_pb2.PriceTiers(
                tiers=[
                    tier(1_000, price_nanos=DOLLAR, per_units=1_000),
                    tier(10_000, price_nanos=800_000),
                    tier(0, price_nanos=500_000),
                ]
            ),
        ),
        # 1,500 with 1,000 included at .001: 0.50.
        contract_pb2.RateComponent(
            component_id="search",
            meter="search",
            included_units=1_000,
            per_unit=contract_pb2.UnitPrice(price_nanos=1_000_000, per_units=1),
        ),
    ],
    discounts=[contract_pb2.Discount(percent_bp=1_000)],
)


def phase(**more: object) -> contract_pb2.Phase:
    return contract_pb2.Phase(
        source="plan:pro",
        currency="USD",
        committed_fee_nanos=30 * DOLLAR,
        rate_cards=[CARD],
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def catalog(redis_url: str) -> Catalog:
    return publish(redis.Redis.from_url(redis_url))


@pytest.fixture
async def of(file: AuditedLedger, redis_url: str) -> AsyncIterator[answers.Sources]:
    async with answers.sources(file.url, redis_url) as opened:
        yield opened


async def agree(ledger: SqlLedger, catalog: Catalog, **changes: object) -> None:
    """Let globex have a contract, and use 15,000 calls and 1,500 searches; and some storage."""
    contract = contract_pb2.Contract(
        tenant_id="globex",
        subscription_id="sub-2",
        plan_id="pro",
        currency="USD",
        cadence=contract_pb2.CADENCE_MONTH,
        anchor_micros=START,
        **({"phases": [phase()]} | changes),  # type: ignore[arg-type]
    )
    catalog.contracts["globex"] = contract
    catalog.sync()
    terms = terms_of("globex", contract.SerializeToString(), None)
    measured = replace(
        watch(tenant="globex", subscription="sub-2"), terms=terms, thresholds=terms.thresholds
    )
    prices = [price(meter, nanos=100_000, meter=meter) for meter in ("api.calls", "search")]
    usage = {"api.calls": 15_000, "search": 1_500, "storage": 7}
    events = [
        used(meter, units, prices=prices, tenant="globex", subscription="sub-2", meter=meter)
        for meter, units in usage.items()
    ]
    await ledger.apply(batch(events, watches=watched(measured)))


async def test_usage_is_billed_by_the_rate_card_with_what_is_included_and_taken_off(
    of: answers.Sources, ledger: SqlLedger, catalog: Catalog, golden: Golden
) -> None:
    """30 fee, 10.70 calls, 0.50 searches, 10 % off those 11.20: 40.08."""
    await agree(ledger, catalog)

    told, record = await answers.statement(of, GLOBEX, now_micros=NOW)

    assert told.total_nanos == 40_080_000_000 == record.state.contract_revenue_nanos
    explained = await answers.explanation(of, GLOBEX, now_micros=NOW)
    golden.check("answers/explain_usage.txt", explain_text.as_text(explained))
    golden.check("answers/statement_usage.txt", statements.as_table(told, None))
    golden.check("answers/statement_usage.csv", statements.as_csv(told, None))
    golden.check("answers/statement_usage.focus.csv", focus.as_focus(told, issuer="Example Inc."))


async def test_what_a_balance_pays_is_not_due_and_is_revenue_all_the_same(
    of: answers.Sources, ledger: SqlLedger, catalog: Catalog
) -> None:
    """Of a balance of 12, the 10.08 of usage are drawn; the fee is due."""
    await agree(ledger, catalog, phases=[phase(prepaid_nanos=12 * DOLLAR)])

    told, _ = await answers.statement(of, GLOBEX, now_micros=NOW)
    explained = await answers.explanation(of, GLOBEX, now_micros=NOW)

    assert told.total_nanos == 30 * DOLLAR
    assert (told.lines[-1].kind, told.lines[-1].amount_nanos) == (LineKind.PREPAID, -10_080_000_000)
    assert "left of the prepaid balance: 1.92" in statements.as_table(told, None)
    revenue_nanos = sum(line.amount_nanos for line in explained.revenue_lines)
    assert revenue_nanos == explained.record.state.revenue_nanos == 40_080_000_000


async def test_a_change_of_plan_bills_each_fee_for_its_part(
    of: answers.Sources, ledger: SqlLedger, catalog: Catalog
) -> None:
    """A third of 30 and two thirds of 60."""
    later = contract_pb2.Phase(
        effective_from_micros=START + 10 * DAY,
        source="plan:max",
        currency="USD",
        committed_fee_nanos=60 * DOLLAR,
    )
    await agree(ledger, catalog, phases=[phase(), later])

    told, _ = await answers.statement(of, GLOBEX, now_micros=NOW)

    fees = [line for line in told.lines if line.kind is LineKind.FEE]
    assert [line.amount_nanos for line in fees] == [10 * DOLLAR, 40 * DOLLAR]
    assert "Committed fee, plan:max, 2026-11-11 00:00 to 2026-12-01 00:00" in statements.as_table(
        told, None
    )


async def test_an_accruing_contract_is_explained_by_now_and_billed_whole(
    of: answers.Sources, ledger: SqlLedger, catalog: Catalog
) -> None:
    """100 of 720 hours of 30 dollars are 4.1666…; usage is 11.20 less 10 %."""
    await agree(ledger, catalog, basis=contract_pb2.REVENUE_BASIS_ACCRUED)

    told, _ = await answers.statement(of, GLOBEX, now_micros=NOW)
    explained = await answers.explanation(of, GLOBEX, now_micros=NOW)
    forecast = await answers.tenant_forecast(of, "globex", now_micros=NOW)

    accrued_nanos = round(30 * DOLLAR * 100 / 720) + 10_080_000_000
    assert told.total_nanos == 40_080_000_000
    assert explained.statement.total_nanos == accrued_nanos == explained.record.state.revenue_nanos
    own = forecast.margins[0]
    assert own.at.assessment.revenue_nanos == accrued_nanos
    # All that has accrued at the end, and what usage to come brings.
    assert own.outlooks[0].at_end.revenue_nanos > 40_080_000_000


async def test_a_contract_in_another_currency_is_told_in_both(
    of: answers.Sources, ledger: SqlLedger, catalog: Catalog
) -> None:
    euros = phase()
    euros.currency = "EUR"
    rate = contract_pb2.ExchangeRate(
        currency="EUR", to_currency="USD", rate_nanos=1_100_000_000, effective_from_micros=0
    )
    await agree(ledger, catalog, phases=[euros], exchange_rates=[rate])

    told, _ = await answers.statement(of, GLOBEX, now_micros=NOW)
    text = explain_text.as_text(await answers.explanation(of, GLOBEX, now_micros=NOW))

    assert (told.currency, told.total_nanos) == ("EUR", 40_080_000_000)
    assert "revenue    EUR" in text
    assert "in USD" in text
    assert "44.088 revenue, 42.438 USD left" in text


async def test_a_subscription_that_is_no_more_bills_what_was_last_assessed(
    of: answers.Sources, ledger: SqlLedger, catalog: Catalog
) -> None:
    await agree(ledger, catalog)
    catalog.contracts["globex"].subscription_id = "sub-3"
    catalog.sync()

    told, _ = await answers.statement(of, GLOBEX, now_micros=NOW)

    assert (told.total_nanos, told.plan_id, told.period) == (40_080_000_000, "", PERIOD)
    assert "Contract revenue, as last assessed" in statements.as_table(told, None)
