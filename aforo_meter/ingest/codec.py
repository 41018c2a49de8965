"""JSON in and out: numbers exact, nothing that one event says may spoil the others."""

import json
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

INTEGER_DIGITS_MAX: Final = 4000  # Python's own bound for what it turns into an integer.


class NotJsonError(Exception):
    """A body is no JSON; the message says where."""


def number(text: str) -> Decimal | str:
    """Return a number exactly; as text if its exponent is beyond what Decimal knows."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


def integer(text: str) -> int | str:
    return int(text) if len(text) <= INTEGER_DIGITS_MAX else text


def no_constant(name: str) -> Any:  # noqa: ANN401 - it never returns.
    raise ValueError(f"{name} is no JSON")


_decode: Final = msgspec.json.Decoder(float_hook=number).decode
encode: Final = msgspec.json.Encoder(decimal_format="number").encode


def decode(body: bytes | bytearray) -> Any:  # noqa: ANN401 - whatever a client sends.
    """Return what a body says: objects, arrays, texts, integers, Decimals.

    Raises:
        NotJsonError: It is no JSON in UTF-8.
    """
    try:
        return _decode(body)
    except RecursionError:
        raise NotJsonError("the body is too deeply nested") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _slowly(body, str(error))


def _slowly(body: bytes | bytearray, complaint: str) -> Any:  # noqa: ANN401
    """Read what msgspec refuses and JSON allows: integers of any size, halves of surrogate pairs.

    They are one event's fault, and its neighbours are read all the same.
    """
    try:
        return json.loads(
            body.decode(),
            parse_float=number,
            parse_int=integer,
            parse_constant=no_constant,
        )
    except RecursionError:
        raise NotJsonError("the body is too deeply nested") from None
    except ValueError:
        raise NotJsonError(f"the body is no JSON in UTF-8: {complaint}") from None
