"""The subcommand `events` of `aforo-meter`."""

import argparse
import time
from typing import Any, Final

from aforo_meter.command_arguments import (
    BOOTSTRAP_HELP,
    FAILED,
    OK,
    USAGE_TOPIC,
    bootstrap,
    positive,
    time_micros,
)
from aforo_meter.command_running import run_async
from aforo_meter.domain.event_search import Condition, ConditionError, Search, condition
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros

EVENTS_SHOWN: Final = 50

EXAMPLES: Final = """\
examples:
  aforo-meter events --bootstrap kafka:9092 --tenant acme --where metadata.team=blue
  aforo-meter events --bootstrap kafka:9092 --from 2026-11-26T10:00 --to 2026-11-26T11:00 \\
      --where tool=search --where execution_status=error --json
  aforo-meter events --bootstrap kafka:9092 --from 2026-11-01 --event-id ik:order-4711

Fields are those that --json shows: tenant, source, provider, model, route, method, status, tool,
agent, session, reason, outcome, features, measures.METER, metadata.KEY, …; all conditions must
hold. What Kafka no longer keeps is not found. An event may be in the topic more than once: the
ledger counts it once.

Exit codes: 0 something was found; 1 nothing was, or Kafka does not answer; 2 wrong usage.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    parser = commands.add_parser(
        "events",
        help="search the usage topic",
        description="Shows usage events as they are in Kafka, with what clients attached to them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bootstrap", type=bootstrap, required=True, help=BOOTSTRAP_HELP)
    parser.add_argument("--topic", default=USAGE_TOPIC, help="(default: %(default)s)")
    parser.add_argument("--tenant", help="of this tenant alone; '' is usage that nobody pays for")
    parser.add_argument(
        "--from",
        dest="since",
        type=time_micros,
        help="UTC, by when it occurred (default: a day ago)",
    )
    parser.add_argument(
        "--to", dest="until", type=time_micros, help="UTC, exclusive (default: now)"
    )
    parser.add_argument(
        "--where",
        action="append",
        type=_condition,
        default=[],
        metavar="FIELD=TEXT",
        help="repeatable",
    )
    parser.add_argument("--event-id", action="append", default=[], help="repeatable")
    parser.add_argument(
        "--limit", type=positive, default=EVENTS_SHOWN, help="stop there (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one object a line, for programs")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from aforo_meter import events  # noqa: PLC0415 - aiokafka, for this command alone.

    now_micros = time.time_ns() // 1000
    # Clocks differ: what is ahead of ours by a little is not to be missed.
    until = options.until if options.until is not None else now_micros + HOUR_MICROS
    since = (
        options.since if options.since is not None else min(until, now_micros) - 24 * HOUR_MICROS
    )
    search = Search(
        period=PeriodMicros(since, until),
        tenant_id=options.tenant,
        event_ids=frozenset(options.event_id),
        conditions=options.where,
    )

    async def work() -> int:
        found = await events.run(
            search,
            bootstrap=options.bootstrap,
            topic=options.topic,
            limit=options.limit,
            as_json=options.json,
        )
        return OK if found else FAILED

    return run_async(work())


def _condition(text: str) -> Condition:
    try:
        return condition(text)
    except ConditionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
