"""`aforo-meter`: the command line. Each subcommand imports only what it runs."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from aforo_meter import (
    commands_alerts,
    commands_ingest,
    commands_ledger,
    commands_tools,
    process,
    settings,
)
from aforo_meter.command_arguments import BOOTSTRAP_HELP, LEDGER_URL_HELP, bootstrap, positive
from aforo_meter.command_line import Parser, until_read
from aforo_meter.listen import ListenError
from aforo_meter.settings_consume import ConsumeSettings
from aforo_meter.settings_deliver import DeliverSettings
from aforo_meter.settings_ship import ShipSettings
from aforo_meter.settings_types import ledger_url

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2

EXAMPLES: Final = """\
examples:
  aforo-meter topics --bootstrap kafka:9092 --partitions 12
  aforo-meter migrate --ledger-url sqlite:////var/lib/aforo/ledger.db
  AFORO_METER_SHIP_KAFKA_BOOTSTRAP=kafka:9092 aforo-meter ship
  aforo-meter completeness --ledger-url sqlite:////var/lib/aforo/ledger.db --check
  aforo-meter explain acme --ledger-url … --redis-url …      # also: statement, forecast
  aforo-meter import usage.csv --dry-run
  aforo-meter dlq list --bootstrap kafka:9092
  aforo-meter alerts test default
  aforo-meter check-config deliver
  aforo-meter ingest --help

Processes are set up by environment variables; `aforo-meter check-config` prints all of them.
Exit codes: 0 ok, 1 failed, 2 wrong usage or settings.
"""

SHIP: Final = """\
example:
  AFORO_METER_SHIP_KAFKA_BOOTSTRAP=kafka:9092 aforo-meter ship

All settings: aforo-meter check-config ship
"""
CONSUME: Final = """\
example:
  AFORO_METER_CONSUME_KAFKA_BOOTSTRAP=kafka:9092 \\
  AFORO_METER_CONSUME_REDIS_URL=redis://redis:6379/0 \\
  AFORO_METER_CONSUME_LEDGER_URL=sqlite:////var/lib/aforo/ledger.db  aforo-meter consume

All settings: aforo-meter check-config consume
"""
DELIVER: Final = """\
examples:
  AFORO_METER_DELIVER_LEDGER_URL=sqlite:////var/lib/aforo/ledger.db \\
  AFORO_METER_DELIVER_ENDPOINTS=/etc/aforo/endpoints.yaml  aforo-meter deliver
  aforo-meter deliver --once                 # exit code 1: something is not delivered yet

All settings: aforo-meter check-config deliver
"""
MIGRATE: Final = """\
examples:
  aforo-meter migrate --ledger-url sqlite:////var/lib/aforo/ledger.db
  aforo-meter migrate --ledger-url postgresql://aforo@db/aforo --dry-run   # the SQL of it
"""
TOPICS: Final = """\
examples:
  aforo-meter topics --bootstrap kafka:9092 --partitions 12 --replication 3
  aforo-meter topics --bootstrap kafka:9092 --topic aforo.usage.v1

Topics are made as k8s/overlays/strimzi has them; from replication 3 on, a write waits for two
copies. A topic with `dlq` in its name is one of dead letters. Topics that are there already are
left as they are: what differs is told, with the command that would change it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return until_read(lambda: run(options))
    except (settings.SettingsError, ListenError) as error:
        return _complain(str(error), USAGE)
    except KeyboardInterrupt:
        return 128 + 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="aforo-meter", description="Usage in, charges and margins out.", epilog=EXAMPLES
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    _add_processes(commands)
    commands_ingest.register(commands, _run)
    _add_migrate(commands)
    _add_topics(commands)
    commands_ledger.add(commands)
    commands_alerts.add(commands)
    commands_tools.add(commands)

    check = commands.add_parser(
        "check-config",
        help="print the settings in force",
        epilog="example: aforo-meter check-config consume",
    )
    check.add_argument("process", nargs="?", choices=list(settings.ALL), help="default: all")
    check.set_defaults(run=_check_config)
    return parser


