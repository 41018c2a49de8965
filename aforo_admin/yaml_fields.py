"""A mapping of the file, read field by field: what is missing, wrong or unknown is noted.

Reading goes on after a fault with a blank value, so that one pass finds them all.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from aforo_admin.domain.problems import Path, Problem
from aforo_admin.faults import advice
from aforo_admin.yaml_nodes import Mapping, Node, Scalar, Sequence
from aforo_admin.yaml_scalars import UnknownNameError

T = TypeVar("T")
D = TypeVar("D")

Read = Callable[[str], T]


class Fields:
    """One mapping. Where the file has none, everything is blank, without a further word."""

    def __init__(self, node: Node | None, *, path: Path, problems: list[Problem]) -> None:
        self.path = path
        self._problems = problems
        self._node = node if isinstance(node, Mapping) else None
        self._known: list[str] = []
        if node is not None and self._node is None:
            self.note((), f"must be a mapping of fields, but is {_kind(node)}")

    def __contains__(self, key: str) -> bool:
        return self._node is not None and key in self._node.entries

    def note(self, path: Path, message: str) -> None:
        self._problems.append(Problem(path=(*self.path, *path), message=message))

    def need(self, key: str, read: Read[T], blank: T) -> T:
        """Return a required value; `blank` if it is missing or wrong."""
        node = self._take(key)
        if node is None:
            if self._node is not None:
                self.note((key,), "is missing")
            return blank
        return self._scalar((key,), node, read, blank)

    def may(self, key: str, read: Read[T], default: D) -> T | D:
        """Return a value that may be left out; `default` if it is, or is wrong."""
        node = self._take(key)
        return default if node is None else self._scalar((key,), node, read, default)

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...] | None:
        """Return a list of words, or one word as a list; None if it is left out."""
        node = self._take(key)
        if node is None:
            if required and self._node is not None:
                self.note((key,), "is missing; write [] for none")
            return None
        if isinstance(node, Scalar) and not node.is_null:
            return (node.text,)
        return tuple(
            self._scalar((key, index), item, str, "")
            for index, item in enumerate(self._items(key, node))
        )

    def section(self, key: str) -> "Fields":
        """Return a mapping of fields; an empty one if it is left out."""
        return Fields(self._take(key), path=(*self.path, key), problems=self._problems)

    def need_section(self, key: str) -> "Fields":
        """Return a required mapping of fields."""
        if self._node is not None and key not in self._node.entries:
            self.note((key,), "is missing")
        return self.section(key)

    def each(self, key: str) -> Iterator["Fields"]:
        """Yield the mappings of a list."""
        node = self._take(key)
        if node is None:
            return
        for index, item in enumerate(self._items(key, node)):
            yield self._inner((key, index), item)

    def named(self, key: str) -> Iterator[tuple[str, "Fields"]]:
        """Yield the mappings of a mapping, each with its id."""
        node = self._take(key)
        if isinstance(node, Mapping):
            for name, (_, item) in node.entries.items():
                yield name, self._inner((key, name), item)
        elif node is not None:
            self.note((key,), f"must map ids, but is {_kind(node)}; write {{}} for none")

    def close(self) -> None:
        """Note the fields that nobody asked for: they are misspelt or misplaced."""
        if self._node is None:
            return
        known = sorted(self._known)
        for key in self._node.entries:
            if key not in self._known:
                self.note((key,), f'no field "{key}"' + advice(key, kind="field", choices=known))

    def _take(self, key: str) -> Node | None:
        self._known.append(key)
        if self._node is None:
            return None
        entry = self._node.entries.get(key)
        return entry[1] if entry is not None else None

    def _inner(self, path: Path, item: Node) -> "Fields":
        return Fields(item, path=(*self.path, *path), problems=self._problems)

    def _items(self, key: str, node: Node) -> list[Node]:
        if isinstance(node, Sequence):
            return node.items
        self.note((key,), f"must be a list, but is {_kind(node)}; write [] for none")
        return []

    def _scalar(self, path: Path, node: Node, read: Read[T], blank: D) -> T | D:
        if not isinstance(node, Scalar):
            self.note(path, f"must be a single value, but is {_kind(node)}")
        elif node.is_null:
            self.note(path, "has no value; give one or remove the line")
        else:
            try:
                return read(node.text)
            except UnknownNameError as error:
                told = advice(error.given, kind=error.kind, choices=error.choices)
                self.note(path, f"{error}{told}")
            except ValueError as error:
                self.note(path, str(error))
        return blank


def _kind(node: Node) -> str:
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a mapping"
    return "empty" if node.is_null else "a single value"
