"""What an operator can set of `aforo-meter deliver`."""

import ipaddress
import urllib.parse
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aforo_meter.public_addresses import is_public
from aforo_meter.settings_types import PREFIX, LedgerUrl, LogLevel, MetricsListen
from aforo_meter.webhooks import parse_secret


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


class DeliverSettings(BaseSettings):
    """`aforo-meter deliver`: the outbox → signed webhooks."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}DELIVER_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    ledger_url: LedgerUrl
    """The ledger, whose outbox is delivered: sqlite:////absolute/path/ledger.db or
    postgresql://user:password@host/database. Required."""

    webhook_url: Annotated[str, AfterValidator(_webhook_url)]
    """Where messages are posted. Required."""

    webhook_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)]
    """What they are signed with: whsec_ and base64 of 24 to 64 bytes. Make one with:
    echo whsec_$(head -c 32 /dev/urandom | base64). Required."""

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
