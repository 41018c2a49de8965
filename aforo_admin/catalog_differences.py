"""How one catalog differs from another, for people: in the words of the written form."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aforo_admin import written
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.problems import place_of
from aforo_admin.yaml_writing import yaml_text

ORDER: Final = "order"  # Of a list's members, told as a field of the list.
HASH_CHARS_SHOWN: Final = 8
HASH_FIELDS: Final = frozenset({"sha256"})

Flat = dict[tuple[str | int, ...], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field."""

    place: str
    before: str | None  # None: it was not there.
    after: str | None  # None: it is gone.

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.place}: {self.after}"
        if self.after is None:
            return f"- {self.place}: {self.before}"
        return f"~ {self.place}: {self.before} → {self.after}"


def differences(before: Catalog | None, after: Catalog) -> list[Difference]:
    """Return every field that differs, in the order of the written form; None: all is new."""
    old = _fields(before) if before is not None else {}
    new = _fields(after)
    return [
        Difference(place=place_of(path), before=old.get(path), after=new.get(path))
        for path in dict.fromkeys([*new, *old])
        if old.get(path) != new.get(path)
        # A list that is new or gone has no order worth telling beside its members.
        and not (path[-1] == ORDER and (path not in old or path not in new))
    ]


def digest_of(seq: int, after: Catalog) -> str:
    """Return what names differences: the change that they were told from, and the new content."""
    said = f"{seq}\n{yaml_text(written.catalog(after))}"
    return hashlib.sha256(said.encode()).hexdigest()


def _fields(catalog: Catalog) -> Flat:
    return dict(_flat((), written.catalog(catalog)))


def _flat(path: tuple[str | int, ...], value: Any) -> Iterator[tuple[Any, str]]:  # noqa: ANN401
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _flat((*path, name), each)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        names = _names_of(value)
        for name, each in zip(names, value, strict=True):
            yield from _flat((*path, name), {k: v for k, v in each.items() if k != "id"})
        yield (*path, ORDER), ", ".join(map(str, names))
    elif path[-1] in HASH_FIELDS:
        yield path, f"{str(value)[:HASH_CHARS_SHOWN]}…"
    else:
        yield path, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _names_of(members: list[Mapping[str, Any]]) -> list[str | int]:
    """Return what tells the members of a list apart; where nothing does, their places in it."""
    names = [_name_of(each) for each in members]
    if "" in names or len(set(names)) < len(names):
        return list(range(len(members)))
    return list(names)


def _name_of(member: Mapping[str, Any]) -> str:
    if "id" in member:
        return str(member["id"])
    if "path" in member:  # A route.
        return f"{'|'.join(member.get('methods', [])) or 'any'} {member['path']}"
    said = (
        *("meter", "provider", "model", "currency", "from"),
        *("input_tokens_from", "day_from", "day_to"),
    )
    return ", ".join(str(member[name]) for name in said if name in member)