def _add_processes(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    ship = commands.add_parser("ship", help="Envoy's access log → Kafka", epilog=SHIP)
    ship.set_defaults(run=_ship)
    consume = commands.add_parser(
        "consume", help="Kafka → ledger → margins in Redis", epilog=CONSUME
    )
    consume.set_defaults(run=_consume)
    deliver = commands.add_parser("deliver", help="the outbox → signed webhooks", epilog=DELIVER)
    deliver.add_argument("--once", action="store_true", help="send what is due and exit")
    deliver.set_defaults(run=_deliver)


def _add_migrate(commands: Any) -> None:  # noqa: ANN401
    migrate = commands.add_parser("migrate", help="create or upgrade the ledger", epilog=MIGRATE)
    migrate.add_argument("--ledger-url", required=True, help=LEDGER_URL_HELP)
    migrate.add_argument("--dry-run", action="store_true", help="print what would be done")
    migrate.set_defaults(run=_migrate)


def _add_topics(commands: Any) -> None:  # noqa: ANN401
    topics = commands.add_parser("topics", help="create the Kafka topics", epilog=TOPICS)
    topics.add_argument("--bootstrap", required=True, type=bootstrap, help=BOOTSTRAP_HELP)
    topics.add_argument("--partitions", type=positive, default=6, help="of each (default: 6)")
    topics.add_argument("--replication", type=positive, default=1, help="copies (default: 1)")
    topics.add_argument(
        "--retention-days", type=positive, default=7, help="of usage (default: %(default)s)"
    )
    topics.add_argument(
        "--dead-letter-retention-days",
        type=positive,
        default=90,
        help="of what could not be read (default: %(default)s)",
    )
    topics.add_argument(
        "--topic",
        action="append",
        help="a name, repeatable (default: aforo.usage.v1 and aforo.usage.dlq.v1)",
    )
    topics.set_defaults(run=_topics)


def _ship(_: argparse.Namespace) -> int:
    from aforo_meter import ship  # noqa: PLC0415 - grpc and aiokafka, for this command alone.
    from aforo_meter.spool import SpoolError  # noqa: PLC0415

    try:
        return _run(ShipSettings, ship.run)
    except SpoolError as error:
        return _complain(str(error), USAGE)


def _consume(_: argparse.Namespace) -> int:
    from aforo_meter import consume  # noqa: PLC0415
    from aforo_meter.ledger import LedgerError  # noqa: PLC0415

    try:
        return _run(ConsumeSettings, consume.run)
    except LedgerError as error:
        return _complain(str(error), USAGE)


def _deliver(options: argparse.Namespace) -> int:
    from aforo_meter import deliver  # noqa: PLC0415
    from aforo_meter.endpoints import EndpointsError  # noqa: PLC0415
    from aforo_meter.ledger import LedgerError, LedgerUnavailableError  # noqa: PLC0415

    try:
        return _run(DeliverSettings, lambda given: deliver.run(given, once=options.once))
    except (LedgerError, EndpointsError) as error:
        return _complain(str(error), USAGE)
    except LedgerUnavailableError as error:
        return _complain(f"the outbox does not answer: {error}", FAILED)


def _migrate(options: argparse.Namespace) -> int:
    from aforo_meter.ledger import LedgerError  # noqa: PLC0415
    from aforo_meter.migrate import migrate  # noqa: PLC0415

    try:
        url = ledger_url(options.ledger_url)
    except ValueError as error:
        return _complain(f"--ledger-url: {error}", USAGE)
    try:
        print(migrate(url, dry_run=options.dry_run))  # noqa: T201
    except LedgerError as error:
        return _complain(str(error), FAILED)
    return OK


def _topics(options: argparse.Namespace) -> int:
    from aforo_meter import topics  # noqa: PLC0415

    defaults = [
        ShipSettings.model_fields[name].default for name in ("kafka_topic", "dead_letter_topic")
    ]

    async def create() -> None:
        async for line in topics.create(
            options.bootstrap,
            options.topic or defaults,
            partitions=options.partitions,
            replication=options.replication,
            usage_days=options.retention_days,
            dead_letter_days=options.dead_letter_retention_days,
        ):
            print(line)  # noqa: T201

    process.configure_logging("error")
    try:
        asyncio.run(create())
    except topics.TopicsError as error:
        return _complain(str(error), FAILED)
    return OK


def _check_config(options: argparse.Namespace) -> int:
    """Print settings by process; a complaint about one does not hide the others."""
    from aforo_meter.endpoints import EndpointsError, endpoints_of  # noqa: PLC0415

    code = OK
    for name in [options.process] if options.process else settings.ALL:
        try:
            given = settings.load(settings.ALL[name])
            text = settings.describe(given)
            if isinstance(given, DeliverSettings):
                text += "".join(f"\n# to {endpoint}" for endpoint in endpoints_of(given))
        except (settings.SettingsError, EndpointsError) as error:
            code = _complain(f"{name}:\n{error}", USAGE)
        else:
            print(f"# aforo-meter {name}\n{text}")  # noqa: T201
    return code


def _run(kind: type[settings.S], start: Callable[[settings.S], Coroutine[Any, Any, int]]) -> int:
    given = settings.load(kind)
    process.configure_logging(getattr(given, "log_level", "info"))
    return process.run(start(given))


def _complain(message: str, code: int) -> int:
    print(f"aforo-meter: {message}", file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
