"""The subcommands `explain`, `statement` and `forecast` of `aforo-meter`."""

import argparse
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from aforo_meter.command_arguments import (
    OK,
    add_ledger_url,
    add_redis_url,
    misused,
    time_micros,
)
from aforo_meter.command_running import run_async
from aforo_meter.domain.periods import calendar_month, micros_of

CURRENT: Final = "current"
PERIOD_HELP: Final = "2026-11 (the one that begins in it), a date in it, or current"
REDIS_URL_HELP: Final = "the read model: contracts, overrides, margins, and how old they are"
CODES: Final = """
Nothing is written, to neither. Exit codes: 0 ok; 1 nobody knows the tenant or the period, or the
ledger or Redis does not answer; 2 wrong usage.
"""
EXPLAIN: Final = f"""\
examples:
  aforo-meter explain acme --ledger-url sqlite:////var/lib/aforo/ledger.db --redis-url redis://…
  aforo-meter explain acme 2026-10 …                   # how that one ended
  aforo-meter explain acme … --json | jq '.cogs[0].price'

Reads from the level down: margin, floors and the rules that set them, revenue, COGS with whose
price each charge has, what is unpriced or estimated, and how old every figure is.
{CODES}"""
STATEMENT: Final = f"""\
examples:
  aforo-meter statement acme 2026-11 --ledger-url … --redis-url …
  aforo-meter statement acme current … --internal      # with COGS and margin: not for the customer
  aforo-meter statement acme 2026-11 … --format csv > acme.csv
  aforo-meter statement acme 2026-11 … --format focus --issuer "Example Inc." > acme.focus.csv

A preview of the invoice, exact to the nano: taxes and rounding are the billing system's.
focus is FOCUS 1.2, and never has COGS.
{CODES}"""
FORECAST: Final = f"""\
examples:
  aforo-meter forecast acme --ledger-url … --redis-url …
  aforo-meter forecast --all … --json | jq '.[] | {{tenant, level}}'

By two rates: that of the last 24 hours, and that of the period so far. With --all, who reaches the
next level first comes first.
{CODES}"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add these commands to the others."""
    explain = _command(commands, "explain", "why a tenant has its level", EXPLAIN)
    explain.add_argument("tenant", metavar="TENANT")
    when = explain.add_mutually_exclusive_group()
    when.add_argument(
        "period",
        metavar="PERIOD",
        nargs="?",
        type=period,
        help=f"{PERIOD_HELP} (default: the one in force)",
    )
    when.add_argument(
        "--at", metavar="TIME", type=time_micros, help="of the period that this time is in, UTC"
    )
    when.add_argument("--period", metavar="PERIOD", type=period, dest="at", help="the same")
    explain.add_argument("--json", action="store_true", help="for programs")

    statement = _command(commands, "statement", "what a period bills: a preview", STATEMENT)
    statement.add_argument("tenant", metavar="TENANT")
    statement.add_argument("at", metavar="PERIOD", type=period, help=PERIOD_HELP)
    formats = statement.add_mutually_exclusive_group()
    formats.add_argument(
        "--format",
        choices=("table", "csv", "focus", "json"),
        default="table",
        help="(default: %(default)s)",
    )
    formats.add_argument(
        "--json", dest="format", action="store_const", const="json", help="as --format json"
    )
    statement.add_argument("--internal", action="store_true", help="add COGS and margin")
    statement.add_argument("--issuer", help="who sells and invoices; for --format focus")
    for one in (explain, statement):
        one.add_argument("--subscription", help="a former one (default: the one in force)")

    forecast = _command(commands, "forecast", "when each level will be reached", FORECAST)
    forecast.add_argument("tenant", metavar="TENANT", nargs="?")
    forecast.add_argument("--all", action="store_true", help="every tenant with a level")
    forecast.add_argument("--json", action="store_true", help="for programs")
    for one, run in ((explain, _explain), (statement, _statement), (forecast, _forecast)):
        one.set_defaults(run=run)


