"""Batches that are settled while the next ones are fetched and read: one of each partition.

Beside it, what can't wait of the partition's next one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Self

from aforo_meter.partitions import Owned

CANCEL_AGAIN_S: Final = 0.2


class Underway:
    """Lives in one event loop, as long as a connection to Kafka does."""

    def __init__(self) -> None:
        # By partition, and whether it goes ahead of a batch.
        self._tasks: dict[tuple[Owned, bool], asyncio.Future[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Wait for all; if the body failed, cancel them first.

        Raises:
            Exception: What one of them failed with, unless the body failed.
        """
        left = set(self._tasks.values())
        while failure is not None and left:
            # Said again until it is heard: redis-py can lose a cancellation that comes as one of
            # its own time-outs ends.
            for task in left:
                task.cancel()
            __, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
        if left:
            await asyncio.wait(left)
        if failure is None:
            self.look()

    def look(self) -> None:
        """Forget what is done.

        Raises:
            Exception: What one of them failed with.
        """
        done = {key: task for key, task in self._tasks.items() if task.done()}
        for key in done:
            del self._tasks[key]
        for task in done.values():
            task.result()

    @property
    def is_busy(self) -> bool:
        """Is a batch of any partition being settled?"""
        return any(not task.done() for task in self._tasks.values())

    def has(self, owned: Owned, *, ahead: bool = False) -> bool:
        """Is a batch of the partition being settled, or, ahead of one, some of it?"""
        task = self._tasks.get((owned, ahead))
        return task is not None and not task.done()

    async def begin(
        self, owned: Owned, settle: Callable[[], Awaitable[None]], *, ahead: bool = False
    ) -> None:
        """Settle a partition's next batch, once its last one is settled; or some of it, ahead.

        It is dropped if the partition is not where the batch goes on: its records come again.

        Raises:
            Exception: What the last one failed with.
        """
        before = [(owned, True)] if ahead else [(owned, True), (owned, False)]
        last = [task for key in before if (task := self._tasks.get(key)) is not None]
        if last:
            await asyncio.wait(last)
            self.look()
        if not owned.is_revoked and not owned.is_displaced:
            self._tasks[owned, ahead] = asyncio.ensure_future(settle())
