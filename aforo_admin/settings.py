"""What an operator can set, read once in main(). It decides nothing.

Every variable starts with AFORO_ADMIN_; one that nothing knows stops the start, since
pydantic-settings would ignore a misspelt name.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from aforo_admin.control.roles import Role
from aforo_admin.django_security import SingleSignOn
from aforo_meter import kafka_place, redis_client

PREFIX: Final = "AFORO_ADMIN_"
PORT_MAX: Final = 65535

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


LogLevel = Literal["debug", "info", "warning", "error"]


class SettingsError(Exception):
    """The settings don't allow a start; the message names each one and what to do."""


def _redis_url(text: str) -> str:
    redis_client.parse(text)
    return text


def _database_url(text: str) -> str:
    if not re.match(r"sqlite:////[^?]|postgres(ql)?://[^/?#]*/[^/?#@]+(\?[^#]*)?$", text):
        # It is not quoted: it may hold a password.
        raise ValueError(
            "expected sqlite:////absolute/path/control.db (four slashes), or"
            " postgresql://user:password@host:5432/database; special characters of a password must"
            " be percent-encoded"
        )
    return text


def _optional_bootstrap(text: str) -> str:
    return kafka_place.checked(text) if text else text


def _optional_database_url(text: str) -> str:
    return _database_url(text) if text else text


def _optional_redis_url(text: str) -> str:
    return _redis_url(text) if text else text


def _catalog(given: Path | None, info: ValidationInfo) -> Path | None:
    if given is None and info.data.get("database_url") == "":
        raise PydanticCustomError("missing", "not set")
    return given


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _issuer(text: str) -> str:
    # Who answers in plain text could be anybody, unless it is this machine.
    if text and not re.match(r"https://[^/?#@]+|http://(localhost|127\.0\.0\.1)(:\d+)?(/|$)", text):
        raise ValueError(f"{text!r}: expected https://…, the provider's issuer")
    return text


def _roles(pairs: tuple[str, ...]) -> tuple[str, ...]:
    known = [role.value for role in Role]
    for pair in pairs:
        group, _, role = pair.rpartition("=")
        if not group or role not in known:
            raise ValueError(f"{pair!r}: expected GROUP=ROLE, with one of {', '.join(known)}")
    return pairs


def _listen(text: str) -> str:
    host_and_port(text)
    return text


def _metrics_listen(text: str) -> str:
    if text:
        host_and_port(text)
    return text


def host_and_port(text: str) -> tuple[str, int]:
    """Read `host:port` or `[ipv6]:port`.

    Raises:
        ValueError: It says what was expected.
    """
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > PORT_MAX:
        raise ValueError(f"{text!r}: expected host:port, or nothing for off")
    return host.removeprefix("[").removesuffix("]"), int(port)


class RedisSettings(BaseSettings):
    """What every command needs that looks at the read model."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    redis_url: Annotated[str, AfterValidator(_redis_url)]
    """The read model, which sync makes equal to the catalog. Required."""

    redis_timeout_ms: int = Field(default=5_000, ge=10)
    """How long Redis may take to answer one command before it counts as away."""


class DatabaseSettings(BaseSettings):
    """What every command needs that reads or changes the catalog's database."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    database_url: Annotated[str, AfterValidator(_database_url)]
    """The catalog's database: sqlite:////absolute/path/control.db or
    postgresql://user:password@host/database. Required."""


class ServeSettings(DatabaseSettings):
    """`aforo-admin serve`: the web process."""

    secret_key: SecretStr = Field(min_length=50)
    """What signs sessions: at least 50 characters, secret, the same in all processes. Required."""

    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:8088"
    """Where the pages are served: host:port."""

    hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = (
        "localhost",
        "127.0.0.1",
    )
    """Names by which browsers reach it, separated by commas."""

    ledger_url: Annotated[str, AfterValidator(_optional_database_url)] = ""
    """The ledger that aforo-meter writes, as for the database. Empty: the pages show no margins."""

    redis_url: Annotated[str, AfterValidator(_optional_redis_url)] = ""
    """The read model. Empty: the pages show no prices in force, and decide no calls."""

    kafka_bootstrap: Annotated[str, AfterValidator(_optional_bootstrap)] = ""
    """Kafka brokers to begin with, whose dead letters are shown: host:port, separated by commas;
    with TLS or a login kafkas://user@host:port?password_file=/path&ssl_ca_certs=/path. Empty: none
    are."""

    dead_letter_topic: str = "aforo.usage.dlq.v1"
    """Where dead letters are."""

    https: bool = False
    """Browsers reach it over TLS: cookies are sent over nothing else, and for a year no browser
    asks without."""

    proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ("127.0.0.1",)
    """Addresses of proxies whose X-Forwarded-For and -Proto are believed, separated by commas."""

    oidc_issuer: Annotated[str, AfterValidator(_issuer)] = ""
    """Single sign-on: the OpenID Connect provider's URL. Empty: passwords alone."""

    oidc_client_id: str = ""
    """Single sign-on: this installation's id with the provider."""

    oidc_client_secret: SecretStr = SecretStr("")
    """Single sign-on: its secret with the provider."""

    oidc_claim: str = Field(default="groups", min_length=1)
    """Single sign-on: the claim that names a user's groups."""

    oidc_roles: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_roles)
    ] = ()
    """Single sign-on: which group is which role, like staff=viewer,aforo-finance=finance. Who is in
    none of them doesn't come in."""

    @model_validator(mode="after")
    def _sign_on_is_whole(self) -> Self:
        needed = (self.oidc_client_id, self.oidc_client_secret.get_secret_value(), self.oidc_roles)
        if self.oidc_issuer and not all(needed):
            names = ("oidc_client_id", "oidc_client_secret", "oidc_roles")
            missing = [
                variable(name) for name, value in zip(names, needed, strict=True) if not value
            ]
            raise ValueError(f"single sign-on also needs {', '.join(missing)}")
        return self

    @property
    def sign_on(self) -> SingleSignOn | None:
        """Single sign-on, where it is on."""
        if not self.oidc_issuer:
            return None
        return SingleSignOn(
            issuer=self.oidc_issuer,
            client_id=self.oidc_client_id,
            client_secret=self.oidc_client_secret.get_secret_value(),
            claim=self.oidc_claim,
            roles=dict(each.split("=", 1) for each in self.oidc_roles),
        )

    log_level: LogLevel = "info"
    """The least severe lines to log."""


