"""Calls told more than once, tools, weights and sessions: exactly once in the ledger's rows."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rating import (
    MODELS_MAX,
    OTHER_MODEL,
    OTHER_TOOL,
    TOOLS_MAX,
    LoggedKey,
    Measured,
    Rated,
    ToldAgain,
)
from aforo_meter.domain.sessions import Boundary, EndedBy, Sighting
from aforo_meter.domain.usage import API_CALLS, BYTES_RESPONSE, LLM_OUTPUT, Outcome
from aforo_meter.ledger import Place, Reprice, Retention, UsageQuery
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.sessions import SessionQuery
from aforo_meter.sessions_sql import SqlSessions
from tests.contract.ledger_lab import (
    NOW,
    PARTITION,
    UNIT,
    batch,
    price,
    used,
    watch,
    watched,
)
from tests.contract.ledgers import AuditedLedger, Ledgers

pytestmark = pytest.mark.contract

PRICES = [price("c", meter=API_CALLS), price("b", meter=BYTES_RESPONSE, nanos=3)]
PRICES.append(price("o", meter=LLM_OUTPUT, nanos=333_333_333))


def told(
    event_id: str,
    *measures: tuple[str, int],
    call: str = "d1",
    interim: bool = False,
    estimated: bool = False,
    prices: Sequence[Any] = tuple(PRICES),
    **more: Any,  # noqa: ANN401
) -> Rated:
    """Return an event of a call of which others tell too."""
    given_measures = tuple(Measured(meter, units * UNIT) for meter, units in measures)
    given_fields: dict[str, Any] = {
        "measures": given_measures,
        "call": ToldAgain(call, interim, estimated),
        "from_gateway": True,
        "logged": None if interim else LoggedKey(NOW, "acme", "api", "allow"),
    }
    return used(event_id, prices=prices, **(given_fields | more))


def truth(
    event_id: str,
    *measures: tuple[str, int],
    **more: Any,  # noqa: ANN401
) -> Rated:
    """Return true figures of a call, as ingest has them: of another hour, and of no feature."""
    elsewhere: dict[str, Any] = {
        "from_gateway": False,
        "logged": None,
        "features": (),
        "at_micros": NOW + 3 * HOUR_MICROS,
    }
    return told(event_id, *measures, **(elsewhere | more))


def meters(file: AuditedLedger, tenant: str = "acme") -> dict[str, int]:
    query = "SELECT meter, SUM(quantity_micros) FROM charge WHERE tenant_id = ? GROUP BY meter"
    return {meter: quantity // UNIT for meter, quantity in file.rows(query, tenant)}


async def test_totals_so_far_and_the_end_are_counted_once(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    first = told("i1", (BYTES_RESPONSE, 30), interim=True)
    await ledger.apply(batch([first, told("i2", (BYTES_RESPONSE, 60), interim=True)]))
    assert meters(file) == {BYTES_RESPONSE: 60}

    end = told("e", (API_CALLS, 1), (BYTES_RESPONSE, 120))
    await ledger.apply(batch([end, told("i3", (BYTES_RESPONSE, 90), interim=True)], at=2))
    await ledger.apply(batch([first, end], at=4))

    assert meters(file) == {API_CALLS: 1, BYTES_RESPONSE: 120}
    assert file.kept_cogs() == file.audited_cogs()


async def test_a_call_is_logged_once_and_not_before_its_end(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    logged = "SELECT outcome, calls FROM logged"
    await ledger.apply(batch([told("i1", (BYTES_RESPONSE, 30), interim=True)]))
    assert file.rows(logged) == []

    await ledger.apply(batch([told("e", (LLM_OUTPUT, 9), estimated=True)], at=1))
    await ledger.apply(batch([truth("t", (LLM_OUTPUT, 7))], at=2))
    assert file.rows(logged) == [("allow", 1)]


async def test_a_long_call_that_was_no_usage_at_its_end_costs_nothing(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    for call, events in (("d1", ("i1", "e1")), ("d2", ("e2", "i2"))):
        for at, event_id in enumerate(events):
            under_way = event_id.startswith("i")
            measures = ((BYTES_RESPONSE, 60),) if under_way else ()
            one = told(event_id, *measures, call=call, interim=under_way)
            await ledger.apply(batch([one], at=2 * int(call[1]) + at))

    assert meters(file) == {}
    assert set(file.kept_cogs().values()) == {0}
    assert file.rows("SELECT calls FROM logged") == [(2,)]


async def test_an_intervention_is_counted_with_the_end_alone(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    events = [
        told("i1", (BYTES_RESPONSE, 1), interim=True, outcome=Outcome.THROTTLE),
        told("e", (LLM_OUTPUT, 9), estimated=True, outcome=Outcome.THROTTLE),
        truth("t", (LLM_OUTPUT, 7)),
    ]
    await ledger.apply(batch(events))

    assert file.rows("SELECT outcome, count FROM intervention") == [("throttle", 1)]


async def test_the_truth_takes_the_estimate_off_its_row(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    """Estimated without a model, told with one: the first row is gone, and its cost with it."""
    estimate = told("e", (API_CALLS, 1), (LLM_OUTPUT, 50), estimated=True)
    await ledger.apply(batch([estimate, used("other", 5, prices=PRICES)]))
    await ledger.apply(batch([truth("t", (LLM_OUTPUT, 40), model="gpt-4o")], at=2))

    rows = file.rows(
        "SELECT meter, model, feature, hour_start_micros, quantity_micros FROM charge ORDER BY 1"
    )
    hour = NOW - NOW % HOUR_MICROS
    assert rows == [
        (API_CALLS, "", "api", hour, 6 * UNIT),
        (LLM_OUTPUT, "gpt-4o", "api", hour, 40 * UNIT),
    ]
    assert file.kept_cogs() == file.audited_cogs()


async def test_an_estimate_that_was_priced_meanwhile_is_taken_off_where_it_went(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    estimate = told("e", (LLM_OUTPUT, 50), estimated=True, prices=[])
    await ledger.apply(batch([estimate], watches=watched(watch())))
    (row,) = await ledger.unpriced("acme")
    late = price("late", meter=LLM_OUTPUT, nanos=7)
    moved = Reprice(moves=[(row, late)], currency="USD")
    await ledger.reprice(Place(PARTITION, 1), moved, {}, now_micros=NOW)

    await ledger.apply(batch([truth("t", (LLM_OUTPUT, 40), prices=[late])], at=1))

    assert file.units() == {"late": 40}
    assert file.kept_cogs() == file.audited_cogs()
    assert await ledger.unpriced_rows() == 0


async def test_an_unpriced_estimate_that_is_replaced_waits_for_no_price(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    await ledger.apply(
        batch([told("e", (LLM_OUTPUT, 50), estimated=True, prices=[])], watches=watched(watch()))
    )
    await ledger.apply(batch([truth("t", (LLM_OUTPUT, 40))], at=1, watches=watched(watch())))

    assert file.units() == {"o": 40}
    assert (await ledger.standings({"acme": []}))["acme"].unpriced_rows == 0


async def test_a_truth_that_comes_first_waits_for_the_estimate_and_takes_its_place(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    first = await ledger.apply(batch([truth("t", (LLM_OUTPUT, 40), model="gpt-4o")]))
    assert (meters(file), first.corrections) == ({}, {"waiting": 1})

    estimate = told("e", (API_CALLS, 1), (LLM_OUTPUT, 50), estimated=True)
    then = await ledger.apply(batch([estimate], at=1))

    assert (meters(file), then.corrections) == ({API_CALLS: 1, LLM_OUTPUT: 40}, {"replaced": 1})
    assert file.rows("SELECT DISTINCT feature FROM charge") == [("api",)]
    assert file.rows("SELECT * FROM true_figure") == []
    assert file.kept_cogs() == file.audited_cogs()


async def test_a_truth_of_a_call_that_was_counted_exactly_adds_nothing(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    """A short call is not remembered, so its truth waits; a long one's is known to be no news."""
    short = used("e", measures=(Measured(LLM_OUTPUT, 40 * UNIT),), prices=PRICES, from_gateway=True)
    long = told("e2", (LLM_OUTPUT, 50), call="d2")
    await ledger.apply(batch([short, long]))
    truths = [truth("t", (LLM_OUTPUT, 99)), truth("t2", (LLM_OUTPUT, 99), call="d2")]

    written = await ledger.apply(batch(truths, at=2))

    assert meters(file) == {LLM_OUTPUT: 90}
    assert written.corrections == {"waiting": 1, "not_needed": 1}