def _command(commands: Any, name: str, title: str, epilog: str) -> argparse.ArgumentParser:  # noqa: ANN401
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=title,
        description=title.capitalize() + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_ledger_url(parser)
    add_redis_url(parser, help=REDIS_URL_HELP)
    return parser


def period(text: str) -> Callable[[int], int]:
    """Return which instant a period is found by, given what time it is."""
    if text == CURRENT:
        return lambda now_micros: now_micros
    month = re.fullmatch(r"(\d{4})-(\d{2})", text, re.ASCII)
    if month is None:
        at_micros = time_micros(text)
        return lambda _: at_micros
    try:
        first = datetime(int(month[1]), int(month[2]), 1, tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no month; write 2026-11") from None
    # Every month has one start of a monthly period in it, whatever the anchor: the period that the
    # month ends in began in it. While the month runs, the one that runs now is meant.
    last_micros = calendar_month(micros_of(first)).end_micros - 1
    first_micros = micros_of(first)
    return lambda now: min(last_micros, now) if now >= first_micros else first_micros


def _explain(options: argparse.Namespace) -> int:
    from aforo_meter import answers, explain_json, explain_text  # noqa: PLC0415

    async def told() -> int:
        now_micros = _now()
        async with answers.sources(options.ledger_url, options.redis_url) as of:
            found = await answers.explanation(
                of, _choice(options, now_micros), now_micros=now_micros
            )
        _print((explain_json.as_json if options.json else explain_text.as_text)(found))
        return OK

    return run_async(told())


def _statement(options: argparse.Namespace) -> int:
    from aforo_meter import answers, statement_focus, statement_text  # noqa: PLC0415

    if options.format == "focus" and not options.issuer:
        return misused(options, "--format focus needs --issuer: who sells and invoices")
    if options.format == "focus" and options.internal:
        return misused(options, "--format focus is what the customer is billed; no --internal")

    async def told() -> int:
        now_micros = _now()
        async with answers.sources(options.ledger_url, options.redis_url) as of:
            found, record = await answers.statement(
                of, _choice(options, now_micros), now_micros=now_micros
            )
        if options.format == "focus":
            _print(statement_focus.as_focus(found, issuer=options.issuer))
            return OK
        as_format = {
            "table": statement_text.as_table,
            "csv": statement_text.as_csv,
            "json": statement_text.as_json,
        }[options.format]
        _print(as_format(found, record if options.internal else None))
        return OK

    return run_async(told())


def _forecast(options: argparse.Namespace) -> int:
    from aforo_meter import answers, forecast_text  # noqa: PLC0415

    if options.all == bool(options.tenant):
        return misused(options, "name one TENANT, or --all of them: not both, nor neither")

    async def told() -> int:
        now_micros = _now()
        async with answers.sources(options.ledger_url, options.redis_url) as of:
            if options.all:
                found, without = await answers.forecasts(of, now_micros=now_micros)
            else:
                one = await answers.tenant_forecast(of, options.tenant, now_micros=now_micros)
        if options.json:
            rows = forecast_text.as_json
            _print(
                forecast_text.dumps([rows(each) for each in found] if options.all else rows(one))
            )
        else:
            _print(
                forecast_text.as_list(found, without) if options.all else forecast_text.as_text(one)
            )
        return OK

    return run_async(told())


def _choice(options: argparse.Namespace, now_micros: int) -> Any:  # noqa: ANN401 - a Choice.
    from aforo_meter.inquiries import Choice  # noqa: PLC0415

    said = getattr(options, "period", None) or options.at
    at = said(now_micros) if callable(said) else said
    return Choice(tenant_id=options.tenant, at_micros=at, subscription_id=options.subscription)


def _now() -> int:
    return time.time_ns() // 1000


def _print(text: str) -> None:
    print(text)  # noqa: T201 - what a command is for.
