"""The subcommands `rerate`, `void` and `close` of `aforo-meter`: what corrects the ledger."""

import argparse
import secrets
import time
from typing import Any, Final

from aforo_meter.command_arguments import (
    BOOTSTRAP_HELP,
    OK,
    USAGE_TOPIC,
    add_ledger_url,
    add_redis_url,
    bootstrap,
    misused,
    time_micros,
)
from aforo_meter.command_running import run_async
from aforo_meter.domain.corrections import Kind
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros, datetime_of

EVER_MICROS: Final = 4_102_444_800_000_000  # 2100: after everything.
AUTHOR_CHARACTERS_MAX: Final = 128
REASON_CHARACTERS_MAX: Final = 1000

RERATE_EXAMPLES: Final = """\
examples:
  aforo-meter rerate --ledger-url sqlite:////var/lib/aforo/ledger.db \\
      --redis-url redis://redis:6379/0 --from 2026-11-01
  aforo-meter rerate … --from 2026-11-01 --provider openai --model gpt-4o --apply \\
      --author ana --reason "OpenAI lowered gpt-4o on the 1st, told us on the 12th"

Without --apply it shows who is affected: rows, COGS, margin and level before and after. With it, it
writes that, as adjustments: charges are never edited. What is right is left alone, so it may be
stopped anywhere and run again, and consume goes on beside it. A row keeps its price if that still
holds at some time of its hour; usage that waits for a price gets it from consume, without this.

Exit codes: 0 done, or nothing to do; 1 it could not be done; 2 wrong usage.
"""
VOID_EXAMPLES: Final = """\
examples:
  aforo-meter void --ledger-url sqlite:////var/lib/aforo/ledger.db \\
      --redis-url redis://redis:6379/0 --tenant acme \\
      --from 2026-11-25T10:00 --to 2026-11-25T12:00 --feature search
  aforo-meter void … --tenant acme --event ik:order-4711 --bootstrap kafka:9092 --apply \\
      --author ana --reason "sent twice by their batch job; ticket 812"

Without --apply it shows what would be taken back. Taken back are quantities and what they cost:
they leave quotas, margins and statements. A range takes all that its rows have left, and what comes
into them afterwards counts; an event is taken back once, however often it is asked for. The ledger
keeps sums, so an event is looked up in Kafka: --from and --to say when it occurred (default: ever).

Exit codes: 0 done, or nothing to do; 1 it could not be done; 2 wrong usage.
"""
CLOSE_EXAMPLES: Final = """\
examples:
  aforo-meter close --ledger-url sqlite:////var/lib/aforo/ledger.db --all --ended-by 2026-12-01
  aforo-meter close --ledger-url … --tenant acme --ended-by 2026-12-01 --apply

Charges of a closed period stay as they are: usage that comes later is added as adjustments of the
kind `late`. Totals have both. consume closes periods by itself, days after their end
(AFORO_METER_CONSUME_CLOSE_AFTER_DAYS); this is for who has sent the invoice before. Nothing opens a
period again.

Exit codes: 0 done, or nothing to do; 1 it could not be done; 2 wrong usage.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add these commands to the others."""
    rerate = _parser(
        commands,
        "rerate",
        "usage of the past at the prices in force now",
        "Finds charges that other prices hold for by now, and adds what makes them right.",
        RERATE_EXAMPLES,
    )
    add_redis_url(rerate, help="contracts and prices")
    rerate.add_argument("--tenant", help="of this tenant alone; '' is usage that nobody pays for")
    _add_filters(rerate, "meter", "provider", "model")
    _add_order(rerate)
    rerate.set_defaults(run=_rerate)

    void = _parser(
        commands,
        "void",
        "take usage back",
        "Takes back what a tenant has used in some hours, or one event.",
        VOID_EXAMPLES,
    )
    add_redis_url(void, help="contracts and prices")
    void.add_argument("--tenant", required=True, help="whose usage")
    void.add_argument("--event", metavar="ID", help="one event alone")
    void.add_argument("--bootstrap", type=bootstrap, help=f"for --event: {BOOTSTRAP_HELP}")
    void.add_argument("--topic", default=USAGE_TOPIC, help="(default: %(default)s)")
    void.add_argument("--feature", action="append", default=[], help="repeatable: any of them")
    _add_filters(void, "meter", "provider", "model", "tool")
    _add_order(void)
    void.set_defaults(run=_void)

    close = _parser(
        commands,
        "close",
        "close periods: what comes later is added beside their charges",
        "Closes billing periods that are over.",
        CLOSE_EXAMPLES,
    )
    whose = close.add_mutually_exclusive_group(required=True)
    whose.add_argument("--tenant", help="of this tenant")
    whose.add_argument("--all", action="store_true", help="of all tenants")
    close.add_argument(
        "--ended-by", type=time_micros, required=True, help="UTC: periods that ended by then"
    )
    close.add_argument("--apply", action="store_true", help="do it; without: only show it")
    close.set_defaults(run=_close)


