"""Settings of aforo-authz: read once, from variables that begin with AFORO_AUTHZ_.

Where spans go is not among them: OpenTelemetry's own variables say it (`otlp.py`).
"""

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnparsableError

from aforo_authz.denials import DENIALS, Denial
from aforo_authz.domain.access import Reason
from aforo_authz.limits import Limits
from aforo_authz.redis_url import RedisUrlError, parse_redis_url
from aforo_authz.server import Address, AddressError, UnixAddress, parse_address
from aforo_authz.tls import TlsFiles

PREFIX = "AFORO_AUTHZ_"

# What numbers, choices, and yes or no may be, by pydantic's kinds of errors. None of them is about
# a setting that may hold a secret, so what was given can be told.
EXPECTED: Final = {
    "bool_parsing": "true or false",
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "enum": "{expected}",
}


class SettingsError(Exception):
    """Settings that can't be used; the message names each variable and what to do."""


class Settings(BaseSettings):
    """One value per variable; see `aforo-authz check-config`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    listen: str = "127.0.0.1:9191"
    """Where Envoy reaches us: host:port or unix:/path, several separated by commas."""

    transport: Literal["ngh2", "grpcio"] = "ngh2"
    """Which gRPC server answers. ngh2 is several times as fast; grpcio is the second source."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """The read model, and the counters of hard quotas; beside Envoy, for speed. redis://host:port/db,
    unix:///path, redis-sentinel://host:port,host:port/db?service=name,
    redis-cluster://host:port,host:port; rediss… for TLS, with ?ssl_ca_certs=/path."""

    redis_timeout_ms: int = Field(default=50, ge=1, le=10_000)
    """How long a decision waits for Redis. Less if Envoy's own timeout leaves less."""

    stale_max_s: int = Field(default=300, ge=1)
    """A margin that nobody confirmed for so long no longer blocks, unless the policy says so."""

    cache_entries_max: int = Field(default=400_000, ge=100)
    """Values remembered; about three a tenant."""

    cache_mib_max: int = Field(default=256, ge=1, le=1 << 20)
    """Memory that they may take, about."""

    jwt_claim_path: str = ""
    """Where in the metadata of Envoy's jwt_authn the tenant's subject stands, e.g.
    `payload.sub`, or as JSON if a name has dots: ["payload", "https://example.com/tenant"]. Empty:
    JWTs identify nobody."""

    peer_certificate: bool = False
    """Do verified client certificates identify tenants? Only where Envoy requires and verifies
    them: else anybody could show a certificate of his own making."""

    denials: dict[Reason, dict[str, str | int]] = Field(default_factory=dict)
    """Other words for refusals, as JSON by reason: {"quota_exceeded": {"status": 403}}. Keys:
    status, title, code, detail."""

    tls_certificate: Path | None = None
    """PEM file of the server's certificate: TCP addresses of LISTEN then speak TLS only. It and its
    key are read again when they change. UNIX sockets stay in clear."""

    tls_key: Path | None = None
    """PEM file of the certificate's private key."""

    tls_client_ca: Path | None = None
    """PEM file of the authorities whose client certificates may connect. Empty: anybody may."""

    connections_max: int = Field(default=1024, ge=1)
    """Connections at once; one more is told to calm down, and closed."""

    streams_max: int = Field(default=1000, ge=1)
    """Checks under way at once on one connection."""

    message_bytes_max: int = Field(default=1 << 20, ge=1 << 16)
    """Size of a check: the client's headers, and its body if Envoy is told to send it."""

    handshake_s_max: float = Field(default=5.0, gt=0)
    """How long TLS and the client's first words may take."""

    request_s_max: float = Field(default=10.0, gt=0)
    """How long the message of a check may take to arrive."""

    idle_s_max: float = Field(default=300.0, gt=0)
    """Silence, without even a ping, after which a connection is closed, politely."""

    metrics_listen: str = ""
    """host:port of /metrics, /livez and /readyz. Empty: off."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged at least."""

    log_sample_ratio: float = Field(default=0.0, ge=0.0, le=1.0)
    """The share of allowed calls that is logged. Refusals always are."""

    log_refusals_per_s_max: int = Field(default=100, ge=0)
    """Refusals logged in a second; of the others, a line a second says how many they were."""

    workers: int = Field(default=1, ge=1, le=256)
    """Processes on the same addresses. The parent deals connections out: Envoy should have at least
    as many (one a thread of its own)."""

    take_over: bool = False
    """Replace whoever listens on our UNIX sockets, once we are ready to decide: then end the old
    process, and no call has gone undecided. Without it a second process does not start."""

    drain_notice_s: float = Field(default=0.0, ge=0.0, le=600.0)
    """After SIGTERM: how long to serve on while saying NOT_SERVING, so that health checks notice.
    Longer than Envoy's interval times its threshold where there are several replicas."""

    drain_s: float = Field(default=5.0, ge=0.0, le=600.0)
    """After SIGTERM: how long calls that have begun may take to end."""

    @field_validator("listen")
    @classmethod
    def _every_address_is_one(cls, value: str) -> str:
        if not _addresses(value):
            raise ValueError("names no address: write host:port or unix:/path")
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _metrics_are_served_on_one_address(cls, value: str) -> str:
        if value and len(_addresses(value)) != 1:
            raise ValueError("must be one host:port, unix:/path, or nothing for off")
        return value

    @field_validator("tls_certificate", "tls_key", "tls_client_ca", mode="before")
    @classmethod
    def _nothing_is_no_file(cls, value: str | Path | None) -> str | Path | None:
        return value or None

    @field_validator("jwt_claim_path")
    @classmethod
    def _claims_have_names(cls, value: str) -> str:
        if value and not _names_of(value):
            raise ValueError('write payload.sub, or ["payload", "sub"]')
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_understands_it(cls, value: str) -> str:
        try:
            parse_redis_url(value)
        except RedisUrlError as error:
            raise ValueError(str(error)) from None  # What led to it may hold a password.
        return value

    @field_validator("denials")
    @classmethod
    def _denials_are_known(
        cls, value: dict[Reason, dict[str, str | int]]
    ) -> dict[Reason, dict[str, str | int]]:
        for reason, words in value.items():
            known = DENIALS.get(reason)
            if known is None:
                raise ValueError(f"{reason.value!r} is no refusal")
            unknown = set(words) - {"status", "title", "code", "detail"}
            if unknown:
                raise ValueError(f"{reason.value}: unknown keys {sorted(unknown)}")
            status = words.get("status", known.status)
            if not isinstance(status, int) or not 400 <= status <= 599:  # noqa: PLR2004 - HTTP
                raise ValueError(f"{reason.value}: status must be a number from 400 to 599")
        return value

    @model_validator(mode="after")
    def _workers_need_ngh2(self) -> Self:
        if self.workers > 1 and self.transport != "ngh2":
            raise ValueError("WORKERS: several need TRANSPORT=ngh2")
        return self

    @model_validator(mode="after")
    def _taking_over_needs_sockets_and_no_notice(self) -> Self:
        if not self.take_over:
            return self
        if self.transport != "ngh2":
            raise ValueError("TAKE_OVER: needs TRANSPORT=ngh2")
        if not all(isinstance(address, UnixAddress) for address in self.addresses):
            raise ValueError("TAKE_OVER: needs UNIX sockets only in LISTEN")
        if self.drain_notice_s:
            # Who asks for our health has a successor at the same address, not another address.
            raise ValueError("TAKE_OVER and DRAIN_NOTICE_S: set one")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS_CERTIFICATE and TLS_KEY: set both, or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("TLS_CLIENT_CA needs TLS_CERTIFICATE and TLS_KEY")
        return self

    @property
    def jwt_claim_names(self) -> tuple[str, ...]:
        return _names_of(self.jwt_claim_path)

    @property
    def limits(self) -> Limits:
        return Limits(
            connections_max=self.connections_max,
            streams_max=self.streams_max,
            message_bytes_max=self.message_bytes_max,
            handshake_s_max=self.handshake_s_max,
            request_s_max=self.request_s_max,
            idle_s_max=self.idle_s_max,
        )

    @property
    def tls_files(self) -> TlsFiles | None:
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(
            certificate=self.tls_certificate, key=self.tls_key, client_ca=self.tls_client_ca
        )

    @property
    def addresses(self) -> list[Address]:
        return _addresses(self.listen)

    def denial_of(self, reason: Reason) -> Denial:
        """Return how a reason is told: the default, with what the owner says instead."""
        default = DENIALS[reason]
        words = self.denials.get(reason, {})
        return Denial(
            status=int(words.get("status", default.status)),
            title=str(words.get("title", default.title)),
            code=str(words.get("code", default.code)),
            detail=str(words.get("detail", default.detail)),
        )


