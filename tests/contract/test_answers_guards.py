"""Guards in explanations and forecasts, on a real ledger and a real Redis."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from aforo_meter import answers, explain_json, explain_text, forecast_text
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Level, Thresholds
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.inquiries import Choice
from aforo_meter.ledger_sql import SqlLedger
from aforo_proto import contract_pb2
from tests.contract.answers_lab import fill, publish
from tests.contract.consume_lab import Catalog
from tests.contract.ledger_lab import DOLLAR, NOW, PERIOD, START, batch, used, watch, watched
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract

ACME = Choice(tenant_id="acme")
TOKENS = Guard(
    guard_id="tokens",
    features=frozenset({"api"}),
    meters=("llm.*",),
    revenue_share_bp=8800,
    thresholds=Thresholds(source="plan:pro/tokens"),
)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.fixture
def catalog(client: redis.Redis) -> Catalog:
    """Acme has a guard: tokens, which cost 8.50 in its first hundred hours, have 8.80 of its 10."""
    catalog = publish(client)
    catalog.contracts["acme"].guards.append(
        contract_pb2.Guard(
            guard_id="tokens",
            features=["api"],
            meters=["llm.*"],
            revenue_share_bp=8800,
            thresholds=contract_pb2.Thresholds(
                warn_below_bp=2000,
                throttle_below_bp=1000,
                hysteresis_bp=100,
                source="plan:pro/tokens",
            ),
        )
    )
    catalog.sync()
    return catalog


@pytest.fixture
async def of(
    ledger: SqlLedger, file: AuditedLedger, catalog: Catalog, redis_url: str
) -> AsyncIterator[answers.Sources]:
    assert catalog.contracts["acme"].guards
    await fill(ledger)
    async with answers.sources(file.url, redis_url) as opened:
        yield opened


async def assessed(
    ledger: SqlLedger, *guards: Guard, period: PeriodMicros = PERIOD, at: int = 40
) -> None:
    now_micros = max(NOW, period.start_micros)
    measured = replace(watch(), guards=guards, period=period)
    event = used(f"more{at}", 0, period=period, at_micros=now_micros)
    await ledger.apply(batch([event], at=at, watches=watched(measured), now_micros=now_micros))


async def test_a_guard_is_explained_as_the_tenants_level_is(
    of: answers.Sources, ledger: SqlLedger
) -> None:
    await assessed(ledger, TOKENS)

    told = await answers.explanation(of, ACME, now_micros=NOW)

    text = explain_text.as_text(told)
    assert (
        "guard      tokens: throttle (L2) since 2026-11-05 04:00 UTC: decisions take warn" in text
    )
    assert "measures   api; llm.*" in text
    assert "3.40 % = (8.80 revenue − 8.50 COGS) / 8.80 revenue, 0.30 USD left" in text
    assert "floors     set by plan:pro/tokens" in text
    (guard,) = json.loads(explain_json.as_json(told))["guards"]
    assert (guard["guard"], guard["level"], guard["decided_level"]) == (
        "tokens",
        "throttle",
        "warn",
    )
    assert guard["margin"]["cogs_nanos"] == 17 * DOLLAR // 2
    assert [one["undercut"] for one in guard["floors"]["floors"]] == [True, True, False]


async def test_a_guard_that_was_not_assessed_yet_is_told_with_its_figures(
    of: answers.Sources,
) -> None:
    told = await answers.explanation(of, ACME, now_micros=NOW)

    text = explain_text.as_text(told)
    assert "guard      tokens: none\n" in text
    assert "assessed   not yet" in text
    assert "(8.80 revenue − 8.50 COGS)" in text


async def test_a_guard_that_is_no_more_is_told_of_the_periods_that_had_it(
    of: answers.Sources, ledger: SqlLedger
) -> None:
    december = PeriodMicros(PERIOD.end_micros, PERIOD.end_micros + 31 * 24 * HOUR_MICROS)
    await assessed(ledger, replace(TOKENS, guard_id="former"))
    now = explain_text.as_text(await answers.explanation(of, ACME, now_micros=NOW))
    await assessed(ledger, period=december, at=50)

    november = replace(ACME, at_micros=NOW)
    later = await answers.explanation(of, november, now_micros=december.start_micros)

    assert "former" not in now
    text = explain_text.as_text(later)
    assert "guard      former: throttle (L2)" in text
    assert "the contract has no such guard now" in text
    assert "guard      tokens" not in text


async def test_a_forecast_says_when_a_guard_reaches_its_levels(
    of: answers.Sources, ledger: SqlLedger
) -> None:
    """8.50 in a hundred hours: 8.80 are spent after 3.53 hours more; then it is a loss."""
    await assessed(ledger, TOKENS)

    told = await answers.tenant_forecast(of, "acme", now_micros=NOW)

    own, guard = told.margins
    assert (own.guard_id, guard.guard_id) == ("", "tokens")
    assert guard.at.level is Level.THROTTLE
    by_period = guard.outlooks[1]
    crossing_micros = START + 100 * HOUR_MICROS * 880 // 850
    at_micros = by_period.reaches[2].at_micros
    assert at_micros is not None
    # It counts from the instant until which all usage is known, a second before.
    assert abs(at_micros - crossing_micros) < HOUR_MICROS // 600
    assert by_period.at_end.level is Level.BLOCK
    text = forecast_text.as_text(told)
    assert "guard      tokens" in text
    document: Any = forecast_text.as_json(told)
    assert [one["guard"] for one in document["guards"]] == ["tokens"]
    lines = forecast_text.as_list([told], 0).splitlines()
    assert sorted(line.split("  ")[0] for line in lines[1:-1]) == ["acme", "acme: tokens"]


async def test_usage_that_pays_for_itself_is_not_forecast_to_be_blocked(
    of: answers.Sources, ledger: SqlLedger, catalog: Catalog
) -> None:
    """A dollar of cost every ten hours, each bringing two: 50 %, whatever is to come."""
    card = contract_pb2.RateCard(
        components=[
            contract_pb2.RateComponent(
                component_id="calls",
                meter="api.calls",
                per_unit=contract_pb2.UnitPrice(price_nanos=2 * DOLLAR, per_units=1),
            )
        ]
    )
    catalog.contract("payg", fee_nanos=0)
    catalog.contracts["payg"].phases.append(
        contract_pb2.Phase(source="plan:payg", currency="USD", rate_cards=[card])
    )
    catalog.sync()
    events = [
        used(f"p{hour}", 1, tenant="payg", at_micros=START + hour * HOUR_MICROS)
        for hour in range(0, 100, 10)
    ]
    measured = watch(tenant="payg", revenue_nanos=20 * DOLLAR)
    await ledger.apply(batch(events, at=20, watches=watched(measured)))

    told = await answers.tenant_forecast(of, "payg", now_micros=NOW)

    for outlook in told.margins[0].outlooks:
        assert [(one.is_reached, one.at_micros) for one in outlook.reaches] == [(False, None)] * 3
        ratio = outlook.at_end.gross_margin_ratio
        assert ratio is not None
        assert round(ratio, 3) == pytest.approx(0.5)
    assert forecast_text.as_text(told).count("not in this period") == 6