def _parser(
    commands: Any,  # noqa: ANN401
    name: str,
    summary: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_ledger_url(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _add_filters(parser: argparse.ArgumentParser, *names: str) -> None:
    parser.add_argument("--from", dest="since", type=time_micros, help="UTC, a full hour")
    parser.add_argument("--to", dest="until", type=time_micros, help="UTC, exclusive, a full hour")
    for name in names:
        parser.add_argument(f"--{name}", help=f"of this {name} alone")
    parser.set_defaults(filters=names)


def _add_order(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--apply", action="store_true", help="do it; without: only show it")
    parser.add_argument("--reason", default="", help="with --apply: why; kept with it")
    parser.add_argument("--author", default="", help="with --apply: who; kept with it")


def _rerate(options: argparse.Namespace) -> int:
    complaint = _complaint(options)
    if complaint:
        return misused(options, complaint)

    async def work() -> int:
        from aforo_meter import correction_pages, rerating  # noqa: PLC0415
        from aforo_meter.corrections_sql import SqlCorrections  # noqa: PLC0415
        from aforo_meter.ledger_sql import SqlLedger  # noqa: PLC0415

        order = _order(options, Kind.RERATE)
        async with (
            SqlLedger(options.ledger_url) as ledger,
            rerating.open_contracts(options.redis_url) as contracts,
        ):
            run = rerating.Rerating(SqlCorrections(ledger), contracts, order)
            await _check_names(options, ledger, contracts)
            done = await run.run(_scope(options))
        show = correction_pages.rerated_json if options.json else correction_pages.rerated_text
        print(show(done, order))  # noqa: T201
        return OK

    return run_async(work())


def _void(options: argparse.Namespace) -> int:
    complaint = _complaint(options) or _void_complaint(options)
    if complaint:
        return misused(options, complaint)

    async def work() -> int:
        from aforo_meter import correction_pages, rerating, voiding  # noqa: PLC0415
        from aforo_meter.corrections_sql import SqlCorrections  # noqa: PLC0415
        from aforo_meter.ledger_sql import SqlLedger  # noqa: PLC0415

        order = _order(options, Kind.VOID)
        async with (
            SqlLedger(options.ledger_url) as ledger,
            rerating.open_contracts(options.redis_url) as contracts,
        ):
            run = voiding.Voiding(SqlCorrections(ledger), contracts, order)
            await _check_names(options, ledger, contracts)
            if options.event is None:
                done = await run.rows(_scope(options))
            else:
                usage = await voiding.find_event(
                    options.event,
                    options.tenant,
                    _period(options) or PeriodMicros(0, EVER_MICROS),
                    bootstrap=options.bootstrap,
                    topic=options.topic,
                )
                done = await run.event(usage)
        show = correction_pages.voided_json if options.json else correction_pages.voided_text
        print(show(done, order))  # noqa: T201
        return OK

    return run_async(work())


def _close(options: argparse.Namespace) -> int:
    now_micros = time.time_ns() // 1000
    if options.ended_by > now_micros:
        return misused(options, "--ended-by is in the future: only what is over can be closed")

    async def work() -> int:
        from aforo_meter import correction_pages  # noqa: PLC0415
        from aforo_meter.corrections_sql import SqlCorrections  # noqa: PLC0415
        from aforo_meter.known_names import KnownNames  # noqa: PLC0415
        from aforo_meter.ledger_sql import SqlLedger  # noqa: PLC0415

        async with SqlLedger(options.ledger_url) as ledger:
            if options.tenant:
                await KnownNames(ledger).require_tenant(options.tenant)
            corrections = SqlCorrections(ledger)
            due = [
                one
                for one in await corrections.periods(options.tenant)
                if not one.is_closed and one.period.end_micros <= options.ended_by
            ]
            if options.apply:
                await corrections.close(
                    ended_by_micros=options.ended_by,
                    now_micros=now_micros,
                    tenant_id=options.tenant,
                )
        show = correction_pages.closed_json if options.json else correction_pages.closed_text
        print(show(due, applied=options.apply))  # noqa: T201
        return OK

    return run_async(work())


async def _check_names(options: argparse.Namespace, ledger: Any, contracts: Any) -> None:  # noqa: ANN401
    """Complain of a tenant or a filter that nothing answers to: it would be nothing to do."""
    from aforo_meter.known_names import KnownNames  # noqa: PLC0415
    from aforo_meter.rerating import known_terms  # noqa: PLC0415

    names = KnownNames(ledger)
    # Who has a contract and has used nothing is known, too. '' is usage that nobody pays for.
    if options.tenant and not await known_terms(contracts, options.tenant):
        await names.require_tenant(options.tenant)
    await names.require_usage(_scope(options))


def _complaint(options: argparse.Namespace) -> str:
    for name, micros in (("--from", options.since), ("--to", options.until)):
        if micros is not None and micros % HOUR_MICROS and getattr(options, "event", None) is None:
            return f"{name} must be a full hour: the ledger keeps sums of hours"
    if None not in (options.since, options.until) and options.since >= options.until:
        return "--from must be before --to"
    if not options.apply:
        return ""
    for name, most in (("reason", REASON_CHARACTERS_MAX), ("author", AUTHOR_CHARACTERS_MAX)):
        text = getattr(options, name)
        if not text.strip() or len(text) > most or "\0" in text:
            return f"--apply needs --{name}, of {most} characters at most: it is kept with each row"
    return ""


def _void_complaint(options: argparse.Namespace) -> str:
    if options.event is None:
        if options.since is None or options.until is None:
            return "name what to take back: --event, or both --from and --to"
        return ""
    if options.bootstrap is None:
        return "--event needs --bootstrap: it is looked up in Kafka"
    if options.feature or any(getattr(options, name) for name in options.filters):
        return "--event takes back the whole event: leave out --feature and the other filters"
    return ""


def _scope(options: argparse.Namespace) -> Any:  # noqa: ANN401 - corrections.Scope
    from aforo_meter.corrections import Scope  # noqa: PLC0415 - sqlite, for these commands alone.

    return Scope(
        tenant_id=options.tenant,
        hours=_period(options),
        features=frozenset(getattr(options, "feature", [])),
        equal={
            name: value for name in options.filters if (value := getattr(options, name)) is not None
        },
    )


def _period(options: argparse.Namespace) -> PeriodMicros | None:
    if options.since is None and options.until is None:
        return None
    return PeriodMicros(
        0 if options.since is None else options.since,
        EVER_MICROS if options.until is None else options.until,
    )


def _order(options: argparse.Namespace, kind: Kind) -> Any:  # noqa: ANN401 - ledger_adjusting.Order
    from aforo_meter.ledger_adjusting import Order  # noqa: PLC0415

    if not options.apply:
        return None
    now_micros = time.time_ns() // 1000
    run_id = f"{kind}-{datetime_of(now_micros):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    return Order(
        kind=kind,
        run_id=run_id,
        reason=options.reason.strip(),
        author=options.author.strip(),
        now_micros=now_micros,
    )
