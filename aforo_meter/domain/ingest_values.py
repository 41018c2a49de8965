"""Quantities and times of events that arrive over HTTP, exactly. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from aforo_meter.domain.ingest_fields import SNAKE, TEXT_UNITS_MAX
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.usage import UNITS_MAX

MICROS_PER_UNIT: Final = 1_000_000
SECOND_MICROS: Final = 1_000_000
INTEGER_DIGITS_MAX: Final = 14
MICRO: Final = Decimal("0.000001")
SHOWN_CHARACTERS_MAX: Final = 80

# The date-time that JSON clients write: seconds and offset may be missing.
ISO: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r"(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)


class Rejection(Exception):  # noqa: N818 - an answer to a client, not a fault.
    """An event can't be taken; the message names the field and the limit.

    Args:
        field: The field's name, as clients write it. One of our own names: it labels metrics.
        problem: What is wrong with it.
        kind: Which rule it broke; "" for those of shape.
    """

    def __init__(self, field: str, problem: str, *, kind: str = "") -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.kind = kind


def quantity_micros(value: Any) -> int:  # noqa: ANN401 - of JSON.
    """Return a quantity in millionths, rounded half to even; more than zero.

    Raises:
        Rejection: It is no number above zero, or has more than 14 digits before the point.
    """
    if type(value) is int:
        if 0 < value <= UNITS_MAX:
            return value * MICROS_PER_UNIT
        value = Decimal(value)
    elif type(value) is not Decimal:
        raise Rejection("quantity", f"must be a number, this is {shown(value)}")
    if not value.is_finite() or value <= 0:
        raise Rejection("quantity", f"must be above 0, this is {shown(value)}")
    # Asked before anything is done with it: 1e999999999 has as many digits.
    if value.adjusted() >= INTEGER_DIGITS_MAX:
        raise Rejection(
            "quantity", f"at most {INTEGER_DIGITS_MAX} integer digits, this is {shown(value)}"
        )
    micros = int(value.quantize(MICRO, rounding=ROUND_HALF_EVEN).scaleb(6))
    if micros == 0:
        raise Rejection("quantity", f"rounds to 0 at 6 decimals, this is {shown(value)}")
    if micros > UNITS_MAX * MICROS_PER_UNIT + MICROS_PER_UNIT - 1:
        raise Rejection(
            "quantity", f"at most {INTEGER_DIGITS_MAX} integer digits, rounded from {shown(value)}"
        )
    return micros


def occurred_micros(value: Any) -> int:  # noqa: ANN401 - of JSON.
    """Return an instant in Unix microseconds; what is finer than that is left out.

    Args:
        value: An ISO 8601 date-time with up to 9 fractional digits, UTC if it has no offset; or a
            number: Unix time in seconds.

    Raises:
        Rejection: It is neither.
    """
    if type(value) is str:
        if ISO.fullmatch(value) is None:
            raise Rejection(
                "occurredAt",
                "must be an ISO 8601 date-time with at most 9 fractional digits, or Unix seconds;"
                f" this is {shown(value)}",
            )
        try:
            instant = datetime.fromisoformat(value.upper())
            if instant.tzinfo is None:
                instant = instant.replace(tzinfo=UTC)
            return micros_of(instant)
        except (ValueError, OverflowError):
            raise Rejection("occurredAt", f"no such date or time: {shown(value)}") from None
    if type(value) is int or (type(value) is Decimal and value.is_finite()):
        seconds = Decimal(value)
        if seconds.adjusted() >= INTEGER_DIGITS_MAX:
            raise Rejection("occurredAt", f"no such time in Unix seconds: {shown(value)}")
        return int(seconds.scaleb(6).to_integral_value(rounding="ROUND_FLOOR"))
    raise Rejection(
        "occurredAt",
        f"must be an ISO 8601 date-time or a number, Unix seconds; this is {shown(value)}",
    )


def text_of(name: str, value: Any) -> str:  # noqa: ANN401 - of JSON.
    """Return a field's text within its length; "" if it is missing or blank.

    A whole number is taken for its digits: clients have numbers for ids.

    Raises:
        Rejection: It is no text, too long, or has letters that no database would keep.
    """
    if value is None:
        return ""
    limit = TEXT_UNITS_MAX.get(name)
    if type(value) is not str:
        if type(value) is not int:
            raise Rejection(name, f"must be a text, this is {shown(value)}")
        value = str(value)
    elif (limit is None or len(value) <= limit) and value.isascii() and value.isprintable():
        return "" if value.isspace() else value  # Most are like this.
    if limit is not None and len(value) * 2 > limit and (units := utf16_units(value)) > limit:
        raise Rejection(name, f"at most {limit} characters (UTF-16 code units), this has {units}")
    if "\0" in value:
        raise Rejection(name, "has a NUL in it, which can't be kept")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Rejection(name, "has half of a surrogate pair in it, which is no character")
    return "" if value.isspace() else value


def utf16_units(text: str) -> int:
    """Return the length as Java and JavaScript count it: a letter beyond the BMP counts twice."""
    return len(text) if text.isascii() else len(text) + sum(letter > "\uffff" for letter in text)


def either(metadata: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - of JSON.
    """Return what metadata says under a field's name, in camel or in snake case; camel first."""
    value = metadata.get(name)
    return metadata.get(SNAKE[name]) if value is None else value


def shown(value: Any) -> str:  # noqa: ANN401 - of JSON.
    """Return a value for a message, cut short."""
    match value:
        case dict():
            return "an object"
        case list():
            return "an array"
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case str():
            text = ascii(value[:SHOWN_CHARACTERS_MAX])
            return text if len(value) <= SHOWN_CHARACTERS_MAX else text + "…"
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"
