"""What was worked out lately, within a bound: nobody can fill the memory with new names."""

from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

ENTRIES_MAX: Final = 4096


class Recent(Generic[K, V]):
    """Two generations: what is asked for stays, what is not falls out with the older one.

    A hit in the younger costs one look-up, and nothing has to be moved on each of them. It holds
    at most twice `entries_max`.
    """

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self.young: dict[K, V] = {}  # Looked into directly where a call would be felt.
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def get(self, key: K) -> V | None:
        found = self.young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        if len(self.young) >= self._entries_max:
            self._old = self.young
            self.young = {}
        self.young[key] = value
