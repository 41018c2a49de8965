"""`aforo-meter completeness` and `aforo-meter sessions`: what people ask the ledger."""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from aforo_meter.command_arguments import (
    BOOTSTRAP_HELP,
    FAILED,
    OK,
    add_ledger_url,
    bootstrap,
    complain,
    count,
    misused,
    time_micros,
)
from aforo_meter.command_tables import columns, many, minute, units
from aforo_meter.domain.completeness import Score, closed_before, scores, total
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros, datetime_of
from aforo_meter.domain.sessions import EndedBy, Session
from aforo_meter.ledger import LedgerError, LedgerUnavailableError
from aforo_meter.settings_consume import ConsumeSettings

ROWS_SHOWN: Final = 50

COMPLETENESS: Final = """\
examples:
  aforo-meter completeness --ledger-url sqlite:////var/lib/aforo/ledger.db
  aforo-meter completeness --ledger-url … --tenant acme --from 2026-11-01 --all
  aforo-meter completeness --ledger-url … --check --threshold 99.5     # exit code 1: too low
  aforo-meter completeness --ledger-url … --fill --apply --bootstrap kafka:9092
"""
SESSIONS: Final = """\
examples:
  aforo-meter sessions list --ledger-url sqlite:////var/lib/aforo/ledger.db --tenant acme --open
  aforo-meter sessions show --ledger-url … acme session-17
  aforo-meter sessions kill --ledger-url … acme session-17 --dry-run
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add these commands to the others."""
    _add_completeness(commands)
    sessions = commands.add_parser(
        "sessions", help="sessions of agents and MCP servers", epilog=SESSIONS
    )
    actions = sessions.add_subparsers(title="actions", required=True, metavar="ACTION")
    found = actions.add_parser("list", help="the ones seen last, first")
    found.add_argument("--tenant", help="of this tenant alone")
    found.add_argument("--open", action="store_true", help="only those that are not over")
    found.add_argument("--limit", type=count, default=ROWS_SHOWN, help="(default: %(default)s)")
    show = actions.add_parser("show", help="one session")
    kill = actions.add_parser("kill", help="end one for good; who still uses it is told so")
    kill.add_argument("--dry-run", action="store_true", help="say what would be done")
    for action, run in ((found, _list), (show, _show), (kill, _kill)):
        action.epilog = SESSIONS
        add_ledger_url(action)
        action.set_defaults(run=lambda options, run=run: _run(options, run))
        if action is not kill:
            action.add_argument("--json", action="store_true", help="for programs")
        if action is not found:
            action.add_argument("tenant")
            action.add_argument("session")


