"""What the catalog's readers read, as JSON Schema: they are asked, so it is never out of date.

A reader is given fields that note what it asks for, instead of a mapping. What a scalar may be is
told by which of some samples its reader takes.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from aforo_admin.catalog_yaml import read_fields
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_scalars import UnknownNameError

T = TypeVar("T")
D = TypeVar("D")
Schema = dict[str, Any]
Read = Callable[[str], Any]

ANY_WORD: Final = "no-word-of-ours"
WORDS: Final = ("allow", "deny", "active", "revoked", "unlimited")
TEXT: Final[Schema] = {"type": "string"}
SHARE: Final[Schema] = {
    "type": "string",
    "pattern": r"^-?[0-9]+(\.[0-9]{1,2})?%$",
    "examples": ["20%"],
}
# A change by a share may say that it is more.
CHANGE: Final[Schema] = {
    "type": "string",
    "pattern": r"^[+-]?[0-9]+(\.[0-9]{1,2})?%$",
    "examples": ["+20%"],
}
# A sample that a reader takes, besides a number → what it reads.
KINDS: Final[tuple[tuple[str, Schema], ...]] = (
    (ANY_WORD, TEXT),
    ("true", {"type": "boolean"}),
    ("+20%", CHANGE),
    ("20%", SHARE),
    (
        "2026-01-31",
        {
            "type": "string",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
            r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?$",
            "examples": ["2026-01-31", "2026-01-31T09:30Z"],
        },
    ),
    (
        "09:30",
        {
            "type": "string",
            "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?|24:00)$",
            "examples": ["09:30"],
        },
    ),
    ("prices.jsonl", {"type": "string", "pattern": r"\.jsonl$"}),
)
# Exact: a floating-point number is none of them.
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
DECIMAL: Final[Schema] = {
    "type": ["string", "integer"],
    "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?$",
    "examples": ["2000.50", 2000],
}
# How it is read depends on another field: a quota's limit is money where its meter is.
AMOUNTS_TOO: Final = frozenset({"limit"})


@functools.cache
def catalog_schema() -> Schema:
    """Return the schema of the written catalog."""
    fields = Described()
    read_fields(fields)
    return fields.schema


def part_schema(*path: str) -> Schema:
    """Return the schema of a part: `*` leads to what a list or a mapping of ids holds."""
    schema = catalog_schema()
    for step in path:
        if step != "*":
            schema = schema["properties"][step]
        else:
            schema = schema.get("items") or schema["additionalProperties"]
    return schema


class Described(Fields):
    """Fields that note what is asked of them; every answer is blank."""

    def __init__(self, *path: str) -> None:
        super().__init__(None, path=path, problems=[])
        self._properties: dict[str, Schema] = {}
        self._parts: dict[str, tuple[str, Described]] = {}
        self._required: list[str] = []

    @property
    def schema(self) -> Schema:
        properties = dict(self._properties)
        for key, (kind, inner) in self._parts.items():
            properties[key] = _held(kind, inner.schema)
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if self.path:
            schema["title"] = "_".join(map(str, self.path))
        return {**schema, "required": self._required} if self._required else schema

    def __contains__(self, key: str) -> bool:
        return True  # So that readers go on into what may be left out.

    def need(self, key: str, read: Callable[[str], T], blank: T) -> T:
        self._required.append(key)
        return self.may(key, read, blank)

    def may(self, key: str, read: Callable[[str], T], default: D) -> T | D:
        schema = scalar_schema(read)
        self._properties[key] = {"anyOf": [schema, DECIMAL]} if key in AMOUNTS_TOO else schema
        return default

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...] | None:
        self._properties[key] = {"type": "array", "items": TEXT}
        if required:
            self._required.append(key)
        return None

    def section(self, key: str) -> Fields:
        return self._part(key, "section")

    def need_section(self, key: str) -> Fields:
        self._required.append(key)
        return self.section(key)

    def each(self, key: str) -> Iterator[Fields]:
        yield self._part(key, "list")

    def named(self, key: str) -> Iterator[tuple[str, Fields]]:
        yield "id", self._part(key, "mapping")

    def note(self, path: Any, message: str) -> None:
        """Leave out what is wrong with a blank mapping."""

    def close(self) -> None:
        """Nothing stands here that nobody asks for."""

    def _part(self, key: str, kind: str) -> "Described":
        inner = Described(*map(str, self.path), key)
        self._parts[key] = (kind, inner)
        return inner


def _held(kind: str, schema: Schema) -> Schema:
    if kind == "list":
        return {"type": "array", "items": schema}
    return {"type": "object", "additionalProperties": schema} if kind == "mapping" else schema


def scalar_schema(read: Read) -> Schema:
    """Return what a reader of one value takes."""
    words = [word for word in WORDS if _takes(read, word)]
    number = COUNT if not _takes(read, "1.5") else DECIMAL
    found = [schema for sample, schema in KINDS if _takes(read, sample)]
    if TEXT in found:
        return TEXT
    if CHANGE in found:
        found.remove(SHARE)
    found += [{"enum": names}] if (names := [*_choices(read), *words]) else []
    found += [number] if _takes(read, "1") else []
    return found[0] if len(found) == 1 else {"anyOf": found} if found else TEXT


def _takes(read: Read, sample: str) -> bool:
    try:
        read(sample)
    except ValueError:
        return False
    return True


def _choices(read: Read) -> list[str]:
    try:
        read(ANY_WORD)
    except UnknownNameError as error:
        return list(error.choices)
    except ValueError:
        pass
    return []
