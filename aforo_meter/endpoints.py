"""Who gets alerts: one endpoint from variables, or several from a file that names their secrets.

The file holds no secret. It says in which variable, or in which file, each of them is.
"""

import hashlib
import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from aforo_meter.alerts import KINDS
from aforo_meter.settings_deliver import DeliverSettings
from aforo_meter.settings_types import PREFIX
from aforo_meter.webhook_urls import check_public, check_url
from aforo_meter.webhooks import parse_secrets

# The endpoint of the variables; state of a ledger from before there were others is its.
DEFAULT_ID: Final = "default"
FILE_VARIABLE: Final = f"{PREFIX}DELIVER_ENDPOINTS"


class EndpointsError(Exception):
    """Whom to deliver to is not said, or not so that it works; a line for each complaint."""


class Format(StrEnum):
    STANDARD = "standard"  # The payload, signed as Standard Webhooks has it.
    SLACK = "slack"  # A sentence, for Slack's incoming webhooks and what takes their form.


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One receiver, and which messages are for it."""

    endpoint_id: str
    url: str = field(repr=False)
    format: Format = Format.STANDARD
    keys: tuple[bytes, ...] = field(default=(), repr=False)  # Of the signatures.
    kinds: frozenset[str] | None = None  # None: all.
    tenants: frozenset[str] | None = None  # None: all, and what is about no tenant.

    @property
    def url_digest(self) -> str:
        """Tells one URL of the endpoint from another, without telling it."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """Say who it is and what it gets, without a secret or a path that may be one."""
        kinds = "all kinds" if self.kinds is None else ", ".join(sorted(self.kinds))
        tenants = "all tenants" if self.tenants is None else ", ".join(sorted(self.tenants))
        host = urllib.parse.urlsplit(self.url).hostname
        signed = f", secrets: {len(self.keys)}" if self.keys else ""
        return f"{self.endpoint_id} at {host}: {self.format}, {kinds}, {tenants}{signed}"

    def wants(self, *, tenant_id: str, kind: str) -> bool:
        return (self.kinds is None or kind in self.kinds) and (
            self.tenants is None or tenant_id in self.tenants
        )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _variable(name: str) -> str:
    if name.upper().startswith(PREFIX):
        raise ValueError(f"must not start with {PREFIX}: such a name would be read as a setting")
    return name


class _Place(_Strict):
    """Where a secret is kept: never the secret."""

    env: Annotated[str, Field(min_length=1), AfterValidator(_variable)] | None = None
    file: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("expected either env: NAME or file: PATH")
        return self

    def read(self, environ: Mapping[str, str]) -> str:
        """Return what is kept there.

        Raises:
            ValueError: Nothing is.
        """
        if self.env is not None:
            if not environ.get(self.env):
                raise ValueError(f"the variable {self.env} is not set")
            return environ[self.env].strip()
        assert self.file is not None, "one of both is set"
        try:
            return Path(self.file).read_text().strip()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{self.file} can't be read: {error}") from None


def _endpoint_id(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", text):
        raise ValueError("expected up to 64 of a-z, 0-9, '.', '_' and '-'")
    return text


def _kind(text: str) -> str:
    if text not in KINDS:
        raise ValueError(f"{text!r} is no kind of alert; known: {', '.join(KINDS)}")
    return text


class _Entry(_Strict):
    id: Annotated[str, AfterValidator(_endpoint_id)]
    url: str | _Place
    format: Annotated[Format, Field(strict=False)] = Format.STANDARD
    secrets: list[_Place] = []
    kinds: Annotated[list[Annotated[str, AfterValidator(_kind)]], Field(min_length=1)] | None = None
    tenants: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def signed_or_not(self) -> Self:
        if self.format is Format.STANDARD and not self.secrets:
            raise ValueError("secrets is missing: messages are signed")
        if self.format is Format.SLACK and self.secrets:
            raise ValueError("secrets is not for format slack: its URL is the secret")
        return self

    def endpoint(self, environ: Mapping[str, str]) -> Endpoint:
        """Return the endpoint, with its secrets. ValueError: one is not there, or is none."""
        url = check_url(self.url if isinstance(self.url, str) else self.url.read(environ))
        keys = [key for place in self.secrets for key in parse_secrets(place.read(environ))]
        return Endpoint(
            endpoint_id=self.id,
            url=url,
            format=self.format,
            keys=tuple(keys),
            kinds=None if self.kinds is None else frozenset(self.kinds),
            tenants=None if self.tenants is None else frozenset(self.tenants),
        )


class _File(_Strict):
    endpoints: Annotated[list[_Entry], Field(min_length=1)]


def endpoints_of(
    settings: DeliverSettings, environ: Mapping[str, str] = os.environ
) -> tuple[Endpoint, ...]:
    """Return whom to deliver to.

    Raises:
        EndpointsError: The file, or a secret that it names, is not what it has to be.
    """
    if settings.endpoints:
        found = _from_file(Path(settings.endpoints), environ)
    else:
        secrets = settings.webhook_secret.get_secret_value()
        found = (
            Endpoint(endpoint_id=DEFAULT_ID, url=settings.webhook_url, keys=parse_secrets(secrets)),
        )
    if not settings.allow_private_addresses:
        _check_public(found)
    return found


def _from_file(path: Path, environ: Mapping[str, str]) -> tuple[Endpoint, ...]:
    try:
        written: Any = yaml.safe_load(path.read_text())
        entries = _File.model_validate(written).endpoints
    except OSError as error:
        raise EndpointsError(f"{FILE_VARIABLE}: {path} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise EndpointsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise EndpointsError("\n".join(_complaints(path, error))) from None
    names = [entry.id for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EndpointsError(f"{path}: {', '.join(twice)}: an id is given to one endpoint only")
    found, wrong = [], []
    for entry in entries:
        try:
            found.append(entry.endpoint(environ))
        except ValueError as error:
            wrong.append(f"{path}: endpoint {entry.id}: {error}")
    if wrong:
        raise EndpointsError("\n".join(wrong))
    return tuple(found)


def _check_public(endpoints: tuple[Endpoint, ...]) -> None:
    for endpoint in endpoints:
        try:
            check_public(endpoint.url)
        except ValueError as error:
            raise EndpointsError(f"the URL of endpoint {endpoint.endpoint_id} {error}") from None


def _complaints(path: Path, error: ValidationError) -> list[str]:
    # Without the input: somebody may have written a secret where its name belongs.
    return [
        f"{path}: {_where(detail['loc'])}{detail['msg'].removeprefix('Value error, ')}"
        for detail in error.errors(include_url=False, include_input=False)
    ]


def _where(parts: tuple[int | str, ...]) -> str:
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in {"str", "_Place"}:  # Which of two forms pydantic had tried.
            text += f".{part}" if text else part
    return f"{text}: " if text else "expected endpoints: and a list; "