def load(names: Iterable[str], **chosen: str | int) -> Settings:
    """Read the settings from the environment.

    Args:
        names: Of the environment's variables.
        chosen: By name, what the command line says instead.

    Raises:
        SettingsError: A variable is unknown (pydantic would ignore it) or its value unusable.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    # Case does not matter to pydantic, so it does not here.
    unknown = sorted(n for n in names if n.upper().startswith(PREFIX) and n.upper() not in known)
    if unknown:
        raise SettingsError("\n".join(_unknown(name, known) for name in unknown))
    try:
        return Settings(**chosen)  # type: ignore[arg-type] # pydantic checks them
    except UnparsableError as error:
        raise SettingsError(f"{PREFIX}DENIALS: not JSON: {error.__cause__}") from error
    except ValidationError as error:
        lines = [_told(item["loc"], _wrong(item)) for item in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def describe(settings: Settings) -> str:
    """Return the settings in force, one a line with what it is for, without passwords."""
    values = settings.model_dump(mode="json") | {"redis_url": masked(settings.redis_url)}
    return "\n".join(
        f"{PREFIX}{name.upper()}={_shown(values[name])}"
        f"  # {' '.join((field.description or '').split())}"
        for name, field in Settings.model_fields.items()
    )


def _shown(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def masked(url: str) -> str:
    """Return a URL without its password, wherever that stands."""
    url = re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", url)
    return re.sub(r"([?&](?:sentinel_)?password=)[^&#]*", r"\1***", url)


def _told(where: tuple[int | str, ...], message: str) -> str:
    """Return a line about an unusable value; one about several begins with their names."""
    name = ".".join(str(part) for part in where).upper()
    return f"{PREFIX}{name}: {message}" if name else f"{PREFIX}{message}"


def _wrong(detail: ErrorDetails) -> str:
    """Return what is wrong with a value, and what it should be."""
    if expected := EXPECTED.get(detail["type"]):
        return f"{detail['input']!r}: expected {expected.format(**detail.get('ctx', {}))}"
    return detail["msg"].removeprefix("Value error, ")


def _unknown(name: str, known: set[str]) -> str:
    # Without the prefix, which would make any two names look alike.
    endings = [each.removeprefix(PREFIX) for each in known]
    close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), endings, n=1)
    hint = f"did you mean {PREFIX}{close[0]}?" if close else f"known: {', '.join(sorted(known))}"
    return f"{name}: unknown setting; {hint}"


def _names_of(path: str) -> tuple[str, ...]:
    """Return the names of a path, or nothing if it is none."""
    names: object = path.split(".")
    if path.startswith("["):
        try:
            names = json.loads(path)
        except ValueError:
            return ()
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        return ()
    return tuple(names)


def _addresses(text: str) -> list[Address]:
    try:
        return [parse_address(part.strip()) for part in text.split(",") if part.strip()]
    except AddressError as error:
        raise ValueError(str(error)) from error
