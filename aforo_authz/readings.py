"""What is on its way from Redis: one reading of a key, however many wait for it."""

import asyncio
from collections.abc import Collection, Iterable

from aforo_authz.redis_link import RedisAnswerError
from aforo_authz.redis_nodes import RedisNodes


class Reading:
    """Keys that were asked for together. Over at the latest when its own budget is spent."""

    __slots__ = ("failure", "keys", "over", "unread", "waiting")

    def __init__(self, keys: Collection[str]) -> None:
        self.keys = keys
        self.waiting: list[asyncio.Future[None]] = []
        self.over = False
        self.failure: RedisAnswerError | None = None
        self.unread = keys  # Of which nothing that could be remembered came, or was before.


class Readings:
    """All that is being read, and by whom it is waited for."""

    def __init__(self, nodes: RedisNodes) -> None:
        self._nodes = nodes
        self._by_key: dict[str, Reading] = {}
        self._outdated: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def get(self, key: str) -> Reading | None:
        return self._by_key.get(key)

    def begin(self, keys: Iterable[str]) -> Reading:
        """Note that somebody reads these keys, but for those that somebody reads already."""
        reading = Reading([key for key in keys if key not in self._by_key])
        for key in reading.keys:
            self._by_key[key] = reading
        return reading

    def wait(self, reading: Reading, budget_s: float) -> asyncio.Future[None]:
        """Return what ends with a reading, or fails when the budget is spent.

        One for everybody who waits: who gives up disturbs nobody.
        """
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reading.waiting.append(waiting)
        self._nodes.limit(waiting, budget_s)
        return waiting

    def outdate(self, key: str) -> None:
        """Note that a key has changed: the reading under way may be older than that."""
        self._outdated.add(key)

    def outdate_all(self) -> None:
        self._outdated.update(self._by_key)

    def end(self, reading: Reading, failure: RedisAnswerError | None) -> list[str]:
        """Tell all who wait; return the keys that have changed meanwhile."""
        reading.over, reading.failure = True, failure
        for waiting in reading.waiting:
            if not waiting.done():
                waiting.set_result(None)
        for key in reading.keys:
            del self._by_key[key]
        again = [key for key in reading.keys if key in self._outdated]
        self._outdated.difference_update(again)
        return again
