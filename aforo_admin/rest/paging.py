"""Long lists, a page at a time: each names where the next begins, whatever is added meanwhile."""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from aforo_admin.rest.problems import invalid

T = TypeVar("T")

LIMIT: Final = 50
LIMIT_MAX: Final = 200
CURSOR_CHARS_MAX: Final = 4096

Key = Sequence[str | int]


def page(items: Sequence[Any], *, limit: int, key: Key | None) -> dict[str, Any]:
    """Return a page as it is answered.

    Args:
        items: At most one more than the page may have.
        limit: How many it may have.
        key: Of its last item; None: there is none.
    """
    more = len(items) > limit and key is not None
    body: dict[str, Any] = {"items": list(items[:limit])}
    return {**body, "next": cursor_of(key)} if more and key is not None else body


def cursor_of(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).decode().rstrip("=")


def key_of(cursor: str, *kinds: type) -> list[Any] | None:
    """Return the key that a page follows; None: it is the first.

    Raises:
        InvalidError: It is no cursor of ours.
    """
    if not cursor:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        key = None
    right = isinstance(key, list) and [type(part) for part in key] == list(kinds)
    if len(cursor) > CURSOR_CHARS_MAX or not right or not _fits(key):
        raise invalid("cursor", "is none", "use the `next` of the page before, as it is")
    return list(key)


def _fits(key: Iterable[Any]) -> bool:
    return all(
        -(2**63) <= part < 2**63
        if isinstance(part, int)
        else not any(char < " " or "\ud800" <= char <= "\udfff" for char in part)
        for part in key
    )


def page_of(items: Iterable[T], sort_key: Callable[[T], str], *, limit: int, cursor: str) -> Any:
    """Return a page of items that are all at hand, by their key, and its next cursor ("": none)."""
    after = key_of(cursor, str)
    found = sorted(items, key=sort_key)
    if after is not None:
        found = [each for each in found if sort_key(each) > after[0]]
    more = len(found) > limit
    return found[:limit], cursor_of([sort_key(found[limit - 1])]) if more else ""
