"""What an operator can set of `aforo-meter consume`."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aforo_meter.ledger import INGEST_IDS_DAYS_MIN
from aforo_meter.settings_types import (
    PREFIX,
    BasisPoints,
    Bootstrap,
    LedgerUrl,
    LogLevel,
    MetricsListen,
    RedisUrl,
)


class ConsumeSettings(BaseSettings):
    """`aforo-meter consume`: Kafka → ledger → margins in Redis."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}CONSUME_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    kafka_bootstrap: Bootstrap
    """Kafka brokers to begin with: host:port, separated by commas; with TLS or a login
    kafkas://user@host:port,host:port?password_file=/path&ssl_ca_certs=/path. Required."""

    kafka_topic: str = Field(default="aforo.usage.v1", min_length=1)
    """Where usage events come from."""

    dead_letter_topic: str = Field(default="aforo.usage.dlq.v1", min_length=1)
    """Where goes what could not be read."""

    group: str = Field(default="aforo-consume", min_length=1)
    """The consumer group: its members share the partitions."""

    redis_url: RedisUrl
    """The read model: contracts and prices in, margins out. Required."""

    ledger_url: LedgerUrl
    """The ledger: sqlite:////absolute/path/ledger.db or postgresql://user:password@host/database.
    Required."""

    batch_ms_max: int = Field(default=100, ge=1)
    """How long records wait for others that are written with them."""

    calm_ms_max: int = Field(default=5000, ge=0)
    """How long usage may wait for more of the same tenants where it is certain to change nobody's
    level: forty times as long as a transaction takes, and no longer than this. 0: never."""

    batch_records_max: int = Field(default=200_000, ge=1)
    """Records that are read before they are written: a transaction of the ledger for each of their
    partitions. They are as many only where the consumer is behind."""

    contract_poll_ms: int = Field(default=200, ge=10)
    """How often to look for changed contracts and prices."""

    accrue_every_s: int = Field(default=60, ge=1)
    """How often to look what has accrued by now of fees whose contract accrues them."""

    session_timeout_ms: int = Field(default=6000, ge=100)
    """After this silence Kafka gives a member's partitions to the others."""

    accept_lost_records: bool = False
    """Go on at the earliest record where Kafka no longer has the one that the ledger needs next.
    Usage in between stays unbilled, so it is for one start, not for good."""

    gateway_ids_days: int = Field(default=35, ge=1)
    """How long the ledger knows ids of events from gateways: later repeats would count again."""

    ingest_ids_days: int = Field(default=INGEST_IDS_DAYS_MIN, ge=INGEST_IDS_DAYS_MIN)
    """The same of events from elsewhere. ingest hears of it, and takes what is at least a day
    younger, up to AFORO_METER_INGEST_AGE_DAYS_MAX."""

    decisions_poll_ms: int = Field(default=5000, ge=100)
    """How often to keep what authz has counted, to be compared with what was logged."""

    completeness_poll_ms: int = Field(default=60_000, ge=100)
    """How often to compare, and to end sessions that are silent."""

    completeness_grace_s: int = Field(default=900, ge=0)
    """How long after its end an hour is open still: long streams are logged when they end."""

    completeness_threshold_bp: int = Field(default=9900, ge=0, le=10_000)
    """Tell the tenants' owner of hours of which less was logged, in hundredths of a percent."""

    completeness_days: int = Field(default=91, ge=4)
    """How long to keep what was decided and logged."""

    alerts_poll_ms: int = Field(default=1000, ge=10)
    """How often to look for quotas that are used up, usage without a price, changed prices, and a
    sync that stands still."""

    quota_alerts_bp: BasisPoints = (8000, 10_000)
    """At which parts of a quota to tell of its use, in hundredths of a percent, separated by
    commas. Empty: at none."""

    sync_stale_s: int = Field(default=300, ge=1)
    """Tell of a sync whose last complete pass is older."""

    session_idle_s: int = Field(default=1800, ge=1)
    """A session of which nothing was heard for so long has ended."""

    session_days: int = Field(default=91, ge=1)
    """How long to keep sessions that have ended."""

    close_after_days: int = Field(default=5, ge=1)
    """How long after its end a billing period is open: usage that comes later is added as
    adjustments, and its charges stay as they are."""

    metrics_listen: MetricsListen = ""
    """Where /metrics, /livez and /readyz are served: host:port. Empty: nowhere."""

    log_level: LogLevel = "info"
    """The least severe lines to log."""
