"""Explanations and statements of what was corrected, in its period and after its close."""

from dataclasses import replace

import pytest
import redis

from aforo_meter import answers, explain_text
from aforo_meter import statement_focus as focus
from aforo_meter import statement_text as statements
from aforo_meter.corrections import Scope, Take
from aforo_meter.corrections_sql import SqlCorrections
from aforo_meter.domain.corrections import Kind
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.domain.statement import LineKind
from aforo_meter.ledger_adjusting import Order
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.answers_lab import publish
from tests.contract.ledger_lab import DOLLAR, NOW, PERIOD, START, UNIT, price
from tests.contract.ledgers import AuditedLedger
from tests.contract.test_answers_revenue import GLOBEX, agree

pytestmark = pytest.mark.contract

CLOSED = PERIOD.end_micros + 1
LATER = PERIOD.end_micros + 2
NOVEMBER = replace(GLOBEX, at_micros=START)


def order(kind: Kind, *, at_micros: int) -> Order:
    return Order(
        kind=kind,
        run_id=f"{kind}-{at_micros}",
        reason="counted twice",
        author="kim",
        now_micros=at_micros,
        voided="e1" if kind is Kind.VOID else "",
    )


async def calls_of(corrections: SqlCorrections) -> ChargeKey:
    rows = await corrections.rows(Scope(tenant_id="globex", equal={"meter": "api.calls"}))
    (key,) = rows
    return key


async def test_a_price_that_came_late_is_in_cogs_with_who_wanted_it(
    ledger: SqlLedger, file: AuditedLedger, redis_url: str
) -> None:
    """15,000 calls at 0.0001 are 1.50, at 0.0002 they are 3.00."""
    await agree(ledger, publish(redis.Redis.from_url(redis_url)))
    corrections = SqlCorrections(ledger)
    key = await calls_of(corrections)
    dearer = price("dearer", nanos=200_000)

    wanted = order(Kind.RERATE, at_micros=NOW)
    await corrections.rerate({key: "dearer"}, [dearer], "USD", wanted)
    async with answers.sources(file.url, redis_url) as of:
        told = await answers.explanation(of, NOVEMBER, now_micros=LATER)

    costs = {line.price.price_id: line.cogs_nanos for line in told.record.costs if line.price}
    assert costs == {"dearer": 3 * DOLLAR, "search": 150_000_000}
    account = told.record.account.values()
    assert sum(used.cogs_nanos for used in account) == told.record.state.cogs_nanos
    assert sum(costs.values()) == told.record.state.cogs_nanos
    text = explain_text.as_text(told)
    assert "rerate  kim: counted twice  2 rows  1.50" in " ".join(text.split("\n"))


@pytest.mark.parametrize("closed", [False, True])
async def test_what_is_taken_back_after_the_close_is_a_line_of_its_own(
    ledger: SqlLedger, file: AuditedLedger, redis_url: str, *, closed: bool
) -> None:
    """Of 15,000 calls 5,000 go: 2.50 less, and 10 % of that were off already."""
    await agree(ledger, publish(redis.Redis.from_url(redis_url)))
    corrections = SqlCorrections(ledger)
    key = await calls_of(corrections)
    if closed:
        await corrections.close(ended_by_micros=PERIOD.end_micros, now_micros=CLOSED)

    take = Take(key, (5_000 * UNIT, 0))
    await corrections.void([take], order(Kind.VOID, at_micros=LATER))
    async with answers.sources(file.url, redis_url) as of:
        told, _ = await answers.statement(of, NOVEMBER, now_micros=LATER)

    assert told.total_nanos == 40_080_000_000 - 2_250_000_000
    later = [line for line in told.lines if line.kind is LineKind.ADJUSTMENT]
    assert [line.amount_nanos for line in later] == ([-2_250_000_000] if closed else [])
    calls = next(line for line in told.lines if line.item == "calls")
    assert calls.used_micros == (15_000 if closed else 10_000) * UNIT
    assert ("Adjustments after the period was closed" in statements.as_table(told, None)) is closed
    assert (",Correction," in focus.as_focus(told, issuer="x")) is closed
