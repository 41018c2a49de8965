"""The subcommands `dlq list`, `show` and `retry` of `aforo-meter`."""

import argparse
from pathlib import Path
from typing import Any, Final

from aforo_meter.command_arguments import (
    BOOTSTRAP_HELP,
    DEAD_LETTER_TOPIC,
    USAGE_TOPIC,
    bootstrap,
    misused,
    positive,
    time_micros,
)
from aforo_meter.command_running import run_async

LETTERS_SHOWN: Final = 50
STAGES: Final = ("ship", "ingest", "consume")

EXAMPLES: Final = """\
examples:
  aforo-meter dlq list --bootstrap kafka:9092 --stage consume --since 2026-11-26
  aforo-meter dlq show --bootstrap kafka:9092 3:41
  aforo-meter dlq retry --bootstrap kafka:9092 --all --reason-contains "unknown decision"
  aforo-meter dlq retry --bootstrap kafka:9092 --all --reason-contains "unknown decision" --apply
  aforo-meter dlq show --bootstrap kafka:9092 3:41 --json > letter.json    # repair "event" in it
  aforo-meter dlq retry --bootstrap kafka:9092 3:41 --edit letter.json --apply

A letter lies at PARTITION:OFFSET of the dead-letter topic. It stays there; once sent again it is
listed with --retried only. An event that was sent again counts once, however often that is done,
as long as the ledger knows its id (35 days for those of gateways, 91 for others).

Exit codes: 0 done (list: also if there are none); 1 some letters still can't be read, or Kafka
does not answer; 2 wrong usage.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "dlq",
        help="dead letters: list, show, retry",
        description="What could not be read: which, why, and once more.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="the newest ones, oldest first")
    shown = actions.add_parser("show", help="one letter, decoded as far as possible")
    retried = actions.add_parser("retry", help="read letters again, and send what they are")
    for one in (listed, shown, retried):
        one.epilog = EXAMPLES
        one.add_argument("--bootstrap", type=bootstrap, required=True, help=BOOTSTRAP_HELP)
        one.add_argument(
            "--dead-letter-topic", default=DEAD_LETTER_TOPIC, help="(default: %(default)s)"
        )
    for one in (listed, retried):
        one.add_argument("--stage", choices=STAGES, help="of whom could not read it")
        one.add_argument("--since", type=time_micros, help="UTC, by when it failed")
        one.add_argument("--reason-contains", default="", metavar="TEXT", help="in any case")
    for one in (listed, shown):
        one.add_argument("--json", action="store_true", help="for programs")
    listed.add_argument("--retried", action="store_true", help="those that were sent again, too")
    listed.add_argument(
        "--limit", type=positive, default=LETTERS_SHOWN, help="(default: %(default)s)"
    )
    shown.add_argument("place", type=_place, metavar="PARTITION:OFFSET")
    retried.add_argument("places", type=_place, nargs="*", metavar="PARTITION:OFFSET")
    retried.add_argument("--all", action="store_true", help="all that were not sent again yet")
    retried.add_argument(
        "--apply", action="store_true", help="send; without: only say what would be"
    )
    retried.add_argument(
        "--edit", type=Path, metavar="FILE", help="send this in place of the letter"
    )
    retried.add_argument(
        "--topic", default=USAGE_TOPIC, help="for letters that name none (default: %(default)s)"
    )
    for one, run in ((listed, _list), (shown, _show), (retried, _retry)):
        one.set_defaults(run=run)


def _list(options: argparse.Namespace) -> int:
    from aforo_meter import dlq_work  # noqa: PLC0415 - aiokafka, for these commands alone.

    return run_async(dlq_work.list_letters(options))


def _show(options: argparse.Namespace) -> int:
    from aforo_meter import dlq_work  # noqa: PLC0415

    return run_async(dlq_work.show_letter(options))


def _retry(options: argparse.Namespace) -> int:
    from aforo_meter import dlq_work  # noqa: PLC0415

    if bool(options.places) == options.all:
        return misused(options, "dlq retry needs places PARTITION:OFFSET, or --all")
    if options.edit is not None and len(options.places) != 1:
        return misused(options, "--edit is for one letter: name its PARTITION:OFFSET")
    return run_async(dlq_work.retry_letters(options))


def _place(text: str) -> Any:  # noqa: ANN401 - a dlq.Place.
    from aforo_meter.dlq import place_of  # noqa: PLC0415

    try:
        return place_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
