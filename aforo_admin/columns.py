"""Parts of the catalog ↔ flat rows of columns, by the types of their fields. No I/O.

A column has the name of its field and holds text, an integer, a boolean, an instant, a list of
texts, or None. Thresholds take several columns. Fields that hold further parts have rows of their
own: they are left out of the one, and given to the other.
"""

import functools
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeVar

from aforo_admin.domain.catalog import ThresholdChanges, Thresholds
from aforo_meter.domain.margin import AllowanceThresholds

T = TypeVar("T")
Row = dict[str, Any]
Read = Callable[[Row], Any]

ALLOWANCE_COLUMNS: Final = {
    each.name: f"allowance_{each.name}" for each in fields(AllowanceThresholds)
}
FLOOR_COLUMNS: Final = tuple(
    each.name for each in fields(ThresholdChanges) if each.name != "allowance"
)


def row_of(part: Any) -> Row:  # noqa: ANN401 - any dataclass of the catalog.
    """Return the columns of a part of the catalog."""
    row: Row = {}
    kind: Any = type(part)
    for name in _plain_fields(kind):
        value = getattr(part, name)
        if isinstance(value, Enum):
            value = value.name.lower()
        elif isinstance(value, tuple):
            value = list(value)
        row[name] = value
    floors = getattr(part, "thresholds", None)
    if floors is not None:
        row |= _floor_columns(floors)
    return row


def part_of(kind: Callable[..., T], row: Row, **parts: Any) -> T:  # noqa: ANN401
    """Return a part of the catalog from its row, and from the parts that have their own."""
    values = {name: read(row) for name, read in _readers(kind) if name not in parts}
    return kind(**values, **parts)


@functools.cache
def columns_of(kind: Any) -> tuple[str, ...]:  # noqa: ANN401 - a class.
    """Return the names of a kind's columns, in order."""
    names = list(_plain_fields(kind))
    if "thresholds" in typing.get_type_hints(kind):
        names += [*FLOOR_COLUMNS, *ALLOWANCE_COLUMNS.values()]
    return tuple(names)


def _floor_columns(floors: ThresholdChanges | Thresholds) -> Row:
    row = {name: getattr(floors, name) for name in FLOOR_COLUMNS}
    for name, column in ALLOWANCE_COLUMNS.items():
        row[column] = None if floors.allowance is None else getattr(floors.allowance, name)
    return row


@functools.cache
def _plain_fields(kind: Any) -> tuple[str, ...]:  # noqa: ANN401 - a class.
    hints = typing.get_type_hints(kind)
    return tuple(each.name for each in fields(kind) if _cell(hints[each.name]) is not None)


@functools.cache
def _readers(kind: Any) -> list[tuple[str, Read]]:  # noqa: ANN401 - a class.
    hints = typing.get_type_hints(kind)
    found: list[tuple[str, Read]] = []
    for each in fields(kind):
        read = _cell(hints[each.name])
        if read is not None:
            found.append((each.name, _reader(each.name, read)))
        elif hints[each.name] in {ThresholdChanges, Thresholds}:
            found.append((each.name, functools.partial(floors_of, hints[each.name])))
    return found


def _reader(name: str, read: Callable[[Any], Any]) -> Read:
    def read_column(row: Row) -> Any:  # noqa: ANN401 - a value of any kind.
        value = row[name]
        return None if value is None else read(value)

    return read_column


def _cell(hint: Any) -> Callable[[Any], Any] | None:  # noqa: ANN401 - of several classes.
    """Return how one cell becomes a field's value; None if the field has no column."""
    if isinstance(hint, types.UnionType):
        (hint,) = [each for each in typing.get_args(hint) if each is not types.NoneType][:1]
    if hint == tuple[str, ...]:
        return tuple
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {member.name.lower(): member for member in hint}.__getitem__
    return _same if hint in {str, int, bool, datetime} else None


def _same(value: Any) -> Any:  # noqa: ANN401 - any.
    return value


def floors_of(kind: type, row: Row) -> Any:  # noqa: ANN401 - one of two kinds.
    """Return the thresholds in a row's columns, or what it changes of them."""
    levels = {name: row[column] for name, column in ALLOWANCE_COLUMNS.items()}
    allowance = None if None in levels.values() else AllowanceThresholds(**levels)
    said = {name: row[name] for name in FLOOR_COLUMNS if row[name] is not None}
    return kind(**said, allowance=allowance)
