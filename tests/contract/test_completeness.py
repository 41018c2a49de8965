"""What was decided beside what was logged: real Redis, a real ledger, and the commands."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from aforo_authz.domain.access import Decision, Reason
from aforo_authz.domain.features import Needs
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.redis_url import parse_redis_url
from aforo_authz.tally import Tally
from aforo_authz.tally_redis import TallyWriter
from aforo_meter.__main__ import main
from aforo_meter.completeness import Decided, ScoreQuery
from aforo_meter.completeness_sql import SqlCompleteness
from aforo_meter.decisions import Decisions
from aforo_meter.domain.completeness import Score, scores, total
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rating import LoggedKey, Rated
from aforo_meter.domain.sessions import Boundary, Sighting
from aforo_meter.domain.usage import LLM_INPUT
from aforo_meter.filling import fillings
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.reconciliation import DAY_MICROS, MISSING, SCORE, Reconciliation, Rules
from aforo_meter.sessions import SessionQuery
from aforo_meter.sessions_sql import SqlSessions
from aforo_meter.wire import usage_of
from tests.authz_samples import make_policy
from tests.contract.consume_lab import now_micros
from tests.contract.ledger_lab import NOW, batch, used
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract

GRACE = HOUR_MICROS // 4


@dataclass(kw_only=True)
class Lab:
    """A ledger, a Redis, and a clock that is set by hand."""

    ledger: SqlLedger
    file: AuditedLedger
    redis: Redis
    redis_port: int
    now_micros: int = NOW
    settled: dict[str, int] = field(default_factory=dict)
    offset: int = 0

    @property
    def completeness(self) -> SqlCompleteness:
        return SqlCompleteness(self.ledger)

    def reconciliation(self) -> Reconciliation:
        return Reconciliation(
            self.redis,
            self.completeness,
            SqlSessions(self.ledger),
            Rules(
                grace_micros=GRACE,
                threshold_bp=9900,
                keep_days=91,
                idle_micros=HOUR_MICROS // 2,
                session_days=91,
            ),
            settled_until=self.settled.get,
            now_micros=lambda: self.now_micros,
        )

    async def log(self, *events: Rated) -> None:
        await self.ledger.apply(batch(events, at=self.offset))
        self.offset += max(1, len(events))

    async def scores(self) -> list[Score]:
        """Return those of the hour that the clock shows."""
        start_micros = self.now_micros - self.now_micros % HOUR_MICROS
        hours = PeriodMicros(start_micros, start_micros + HOUR_MICROS)
        return scores(await self.completeness.compared(ScoreQuery(hours=hours)))


@pytest.fixture
async def lab(ledger: SqlLedger, file: AuditedLedger, redis_url: str) -> AsyncIterator[Lab]:
    client = Redis.from_url(redis_url)
    port = urlsplit(redis_url).port or 6379
    yield Lab(ledger=ledger, file=file, redis=client, redis_port=port)
    await client.aclose()


def logged(event_id: str, outcome: str = "allow", *, tenant: str = "acme", **more: Any) -> Rated:  # noqa: ANN401
    """Return one call that the gateway logged."""
    fields: dict[str, Any] = {
        "logged": LoggedKey(NOW, tenant, "api", outcome),
        "from_gateway": True,
    }
    return used(event_id, 0 if outcome == "block" else 1, tenant=tenant, **(fields | more))


def decided(
    count: int, outcome: str = "allow", *, tenant: str = "acme", process: str = "p1"
) -> Decided:
    return Decided(NOW, tenant, "api", outcome, process, count)


def decision(reason: Reason = Reason.ALLOWED, tenant: str | None = "acme") -> Decision:
    policy = make_policy(tenant_id=tenant) if tenant is not None else None
    return Decision(reason=reason, needs=Needs(features=("api", "chat")), policy=policy)


@asynccontextmanager
async def authz(lab: Lab) -> AsyncIterator[tuple[Tally, Callable[[], Any]]]:
    """A process of authz, as far as counting goes."""
    tally = Tally()
    nodes = RedisNodes(parse_redis_url(f"redis://127.0.0.1:{lab.redis_port}"), prefix=None)
    running = asyncio.ensure_future(nodes.run())
    writer = TallyWriter(tally, nodes, observe=lambda *_: None)
    try:
        await nodes.wait_connected()
        yield tally, writer.flush
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_what_authz_counts_is_kept_in_the_ledger(lab: Lab) -> None:
    # Redis drops what is three days old by its own clock.
    now = lab.now_micros = now_micros()
    async with authz(lab) as (first, flush_first), authz(lab) as (second, flush_second):
        for tally in (first, first, second):
            tally.count(decision(), now)
        second.count(decision(Reason.QUOTA_EXCEEDED), now)
        second.count(decision(Reason.UNKNOWN_CREDENTIAL, tenant=None), now)
        await flush_first()
        await flush_second()

    await lab.reconciliation().keep()

    rows = lab.file.rows(
        "SELECT tenant_id, feature, outcome, SUM(decisions) FROM decided"
        " GROUP BY tenant_id, feature, outcome ORDER BY tenant_id, outcome"
    )
    assert rows == [
        ("", "api,chat", "block", 1),
        ("acme", "api,chat", "allow", 3),
        ("acme", "api,chat", "block", 1),
    ]


async def test_several_consumers_may_keep_it_again_and_again(lab: Lab) -> None:
    # Redis drops what is three days old by its own clock.
    now = lab.now_micros = now_micros()
    readers = [Decisions(lab.redis, lab.completeness) for _ in range(2)]
    async with authz(lab) as (tally, flush):
        for _ in range(3):
            tally.count(decision(), now)
            await flush()
            for reader in readers:
                await reader.keep(now_micros=now)
        assert await readers[0].keep(now_micros=now) == 0  # Nothing has grown.

    assert total(await lab.scores()).decided == 3


async def test_an_emptied_redis_takes_nothing_away(lab: Lab) -> None:
    # Redis drops what is three days old by its own clock.
    now = lab.now_micros = now_micros()
    reader = Decisions(lab.redis, lab.completeness)
    async with authz(lab) as (tally, flush):
        for _ in range(5):
            tally.count(decision(), now)
        await flush()
        await reader.keep(now_micros=now)
        await lab.redis.flushall()
        await reader.keep(now_micros=now)
        assert total(await lab.scores()).decided == 5

        tally.count(decision(), now)
        await flush()
        await Decisions(lab.redis, lab.completeness).keep(now_micros=now)

    assert total(await lab.scores()).decided == 6


async def test_a_total_that_is_lower_than_what_is_known_changes_nothing(lab: Lab) -> None:
    await lab.completeness.keep_decided([decided(9), decided(4, process="p2")])
    await lab.completeness.keep_decided([decided(7)])

    assert total(await lab.scores()).decided == 13


async def test_what_redis_holds_that_is_no_total_is_left_alone(lab: Lab) -> None:
    key = f"aforo:decisions:v1:{NOW // 1_000_000}"
    await lab.redis.sadd(key, "p1")
    await lab.redis.hset(f"{key}:p1", mapping={"nonsense": "3", "a|allow|": "x", "b|allow|": "2"})

    await lab.reconciliation().keep()

    assert [(one.tenant_id, one.decided) for one in await lab.scores()] == [("b", 2)]


async def test_calls_that_were_logged_are_counted_once_and_the_rest_is_missing(lab: Lab) -> None:
    await lab.completeness.keep_decided([decided(10), decided(2, "block")])
    events = [logged(f"e{number}") for number in range(7)]
    await lab.log(*events, logged("b1", "block"))
    await lab.log(*events)

    (found,) = await lab.scores()
    assert (found.decided, found.logged, found.missing, found.missing_passed) == (12, 8, 4, 3)
    assert found.score_bp == 6666


async def test_an_hour_that_is_too_low_is_told_of_once(lab: Lab) -> None:
    lab.settled = {"acme": NOW + 2 * HOUR_MICROS, "globex": NOW + 2 * HOUR_MICROS}
    await lab.completeness.keep_decided(
        [decided(10), decided(1, tenant="globex"), decided(3, tenant="")]
    )
    await lab.log(logged("e1"), logged("g1", tenant="globex"))
    both = [lab.reconciliation(), lab.reconciliation()]

    lab.now_micros = NOW + HOUR_MICROS + GRACE - 1
    await both[0].judge()
    assert lab.file.rows("SELECT * FROM outbox") == []

    lab.now_micros += 1
    for one in (*both, *both):
        await one.judge()
    ((tenant, kind, payload),) = lab.file.rows("SELECT tenant_id, kind, payload FROM outbox")
    assert (tenant, kind) == ("acme", "completeness.low")
    assert json.loads(payload)["data"]["missing"] == 9


@pytest.mark.parametrize("settled", [{}, {"acme": NOW + HOUR_MICROS + GRACE - 1}])
async def test_who_has_not_read_all_of_an_hour_does_not_judge_it(
    lab: Lab, settled: dict[str, int]
) -> None:
    lab.settled, lab.now_micros = settled, NOW + 2 * HOUR_MICROS
    await lab.completeness.keep_decided([decided(10)])

    await lab.reconciliation().judge()

    assert lab.file.rows("SELECT * FROM outbox") == []
    assert figures() == (1.0, 1.0, 0.0), "what is late is not lost"


def figures() -> tuple[float, float, float]:
    """Return the score of all, the lowest, and how many calls are missing, as operators see it."""
    all_, lowest = (SCORE.labels(of)._value.get() for of in ("all", "lowest"))
    return all_, lowest, MISSING._value.get()


async def test_figures_are_of_those_whose_usage_was_read_to_the_end_of_the_hour(lab: Lab) -> None:
    lab.settled = {"acme": NOW + 2 * HOUR_MICROS, "": NOW + 2 * HOUR_MICROS}
    lab.now_micros = NOW + 2 * HOUR_MICROS
    await lab.completeness.keep_decided(
        [decided(10), decided(50, tenant="globex"), decided(2, tenant="")]
    )
    await lab.log(*(logged(f"e{number}") for number in range(9)))

    await lab.reconciliation().judge()
    assert figures() == (0.75, 0.0, 3.0)

    lab.settled["globex"] = NOW + 2 * HOUR_MICROS
    await lab.reconciliation().judge()
    assert figures() == (0.1451, 0.0, 53.0)
    told = lab.file.rows("SELECT tenant_id FROM outbox ORDER BY tenant_id")
    assert told == [("acme",), ("globex",)], "of nobody's calls nobody is told"


async def test_silent_sessions_end_and_old_hours_are_forgotten(lab: Lab) -> None:
    await lab.completeness.keep_decided([decided(10)])
    sighting = Sighting("s1", Boundary.START, "", "", NOW)
    await lab.log(logged("e1", sighting=sighting))
    lab.now_micros = NOW + HOUR_MICROS
    await lab.reconciliation().tidy()
    (session,) = await SqlSessions(lab.ledger).find(SessionQuery())
    assert session.ended_by == "idle"

    lab.now_micros = NOW + 92 * DAY_MICROS
    await lab.reconciliation().tidy()
    assert await lab.scores() == []
    assert await SqlSessions(lab.ledger).find(SessionQuery()) == []


async def reckoned(lab: Lab) -> list[Rated]:
    """Return the estimates for what is missing, as consume would rate them."""
    found = []
    async for filling in fillings(lab.completeness, await lab.scores()):
        for event in filling.events():
            usage = usage_of(event.SerializeToString())
            one = used(
                usage.event_id,
                tenant=usage.tenant_id,
                at_micros=usage.occurred_at_micros,
                features=usage.features,
                measures=usage.measures,
                logged=usage.logged,
                logged_calls=usage.logged_calls,
                weight_units=usage.weight_units,
            )
            found.append(one)
    return found


async def filled(lab: Lab) -> None:
    """Reckon what is missing and bring it to the ledger, as Kafka and consume would."""
    for one in await reckoned(lab):
        await lab.log(one, one)


async def test_filling_closes_the_gap_and_asking_twice_fills_once(lab: Lab) -> None:
    """4 of 6 calls arrived, with 400 tokens: two more are taken to have had 200."""
    await lab.completeness.keep_decided([decided(6)])
    for number in range(4):
        tokens = used(f"t{number}", 100, meter=LLM_INPUT).usage.measures
        call = logged(f"e{number}", weight_units=2)
        await lab.log(used_with(call, tokens))

    await filled(lab)
    await filled(lab)

    rows = lab.file.rows(
        "SELECT meter, SUM(quantity_micros), SUM(extra_micros) FROM charge GROUP BY 1 ORDER BY 1"
    )
    assert rows == [("api.calls", 6_000_000, 6_000_000), ("llm.input_tokens", 600_000_000, 0)]
    (found,) = await lab.scores()
    assert (found.logged, found.missing, found.filled, found.to_fill) == (4, 2, 2, 0)


def used_with(call: Rated, more: Any) -> Rated:  # noqa: ANN401
    usage = call.usage
    return used(
        usage.event_id,
        logged=usage.logged,
        from_gateway=True,
        weight_units=usage.weight_units,
        measures=(*usage.measures, *more),
    )


async def test_a_gap_that_grows_is_filled_up_to_what_is_missing_then(lab: Lab) -> None:
    await lab.completeness.keep_decided([decided(6)])
    await lab.log(*(logged(f"e{number}") for number in range(4)))
    await filled(lab)
    await lab.completeness.keep_decided([decided(9)])
    await filled(lab)

    assert lab.file.units() == {"p1": 9}


@pytest.mark.parametrize("read_before", [0, 1, 3, 5])
async def test_asking_again_before_the_first_estimates_are_read_fills_once(
    lab: Lab, read_before: int
) -> None:
    """Five calls are lost, then six, and the averages change with a call that arrives late."""
    await lab.completeness.keep_decided([decided(9)])
    await lab.log(*(logged(f"e{number}") for number in range(4)))
    first = await reckoned(lab)
    await lab.log(*first[:read_before])
    tokens = used("t", 100, meter=LLM_INPUT).usage.measures
    await lab.log(used_with(logged("late"), tokens))
    await lab.completeness.keep_decided([decided(11)])
    again = await reckoned(lab)

    await lab.log(*first, *again)
    await lab.log(*again)

    (found,) = await lab.scores()
    assert (found.logged, found.missing, found.filled, found.to_fill) == (5, 6, 6, 0)
    calls = lab.file.rows("SELECT SUM(quantity_micros) FROM charge WHERE meter = 'api.calls'")
    assert calls == [(11_000_000,)]


async def test_what_is_shown_is_what_is_added_to_what_was_filled(lab: Lab) -> None:
    await lab.completeness.keep_decided([decided(6)])
    await lab.log(*(logged(f"e{number}") for number in range(4)))
    await filled(lab)
    await lab.completeness.keep_decided([decided(9)])

    (filling,) = [one async for one in fillings(lab.completeness, await lab.scores())]

    assert filling.totals() == {"api.calls": 3_000_000}


async def test_where_nothing_of_the_hour_arrived_the_day_is_gone_by(lab: Lab) -> None:
    earlier = NOW - 3 * HOUR_MICROS
    key = LoggedKey(earlier, "acme", "api", "allow")
    await lab.log(logged("e1", logged=key, at_micros=earlier))
    await lab.completeness.keep_decided([decided(5), decided(2, tenant="stranger")])

    found = {
        one.score.tenant_id: one async for one in fillings(lab.completeness, await lab.scores())
    }

    assert (found["acme"].hours, found["acme"].totals()) == (24, {"api.calls": 5_000_000})
    assert (found["stranger"].hours, found["stranger"].totals()) == (0, {})


@pytest.mark.parametrize("event_id", ["ik:a", "ce:b", "im:c"])
async def test_usage_that_others_report_is_no_basis_for_lost_calls(lab: Lab, event_id: str) -> None:
    """Neither names features: a million reported calls are not what one lost call was."""
    await lab.completeness.keep_decided([Decided(NOW, "acme", "", "allow", "p1", 3)])
    open_to_all = LoggedKey(NOW, "acme", "", "allow")
    await lab.log(*(logged(f"e{number}", logged=open_to_all, features=()) for number in range(2)))
    (before,) = [one async for one in fillings(lab.completeness, await lab.scores())]
    await lab.log(used(event_id, 1_000_000, tenant="acme", features=()))

    (after,) = [one async for one in fillings(lab.completeness, await lab.scores())]

    assert (before.hours, before.totals()) == (1, {"api.calls": 1_000_000})
    assert (after.hours, after.totals()) == (0, {})


def command(file: AuditedLedger, *arguments: str) -> list[str]:
    span = ("--from", "2026-11-05T04:00", "--to", "2026-11-05T05:00")
    return ["completeness", "--ledger-url", file.url, *span, *arguments]


async def prepare(file: AuditedLedger) -> AuditedLedger:
    async with SqlLedger(file.url) as ledger:
        await SqlCompleteness(ledger).keep_decided(
            [decided(200), decided(5, tenant="globex"), decided(1, tenant="")]
        )
        events = [logged(f"e{n}") for n in range(197)]
        events += [logged(f"g{n}", tenant="globex") for n in range(5)]
        await ledger.apply(batch(events))
    return file


@pytest.fixture
def prepared(file: AuditedLedger) -> AuditedLedger:
    return asyncio.run(prepare(file))


NEVER_CLOSED = ("--grace-s", "9999999999")  # Whatever the clock says, the hour is open still.


def test_the_command_shows_what_is_missing(
    prepared: AuditedLedger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(prepared, *NEVER_CLOSED)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("hour", "(UTC)", "tenant", "features", "decided", "logged", "missing", "filled", "score")
    ]
    assert lines[1].split()[2:] == ["(nobody)", "api", "1", "0", "1", "0", "0.00", "%", "open"]
    assert lines[2].split()[2:] == ["acme", "api", "200", "197", "3", "0", "98.50", "%", "open"]
    assert lines[3].startswith("206 decided, 202 logged, 4 missing: 98.05 %; 1 row is complete")


def test_the_command_speaks_to_programs(
    prepared: AuditedLedger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(prepared, "--json", "--tenant", "acme")) == 0
    said = json.loads(capsys.readouterr().out)

    (hour,) = said["hours"]
    assert (hour["tenant_id"], hour["missing"], hour["score_bp"]) == ("acme", 3, 9850)
    assert hour["hour_start"] == "2026-11-05T04:00:00+00:00"
    assert said["total"]["score_bp"] == 9850


def test_a_check_ends_with_1_below_the_threshold(
    prepared: AuditedLedger, capsys: pytest.CaptureFixture[str]
) -> None:
    check = command(prepared, "--check", "--open", "--tenant", "acme")

    assert main(check) == 1
    assert "1 hour is below 99.00 %: acme" in capsys.readouterr().err
    assert main([*check, "--threshold", "98.5"]) == 0
    # What is open is judged by nobody who does not say so.
    assert main(command(prepared, "--check", *NEVER_CLOSED)) == 0


def test_filling_shows_before_it_sends(
    prepared: AuditedLedger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(prepared, "--fill", "--open")) == 0
    printed = capsys.readouterr().out

    assert "acme  api: 3 calls missing; by its own hour: api.calls 3" in printed
    assert "3 estimates to send (--apply)" in printed
    assert main(command(prepared, "--fill", "--apply")) == 2
    assert "--bootstrap" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--from", "yesterday"], "'yesterday' is no time"),
        (["--threshold", "101"], "'101' is not between 0 and 100"),
        (["--ledger-url", "sqlite:///l.db"], "four slashes"),
    ],
)
def test_what_the_command_can_not_read_is_told(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["completeness", "--ledger-url", "sqlite:////l.db", *arguments])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_ledger_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completeness", "--ledger-url", f"sqlite:///{tmp_path}/none.db"]) == 1
    assert "aforo-meter migrate" in capsys.readouterr().err


async def prepare_sessions(file: AuditedLedger) -> AuditedLedger:
    async with SqlLedger(file.url) as ledger:
        start = Sighting("s1", Boundary.START, "AI_AGENT", "helper", NOW)
        end = Sighting("s2", Boundary.END, "MCP_SERVER", "", NOW + 60_000_000)
        await ledger.apply(batch([used("e1", sighting=start), used("e2", sighting=end)]))
    return file


@pytest.fixture
def with_sessions(file: AuditedLedger) -> AuditedLedger:
    return asyncio.run(prepare_sessions(file))


def test_sessions_are_listed_shown_and_killed(
    with_sessions: AuditedLedger, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(*arguments: str) -> tuple[int, str]:
        action, *rest = arguments
        code = main(["sessions", action, "--ledger-url", with_sessions.url, *rest])
        return code, capsys.readouterr().out

    assert [line.split()[1] for line in say("list")[1].splitlines()[1:]] == ["s2", "s1"]
    assert [line.split()[1] for line in say("list", "--open")[1].splitlines()[1:]] == ["s1"]
    assert json.loads(say("list", "--json", "--limit", "1")[1])[0]["state"] == "ended"
    assert "helper" in say("show", "acme", "s1")[1]

    assert say("kill", "--dry-run", "acme", "s1")[1].startswith("would kill session s1 of acme")
    assert json.loads(say("show", "--json", "acme", "s1")[1])["state"] == "open"
    code, printed = say("kill", "acme", "s1")
    assert (code, printed.startswith("killed session s1 of acme (open, 0 steps")) == (0, True)
    assert json.loads(say("show", "--json", "acme", "s1")[1])["state"] == "killed"
    assert "nothing to do" in say("kill", "acme", "s1")[1]
    assert say("kill", "acme", "unknown")[0] == say("show", "acme", "unknown")[0] == 1
