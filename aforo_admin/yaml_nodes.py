"""YAML text → nodes that know their line. It loads no objects, and knows nothing of catalogs.

PyYAML's events are composed here and not by its loader, which keeps the last of two equal keys
without a word, recurses with the depth of the document, and turns amounts into floats.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

BYTES_MAX: Final = 64 * 1024 * 1024
DEPTH_MAX: Final = 32
# Aliases may repeat what they name; beyond this many times the written nodes, it is a bomb.
EXPANSION_MAX: Final = 10
EXPANDED_NODES_ALWAYS_ALLOWED: Final = 1_000_000
PROBLEMS_MAX: Final = 1000  # Of one text: beyond that, it is no YAML of ours.

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_MERGE: Final = "<<"
# libyaml's parser, where the wheel has it, is ten times faster; both make the same events.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


Fault = tuple[int, str]  # A line, counted from 1, and what is wrong.


class UnreadableYamlError(Exception):
    """The text has no structure that we could read."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"line {line}: {what}" for line, what in faults))
        self.faults = faults


@dataclass(slots=True, kw_only=True)
class Scalar:
    """A value as written: `text` has lost its quotes and nothing else."""

    line: int
    text: str
    quoted: bool
    size: int = 1

    @property
    def is_null(self) -> bool:
        return not self.quoted and self.text in _NULLS


@dataclass(slots=True, kw_only=True)
class Sequence:
    line: int
    items: list["Node"] = field(default_factory=list)
    size: int = 1  # Nodes in it, aliases counted in full.


@dataclass(slots=True, kw_only=True)
class Mapping:
    line: int
    entries: dict[str, tuple[int, "Node"]] = field(default_factory=dict)  # Key → its line, value.
    size: int = 1
    merged: list["Mapping"] = field(default_factory=list)


Node = Scalar | Sequence | Mapping


