"""Which events a search means. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aforo_meter.domain.periods import PeriodMicros


class ConditionError(Exception):
    """A condition can't be understood; the message says how to write it."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A field, by its path, has this text."""

    path: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for; all of it must hold.

    Args:
        period: When the usage occurred.
        tenant_id: None: any. "": nobody's.
        event_ids: Empty: any.
        conditions: On fields, as `fields_of` names them.
    """

    period: PeriodMicros
    tenant_id: str | None = None
    event_ids: frozenset[str] = frozenset()
    conditions: Sequence[Condition] = ()


def condition(text: str) -> Condition:
    """Return what `metadata.team=blue` says.

    Raises:
        ConditionError: It has no field or no `=`.
    """
    path, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in path.split("."))
    if not equals or not all(parts):
        raise ConditionError(f"{text!r} is no condition; write metadata.team=blue or tool=search")
    return Condition(parts, value)


def holds(fields: Mapping[str, Any], conditions: Sequence[Condition]) -> bool:
    """Say whether fields are as all conditions want them.

    A list holds what any of its items does. Numbers and truth are compared as JSON writes them.
    """
    return all(_found(fields, one.path, one.text) for one in conditions)


def _found(value: Any, path: Sequence[str], text: str) -> bool:  # noqa: ANN401 - of JSON.
    if isinstance(value, list | tuple):
        return any(_found(item, path, text) for item in value)
    if not path:
        return not isinstance(value, Mapping) and _text(value) == text
    if not isinstance(value, Mapping):
        return False
    # A key may have a dot in it: the longest one first.
    return any(
        _found(value[key], path[length:], text)
        for length in range(len(path), 0, -1)
        if (key := ".".join(path[:length])) in value
    )


def _text(value: Any) -> str:  # noqa: ANN401 - of JSON.
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
