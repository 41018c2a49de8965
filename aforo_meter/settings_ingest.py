"""What an operator can set of `aforo-meter ingest`."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aforo_meter.settings_types import (
    MIB,
    PREFIX,
    Bootstrap,
    Listen,
    LogLevel,
    MetricsListen,
    RedisUrl,
    SpoolDirectory,
    ledger_url,
)


def _optional_ledger_url(text: str) -> str:
    return ledger_url(text) if text else text


class IngestSettings(BaseSettings):
    """`aforo-meter ingest`: usage over HTTP → Kafka."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}INGEST_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    listen: Listen = "127.0.0.1:9193"
    """Where clients reach it: host:port or unix:/path, separated by commas. TLS is the business of
    what stands before it."""

    kafka_bootstrap: Bootstrap
    """Kafka brokers to begin with: host:port, separated by commas; with TLS or a login
    kafkas://user@host:port,host:port?password_file=/path&ssl_ca_certs=/path. Required."""

    kafka_topic: str = Field(default="aforo.usage.v1", min_length=1)
    """Where usage events go."""

    dead_letter_topic: str = Field(default="aforo.usage.dlq.v1", min_length=1)
    """Where an accepted event goes that the topic has no room for."""

    kafka_idempotence: bool = True
    """Let the broker drop what a retry repeats. Only off for brokers that can't."""

    kafka_timeout_ms: int = Field(default=5_000, ge=100)
    """How long a client waits for Kafka, or the spool, before it is told to try again. Published
    SDKs give up after 10 s."""

    spool_dir: SpoolDirectory = ""
    """Where events are written first: an absolute path on a disk that stays, for this process
    alone. While Kafka is away, clients are answered for what the disk has. Empty: they get 503."""

    spool_bytes_max: int = Field(default=1024 * MIB, ge=MIB)
    """How much of that disk may be used. When full, clients are told to try again."""

    spool_fsync_ms: int = Field(default=1_000, ge=10)
    """How soon the disk itself has what nobody waits for."""

    buffer_events_max: int = Field(default=100_000, ge=1)
    """Events held in memory. When full, and there is no spool, clients are told to try again."""

    buffer_bytes_max: int = Field(default=64 * MIB, ge=MIB)
    """The same bound in bytes: whichever is reached first holds."""

    redis_url: RedisUrl
    """The read model: keys, tenants, meters, quotas. Required."""

    redis_timeout_ms: int = Field(default=500, ge=10)
    """How long to wait for Redis. Known keys and tenants go on without it."""

    ledger_url: Annotated[str, AfterValidator(_optional_ledger_url)] = ""
    """The ledger, which is only read: sqlite:////absolute/path/ledger.db or
    postgresql://user:password@host/database. It tells duplicates and
    killed sessions. Empty: the consumer drops duplicates all the same, but clients are not told."""

    age_days_max: int = Field(default=90, ge=1, le=3650)
    """How old an event may be. Whatever is set here, only what is a day younger than the ledger
    knows ids for is taken, or a late retry would count twice: for more than 90, raise
    AFORO_METER_CONSUME_INGEST_IDS_DAYS to at least a day more."""

    requests_max: int = Field(default=256, ge=1)
    """Requests under way at the same time; one more is told to try again."""

    bodies_bytes_max: int = Field(default=64 * MIB, ge=24 * MIB)
    """Bytes of bodies in memory, over all requests; one more is told to try again."""

    body_timeout_s: float = Field(default=30.0, gt=0)
    """How long a body may take to arrive."""

    remembered_events_max: int = Field(default=200_000, ge=2)
    """Events remembered as accepted until the ledger has them: some 100 bytes each."""

    drain_s: float = Field(default=8.0, ge=0)
    """How long requests that are under way may take to end after SIGTERM."""

    metrics_listen: MetricsListen = ""
    """Where /metrics, /livez and /readyz are served: host:port. Empty: nowhere."""

    log_level: LogLevel = "info"
    """The least severe lines to log."""
