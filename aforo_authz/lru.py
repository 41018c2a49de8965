"""Values by key, as many as there is room for: the least recently used go first."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final

MISSING: Final = object()


class Lru:
    """A dictionary bounded by entries and by bytes.

    `get` returns a value, and `touch` says that it was used.

    Args:
        entries_max: At most so many.
        bytes_max: At most so many, as `bytes_of` counts them.
        bytes_of: What a key and its value take; always the same for the same value.
    """

    def __init__(
        self,
        *,
        entries_max: int,
        bytes_max: int = sys.maxsize,
        bytes_of: Callable[[str, Any], int] = lambda _key, _value: 0,
    ) -> None:
        self.bytes = 0
        self.evictions = 0
        self._entries: OrderedDict[str, Any] = OrderedDict()
        # Bound once: a look-up on the request's path costs no call in Python.
        self.get = self._entries.get
        self.touch = self._entries.move_to_end
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._bytes_of = bytes_of

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def put(self, key: str, value: Any) -> None:  # noqa: ANN401 - values of every kind
        if key in self._entries:
            self.discard(key)
        self._entries[key] = value
        self.bytes += self._bytes_of(key, value)
        while len(self._entries) > self._entries_max or self.bytes > self._bytes_max:
            oldest, value = self._entries.popitem(last=False)
            self.bytes -= self._bytes_of(oldest, value)
            self.evictions += 1

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0

    def discard(self, key: str) -> None:
        value = self._entries.pop(key, MISSING)
        if value is not MISSING:
            self.bytes -= self._bytes_of(key, value)