class SyncSettings(RedisSettings):
    """`aforo-admin sync`: the catalog → Redis."""

    database_url: Annotated[str, AfterValidator(_optional_database_url)] = ""
    """The catalog's database, as for the other commands. Empty: the catalog is a file."""

    catalog: Annotated[Path | None, AfterValidator(_catalog), Field(validate_default=True)] = None
    """The catalog, a YAML file (docs/catalog.md), followed as it changes. Required, where there is
    no database."""

    sync_interval_s: float = Field(default=30.0, gt=0)
    """How often everything is compared and repaired, whether the catalog has changed or not."""

    metrics_listen: Annotated[str, AfterValidator(_metrics_listen)] = ""
    """Where /metrics, /livez and /readyz are served: host:port. Empty: nowhere."""

    log_level: LogLevel = "info"
    """The least severe lines to log."""


class DoctorSettings(BaseSettings):
    """`aforo-admin doctor`: where the parts of an installation are. What is empty is left out."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    redis_url: Annotated[str, AfterValidator(_optional_redis_url)] = ""
    """The read model."""

    database_url: Annotated[str, AfterValidator(_optional_database_url)] = ""
    """The catalog's database."""

    ledger_url: Annotated[str, AfterValidator(_optional_database_url)] = ""
    """The ledger that aforo-meter writes; it is only read."""

    kafka_bootstrap: Annotated[str, AfterValidator(_optional_bootstrap)] = ""
    """Kafka brokers to begin with: host:port, separated by commas; with TLS or a login
    kafkas://user@host:port?password_file=/path&ssl_ca_certs=/path."""

    usage_topic: str = "aforo.usage.v1"
    """Where usage is."""

    dead_letter_topic: str = "aforo.usage.dlq.v1"
    """Where dead letters are."""

    sync_interval_s: float = Field(default=30.0, gt=0)
    """How often sync compares everything, as sync's own setting says."""


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], environ: Mapping[str, str], **said: Any) -> S:  # noqa: ANN401 - of any setting.
    """Read settings from the process's environment.

    Args:
        kind: Which ones.
        environ: The same environment, to find misspelt names in.
        said: Settings that the command line says instead.

    Raises:
        SettingsError: A value is missing or wrong, or a variable is unknown.
    """
    reject_unknown_variables(environ)
    try:
        return kind(**said)
    except ValidationError as error:
        raise SettingsError(_complaint(kind, error)) from None


def reject_unknown_variables(environ: Mapping[str, str]) -> None:
    kinds = (SyncSettings, ServeSettings, DoctorSettings)
    fields = {name for kind in kinds for name in kind.model_fields}
    known = sorted(variable(name) for name in fields)
    complaints = []
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            complaints.append(f"{name}: no such setting{meant}")
    if complaints:
        raise SettingsError(
            "\n".join([*complaints, "without it, aforo-admin check-config prints all"])
        )


def variable(name: str) -> str:
    return PREFIX + name.upper()


def describe(settings: BaseSettings) -> str:
    """Return the settings in force, one a line with what it is for, passwords masked."""
    return "\n".join(
        f"{variable(name)}={without_password(str(getattr(settings, name)))}  # {field.description}"
        for name, field in type(settings).model_fields.items()
    )


def without_password(url: str) -> str:
    url = re.sub(r"(?<=://)[^/]*@", "(masked)@", url)
    return re.sub(r"(?<=password=)[^&]*", "(masked)", url)


def _complaint(kind: type[BaseSettings], error: ValidationError) -> str:
    lines = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        message = _wrong(detail)
        if detail["type"] == "missing":
            message = f"not set. {kind.model_fields[name].description}"
        lines.append(f"{variable(name)}: {message}")
    return "\n".join(lines)


def _wrong(detail: ErrorDetails) -> str:
    """Return what is wrong with a value, and what it should be."""
    if expected := EXPECTED.get(detail["type"]):
        return f"{detail['input']!r}: expected {expected.format(**detail.get('ctx', {}))}"
    return detail["msg"].removeprefix("Value error, ")
