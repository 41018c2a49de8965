"""What an operator can set, one class per process, read once in main(). It decides nothing.

Every variable starts with AFORO_METER_; one that no process of this package knows stops the start,
since pydantic-settings would ignore a misspelt name.
"""

import difflib
import ipaddress
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.asyncio.connection import parse_url

from aforo_meter.listen import parse_address, parse_addresses
from aforo_meter.public_addresses import is_public
from aforo_meter.webhooks import parse_secret

PREFIX: Final = "AFORO_METER_"
MIB: Final = 1024 * 1024


class SettingsError(Exception):
    """The settings don't allow a start; the message names each one and what to do."""


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _listen(text: str) -> str:
    parse_addresses(text)
    return text


def _metrics_listen(text: str) -> str:
    if text and text.startswith("unix:"):
        raise ValueError("metrics are served over TCP: expected host:port, or nothing for off")
    if text:
        parse_address(text)
    return text


def _bootstrap(text: str) -> str:
    for part in text.split(","):
        if not re.fullmatch(r"\s*[^\s:/][^\s/]*:\d{1,5}\s*", part):
            raise ValueError(f"{part!r} is not host:port; several are separated by commas")
    return text


def _redis_url(text: str) -> str:
    try:
        parse_url(text)
    except ValueError:
        # Not its own words: they may quote a part of the password.
        raise ValueError(
            "expected redis://host:port/db, rediss://… or unix:///path; special characters of a"
            " password must be percent-encoded"
        ) from None
    return text


def ledger_url(text: str) -> str:
    """Return the URL of a ledger if it is one that this version can open.

    Raises:
        ValueError: It says which form is expected.
    """
    if not re.match(r"sqlite:////[^?]", text):
        raise ValueError("expected sqlite:////absolute/path/ledger.db (four slashes)")
    return text


