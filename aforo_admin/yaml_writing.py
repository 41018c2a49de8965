"""The written form → YAML text, and → the nodes that the catalog's readers read."""

import re
from typing import Any, Final

import yaml

from aforo_admin.written_values import Plain, Written
from aforo_admin.yaml_nodes import Mapping, Node, Scalar, Sequence

LINE_CHARS: Final = 100

_FURTHER_BREAKS = re.compile("[\x85\u2028\u2029]")


class _Dumper(yaml.SafeDumper):
    """Writes numbers and dates without quotes, and repeats what occurs twice."""

    def ignore_aliases(self, _data: Any) -> bool:  # noqa: ANN401 - anything is repeated.
        return True


def _plain(dumper: yaml.SafeDumper, value: Plain) -> yaml.ScalarNode:
    # A time of day has colons, for which the emitter wants quotes; then it is a text.
    quoted = ":" in value
    resolve: Any = dumper.resolve  # Which PyYAML's stubs leave untyped.
    tag = resolve(yaml.ScalarNode, str(value), (not quoted, quoted))
    return dumper.represent_scalar(tag, str(value))


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # Within single quotes they would be line breaks, which a reader takes for a space.
    style = '"' if _FURTHER_BREAKS.search(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(Plain, _plain)
_Dumper.add_representer(str, _text)


def yaml_text(written: dict[str, Written]) -> str:
    return str(
        yaml.dump(
            written,
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=None,  # A mapping of single values stands in one line.
            width=LINE_CHARS,
        )
    )


def node_of(value: Any) -> Node:  # noqa: ANN401 - what JSON may hold.
    """Return what the readers take, for a value of the written form or of a JSON column.

    Raises:
        ValueError: It holds a floating-point number or null, which are no exact values.
    """
    if isinstance(value, dict):
        entries = {str(key): (0, node_of(each)) for key, each in value.items()}
        return Mapping(line=0, entries=entries)
    if isinstance(value, (list, tuple)):
        return Sequence(line=0, items=[node_of(each) for each in value])
    if isinstance(value, bool):
        return Scalar(line=0, text=str(value).lower(), quoted=False)
    if isinstance(value, (str, int)):
        return Scalar(line=0, text=str(value), quoted=True)
    raise ValueError(f'{value!r} is not exact: write it in quotes, like "0.5", or leave it out')