def _add_completeness(commands: Any) -> None:  # noqa: ANN401
    topic = ConsumeSettings.model_fields["kafka_topic"].default
    parser = commands.add_parser(
        "completeness",
        help="what was decided beside what was logged; fill what is missing",
        epilog=COMPLETENESS,
    )
    add_ledger_url(parser)
    parser.add_argument("--tenant", help="of this tenant alone")
    parser.add_argument("--from", dest="since", type=time_micros, help="UTC (default: a day ago)")
    parser.add_argument(
        "--to", dest="until", type=time_micros, help="UTC, exclusive (default: now)"
    )
    parser.add_argument("--grace-s", type=count, default=900, help="(default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="judge hours that are open still, too")
    parser.add_argument("--all", action="store_true", help="list hours that are complete, too")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--check", action="store_true", help="exit with 1 if an hour is too low")
    parser.add_argument("--threshold", type=_percent, default=9900, help="in %% (default: 99)")
    parser.add_argument("--fill", action="store_true", help="estimate what is missing")
    parser.add_argument("--apply", action="store_true", help="and send it; without: only show it")
    parser.add_argument("--bootstrap", type=bootstrap, help=f"for --apply: {BOOTSTRAP_HELP}")
    parser.add_argument("--topic", default=topic, help="(default: %(default)s)")
    parser.set_defaults(run=lambda options: _run(options, _completeness))


Work = Callable[[argparse.Namespace, Any], Awaitable[int]]


def _run(options: argparse.Namespace, work: Work) -> int:
    from aforo_meter.ledger_sql import SqlLedger  # noqa: PLC0415 - for these commands alone.

    async def opened() -> int:
        async with SqlLedger(options.ledger_url) as ledger:
            return await work(options, ledger)

    try:
        return asyncio.run(opened())
    except (LedgerError, LedgerUnavailableError) as error:
        return complain(str(error), FAILED)


async def _completeness(options: argparse.Namespace, ledger: Any) -> int:  # noqa: ANN401
    from aforo_meter.completeness import ScoreQuery  # noqa: PLC0415
    from aforo_meter.completeness_sql import SqlCompleteness  # noqa: PLC0415

    if options.apply and not (options.fill and options.bootstrap):
        return misused(options, "--apply needs --fill, and --bootstrap: where Kafka is")
    now_micros = time.time_ns() // 1000
    until = options.until if options.until is not None else now_micros
    since = options.since if options.since is not None else until - 24 * HOUR_MICROS
    hours = PeriodMicros(since - since % HOUR_MICROS, until + -until % HOUR_MICROS)
    completeness = SqlCompleteness(ledger)
    query = ScoreQuery(hours=hours, tenant_id=options.tenant)
    found = scores(await completeness.compared(query))
    end = (
        hours.end_micros if options.open else closed_before(now_micros, options.grace_s * 1_000_000)
    )
    judged = [one for one in found if one.hour_start_micros < end]
    if options.fill:
        return await _fill(options, completeness, judged)
    print(_as_json(found, end) if options.json else _as_table(found, end, options))  # noqa: T201
    low = [one for one in _by_tenant_hour(judged) if one.is_below(options.threshold)]
    if options.check and low:
        names = sorted({one.tenant_id or "(nobody)" for one in low})
        least = f"{_shown_bp(options.threshold)}"
        count = "1 hour is" if len(low) == 1 else f"{len(low)} hours are"
        return complain(f"{count} below {least}: {', '.join(names[:20])}", FAILED)
    return OK


async def _fill(options: argparse.Namespace, completeness: Any, judged: Sequence[Score]) -> int:  # noqa: ANN401
    from aforo_meter import filling  # noqa: PLC0415 - aiokafka, for this alone.

    sent = without = 0
    async for one in filling.fillings(completeness, judged):
        score = one.score
        name = f"{_hour(score)}  {score.tenant_id}  {score.feature or '(none)'}"
        if not one.hours:
            without += 1
            print(f"{name}: {score.to_fill} calls missing, none to reckon by")  # noqa: T201
            continue
        amounts = ", ".join(f"{meter} {units(q)}" for meter, q in one.totals().items())
        went_by = "its own hour" if one.hours == 1 else f"{one.hours} hours"
        print(f"{name}: {score.to_fill} calls missing; by {went_by}: {amounts or 'no usage'}")  # noqa: T201
        if options.apply:
            try:
                sent += await filling.send(
                    one.events(), bootstrap=options.bootstrap, topic=options.topic
                )
            except filling.FillError as error:
                return complain(str(error), FAILED)
        else:
            sent += sum(1 for _ in one.events())
    does = (
        "sent; each counts once, when consume has read it" if options.apply else "to send (--apply)"
    )
    print(f"{many(sent, 'estimate')} {does}" + _staying(without))  # noqa: T201
    return OK


def _staying(gaps: int) -> str:
    if not gaps:
        return ""
    return "; 1 gap stays" if gaps == 1 else f"; {gaps:,} gaps stay"


def _by_tenant_hour(found: Sequence[Score]) -> list[Score]:
    groups: dict[tuple[str, int], list[Score]] = {}
    for one in found:
        groups.setdefault((one.tenant_id, one.hour_start_micros), []).append(one)
    return [
        _named(total(group), tenant_id, hour_start_micros)
        for (tenant_id, hour_start_micros), group in groups.items()
    ]


def _named(score: Score, tenant_id: str, hour_start_micros: int) -> Score:
    return Score(
        tenant_id=tenant_id,
        hour_start_micros=hour_start_micros,
        decided=score.decided,
        logged=score.logged,
        missing=score.missing,
    )


def _as_json(found: Sequence[Score], closed_micros: int) -> str:
    def row(score: Score) -> dict[str, Any]:
        return {
            "hour_start": datetime_of(score.hour_start_micros).isoformat(),
            "is_open": score.hour_start_micros >= closed_micros,
            **{name: value for name, value in asdict(score).items() if name != "hour_start_micros"},
            "score_bp": score.score_bp,
        }

    whole = total(found)
    figures = {name: value for name, value in asdict(whole).items() if isinstance(value, int)}
    del figures["hour_start_micros"]
    return json.dumps(
        {"hours": [row(one) for one in found], "total": {**figures, "score_bp": whole.score_bp}},
        indent=2,
    )


def _as_table(found: Sequence[Score], closed_micros: int, options: argparse.Namespace) -> str:
    shown = [one for one in found if options.all or one.missing or one.surplus or one.filled]
    head = ("hour (UTC)", "tenant", "features", "decided", "logged", "missing", "filled", "score")
    rows = [
        (
            *(_hour(one), one.tenant_id or "(nobody)", one.feature or "(none)"),
            *(f"{n:,}" for n in (one.decided, one.logged, one.missing, one.filled)),
            _shown_bp(one.score_bp) + (" open" if one.hour_start_micros >= closed_micros else ""),
        )
        for one in shown
    ]
    whole = total(found)
    summary = (
        f"{whole.decided:,} decided, {whole.logged:,} logged, {whole.missing:,} missing:"
        f" {_shown_bp(whole.score_bp)}"
    )
    if len(found) > len(shown):
        hidden = len(found) - len(shown)
        which = "row is complete" if hidden == 1 else "rows are complete"
        summary += f"; {hidden:,} {which} and not shown (--all)"
    return "\n".join([*columns([head, *rows], right=frozenset(range(3, 7))), summary])


async def _list(options: argparse.Namespace, ledger: Any) -> int:  # noqa: ANN401
    from aforo_meter.sessions import SessionQuery  # noqa: PLC0415
    from aforo_meter.sessions_sql import SqlSessions  # noqa: PLC0415

    query = SessionQuery(tenant_id=options.tenant, only_open=options.open, count_max=options.limit)
    found = await SqlSessions(ledger).find(query)
    if options.json:
        print(json.dumps([_session_row(one) for one in found], indent=2))  # noqa: T201
        return OK
    head = ("tenant", "session", "agent", "opened (UTC)", "last seen", "steps", "state")
    rows = [
        (
            *(one.tenant_id, one.session_id, one.agent or one.product or "-"),
            *(minute(one.opened_micros), minute(one.last_seen_micros), f"{one.steps:,}"),
            _state(one),
        )
        for one in found
    ]
    print("\n".join(columns([head, *rows], right=frozenset({5}))))  # noqa: T201
    return OK


async def _show(options: argparse.Namespace, ledger: Any) -> int:  # noqa: ANN401
    from aforo_meter.sessions_sql import SqlSessions  # noqa: PLC0415

    session = await SqlSessions(ledger).get(options.tenant, options.session)
    if session is None:
        return complain(_unknown(options), FAILED)
    row = _session_row(session)
    lines = [f"{name:<12} {value}" for name, value in row.items() if value not in {None, ""}]
    print(json.dumps(row, indent=2) if options.json else "\n".join(lines))  # noqa: T201
    return OK


async def _kill(options: argparse.Namespace, ledger: Any) -> int:  # noqa: ANN401
    from aforo_meter.sessions_sql import SqlSessions  # noqa: PLC0415

    sessions = SqlSessions(ledger)
    before = await sessions.get(options.tenant, options.session)
    if before is None:
        return complain(_unknown(options), FAILED)
    name = f"session {options.session} of {options.tenant}"
    if before.killed_micros is not None:
        print(f"{name} was killed at {minute(before.killed_micros)} UTC; nothing to do")  # noqa: T201
        return OK
    was = f"({_state(before)}, {before.steps:,} steps, last seen {minute(before.last_seen_micros)})"
    if options.dry_run:
        print(f"would kill {name} {was}")  # noqa: T201
        return OK
    await sessions.kill(options.tenant, options.session, now_micros=time.time_ns() // 1000)
    print(f"killed {name} {was}; whoever reports usage of it is told so")  # noqa: T201
    return OK


def _session_row(session: Session) -> dict[str, Any]:
    def instant(micros: int | None) -> str | None:
        return None if micros is None else datetime_of(micros).isoformat()

    return {
        "tenant": session.tenant_id,
        "session": session.session_id,
        "state": _state(session),
        "product": session.product,
        "agent": session.agent,
        "opened": instant(session.opened_micros),
        "last_seen": instant(session.last_seen_micros),
        "ended": instant(session.ended_micros) if session.ended_by else None,
        "killed": instant(session.killed_micros),
        "steps": session.steps,
    }


def _state(session: Session) -> str:
    return {
        EndedBy.NOBODY: "open",
        EndedBy.END: "ended",
        EndedBy.IDLE: "idle",
        EndedBy.KILLED: "killed",
    }[session.ended_by]


def _unknown(options: argparse.Namespace) -> str:
    return (
        f"the ledger knows no session {options.session!r} of tenant {options.tenant!r};"
        " see: aforo-meter sessions list"
    )


def _hour(score: Score) -> str:
    return minute(score.hour_start_micros)


def _shown_bp(score_bp: int | None) -> str:
    return "-" if score_bp is None else f"{score_bp // 100}.{score_bp % 100:02d} %"


def _percent(text: str) -> int:
    try:
        hundredths = Decimal(text) * 100
    except InvalidOperation:
        hundredths = Decimal(-1)
    if not 0 <= hundredths <= 10_000:  # noqa: PLR2004 - a whole, in hundredths of a percent
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 100")
    return int(hundredths)
