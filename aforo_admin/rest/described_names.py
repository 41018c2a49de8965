"""Schemas that an OpenAPI document repeats, named once among its components."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

CHARS_MIN: Final = 120  # A shorter one is as easily read where it stands.
REFERENCE: Final = "#/components/schemas/"


def with_components(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document in which what it repeats stands among the components."""
    found = [_text(each) for each in _titled(document["paths"])]
    repeated = [text for text, times in Counter(found).items() if times > 1]
    names = _names([text for text in repeated if len(text) >= CHARS_MIN])
    components = document["components"]
    schemas = {name: json.loads(text) for text, name in names.items()}
    return {
        **document,
        "paths": _referring(document["paths"], names),
        "components": {
            **components,
            "schemas": {
                **components["schemas"],
                **{name: _inside(schema, names) for name, schema in schemas.items()},
            },
        },
    }


def _titled(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "title" in value and "properties" in value:
            yield value
        for each in value.values():
            yield from _titled(each)
    elif isinstance(value, list):
        for each in value:
            yield from _titled(each)


def _names(texts: list[str]) -> dict[str, str]:
    """Return a name for each: its title, and a number where others have that too."""
    taken: Counter[str] = Counter()
    names: dict[str, str] = {}
    for text in texts:
        title = str(json.loads(text)["title"])
        taken[title] += 1
        names[text] = title if taken[title] == 1 else f"{title}_{taken[title]}"
    return names


def _referring(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        if "title" in value and "properties" in value and (name := names.get(_text(value))):
            return {"$ref": REFERENCE + name}
        return _inside(value, names)
    if isinstance(value, list):
        return [_referring(each, names) for each in value]
    return value


def _inside(schema: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {key: _referring(each, names) for key, each in schema.items()}


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, sort_keys=True)