async def test_a_truth_of_another_tenant_changes_nothing(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([told("e", (LLM_OUTPUT, 50), estimated=True)]))
    await ledger.apply(batch([truth("t", (LLM_OUTPUT, 1), tenant="globex")], at=1))

    assert (meters(file), meters(file, "globex")) == ({LLM_OUTPUT: 50}, {})


async def test_an_unpriced_truth_is_priced_where_the_estimate_stood(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([truth("t", (LLM_OUTPUT, 40), prices=[])]))
    await ledger.apply(batch([told("e", (LLM_OUTPUT, 50), estimated=True)], at=1))
    (row,) = await ledger.unpriced("acme")
    moved = Reprice(moves=[(row, price("late", meter=LLM_OUTPUT, nanos=7))], currency="USD")
    await ledger.reprice(Place(PARTITION, 2), moved, {}, now_micros=NOW)
    assert file.units() == {"late": 40}

    await ledger.apply(batch([truth("t2", (LLM_OUTPUT, 45))], at=2))

    assert meters(file) == {LLM_OUTPUT: 45}
    assert file.kept_cogs() == file.audited_cogs()


async def test_calls_are_forgotten_with_the_ids_of_their_events(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    waiting = truth("t", (LLM_OUTPUT, 7), call="d2")
    await ledger.apply(batch([told("i1", (BYTES_RESPONSE, 30), interim=True), waiting]))
    await ledger.prune(now_micros=NOW + 100 * 24 * HOUR_MICROS, rows_max=10, retention=Retention())

    for table in ("call", "call_part", "true_figure"):
        assert file.rows(f"SELECT * FROM {table}") == []  # noqa: S608
    assert meters(file) == {BYTES_RESPONSE: 30}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(random=st.randoms(use_true_random=False), splits=st.integers(1, 6), again=st.integers(0, 6))
def test_no_order_split_restart_or_repetition_changes_what_calls_come_to(
    random: Random, splits: int, again: int, ledgers: Ledgers
) -> None:
    copy = ledgers.new()
    events = []
    for number in range(3):
        call, size = f"d{number}", 100 * (number + 1)
        events += [
            told(f"{call}-i{part}", (BYTES_RESPONSE, size * part // 4), call=call, interim=True)
            for part in range(1, 4)
        ]
        measures = [(API_CALLS, 1), (BYTES_RESPONSE, size), (LLM_OUTPUT, 50)]
        events.append(told(f"{call}-e", *measures, call=call, estimated=True, weight_units=3))
        if number:
            events.append(truth(f"{call}-t", (LLM_OUTPUT, 10 * number), call=call, model="m"))
    exact = [(API_CALLS, 1), (BYTES_RESPONSE, 400), (LLM_OUTPUT, 20)]
    events += [
        told("d3-e", *exact, call="d3"),
        truth("d3-t", (LLM_OUTPUT, 99), call="d3"),
        truth("d4-t", (LLM_OUTPUT, 99), call="d4"),  # Nobody tells of this call.
    ]
    random.shuffle(events)
    events += random.sample(events, again)
    cuts = sorted(random.randrange(len(events)) for _ in range(splits))
    batches = [
        events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True) if events[a:b]
    ]

    async def write() -> None:
        for at, some in enumerate(batches):
            async with SqlLedger(copy.url) as ledger:  # Opened anew: a restart each time.
                await ledger.apply(batch(some, at=at * 100, next_offset=at * 100 + 99))

    asyncio.run(write())

    assert meters(copy) == {API_CALLS: 4, BYTES_RESPONSE: 1000, LLM_OUTPUT: 50 + 10 + 20 + 20}
    assert copy.rows("SELECT SUM(extra_micros) FROM charge") == [(6 * UNIT,)]
    assert copy.rows("SELECT calls FROM logged") == [(4,)]
    assert copy.rows("SELECT DISTINCT feature FROM charge") == [("api",)]
    assert copy.kept_cogs() == copy.audited_cogs()


async def test_a_weighted_call_uses_its_weight_of_a_quota_and_costs_one(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    events = [used("e1", weight_units=10), used("e2", 2), used("e3", 5, meter="other", prices=[])]
    await ledger.apply(batch([*events, used("e4", weight_units=3)], watches=watched(watch())))

    def asks(meter: str) -> UsageQuery:
        hour = PeriodMicros(NOW, NOW + HOUR_MICROS)
        return UsageQuery(
            quota_id=meter, meter=meter, features=frozenset(), window=hour, billing=False
        )

    standing = (await ledger.standings({"acme": [asks(API_CALLS), asks("other")]}))["acme"]
    assert standing.used_units == {API_CALLS: 15, "other": 5}
    assert file.units() == {"p1": 4, "": 5}


async def test_repriced_calls_keep_their_weight(ledger: SqlLedger, file: AuditedLedger) -> None:
    await ledger.apply(batch([used("e1", weight_units=10, prices=[])]))
    (row,) = await ledger.unpriced("acme")
    reprice = Reprice(moves=[(row, price())], currency="USD")
    await ledger.reprice(Place(PARTITION, 1), reprice, {}, now_micros=NOW)

    assert file.rows("SELECT quantity_micros, extra_micros FROM charge") == [(UNIT, 9 * UNIT)]


async def test_tools_beyond_the_bound_share_a_row_whatever_the_batches(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    names = [f"tool-{number}" for number in range(TOOLS_MAX + 50)]
    events = [used(f"e{n}", tool=name) for n, name in enumerate(names)]
    await ledger.apply(batch(events[:150], at=0))
    async with SqlLedger(file.url) as restarted:
        await restarted.apply(batch(events[150:], at=150))
        again = [used("again", tool=names[0]), used("more", tool=names[-1])]
        await restarted.apply(batch(again, at=300))

    query = "SELECT tool, quantity_micros FROM charge WHERE hour_start_micros = ?"
    units = {tool: quantity // UNIT for tool, quantity in file.rows(query, NOW)}
    assert len(units) == TOOLS_MAX + 1
    assert (units[OTHER_TOOL], units[names[0]]) == (51, 2)
    next_hour = used("next", tool=names[-1], at_micros=NOW + HOUR_MICROS)
    await ledger.apply(batch([next_hour], at=400))
    assert file.rows(query, NOW + HOUR_MICROS) == [(names[-1], UNIT)]


async def test_models_beyond_the_bound_share_a_row_whatever_the_batches(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    names = [f"model-{number}" for number in range(MODELS_MAX + 50)]
    events = [used(f"e{n}", provider="p", model=name, prices=[]) for n, name in enumerate(names)]
    await ledger.apply(batch(events[:150], at=0))
    async with SqlLedger(file.url) as restarted:
        await restarted.apply(batch(events[140:], at=150))
        again = [
            used("again", provider="p", model=names[0], prices=[]),
            used("more", provider="p", model=names[-1], prices=[]),
            used("named", provider="p", model=OTHER_MODEL, prices=[]),
            used("stranger", provider="q", model=names[0], prices=[]),
        ]
        await restarted.apply(batch(again, at=300))

    query = (
        "SELECT provider, model, price_id, quantity_micros FROM charge WHERE hour_start_micros = ?"
    )
    rows = file.rows(query, NOW)
    units = {(provider, model): quantity // UNIT for provider, model, _, quantity in rows}
    assert len(units) == len(rows) == MODELS_MAX + 2
    assert (units["p", OTHER_MODEL], units["p", names[0]]) == (52, 2)
    assert units[OTHER_MODEL, OTHER_MODEL] == 1
    next_hour = used("next", provider="p", model=names[-1], at_micros=NOW + HOUR_MICROS, prices=[])
    await ledger.apply(batch([next_hour], at=400))
    assert file.rows(query, NOW + HOUR_MICROS) == [("p", names[-1], "", UNIT)]


async def test_a_model_beyond_the_bound_keeps_its_price(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    events = [used(f"e{n}", model=f"model-{n}", prices=[]) for n in range(MODELS_MAX)]
    await ledger.apply(batch(events))
    await ledger.apply(batch([used("dear", model="gpt-4o", prices=PRICES)], at=MODELS_MAX))

    rows = file.rows("SELECT model, price_id FROM charge WHERE price_id <> ''")
    assert rows == [(OTHER_MODEL, "c")]
    assert file.kept_cogs() == file.audited_cogs()


async def test_what_became_of_the_work_is_told_apart(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    events = [used("e1", execution_status="success"), used("e2", execution_status="error")]
    await ledger.apply(batch([*events, used("e3", execution_status="error")]))

    assert file.rows("SELECT execution_status, quantity_micros FROM charge ORDER BY 1") == [
        ("error", 2 * UNIT),
        ("success", UNIT),
    ]


def step(
    event_id: str, boundary: Boundary = Boundary.STEP, *, at: int = NOW, session: str = "s1"
) -> Rated:
    return used(event_id, sighting=Sighting(session, boundary, "AI_AGENT", "helper", at))


async def test_sessions_are_counted_once_with_their_charges(ledger: SqlLedger) -> None:
    sessions = SqlSessions(ledger)
    start = step("e1", Boundary.START)
    await ledger.apply(batch([start, step("e2", at=NOW + 1), step("e2", at=NOW + 1)]))
    await ledger.apply(batch([start, step("e3", at=NOW + 2), step("x", session="s2")], at=3))

    session = await sessions.get("acme", "s1")
    assert session is not None
    assert (session.steps, session.opened_micros, session.last_seen_micros) == (2, NOW, NOW + 2)
    assert (session.product, session.agent, session.ended_by) == (
        "AI_AGENT",
        "helper",
        EndedBy.NOBODY,
    )
    found = await sessions.find(SessionQuery(tenant_id="acme"))
    assert [one.session_id for one in found] == ["s1", "s2"]
    assert await sessions.find(SessionQuery(tenant_id="globex")) == []


async def test_silent_sessions_end_and_go_on_when_they_are_heard_of(ledger: SqlLedger) -> None:
    sessions = SqlSessions(ledger)
    await ledger.apply(batch([step("e1"), step("e2", at=NOW + 100, session="s2")]))

    assert await sessions.end_idle(silent_since_micros=NOW + 50, rows_max=10) == 1
    assert await sessions.end_idle(silent_since_micros=NOW + 50, rows_max=10) == 0
    (open_one,) = await sessions.find(SessionQuery(only_open=True))
    assert open_one.session_id == "s2"

    await ledger.apply(batch([step("e3", at=NOW + 200)], at=2))
    assert len(await sessions.find(SessionQuery(only_open=True))) == 2


async def test_a_killed_session_is_told_to_who_asks(ledger: SqlLedger) -> None:
    sessions = SqlSessions(ledger)
    await ledger.apply(batch([step("e1"), step("e2", session="s2")]))

    killed = await sessions.kill("acme", "s1", now_micros=NOW + 5)
    assert killed is not None
    assert killed.ended_by is EndedBy.KILLED
    assert await sessions.kill("acme", "s1", now_micros=NOW + 9) == killed
    assert await sessions.kill("acme", "unknown", now_micros=NOW) is None
    assert await sessions.killed("acme", ["s1", "s2", "unknown"]) == ["s1"]
    assert await sessions.killed("globex", ["s1"]) == []

    await ledger.apply(batch([step("e3", at=NOW + 10)], at=2))
    assert await sessions.killed("acme", ["s1"]) == ["s1"]


async def test_only_sessions_that_are_over_are_forgotten(ledger: SqlLedger) -> None:
    sessions = SqlSessions(ledger)
    await ledger.apply(batch([step("e1"), step("e2", Boundary.END, session="s2")]))

    assert await sessions.prune(last_seen_before_micros=NOW + 1, rows_max=10) == 1
    assert [one.session_id for one in await sessions.find(SessionQuery())] == ["s1"]


async def test_the_same_call_of_another_tenant_is_another_call(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    one = told("i1", (BYTES_RESPONSE, 30), interim=True)
    other = told("i1", (BYTES_RESPONSE, 50), interim=True, tenant="globex", logged=None)
    await ledger.apply(batch([one, other]))

    assert (meters(file), meters(file, "globex")) == ({BYTES_RESPONSE: 30}, {BYTES_RESPONSE: 50})
