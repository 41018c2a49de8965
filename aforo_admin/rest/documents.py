"""What arrives in a body, and what an answer's ETag is: JSON of the catalog's written form."""

import hashlib
import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest

from aforo_admin.domain.problems import Path, place_of
from aforo_admin.rest.problems import ApiError, InvalidError, Wrong

BODY_BYTES_MAX: Final = 1024 * 1024
DEPTH_MAX: Final = 32


def body_of(request: HttpRequest, *, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """Return the body, as far as it is of a size that makes sense.

    Raises:
        ApiError: It is larger.
    """
    # Django has read it, within its own bound, or reads it now.
    data = request.read(bytes_max + 1) if not hasattr(request, "_body") else request.body
    if len(data) > bytes_max:
        raise ApiError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too-large",
            f"a body may have {bytes_max} bytes: send less at once",
        )
    request._body = data
    return bytes(data)


def json_of(request: HttpRequest) -> Any:
    """Return what a body holds, in exact values.

    Raises:
        ApiError: It is no JSON, or holds what is not exact.
    """
    try:
        value = json.loads(body_of(request), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise _no_json(f"it is nested more than {DEPTH_MAX} levels deep") from None
    except ValueError as error:  # UnicodeDecodeError is one.
        raise _no_json(str(error)) from None
    errors = list(_inexact((), value))
    if errors:
        raise InvalidError(errors)
    return value


def etag_of(value: Any) -> str:
    """Return an entity tag of what an answer says."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def _no_json(why: str) -> ApiError:
    return ApiError(
        HTTPStatus.BAD_REQUEST, "malformed", f"the body is no JSON that can be read: {why}"
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _inexact(path: Path, value: Any) -> Iterator[Wrong]:
    if len(path) > DEPTH_MAX:
        yield Wrong(field="", what=f"is nested more than {DEPTH_MAX} levels deep", remedy="flatten")
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _unkeepable((*path, key), key)
            yield from _inexact((*path, key), each)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _inexact((*path, index), each)
    elif value is None:
        yield Wrong(field=place_of(path), what="is null", remedy="give a value, or leave it out")
    elif isinstance(value, float):
        yield Wrong(
            field=place_of(path), what="is not exact", remedy='write it in quotes, like "0.5"'
        )
    elif isinstance(value, str):
        yield from _unkeepable(path, value)


def _unkeepable(path: Path, text: str) -> Iterator[Wrong]:
    """What no database keeps: control characters, and halves of characters."""
    if any(char < " " or "\ud800" <= char <= "\udfff" or char == "\x7f" for char in text):
        yield Wrong(
            field=place_of(path[:-1]),
            what="has a control character or half a character",
            remedy="leave it out",
        )
