"""The subcommand `import` of `aforo-meter`."""

import argparse
from pathlib import Path
from typing import Any, Final

from aforo_meter.command_arguments import (
    BOOTSTRAP_HELP,
    USAGE_TOPIC,
    bootstrap,
    count,
    misused,
    positive,
    redis_url,
)
from aforo_meter.command_running import run_async

AGE_DAYS: Final = 90  # The ledger knows events from elsewhere than a gateway for 91.

EXAMPLES: Final = """\
examples:
  aforo-meter import usage.csv --dry-run --redis-url redis://redis:6379/0
  aforo-meter import usage.csv --bootstrap kafka:9092 --redis-url redis://redis:6379/0
  aforo-meter import usage.jsonl.gz --bootstrap kafka:9092 --on-error skip

CSV needs a header: customerId,metricName,quantity,occurredAt and, if you have them,
idempotencyKey, productType, toolName, …, metadata (JSON) or metadata.team. JSON lines hold one
event each, as POST /v1/ingest takes it.

Run it again after it was stopped or killed: it goes on where it stood, by FILE.aforo-import. A row
counts once, by its idempotencyKey; without one, by its line and the whole file's digest, so a file
that was edited is another file. The default, --on-error stop, checks all rows before any is sent.

Exit codes: 0 all rows are in Kafka (dry run: all are sound); 1 some are not, or it could not go on;
2 wrong usage.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    parser = commands.add_parser(
        "import",
        help="a file of usage → Kafka",
        description="Sends usage from a file, CSV or JSON lines, plain or gzip, to Kafka.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--bootstrap", type=bootstrap, help=BOOTSTRAP_HELP)
    parser.add_argument("--topic", default=USAGE_TOPIC, help="(default: %(default)s)")
    parser.add_argument(
        "--redis-url",
        type=redis_url,
        help="the read model: without it, tenants are not looked up, nor the catalog's meters",
    )
    parser.add_argument("--dry-run", action="store_true", help="check all rows, and send none")
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="stop: send nothing of a file with errors; skip: leave those lines out, in"
        " FILE.rejected (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=("auto", "csv", "json"), default="auto", help="(default: by content)"
    )
    parser.add_argument(
        "--age-days",
        type=positive,
        default=AGE_DAYS,
        help="how old usage may be (default: %(default)s). The ledger knows events for 91 days"
        " after they came: older files must not be imported twice",
    )
    parser.add_argument(
        "--errors-max", type=count, default=100, help="errors to show (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="the dry run's report, for programs")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from aforo_meter import import_run  # noqa: PLC0415 - aiokafka and more, for this alone.

    if not options.dry_run and not options.bootstrap:
        return misused(options, "import needs --bootstrap: where Kafka is; or --dry-run")
    wanted = import_run.Wanted(
        path=options.file,
        kind=options.format,
        bootstrap=options.bootstrap or "",
        topic=options.topic,
        redis_url=options.redis_url,
        age_days=options.age_days,
        skip=options.on_error == "skip",
        dry_run=options.dry_run,
        errors_max=options.errors_max,
        as_json=options.json,
    )
    return run_async(import_run.run(wanted))
