"""What an operator can set of `aforo-meter deliver`."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aforo_meter.settings_types import PREFIX, LedgerUrl, LogLevel, MetricsListen
from aforo_meter.webhook_urls import check_public, check_url
from aforo_meter.webhooks import parse_secrets


def _webhook_url(text: str) -> str:
    return check_url(text) if text else text


def _webhook_secret(secret: SecretStr) -> SecretStr:
    if secret.get_secret_value():
        parse_secrets(secret.get_secret_value())
    return secret


class DeliverSettings(BaseSettings):
    """`aforo-meter deliver`: the outbox → signed webhooks."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}DELIVER_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    ledger_url: LedgerUrl
    """The ledger, whose outbox is delivered: sqlite:////absolute/path/ledger.db or
    postgresql://user:password@host/database. Required."""

    webhook_url: Annotated[str, AfterValidator(_webhook_url)] = ""
    """Where messages are posted, if to one endpoint. This or ENDPOINTS is required."""

    webhook_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] = SecretStr("")
    """What they are signed with: whsec_ and base64 of 24 to 64 bytes. Make one with:
    echo whsec_$(head -c 32 /dev/urandom | base64). While it is being changed: both, separated by a
    space."""

    endpoints: str = ""
    """A YAML file of several endpoints, without secrets: docs/alerts.md."""

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

    keep_days: int = Field(default=400, ge=32)
    """How long messages are kept once they were delivered, or given up, everywhere; with what came
    of each attempt. At least as long as the longest window of a quota: one of a message that is
    gone may be told again."""

    concurrency_max: int = Field(default=16, ge=1)
    """Tenants whose messages to one endpoint are under way at the same time."""

    metrics_listen: MetricsListen = ""
    """Where /metrics, /livez and /readyz are served: host:port. Empty: nowhere."""

    log_level: LogLevel = "info"
    """The least severe lines to log."""

    @model_validator(mode="after")
    def names_where_to_deliver(self) -> Self:
        """One endpoint, or a file of them; and no address that every attempt would refuse."""
        one, secret = bool(self.webhook_url), bool(self.webhook_secret.get_secret_value())
        if one == bool(self.endpoints):
            raise ValueError(
                f"{PREFIX}DELIVER_WEBHOOK_URL: set it, or {PREFIX}DELIVER_ENDPOINTS for several"
                " endpoints, and not both"
            )
        if one != secret:
            raise ValueError(
                f"{PREFIX}DELIVER_WEBHOOK_SECRET: goes with {PREFIX}DELIVER_WEBHOOK_URL; a file of"
                " endpoints names the secrets of each"
            )
        if one and not self.allow_private_addresses:
            try:
                check_public(self.webhook_url)
            except ValueError as error:
                raise ValueError(f"{PREFIX}DELIVER_WEBHOOK_URL {error}") from None
        return self
