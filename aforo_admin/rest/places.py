"""Where the parts of the written catalog stand, and how each is named: the words of the YAML.

A part is a place in the written form. To change it is to write another value there and to read the
whole again: so the API has no rules of its own.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from aforo_admin.domain.problems import Path
from aforo_admin.rest.described import Schema, part_schema
from aforo_admin.rest.problems import NotFoundError, invalid

Document = dict[str, Any]

ID: Final = "id"
DATED_NAMES: Final = (
    *("meter", "provider", "model", "currency", "from"),
    *("input_tokens_from", "day_from", "day_to"),
)
DATED_ID_CHARS: Final = 16


class Shape(Enum):
    """What stands at a place."""

    DOCUMENT = auto()  # One mapping, or none.
    MEMBERS = auto()  # A list of mappings with ids.
    DATED = auto()  # A list of entries that are never edited, only added.
    WHOLE = auto()  # A list whose order means something: it is replaced as a whole.


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A place in the catalog, or in each of its tenants."""

    name: str
    shape: Shape
    of_tenant: bool = False
    required: bool = False  # Of a document: it is always there.
    keys: bool = False  # Its members are keys, which can be made here.

    @property
    def schema(self) -> Schema:
        """Of the document, or of one of the list."""
        path = ("tenants", "*", self.name) if self.of_tenant else (self.name,)
        return part_schema(*path) if self.shape is Shape.DOCUMENT else part_schema(*path, "*")

    def path(self, tenant: str) -> Path:
        return ("tenants", tenant, self.name) if self.of_tenant else (self.name,)

    def holder(self, document: Document, tenant: str) -> Document:
        """Return the mapping in which the part is a field.

        Raises:
            NotFoundError: There is no such tenant.
        """
        if not self.of_tenant:
            return document
        return tenant_of(document, tenant)


PARTS: Final = (
    Part(name="features", shape=Shape.MEMBERS),
    Part(name="meters", shape=Shape.MEMBERS),
    Part(name="metering", shape=Shape.WHOLE),
    Part(name="routes", shape=Shape.WHOLE),
    Part(name="ingest_keys", shape=Shape.MEMBERS, keys=True),
    Part(name="costs", shape=Shape.DATED),
    Part(name="exchange_rates", shape=Shape.DATED),
    Part(name="thresholds", shape=Shape.DOCUMENT, required=True),
    Part(name="allowance_thresholds", shape=Shape.DOCUMENT),
    Part(name="subscription", shape=Shape.DOCUMENT, of_tenant=True, required=True),
    Part(name="credentials", shape=Shape.MEMBERS, of_tenant=True, keys=True),
    Part(name="deals", shape=Shape.MEMBERS, of_tenant=True),
    Part(name="margin_override", shape=Shape.DOCUMENT, of_tenant=True),
    Part(name="negotiated_costs", shape=Shape.DATED, of_tenant=True),
    Part(name="thresholds", shape=Shape.DOCUMENT, of_tenant=True),
    Part(name="allowance_thresholds", shape=Shape.DOCUMENT, of_tenant=True),
)


def tenant_of(document: Document, tenant: str) -> Document:
    """Return what the catalog says of a tenant.

    Raises:
        NotFoundError: There is no such tenant.
    """
    found: Document | None = document.get("tenants", {}).get(tenant)
    if found is None:
        raise NotFoundError("such tenant")
    return found


def dated_id(entry: Mapping[str, Any]) -> str:
    """Return the id of a dated entry, which the written form names by several fields."""
    said = [str(entry.get(name, "")) for name in DATED_NAMES]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:DATED_ID_CHARS]


def id_of(part: Part, entry: Mapping[str, Any]) -> str:
    return dated_id(entry) if part.shape is Shape.DATED else str(entry[ID])


def shown(part: Part, entry: Mapping[str, Any]) -> Document:
    """Return a member of a list as it is answered: with its id first."""
    return {ID: id_of(part, entry), **entry}


def sort_key(part: Part, entry: Mapping[str, Any]) -> str:
    """Return what members are listed by: stable, and none has another's."""
    if part.shape is Shape.DATED:
        return json.dumps([str(entry.get(name, "")) for name in DATED_NAMES])
    return str(entry[ID])


def index_of(part: Part, entries: list[Document], entry_id: str) -> int:
    """Return where a member stands.

    Raises:
        NotFoundError: Nowhere.
    """
    for index, entry in enumerate(entries):
        if id_of(part, entry) == entry_id:
            return index
    raise NotFoundError("such entry")


def named(body: Any, entry_id: str) -> Document:
    """Return a body that is meant for an id.

    Raises:
        InvalidError: It is no mapping, or names another.
    """
    body = mapping(body)
    if str(body.get(ID, entry_id)) != entry_id:
        raise invalid(ID, "is another one than the address names", "leave it out, or make them one")
    return {ID: entry_id, **body}


def mapping(body: Any) -> Document:
    if not isinstance(body, dict):
        raise invalid("", "must be an object of fields", "send {…}")
    return body


def members(body: Any) -> list[Document]:
    if not isinstance(body, list) or not all(isinstance(each, dict) for each in body):
        raise invalid("", "must be a list of objects", "send [{…}, …]")
    return body
