"""explain, statement and forecast on a real ledger and a real Redis."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import redis

from aforo_meter import answers, explain_json, explain_text, forecast_text
from aforo_meter import statement_focus as focus
from aforo_meter import statement_text as statements
from aforo_meter.command_arguments import CommandError
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.usage import LLM_OUTPUT
from aforo_meter.inquiries import Choice
from aforo_meter.ledger import Retention
from aforo_meter.ledger_sql import SqlLedger
from aforo_proto import policy_pb2
from tests.conftest import Golden
from tests.contract.answers_lab import PRICES, fill, publish
from tests.contract.ledger_lab import (
    DOLLAR,
    NOW,
    PERIOD,
    START,
    batch,
    used,
    watch,
    watched,
)
from tests.contract.ledgers import AuditedLedger
from tests.contract.tools_lab import ran

pytestmark = pytest.mark.contract

ACME = Choice(tenant_id="acme")
OCTOBER = PeriodMicros(START - 31 * 24 * HOUR_MICROS, START)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.fixture
async def of(
    ledger: SqlLedger, file: AuditedLedger, client: redis.Redis, redis_url: str
) -> AsyncIterator[answers.Sources]:
    await fill(ledger)
    publish(client)
    async with answers.sources(file.url, redis_url) as opened:
        yield opened


async def test_an_explanation_leads_from_the_level_down_to_prices(
    of: answers.Sources, golden: Golden
) -> None:
    told = await answers.explanation(of, ACME, now_micros=NOW)

    golden.check("answers/explain.txt", explain_text.as_text(told))
    golden.check("answers/explain.json", explain_json.as_json(told))


async def test_an_estimate_is_told_for_as_long_as_its_charge(
    of: answers.Sources, ledger: SqlLedger
) -> None:
    """100,000 tokens at 8 dollars a million, whose call is forgotten by then."""
    long_after = NOW + 400 * 24 * HOUR_MICROS
    assert await ledger.prune(now_micros=long_after, rows_max=1_000, retention=Retention()) > 0

    told = await answers.explanation(of, ACME, now_micros=NOW)
    statement, _ = await answers.statement(of, ACME, now_micros=NOW)

    assert told.record.units_by_meter()[LLM_OUTPUT].estimated_micros == 100_000_000_000
    assert told.record.state.estimated_cogs_nanos == 4 * DOLLAR // 5
    assert "llm.output_tokens" in [line.meter for line in statement.lines if line.is_estimated]


async def test_a_statement_has_no_figure_of_ours_unless_asked(
    of: answers.Sources, golden: Golden
) -> None:
    told, record = await answers.statement(of, ACME, now_micros=NOW)

    golden.check("answers/statement.txt", statements.as_table(told, None))
    golden.check("answers/statement.csv", statements.as_csv(told, None))
    golden.check("answers/statement.json", statements.as_json(told, None))
    golden.check("answers/statement.focus.csv", focus.as_focus(told, issuer="Example Inc."))
    golden.check("answers/statement_internal.txt", statements.as_table(told, record))
    golden.check("answers/statement_internal.csv", statements.as_csv(told, record))
    golden.check("answers/statement_internal.json", statements.as_json(told, record))
    for text in (
        statements.as_table(told, None),
        statements.as_csv(told, None),
        statements.as_json(told, None),
        focus.as_focus(told, issuer="Example Inc."),
    ):
        assert "9.25" not in text
        assert not {"cogs", "margin"} & set(text.lower().replace('"', " ").split())


async def test_all_formats_of_a_statement_come_to_the_same_total(of: answers.Sources) -> None:
    told, _ = await answers.statement(of, ACME, now_micros=NOW)

    def column(text: str, name: str) -> Decimal:
        return sum((Decimal(row[name]) for row in csv.DictReader(io.StringIO(text))), Decimal())

    assert column(statements.as_csv(told, None), "amount") == Decimal("10.00")
    assert column(focus.as_focus(told, issuer="x"), "BilledCost") == Decimal("10.00")
    assert json.loads(statements.as_json(told, None))["total_nanos"] == 10 * DOLLAR


async def test_the_costs_of_an_explanation_add_up_to_the_ledgers_cogs(
    of: answers.Sources, file: AuditedLedger
) -> None:
    told = await answers.explanation(of, ACME, now_micros=NOW)

    cogs_nanos = file.audited_cogs()["acme", "sub-1", START]
    assert sum(line.cogs_nanos for line in told.record.costs) == cogs_nanos
    hours = told.record.account_by_hour.values()
    assert sum(used.cogs_nanos for hour in hours for used in hour.values()) == cogs_nanos
    assert cogs_nanos == 37 * DOLLAR // 4


async def test_a_forecast_says_when_levels_come(of: answers.Sources, golden: Golden) -> None:
    one = await answers.tenant_forecast(of, "acme", now_micros=NOW)
    every, without = await answers.forecasts(of, now_micros=NOW)

    golden.check("answers/forecast.txt", forecast_text.as_text(one))
    golden.check("answers/forecast.json", forecast_text.dumps(forecast_text.as_json(one)))
    golden.check("answers/forecast_all.txt", forecast_text.as_list(every, without))


async def test_who_is_blocked_next_is_listed_first(
    of: answers.Sources, ledger: SqlLedger, client: redis.Redis
) -> None:
    catalog = publish(client)
    for tenant in ("idle", "quick", "unpaid"):
        catalog.contract(tenant)
    catalog.sync()
    events = [
        used("q1", 120_000, prices=PRICES, tenant="quick"),
        used("i1", 1, prices=PRICES, tenant="idle", at_micros=START),
    ]
    watches = watched(
        *(watch(tenant=name) for name in ("quick", "idle")),
        watch(tenant="unpaid", revenue_nanos=0),
    )
    await ledger.apply(batch(events, at=20, watches=watches))

    lines = forecast_text.as_list(*await answers.forecasts(of, now_micros=NOW)).splitlines()

    assert [line.split()[0] for line in lines[1:-1]] == ["quick", "acme", "idle", "unpaid"]
    assert lines[-2].split()[1:] == ["none", "undefined", "0.00", "USD", "-", "-", "-", "undefined"]


async def test_the_levels_of_an_override_are_told_while_it_holds(
    of: answers.Sources, client: redis.Redis
) -> None:
    publish(client, override=True)
    during = await answers.explanation(of, ACME, now_micros=NOW)
    after = await answers.explanation(of, ACME, now_micros=NOW + 38 * HOUR_MICROS)

    assert (during.record.state.level, during.decided_level) == (Level.THROTTLE, Level.WARN)
    assert (after.override, after.decided_level) == (None, Level.THROTTLE)
    assert "kim: they have paid for more" in explain_text.as_text(during)


async def test_a_name_from_outside_is_obeyed_by_no_terminal_and_no_spreadsheet(
    of: answers.Sources, ledger: SqlLedger
) -> None:
    named = used("e9", 1, prices=PRICES, model="=1+1\x1b[2J")
    await ledger.apply(batch([named], at=20, watches=watched(watch())))

    told, record = await answers.statement(of, ACME, now_micros=NOW)
    text = explain_text.as_text(await answers.explanation(of, ACME, now_micros=NOW))
    table = statements.as_csv(told, record)

    assert "=1+1\\x1b[2J" in text
    assert "\x1b" not in text + table
    cells = [cell for row in csv.reader(io.StringIO(table)) for cell in row]
    assert not [cell for cell in cells if cell.startswith("=")]


async def test_a_period_that_is_over_is_told_as_it_ended(
    of: answers.Sources, ledger: SqlLedger
) -> None:
    october = replace(watch(), period=OCTOBER, revenue_nanos=7 * DOLLAR)
    late = used("o1", 20_000, prices=PRICES, at_micros=START - HOUR_MICROS, period=OCTOBER)
    await ledger.apply(batch([late], at=20, watches=watched(october)))
    await ledger.apply(batch([used("e9", 1, prices=PRICES)], at=30, watches=watched(watch())))

    told, _ = await answers.statement(of, replace(ACME, at_micros=START - 1), now_micros=NOW)
    explained = await answers.explanation(of, replace(ACME, at_micros=START - 1), now_micros=NOW)

    assert (told.period, told.total_nanos, told.is_final) == (OCTOBER, 7 * DOLLAR, True)
    assert explained.record.state.cogs_nanos == DOLLAR
    assert "as this period was last assessed" in explain_text.as_text(explained)


async def test_a_former_subscription_of_the_same_time_is_named_and_can_be_asked_for(
    of: answers.Sources, ledger: SqlLedger
) -> None:
    former = used("f1", 2_000, prices=PRICES, subscription="sub-0")
    await ledger.apply(batch([former], at=20))
    november = replace(ACME, at_micros=NOW)

    told = await answers.explanation(of, november, now_micros=NOW)
    other, _ = await answers.statement(
        of, replace(november, subscription_id="sub-0"), now_micros=NOW
    )

    assert told.record.state.subscription_id == "sub-1"
    assert "subscription sub-0 has usage in this time" in explain_text.as_text(told)
    assert (other.subscription_id, other.plan_id, other.total_nanos) == ("sub-0", "", 0)


async def test_a_contract_without_usage_bills_its_fee(
    of: answers.Sources, client: redis.Redis
) -> None:
    catalog = publish(client)
    catalog.contract("quiet", fee_nanos=3 * DOLLAR)
    catalog.sync()

    told, _ = await answers.statement(of, Choice(tenant_id="quiet", at_micros=NOW), now_micros=NOW)
    text = explain_text.as_text(
        await answers.explanation(of, Choice(tenant_id="quiet"), now_micros=NOW)
    )

    assert (told.period, told.total_nanos) == (PERIOD, 3 * DOLLAR)
    assert "not there: decisions know no level" in text


@pytest.mark.parametrize(
    ("allowance", "said"),
    [
        (2 * DOLLAR, "undefined, without revenue; 1.00 COGS of an allowance of 2.00 USD"),
        (0, "undefined, without revenue or allowance: no floor applies; 1.00 USD COGS"),
    ],
)
async def test_without_revenue_the_margin_is_undefined_and_never_zero(
    of: answers.Sources, ledger: SqlLedger, client: redis.Redis, allowance: int, said: str
) -> None:
    catalog = publish(client)
    catalog.contract("trial", fee_nanos=0)
    catalog.contracts["trial"].allowance_nanos = allowance
    catalog.policies["trial"] = policy_pb2.Policy(tenant_id="trial", shadow=True)
    catalog.sync()
    measured = watch(tenant="trial", revenue_nanos=0, allowance_nanos=allowance)
    event = used("t1", 20_000, prices=PRICES, tenant="trial")
    await ledger.apply(batch([event], at=20, watches=watched(measured)))

    told = await answers.explanation(of, Choice(tenant_id="trial"), now_micros=NOW)
    forecast = await answers.tenant_forecast(of, "trial", now_micros=NOW)

    text = explain_text.as_text(told)
    assert f"margin     {said}" in text
    assert "shadow     its level is counted and logged, and refuses nothing" in text
    assert "margin     undefined, " in forecast_text.as_text(forecast)
    assert bool(forecast.margins[0].outlooks[0].reaches) is bool(allowance)


async def test_a_tenant_without_contract_has_no_forecast(
    of: answers.Sources, ledger: SqlLedger
) -> None:
    event = used("n1", 1, prices=PRICES, tenant="nobody", subscription="")
    await ledger.apply(batch([event], at=20))

    with pytest.raises(CommandError, match="tenant nobody has no contract, so no floors"):
        await answers.tenant_forecast(of, "nobody", now_micros=NOW)


async def test_a_contract_that_can_not_be_read_is_told_and_not_guessed(
    of: answers.Sources, client: redis.Redis
) -> None:
    client.set("aforo:v1:{acme}:contract", b"\xff")

    with pytest.raises(CommandError, match="what Redis holds of acme: cannot read the contract"):
        await answers.explanation(of, ACME, now_micros=NOW)


def begun_in_october(client: redis.Redis, tenant: str) -> None:
    catalog = publish(client)
    catalog.contract(tenant)
    catalog.contracts[tenant].phases.add(
        effective_from_micros=OCTOBER.start_micros, currency="USD", source="plan:pro"
    )
    catalog.sync()


async def test_before_a_subscription_began_there_is_no_statement(
    of: answers.Sources, client: redis.Redis
) -> None:
    begun_in_october(client, "late")
    september = Choice(tenant_id="late", at_micros=OCTOBER.start_micros - 1)

    with pytest.raises(CommandError, match="subscription sub-1 of tenant late begins 2026-10-01"):
        await answers.statement(of, september, now_micros=NOW)


async def test_usage_before_a_subscription_began_is_listed_at_no_charge(
    of: answers.Sources, ledger: SqlLedger, client: redis.Redis
) -> None:
    begun_in_october(client, "late")
    september = PeriodMicros(OCTOBER.start_micros - 30 * 24 * HOUR_MICROS, OCTOBER.start_micros)
    at = september.end_micros - HOUR_MICROS
    early = used("s1", 3, prices=PRICES, tenant="late", at_micros=at, period=september)
    await ledger.apply(batch([early], at=20))

    told, record = await answers.statement(
        of, Choice(tenant_id="late", at_micros=at), now_micros=NOW
    )

    assert record.state.cogs_nanos > 0
    assert [(line.item, line.used_micros, line.amount_nanos) for line in told.lines] == [
        ("", 3_000_000, 0)
    ]
    assert "the subscription begins 2026-10-01 00:00 UTC" in statements.as_table(told, None)


async def test_what_was_never_assessed_is_told_as_that(
    of: answers.Sources, ledger: SqlLedger, client: redis.Redis
) -> None:
    catalog = publish(client)
    catalog.contract("quiet")
    catalog.sync()
    unassessed = used("n1", 1, prices=PRICES, tenant="nobody", subscription="")
    await ledger.apply(batch([unassessed], at=20))

    async def level_of(tenant: str) -> str:
        choice = Choice(tenant_id=tenant, at_micros=NOW)
        told = explain_text.as_text(await answers.explanation(of, choice, now_micros=NOW))
        return told.splitlines()[0]

    assert await level_of("quiet") == "level      none, no usage yet"
    assert await level_of("nobody") == "level      none, never assessed"


def test_who_is_left_out_of_a_forecast_is_counted() -> None:
    assert forecast_text.as_list([], 2).splitlines()[-1] == (
        "2 tenants are left out: without a contract there is no floor to reach."
    )


@pytest.mark.usefixtures("of")
async def test_what_is_no_redis_is_told_from_one_that_is_away(file: AuditedLedger) -> None:
    async def unhelpful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(unhelpful, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    asked = ("explain", "acme", "--ledger-url", file.url, "--redis-url")
    async with server:
        other = await ran(*asked, f"redis://{address}/0")
    away = await ran(*asked, "redis://127.0.0.1:1/0")

    assert (other.code, away.code) == (1, 1)
    assert f"what answers at {address} is no Redis; check --redis-url" in other.err
    assert "redis at 127.0.0.1:1 does not answer (Error 111 connecting" in away.err


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        (Choice(tenant_id="nobody"), "nothing of tenant nobody"),
        (Choice(tenant_id="acme", subscription_id="sub-9"), "nothing of subscription sub-9"),
        (Choice(tenant_id="acme", at_micros=NOW + 40 * 24 * HOUR_MICROS), "is to come"),
    ],
)
async def test_what_nobody_knows_is_no_statement_of_zero(
    of: answers.Sources, choice: Choice, complaint: str
) -> None:
    with pytest.raises(CommandError, match=complaint):
        await answers.statement(of, choice, now_micros=NOW)


async def test_an_emptied_redis_is_not_taken_for_a_tenant_without_contract(
    of: answers.Sources, client: redis.Redis
) -> None:
    client.flushall()

    with pytest.raises(CommandError, match="no complete sync"):
        await answers.explanation(of, ACME, now_micros=NOW)


@pytest.mark.usefixtures("of")
async def test_the_commands_print_and_end_as_documented(
    file: AuditedLedger, redis_url: str
) -> None:
    where = ["--ledger-url", file.url, "--redis-url", redis_url]
    fine = [
        ["explain", "acme", "--period", "2026-11", *where, "--json"],
        ["statement", "acme", "2026-11-03", *where, "--json"],
        ["statement", "acme", "current", *where, "--format", "focus", "--issuer", "Example"],
        ["forecast", "--all", *where, "--json"],
    ]
    wrong = [
        ["statement", "acme", "2026-11", *where, "--format", "focus"],
        ["statement", "acme", "2026-13", *where],
        [
            "statement",
            "acme",
            "current",
            *where,
            "--format",
            "focus",
            "--issuer",
            "x",
            "--internal",
        ],
        ["forecast", *where],
        ["forecast", "acme", "--all", *where],
    ]
    failing = [
        ["explain", "nobody", *where],
        ["explain", "acme", *where[:2], "--redis-url", "redis://127.0.0.1:1/0"],
        ["explain", "acme", "--ledger-url", "sqlite:////nowhere/ledger.db", *where[2:]],
    ]

    ends = await asyncio.gather(*(ran(*each) for each in [*fine, *wrong, *failing]))

    assert [one.code for one in ends] == [0] * len(fine) + [2] * len(wrong) + [1] * len(failing)
    assert all(one.err == "" for one in ends[: len(fine)])
    explained: Any = ends[0].json()
    assert (explained["level"], explained["margin"]["gross_margin_ratio"]) == ("throttle", "0.0750")
    assert all(one.err.count("\n") == 1 for one in ends[-len(failing) :])
