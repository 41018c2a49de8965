"""What an operator can set, one class per process, read once in main(). It decides nothing.

Every variable starts with AFORO_METER_; one that no process of this package knows stops the start,
since pydantic-settings would ignore a misspelt name.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from aforo_meter.settings_consume import ConsumeSettings
from aforo_meter.settings_deliver import DeliverSettings
from aforo_meter.settings_ingest import IngestSettings
from aforo_meter.settings_ship import ShipSettings
from aforo_meter.settings_types import PREFIX


class SettingsError(Exception):
    """The settings don't allow a start; the message names each one and what to do."""


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

ALL: Final[Mapping[str, type[BaseSettings]]] = {
    "ship": ShipSettings,
    "consume": ConsumeSettings,
    "deliver": DeliverSettings,
    "ingest": IngestSettings,
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
    raise SettingsError("\n".join([*complaints, "without it, aforo-meter check-config prints all"]))


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
    return "" if value is None else _without_password(str(value))


def _without_password(url: str) -> str:
    url = re.sub(r"(?<=://)[^/]*@", "(masked)@", url)
    return re.sub(r"(?<=password=)[^&]*", "(masked)", url)


def _complaints(kind: type[BaseSettings], error: ValidationError) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        message = _wrong(detail)
        if not detail["loc"]:  # About several at once: it names them itself.
            yield message
            continue
        name = str(detail["loc"][0])
        if detail["type"] == "missing":
            field = kind.model_fields.get(name)
            message = f"not set. {field.description}" if field else "not set"
        yield f"{variable(kind, name)}: {message}"


def _wrong(detail: ErrorDetails) -> str:
    """Return what is wrong with a value, and what it should be."""
    if expected := EXPECTED.get(detail["type"]):
        return f"{detail['input']!r}: expected {expected.format(**detail.get('ctx', {}))}"
    return detail["msg"].removeprefix("Value error, ")
