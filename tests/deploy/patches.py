"""What an overlay's patches bring, and whether it is in what a control plane made."""

import re
from collections.abc import Iterator
from typing import Any

from tests.deploy.rendering import rendered


def unapplied(plane: str, made: Any) -> list[Any]:
    """Return what patches bring and nothing in a translation has: a plane may accept them so."""
    there = [*nodes(plain(made))]
    wanted = [plain(each) for each in patches(plane)]
    return [each for each in wanted if not any(has(node, each) for node in there)]


def plain(value: Any) -> Any:
    """Return a message without what says nothing, and durations and numbers in one spelling."""
    if isinstance(value, dict):
        return {
            name: plain(part)
            for name, part in value.items()
            if part is not False and part is not None
        }
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?s", value):
        return f"{float(value[:-1]):g}s"
    if isinstance(value, str) and value.isdecimal():  # As JSON has numbers of 64 bits.
        return int(value)
    return value


def nodes(value: Any) -> Iterator[Any]:
    yield value
    parts = value.values() if isinstance(value, dict) else value
    for part in parts if isinstance(value, dict | list) else ():
        yield from nodes(part)


def has(node: Any, wanted: Any) -> bool:
    """Say whether a message has at least these fields, with these values."""
    if isinstance(wanted, dict):
        return isinstance(node, dict) and all(
            name in node and has(node[name], part) for name, part in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(node, list) and len(node) == len(wanted) and all(map(has, node, wanted))
    return bool(node == wanted)


def patches(plane: str) -> Iterator[Any]:
    """Yield what each patch of an overlay brings, as a part of whatever it is put into."""
    for document in rendered(plane):
        if document["kind"] == "EnvoyFilter":
            yield from (each["patch"]["value"] for each in document["spec"]["configPatches"])
        if document["kind"] == "EnvoyPatchPolicy":
            for each in document["spec"]["jsonPatches"]:
                name = each["operation"]["path"].rpartition("/")[2]
                value = each["operation"]["value"]
                yield value if name.isdecimal() else {name: value}
