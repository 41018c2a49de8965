"""What is wrong with a document by its schema: Kubernetes' own, or its project's definition.

A kind that no schema knows is a fault. Rules in CEL are run, too, after defaults were applied, as
a cluster would do it.
"""

import functools
import gzip
import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
from cel_expr_python import cel
from cel_expr_python.ext import ext_math, ext_optional, ext_strings
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from tests.deploy.rendering import Document

KUBERNETES: Final = ("1.34", "1.37")
BUILT_IN: Final = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
CRDS: Final = Path(__file__).parent / "crds"
RULES: Final = "x-kubernetes-validations"


def faults(document: Document, *, kubernetes: str) -> list[str]:
    """Return what is wrong, each fault with its place."""
    key = f"{document['apiVersion']} {document['kind']}"
    if custom := _custom().get(key):
        return list(_custom_faults(document, custom))
    name = _file_name(document["apiVersion"], document["kind"])
    if not (_folder(kubernetes) / name).exists():
        return [f"no schema knows {key}"]
    validator = jsonschema.Draft7Validator({"$ref": name}, registry=_built_in(kubernetes))
    return [_told(error) for error in validator.iter_errors(document)]


def _told(error: jsonschema.ValidationError) -> str:
    return f"{error.json_path}: {error.message[:300]}"


def _file_name(api_version: str, kind: str) -> str:
    group, _, version = api_version.rpartition("/")
    return "-".join(part for part in (kind.lower(), group.split(".")[0], version) if part) + ".json"


def _folder(kubernetes: str) -> Path:
    return BUILT_IN / f"v{kubernetes}.0-local-strict"


@functools.cache
def _built_in(kubernetes: str) -> Registry[Any]:
    """Return the schemas of a version, which refer to each other by the names of their files."""

    def read(uri: str) -> Resource[Any]:
        contents = json.loads((_folder(kubernetes) / uri.rpartition("/")[2]).read_text())
        return Resource.from_contents(contents, default_specification=DRAFT7)

    return Registry(retrieve=functools.cache(read))  # type: ignore[call-arg] # attrs' name for it.


@functools.cache
def _custom() -> dict[str, Any]:
    packed = sorted(CRDS.glob("*.json.gz"))
    return {
        key: schema
        for path in packed
        for key, schema in json.loads(gzip.decompress(path.read_bytes())).items()
    }


def custom_schemas() -> dict[str, Any]:
    """Return the projects' definitions by `apiVersion Kind`."""
    return _custom()


def _custom_faults(document: Document, schema: Any) -> Iterator[str]:
    whole = _closed(schema)
    for name in ("apiVersion", "kind", "metadata"):  # Not every project's definition names them.
        whole["properties"].setdefault(name, {})
    validator = jsonschema.Draft7Validator(whole)
    yield from (_told(error) for error in validator.iter_errors(document))
    yield from _broken_rules(_defaulted(deepcopy(document), schema), schema, "$")


def _closed(schema: Any) -> Any:
    """Return an OpenAPI schema as JSON Schema that takes no unknown property."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items() if key != RULES}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and "type" in schema and not open_ended:
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        closed["type"] = [schema["type"], "null"]
    if isinstance(schema.get("format"), str) and schema.get("type") in {"integer", "number"}:
        closed.pop("format")
    return closed


def _defaulted(value: Any, schema: Any) -> Any:
    """Fill in a schema's defaults, in place."""
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name not in value and "default" in part:
                value[name] = deepcopy(part["default"])
            if name in value:
                _defaulted(value[name], part)
    elif isinstance(value, list):
        for each in value:
            _defaulted(each, schema.get("items", {}))
    return value


def _broken_rules(value: Any, schema: Any, place: str) -> Iterator[str]:
    for rule in schema.get(RULES, ()):
        if "oldSelf" in rule["rule"]:  # About a change, of which there is none.
            continue
        answer = _compiled(rule["rule"]).eval(data={"self": value})
        if answer.value() is not True:
            said = rule.get("message") or rule["rule"]
            yield f"{place}: {said} ({answer.value()})"
    if isinstance(value, dict):
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                yield from _broken_rules(part, inner, f"{place}.{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _broken_rules(part, schema.get("items", {}), f"{place}[{index}]")


@functools.cache
def _environment() -> Any:
    return cel.NewEnv(
        variables={"self": cel.Type.DYN},
        extensions=[ext_strings.ExtStrings(), ext_optional.ExtOptional(), ext_math.ExtMath()],
    )


@functools.cache
def _compiled(rule: str) -> Any:
    return _environment().compile(rule)


def compiles(rule: str) -> bool:
    try:
        _compiled(rule)
    except RuntimeError:
        return False
    return True
