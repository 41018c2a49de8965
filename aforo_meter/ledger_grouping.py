"""Batches of several partitions that go into one transaction, each with what came of its own."""

from collections import deque
from dataclasses import replace
from typing import Final

from aforo_meter.ledger import Batch, Posted, Written

# Of what is rated: larger batches gain nothing from company.
GROUP_RATED_MAX: Final = 1500


class Waiting:
    """A batch that is to be applied."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.posted = Posted()
        self.is_done = False
        self._written: Written | None = None
        self._error: Exception | None = None

    def succeed(self, together: Written) -> None:
        """Note that it is committed, and what came of it and of others."""
        own = self.batch.watches
        self.is_done, self._written = (
            True,
            replace(
                together,
                transitions=[one for one in together.transitions if one.watch.tenant_id in own],
                duplicates=self.posted.duplicates,
                corrections=self.posted.corrections,
                standings={
                    name: standing for name, standing in together.standings.items() if name in own
                },
            ),
        )

    def fail(self, error: Exception) -> None:
        """Note that nothing of it was written."""
        self.is_done, self._error = True, error

    def result(self) -> Written:
        """Return what came of it, or raise what it failed with."""
        if self._error is not None:
            raise self._error
        assert self._written is not None, "it is done"
        return self._written


def take_group(waiting: deque[Waiting]) -> list[Waiting]:
    """Take the first that wait, as long as they may go into one transaction."""
    group = [waiting.popleft()]
    first, rated = group[0].batch, len(group[0].batch.rated)
    partitions = {first.partition}
    while waiting:
        batch = waiting[0].batch
        rated += len(batch.rated)
        if (
            rated > GROUP_RATED_MAX
            or batch.partition in partitions
            or (batch.currency, batch.retention) != (first.currency, first.retention)
        ):
            break
        partitions.add(batch.partition)
        group.append(waiting.popleft())
    return group
