"""What an operator can set of `aforo-meter ship`."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from aforo_meter.settings_types import (
    MIB,
    PREFIX,
    Bootstrap,
    Listen,
    LogLevel,
    MetricsListen,
    OptionalRedisUrl,
    SpoolDirectory,
)


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class ShipSettings(BaseSettings):
    """`aforo-meter ship`: Envoy's access log → Kafka."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}SHIP_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    listen: Listen = "127.0.0.1:9192"
    """Where Envoy reaches the access-log service: host:port or unix:/path, separated by commas."""

    kafka_bootstrap: Bootstrap
    """Kafka brokers to begin with: host:port, separated by commas; with TLS or a login
    kafkas://user@host:port,host:port?password_file=/path&ssl_ca_certs=/path. Required."""

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
    """Exact paths, separated by commas, whose calls are no usage, unless the catalog has rules."""

    unmetered_statuses: Annotated[
        tuple[Annotated[int, Field(ge=100, le=599)], ...], NoDecode, BeforeValidator(_split)
    ] = (401, 403, 429)
    """Statuses, separated by commas, whose calls are no usage, unless the catalog has rules.
    Reported tokens count anyway."""

    redis_url: OptionalRedisUrl = ""
    """The read model, for the catalog's metering rules. Empty: the built-in ones hold."""

    rules_poll_ms: int = Field(default=1000, ge=10)
    """How often to look for changed metering rules."""

    rules_file: Annotated[Path | None, BeforeValidator(lambda path: path or None)] = None
    """Where the last known metering rules are kept for a start without Redis. Empty: in the
    spool's directory, if there is one."""

    interim_every_ms: int = Field(default=30_000, ge=1)
    """How often Envoy tells of calls under way: its access_log_flush_interval, or less."""

    event_bytes_per_token: int = Field(default=0, ge=0)
    """Bytes of a streamed answer for each token, where the client left before the provider's count.
    0: as measured for the provider."""

    text_bytes_per_token: int = Field(default=4, ge=1)
    """Bytes of a request, or of a plain answer, for each token, where nobody counted."""

    metrics_listen: MetricsListen = ""
    """Where /metrics, /livez and /readyz are served: host:port. Empty: nowhere."""

    log_level: LogLevel = "info"
    """The least severe lines to log."""
