"""The documented form of alerts, taken strictly: a field that no schema names is a mistake."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fastjsonschema

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "alerts"


def check(message: Mapping[str, Any]) -> None:
    """Refuse a message that is not as its schema says.

    Raises:
        fastjsonschema.JsonSchemaValueException: It names the field.
    """
    _validator(message["type"])(message)


@functools.cache
def _validator(kind: str) -> Callable[[Mapping[str, Any]], object]:
    schema = json.loads((FOLDER / f"{kind}.schema.json").read_text())
    compiled: Callable[[Mapping[str, Any]], object] = fastjsonschema.compile(_strict(schema))
    return compiled


def _strict(schema: Any) -> Any:  # noqa: ANN401 - of JSON.
    """Return a schema that allows what it names, and nothing else."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _strict(part) for name, part in schema.items()}
    if schema.get("type") in ("object", ["object", "null"]):
        closed["additionalProperties"] = False
    return closed
