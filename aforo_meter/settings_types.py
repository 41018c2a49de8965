"""Kinds of values that settings of several processes share, and what is wrong with the others."""

import re
from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from aforo_meter import kafka_place, redis_client
from aforo_meter.listen import parse_address, parse_addresses

PREFIX: Final = "AFORO_METER_"
MIB: Final = 1024 * 1024

Check = Callable[[str], str]


def _listen(text: str) -> str:
    parse_addresses(text)
    return text


def _metrics_listen(text: str) -> str:
    if text and text.startswith("unix:"):
        raise ValueError("metrics are served over TCP: expected host:port, or nothing for off")
    if text:
        parse_address(text)
    return text


def bootstrap(text: str) -> str:
    """Return where brokers are if they can be asked so; ValueError says what is wrong."""
    return kafka_place.checked(text)


def redis_url(text: str) -> str:
    """Return where Redis is if it is written as such; ValueError says what is expected."""
    redis_client.parse(text)
    return text


def _optional_redis_url(text: str) -> str:
    return redis_url(text) if text else text


def ledger_url(text: str) -> str:
    """Return the URL of a ledger if it is one that this version can open.

    Raises:
        ValueError: It says which form is expected.
    """
    if not re.match(r"sqlite:////[^?]|postgres(ql)?://[^/?#]*/[^/?#@]+(\?[^#]*)?$", text):
        # It is not quoted: it may hold a password.
        raise ValueError(
            "expected sqlite:////absolute/path/ledger.db (four slashes), or"
            " postgresql://user:password@host:5432/database; special characters of a password must"
            " be percent-encoded"
        )
    return text


def _spool_directory(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("expected an absolute path: it must be the same at the next start")
    return text


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Listen = Annotated[str, AfterValidator(_listen)]
MetricsListen = Annotated[str, AfterValidator(_metrics_listen)]
Bootstrap = Annotated[str, AfterValidator(bootstrap)]
RedisUrl = Annotated[str, AfterValidator(redis_url)]
OptionalRedisUrl = Annotated[str, AfterValidator(_optional_redis_url)]
LedgerUrl = Annotated[str, AfterValidator(ledger_url)]
SpoolDirectory = Annotated[str, AfterValidator(_spool_directory)]
BasisPoints = Annotated[
    tuple[Annotated[int, Field(ge=1, le=100_000)], ...], NoDecode, BeforeValidator(_split)
]
LogLevel = Literal["debug", "info", "warning", "error"]