def _spool_directory(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("expected an absolute path: it must be the same at the next start")
    return text


def _webhook_url(text: str) -> str:
    url = urllib.parse.urlsplit(text)
    if url.scheme not in {"http", "https"}:
        raise ValueError("expected https://host/path, or http:// where nobody listens in")
    if "@" in url.netloc:
        raise ValueError("must not hold a user or password: the signature identifies us")
    if not url.hostname:
        raise ValueError("names no host")
    if not text.isascii():
        raise ValueError("has letters outside ASCII: write the host as xn--…, the path with %")
    try:
        port = url.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has no valid port: it is a number from 1 to 65535")
    return text


def _webhook_secret(secret: SecretStr) -> SecretStr:
    parse_secret(secret.get_secret_value())
    return secret


Listen = Annotated[str, AfterValidator(_listen)]
MetricsListen = Annotated[str, AfterValidator(_metrics_listen)]
Bootstrap = Annotated[str, AfterValidator(_bootstrap)]
LedgerUrl = Annotated[str, AfterValidator(ledger_url)]
SpoolDirectory = Annotated[str, AfterValidator(_spool_directory)]
LogLevel = Literal["debug", "info", "warning", "error"]


class ShipSettings(BaseSettings):
    """`aforo-meter ship`: Envoy's access log → Kafka."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}SHIP_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    listen: Listen = "127.0.0.1:9192"
    """Where Envoy reaches the access-log service: host:port or unix:/path, separated by commas."""

    kafka_bootstrap: Bootstrap
    """Kafka brokers to begin with: host:port, separated by commas. Required."""

    kafka_topic: str = Field(default="aforo.usage.v1", min_length=1)
    """Where usage events go."""

    dead_letter_topic: str = Field(default="aforo.usage.dlq.v1", min_length=1)
    """Where goes what could not be read or written."""

    kafka_idempotence: bool = True
    """Let the broker drop what a retry repeats. Only off for brokers that can't."""

    kafka_request_timeout_ms: int = Field(default=10_000, ge=100)
    """How long to wait for a broker's answer before asking again. Nothing is given up."""

    spool_dir: SpoolDirectory = ""
    """Where events are written before anything else: an absolute path on a disk that stays, for
    this process alone. Empty: they are in memory only, and lost if it is killed while Kafka is
    away."""

    spool_bytes_max: int = Field(default=1024 * MIB, ge=MIB)
    """How much of that disk may be used. When full, the oldest are kept, and memory goes on."""

    spool_fsync_ms: int = Field(default=1000, ge=10)
    """How soon the disk itself has what Kafka has not, for power cuts. SIGKILL loses nothing."""

    buffer_events_max: int = Field(default=50_000, ge=1)
    """Events held in memory. When it is full, and there is no spool or the spool is full too,
    Envoy's streams are no longer read."""

    buffer_bytes_max: int = Field(default=64 * MIB, ge=MIB)
    """The same bound in bytes: whichever is reached first holds."""

    message_bytes_max: int = Field(default=16 * MIB, ge=64 * 1024)
    """The largest message that Envoy may send. Its first one holds some 60 KB about itself."""

    drain_s: float = Field(default=8.0, ge=0)
    """How long to close streams and write what is held after SIGTERM. The spool keeps the rest;
    without one it is lost, and counted."""

    unmetered_paths: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = (
        "/healthz",
        "/livez",
        "/readyz",
        "/health",
    )
    """Exact paths, separated by commas, whose calls are no usage."""

    unmetered_statuses: Annotated[
        tuple[Annotated[int, Field(ge=100, le=599)], ...], NoDecode, BeforeValidator(_split)
    ] = (401, 403, 429)
    """Statuses, separated by commas, whose calls are no usage. Reported tokens count anyway."""

    metrics_listen: MetricsListen = ""
    """Where /metrics, /livez and /readyz are served: host:port. Empty: nowhere."""

    log_level: LogLevel = "info"
    """The least severe lines to log."""


class ConsumeSettings(BaseSettings):
    """`aforo-meter consume`: Kafka → ledger → margins in Redis."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}CONSUME_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    kafka_bootstrap: Bootstrap
    """Kafka brokers to begin with: host:port, separated by commas. Required."""

    kafka_topic: str = Field(default="aforo.usage.v1", min_length=1)
    """Where usage events come from."""

    dead_letter_topic: str = Field(default="aforo.usage.dlq.v1", min_length=1)
    """Where goes what could not be read."""

    group: str = Field(default="aforo-consume", min_length=1)
    """The consumer group: its members share the partitions."""

    redis_url: Annotated[str, AfterValidator(_redis_url)]
    """The read model: contracts and prices in, margins out. Required."""

    ledger_url: LedgerUrl
    """The ledger: sqlite:////absolute/path/ledger.db. Required."""

    batch_ms_max: int = Field(default=100, ge=1)
    """How long to wait for more records before a batch is rated."""

    batch_records_max: int = Field(default=5000, ge=1)
    """Records in a batch: one transaction of the ledger."""

    contract_poll_ms: int = Field(default=200, ge=10)
    """How often to look for changed contracts and prices."""

    session_timeout_ms: int = Field(default=6000, ge=100)
    """After this silence Kafka gives a member's partitions to the others."""

    accept_lost_records: bool = False
    """Go on at the earliest record where Kafka no longer has the one that the ledger needs next.
    Usage in between stays unbilled, so it is for one start, not for good."""

    metrics_listen: MetricsListen = ""
    """Where /metrics, /livez and /readyz are served: host:port. Empty: nowhere."""

    log_level: LogLevel = "info"
    """The least severe lines to log."""


class DeliverSettings(BaseSettings):
    """`aforo-meter deliver`: the outbox → signed webhooks."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}DELIVER_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    ledger_url: LedgerUrl
    """The ledger, whose outbox is delivered: sqlite:////absolute/path/ledger.db. Required."""

    webhook_url: Annotated[str, AfterValidator(_webhook_url)]
    """Where messages are posted. Required."""

    webhook_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)]
    """What they are signed with: whsec_ and base64 of 24 to 64 bytes. Required."""

    allow_private_addresses: bool = False
    """Post to addresses that are not on the public Internet too."""

    poll_ms: int = Field(default=200, ge=10)
    """How often to look for messages."""

    timeout_ms: int = Field(default=15_000, ge=10)
    """How long one attempt may take, from looking up the host to the end of the answer."""

    retry_first_ms: int = Field(default=5_000, ge=1)
    """The wait after a first failure; it doubles with each further one, up to an hour."""

    retry_total_s: int = Field(default=86_400, ge=1)
    """After waits of this length in total a message is given up."""

    concurrency_max: int = Field(default=16, ge=1)
    """Tenants whose messages are under way at the same time."""

    metrics_listen: MetricsListen = ""
    """Where /metrics, /livez and /readyz are served: host:port. Empty: nowhere."""

    log_level: LogLevel = "info"
    """The least severe lines to log."""

    @model_validator(mode="after")
    def url_is_reachable_by_the_rules(self) -> Self:
        """Refuse at the start what every attempt would refuse. Names are looked up for each."""
        host = urllib.parse.urlsplit(self.webhook_url).hostname or ""
        try:
            public = host != "localhost" and is_public(ipaddress.ip_address(host))
        except ValueError:
            public = host != "localhost"
        if not public and not self.allow_private_addresses:
            raise ValueError(
                f"{PREFIX}DELIVER_WEBHOOK_URL leads to {host}, which is not a public address; if "
                f"that is meant, set {PREFIX}DELIVER_ALLOW_PRIVATE_ADDRESSES=true"
            )
        return self


