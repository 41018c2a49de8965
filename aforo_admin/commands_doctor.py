"""`aforo-admin doctor`: its parser, and how it ends."""

import argparse
import logging
import os
import re
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from aforo_admin import settings
from aforo_admin.doctor.http import check_address

OK: Final = 0
FOUND: Final = 1
KINDS: Final = ("authz", "ship", "ingest", "consume", "deliver", "sync")
TIMEOUT_S: Final = 10.0
TIMEOUT_S_MIN, TIMEOUT_S_MAX = 0.5, 300.0

EXAMPLES: Final = """examples:
  aforo-admin doctor                           what the variables name: Redis, Kafka, databases
  aforo-admin doctor --envoy 127.0.0.1:9901 --process authz=127.0.0.1:9101
  aforo-admin doctor --process ship-a=10.0.0.1:9102 --process ship-b=10.0.0.2:9102 --json
  AFORO_ADMIN_REDIS_URL=redis://redis:6379/0 AFORO_ADMIN_KAFKA_BOOTSTRAP=kafka:9092 \\
    AFORO_ADMIN_LEDGER_URL=postgresql://aforo@db/aforo aforo-admin doctor --timeout-s 30

Where things are is said by AFORO_ADMIN_REDIS_URL, _KAFKA_BOOTSTRAP, _LEDGER_URL and _DATABASE_URL;
what is not said is not looked at. It changes nothing. No password is printed.
Exit codes: 0 no fault (there may be warnings), 1 a fault, 2 wrong usage or settings.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    command = commands.add_parser(
        "doctor",
        help="look at a running installation: what is wrong, what that means, what to do",
        description="Looks at every part of a running installation, and changes nothing.",
        epilog=EXAMPLES,
    )
    command.add_argument(
        "--envoy",
        action="append",
        default=[],
        type=_address,
        metavar="HOST:PORT",
        help="an Envoy's admin; repeatable",
    )
    command.add_argument(
        "--process",
        action="append",
        default=[],
        type=_process,
        metavar="NAME=HOST:PORT",
        help=f"a process's …_METRICS_LISTEN; NAME is {', '.join(KINDS)}, or with a suffix like"
        " ship-a; repeatable",
    )
    command.add_argument(
        "--timeout-s",
        type=_seconds,
        default=TIMEOUT_S,
        metavar="S",
        help="how long all of it may take (default: 10)",
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_doctor)


def _address(text: str) -> str:
    try:
        return check_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _process(text: str) -> tuple[str, str]:
    name, _, address = text.partition("=")
    if not re.fullmatch(rf"({'|'.join(KINDS)})(-[a-z0-9-]{{1,40}})?", name, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected NAME=HOST:PORT, where NAME is {', '.join(KINDS)}, or one of them"
            " with a suffix, like ship-a"
        )
    return name, _address(address)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not TIMEOUT_S_MIN <= seconds <= TIMEOUT_S_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected seconds, {TIMEOUT_S_MIN:g} to {TIMEOUT_S_MAX:g}"
        )
    return seconds


def _doctor(options: argparse.Namespace) -> int:
    chosen = settings.load(settings.DoctorSettings, os.environ)
    # Kafka's and PostgreSQL's clients: other commands do without.
    from aforo_admin.doctor import examine, text  # noqa: PLC0415
    from aforo_admin.domain.diagnosis import Severity, worst  # noqa: PLC0415

    # What libraries say of what is away, the findings say.
    logging.basicConfig(level=logging.CRITICAL)
    names = [name for name, _ in options.process]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise settings.SettingsError(
            f"--process {twice[0]}: given twice; name them {twice[0]}-a and {twice[0]}-b"
        )
    parts = examine.examine(
        examine.Places(
            chosen=chosen,
            envoys=options.envoy,
            processes=dict(options.process),
            timeout_s=options.timeout_s,
        )
    )
    told = (
        text.for_programs(parts, own_build=version("aforo"), at=datetime.now(UTC))
        if options.json
        else text.for_people(parts)
    )
    print(told)  # noqa: T201 - what the command is for.
    findings = [finding for part in parts for finding in part.findings]
    return FOUND if worst(findings) is Severity.FAULT else OK
