"""What the arguments of several commands have in common: times, counts, places; and complaints."""

import argparse
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from aforo_meter import settings_types
from aforo_meter.domain.periods import micros_of

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2

LEDGER_URL_HELP: Final = "sqlite:////absolute/path/ledger.db or postgresql://user@host/database"
LEDGER_URL_VARIABLE: Final = "AFORO_METER_CONSUME_LEDGER_URL"
REDIS_URL_VARIABLE: Final = "AFORO_METER_CONSUME_REDIS_URL"
BOOTSTRAP_HELP: Final = (
    "Kafka brokers to begin with: host:port, separated by commas; with TLS or a login"
    " kafkas://user@host:port?password_file=/path&ssl_ca_certs=/path"
)
USAGE_TOPIC: Final = "aforo.usage.v1"
DEAD_LETTER_TOPIC: Final = "aforo.usage.dlq.v1"


class CommandError(Exception):
    """A command can't do its work; the message says what to do about it, in one line."""


def time_micros(text: str) -> int:
    """Return Unix microseconds of an ISO time; UTC if it names no offset."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; write 2026-11-26 or 2026-11-26T10:00"
        ) from None
    return micros_of(instant if instant.tzinfo else instant.replace(tzinfo=UTC))


def count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return int(text)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def add_ledger_url(parser: argparse.ArgumentParser) -> None:
    """Add --ledger-url, which `aforo-meter consume` says by its setting."""
    _add_url(parser, "--ledger-url", LEDGER_URL_VARIABLE, ledger_url, help=LEDGER_URL_HELP)


def add_redis_url(parser: argparse.ArgumentParser, *, help: str) -> None:  # noqa: A002
    """Add --redis-url, which `aforo-meter consume` says by its setting."""
    _add_url(parser, "--redis-url", REDIS_URL_VARIABLE, redis_url, help=help)


def _add_url(
    parser: argparse.ArgumentParser,
    option: str,
    variable: str,
    check: Callable[[str], str],
    *,
    help: str,  # noqa: A002
) -> None:
    # The value is not shown: it may hold a password.
    default = os.environ.get(variable)
    parser.add_argument(
        option,
        type=check,
        default=default,
        required=not default,
        help=f"{help} (default: {variable})",
    )


def ledger_url(text: str) -> str:
    return _checked(settings_types.ledger_url, text)


def bootstrap(text: str) -> str:
    return _checked(settings_types.bootstrap, text)


def redis_url(text: str) -> str:
    return _checked(settings_types.redis_url, text)


def _checked(check: settings_types.Check, text: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def complain(message: str, code: int) -> int:
    print(f"aforo-meter: {message}", file=sys.stderr)  # noqa: T201
    return code


def misused(options: argparse.Namespace, message: str) -> int:
    """Complain of a command's arguments, with its usage."""
    options.parser.print_usage(sys.stderr)
    return complain(message, USAGE)
