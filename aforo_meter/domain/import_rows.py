"""One row of a file → an event as clients send it over HTTP; what to do about errors. Pure."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from aforo_meter.domain.ingest_fields import REQUIRED, SNAKE, TEXT_UNITS_MAX
from aforo_meter.domain.ingest_tokens import TOKEN_NAMES
from aforo_meter.domain.ingest_values import Rejection

METADATA: Final = "metadata"
FIELDS: Final = (
    *dict.fromkeys((*REQUIRED, *TEXT_UNITS_MAX)),
    *("statusCode", "sessionBoundary", METADATA),
)
# Spelled in any case, with or without underscores: people's columns are.
SPELLINGS: Final[Mapping[str, str]] = {name.lower(): name for name in (*FIELDS, *SNAKE)}
DELIMITERS: Final = ",;\t|"

REMEDIES: Final[Mapping[str, str]] = {
    "customerId": "write the id of a tenant that the catalog has",
    "metricName": "write a meter of the catalog, or an alias (docs/catalog.md: meters)",
    "quantity": "write a plain number above 0, with a point and no thousands separators",
    "occurredAt": "write 2026-11-26T10:00:00Z or Unix seconds; if it is too old, --age-days",
    "idempotencyKey": "shorten it, or leave it out: then the file and the line make the id",
    "aforoDecisionId": "write the call's x-aforo-decision-id, and only with system.call.tokens",
    "executionStatus": "write one of the listed words, or leave it out",
    "metadata": "write a JSON object; in CSV, double the quotes in it",
    "row": "quote fields that hold the separator, and double the quotes in them",
    "line": "write one JSON object on each line, in UTF-8",
}
REMEDY: Final = "fill it in, or shorten it, as said"


class HeaderError(Exception):
    """A header that no events can be read by; the message says what it lacks."""


def delimiter_of(header: str) -> str:
    """Return what stands between a header's names: whatever leaves most fields known."""
    return max(DELIMITERS, key=lambda one: len(known(header.split(one))))


def known(names: Sequence[str]) -> set[str]:
    return {field for name in names if (field := field_of(name.strip('"'))) in FIELDS}


def field_of(name: str) -> str:
    """Return the field that a column is, or its own name."""
    text = name.strip()
    return SPELLINGS.get(text.replace("_", "").replace(" ", "").lower(), text)


def columns_of(names: Sequence[str]) -> list[str]:
    """Return the fields of a header's columns.

    Raises:
        HeaderError: It lacks a column that every event needs, or has one twice.
    """
    columns = [field_of(name) for name in names]
    # An event's id may follow from its line.
    missing = [name for name in REQUIRED if name != "idempotencyKey" and name not in columns]
    if missing:
        raise HeaderError(
            f"the header has no column {', '.join(missing)}; it has: {', '.join(names)[:200]}"
        )
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise HeaderError(f"the header has more than one column {', '.join(twice)}")
    return columns


def event_of_cells(
    columns: Sequence[str], cells: Sequence[str], decode: Callable[[str], Any]
) -> dict[str, Any]:
    """Return the event that a row of CSV says; empty cells say nothing.

    Args:
        columns: The fields, in the order of the cells.
        cells: Texts.
        decode: JSON → value; ValueError for what is none.

    Raises:
        Rejection: The row does not fit the header, or metadata is no JSON object.
    """
    if len(cells) != len(columns):
        raise Rejection("row", f"has {len(cells)} fields, and the header has {len(columns)}")
    event: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for name, cell in zip(columns, cells, strict=True):
        if not name or not cell or cell.isspace():
            continue
        if name == METADATA:
            metadata = {**_object(cell, decode), **metadata}
        elif name.startswith("metadata."):
            key = name.removeprefix("metadata.")
            metadata[key] = number_of(cell) if key in TOKEN_NAMES else cell
        elif name in ("quantity", "statusCode"):
            event[name] = number_of(cell)
        elif name == "occurredAt":
            event[name] = number_of(cell.strip())
        elif name in TOKEN_NAMES or name in ("model", "provider"):
            # They have no field of their own, and a file's author need not know that.
            metadata.setdefault(name, number_of(cell) if name in TOKEN_NAMES else cell)
        else:
            event[name] = cell if name not in TEXT_UNITS_MAX else cell.strip()
    if metadata:
        event[METADATA] = metadata
    return event


def number_of(text: str) -> int | Decimal | str:
    """Return the number that a cell is, exactly; the text if it is none."""
    digits = text.strip()
    if digits.isascii() and digits.isdecimal() and len(digits) <= 18:  # noqa: PLR2004 - 64 bits.
        return int(digits)
    try:
        return Decimal(digits) if digits.isascii() and "_" not in digits else text
    except InvalidOperation:
        return text


def _object(cell: str, decode: Callable[[str], Any]) -> dict[str, Any]:
    try:
        value = decode(cell)
    except ValueError:
        value = None
    if type(value) is not dict:
        raise Rejection(METADATA, "must be a JSON object")
    return value


def line_key(file_digest: str, line: int) -> str:
    """Return the id of a row that has no key: the same for the same line of the same file."""
    return hashlib.sha256(f"{file_digest}:{line}".encode()).hexdigest()


def remedy_of(rejection: Rejection) -> str:
    return REMEDIES.get(rejection.field, REMEDY)