def compose(data: bytes) -> tuple[Node, list[Fault]]:
    """Read one YAML document.

    Anchors, aliases and merge keys (`<<`) work; tags don't.

    Returns:
        The root, and what is wrong although the rest can be read: equal keys, tags, aliases
        without an anchor or inside it, a further document.

    Raises:
        UnreadableYamlError: Not UTF-8, not YAML, too deep, too large, or aliases that multiply
            without bounds.
    """
    if len(data) > BYTES_MAX:
        raise UnreadableYamlError([(1, f"is larger than {BYTES_MAX // 1024**2} MiB; split it")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableYamlError([(line, "is not UTF-8; save the file as UTF-8")]) from None
    composer = _Composer()
    try:
        for event in yaml.parse(io.StringIO(text), Loader=_LOADER):
            composer.take(event)
    except yaml.YAMLError as error:
        composer.faults.append(_syntax_fault(error, text))
        raise UnreadableYamlError(sorted(composer.faults)) from None
    if composer.root is None:
        raise UnreadableYamlError([(1, "is empty")])
    limit = max(EXPANDED_NODES_ALWAYS_ALLOWED, EXPANSION_MAX * composer.nodes)
    if composer.root.size > limit:
        raise UnreadableYamlError(
            [(1, f"stands for {composer.root.size} nodes through its aliases, at most {limit} may")]
        )
    return composer.root, sorted(composer.faults)


class _Composer:
    """The open nodes, from the document's root inwards."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.nodes = 0
        self.faults: list[Fault] = []
        self._open: list[Sequence | Mapping] = []
        self._keys: list[Scalar | None] = []  # Of each open node: the key that waits for a value.
        self._anchors: dict[str, Node | None] = {}  # None: still open.
        self._names: list[str | None] = []
        self._documents = 0
        self._copied = 0  # Entries that merge keys have repeated.

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._fault(line, "a second document begins here; keep one in a file")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(line, str(event.anchor))
        elif isinstance(event, yaml.ScalarEvent):
            self._check_tag(line, event)
            scalar = Scalar(line=line, text=event.value, quoted=event.style in {"'", '"', "|", ">"})
            if event.anchor is not None:
                self._anchors[event.anchor] = scalar
            self._place(scalar)
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            self._check_tag(line, event)
            self._begin(event, line)
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            self._end()

    def _begin(self, event: yaml.CollectionStartEvent, line: int) -> None:
        if len(self._open) >= DEPTH_MAX:
            self._fault(line, f"is nested more than {DEPTH_MAX} levels deep")
            raise UnreadableYamlError(self.faults)
        is_sequence = isinstance(event, yaml.SequenceStartEvent)
        self._open.append(Sequence(line=line) if is_sequence else Mapping(line=line))
        self._keys.append(None)
        self._names.append(event.anchor)
        if event.anchor is not None:
            self._anchors[event.anchor] = None

    def _end(self) -> None:
        node = self._open.pop()
        self._keys.pop()
        name = self._names.pop()
        if isinstance(node, Mapping):
            for source in node.merged:
                self._copied += len(source.entries)
                if self._copied > EXPANDED_NODES_ALWAYS_ALLOWED + EXPANSION_MAX * self.nodes:
                    self._fault(node.line, "is merged (<<) too often: write it out")
                    raise UnreadableYamlError(self.faults)
                node.entries = {**source.entries, **node.entries}
        if name is not None:
            self._anchors[name] = node
        self._place(node)

    def _alias(self, line: int, name: str) -> None:
        if name not in self._anchors:
            self._fault(line, f"the alias *{name} has no anchor &{name} before it")
            self._place(Scalar(line=line, text="", quoted=False))
            return
        node = self._anchors[name]
        if node is None:
            self._fault(line, f"the alias *{name} stands inside what it names")
            node = Scalar(line=line, text="", quoted=False)
        self._place(node)

    def _place(self, node: Node) -> None:
        self.nodes += 1
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        parent.size += node.size
        if isinstance(parent, Sequence):
            parent.items.append(node)
            return
        key = self._keys[-1]
        if key is None:
            self._keys[-1] = self._as_key(node)
            return
        self._keys[-1] = None
        if key.text == _MERGE and not key.quoted:
            self._merge(parent, key, node)
            return
        first = parent.entries.get(key.text)
        if first is not None:
            self._fault(
                key.line, f'the key "{key.text}" stands here twice; first in line {first[0]}'
            )
            return
        parent.entries[key.text] = (key.line, node)

    def _as_key(self, node: Node) -> Scalar:
        if isinstance(node, Scalar):
            return node
        self._fault(node.line, "a key must be a single word; was a dash or a colon forgotten?")
        return Scalar(line=node.line, text="", quoted=True)

    def _merge(self, parent: Mapping, key: Scalar, node: Node) -> None:
        sources = node.items if isinstance(node, Sequence) else [node]
        for source in sources:
            if isinstance(source, Mapping):
                parent.merged.append(source)
            else:
                self._fault(key.line, "<< takes an alias of a mapping, like <<: *name")

    def _check_tag(self, line: int, event: Any) -> None:  # noqa: ANN401 - of several kinds.
        if event.tag is not None:
            self._fault(line, f'the tag "{event.tag}" is not used here; remove it')

    def _fault(self, line: int, what: str) -> None:
        self.faults.append((line, what))
        if len(self.faults) >= PROBLEMS_MAX:
            raise UnreadableYamlError(self.faults)


def _syntax_fault(error: yaml.YAMLError, text: str) -> Fault:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        lines = text.split("\n")
        # The parser may see a last line that is none.
        line = min(mark.line + 1 if mark is not None else 1, len(lines))
        indent = lines[line - 1]
        indent = indent[: len(indent) - len(indent.lstrip())]
        if "\t" in indent:
            return line, "is indented with a tab; YAML wants spaces"
        what = " ".join(part for part in (error.context, error.problem) if part)
        began = error.context_mark.line + 1 if error.context_mark is not None else line
        return line, what + (f"; it began in line {began}" if began != line else "")
    position = getattr(error, "position", None)
    if isinstance(position, int):
        bad = next(_forbidden(text), position)
        return text.count("\n", 0, bad) + 1, f"has a character that YAML forbids: {text[bad]!r}"
    return 1, str(error)


def _forbidden(text: str) -> Iterator[int]:
    """Yield where characters stand that YAML forbids: libyaml counts bytes, PyYAML characters."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found is not None:
        yield found.start()