ALL: Final[Mapping[str, type[BaseSettings]]] = {
    "ship": ShipSettings,
    "consume": ConsumeSettings,
    "deliver": DeliverSettings,
}

S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S]) -> S:
    """Read the settings of one process from the environment.

    Raises:
        SettingsError: A value is missing or wrong, or a variable is unknown.
    """
    reject_unknown_variables(os.environ)
    try:
        return kind()
    except ValidationError as error:
        raise SettingsError("\n".join(_complaints(kind, error))) from None


def reject_unknown_variables(environ: Mapping[str, str]) -> None:
    """Refuse a variable with our prefix that no process of this package knows."""
    known = sorted(variable(kind, name) for kind in ALL.values() for name in kind.model_fields)
    unknown = sorted(
        name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )
    if not unknown:
        return
    complaints = []
    for name in unknown:
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.6)
        complaints.append(
            f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else "")
        )
    raise SettingsError("\n".join([*complaints, f"known: {', '.join(known)}"]))


def variable(kind: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{kind.model_config['env_prefix']}{name.upper()}"


def describe(settings: BaseSettings) -> str:
    """Return the settings in force, one a line with what it is for, secrets masked."""
    kind = type(settings)
    return "\n".join(
        f"{variable(kind, name)}={_shown(getattr(settings, name))}"
        f"  # {' '.join((field.description or '').split())}"
        for name, field in kind.model_fields.items()
    )


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever a setting may be.
    if isinstance(value, SecretStr):
        return "(set)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return _without_password(str(value))


def _without_password(url: str) -> str:
    url = re.sub(r"(?<=://)[^/]*@", "(masked)@", url)
    return re.sub(r"(?<=[?&]password=)[^&]*", "(masked)", url)


def _complaints(kind: type[BaseSettings], error: ValidationError) -> Iterator[str]:
    for detail in error.errors(include_url=False, include_input=False):
        message = detail["msg"].removeprefix("Value error, ")
        if not detail["loc"]:  # About several at once: it names them itself.
            yield message
            continue
        name = str(detail["loc"][0])
        if detail["type"] == "missing":
            field = kind.model_fields.get(name)
            message = f"not set. {field.description}" if field else "not set"
        yield f"{variable(kind, name)}: {message}"
