"""Records that are added up, and wait for more as long as nobody's level can change by them.

A transaction costs by the rows that it changes: the more usage of a tenant comes together, the less
each call costs. Tenants whose level may change don't wait: theirs is written ahead of the others'.
Should it be read again, as the position stays behind it, the ledger knows it by its events' keys.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import structlog

from aforo_meter.batches import Rater
from aforo_meter.kinds import Tally
from aforo_meter.ledger import Standing, Watch
from aforo_meter.partitions import Owned
from aforo_meter.settings_types import MIB

# How long records may wait, by how long the last transaction took: with little load hardly at all.
WAIT_PER_COMMIT: Final = 40
RECORDS_MAX: Final = 20_000  # Of a partition. More gain little by waiting.
BYTES_MAX: Final = 16 * MIB  # Of a partition, too: events may be large.
BEHIND_RECORDS: Final = 4000  # As many at once come to who is behind: throughput is all, then.
KINDS_FEW: Final = 100  # So few kinds of usage are quickly written: nobody goes ahead of them.
HURRIED_SHARE: Final = 8  # Where more than an eighth can't wait, nobody does.
TENANTS_MAX: Final = 200_000
SLACK_NANOS: Final = 1000  # Rows are rounded, each by itself.

Place = tuple[str, int]  # Subscription, and the period's start.

log = structlog.get_logger()


class Headroom:
    """What a tenant's usage may cost until its level may be another."""

    __slots__ = ("left_nanos", "place")

    def __init__(self, place: Place | None, left_nanos: int) -> None:
        self.place = place  # None: it has no contract, and so no level.
        self.left_nanos = left_nanos


class Headrooms:
    """Of each tenant that the ledger has told of. What is not known has none."""

    def __init__(self) -> None:
        self._known: dict[str, Headroom] = {}

    def clear(self) -> None:
        self._known.clear()

    def take(self, tally: Tally) -> set[str]:
        """Take what came to `tally` since the last time; return whose level may change by it."""
        known, short = self._known, set()
        for kind, added in tally.fresh:
            added.is_fresh = False
            tenant_id = kind.usage.tenant_id
            headroom = known.get(tenant_id)
            if headroom is None:
                short.add(tenant_id)
            elif headroom.place is not None:
                cost_nanos = kind.cost_nanos(added.cells)
                headroom.left_nanos -= cost_nanos - added.cost_nanos
                added.cost_nanos = cost_nanos
                if headroom.left_nanos <= SLACK_NANOS or headroom.place != kind.place:
                    short.add(tenant_id)
        tally.fresh.clear()
        return short

    def learn(
        self,
        tenant_ids: Collection[str],
        watches: Mapping[str, Watch],
        standings: Mapping[str, Standing],
        metered: Collection[str],
        waiting: Tally | None,
    ) -> set[str]:
        """Take over what the ledger says after a transaction; return who can't wait any longer.

        Args:
            tenant_ids: Whose usage was in it.
            watches: What they are measured by; who has no contract has none.
            standings: How they stand; who is missing may have another level with the next call.
            metered: Whose calls are refused by what the ledger says of their quotas: as soon.
            waiting: What of them is added up already, and not in the ledger.
        """
        known = self._known
        if len(known) > TENANTS_MAX:
            known.clear()
        for tenant_id in tenant_ids:
            standing = standings.get(tenant_id)
            if standing is not None and tenant_id not in metered:
                left_nanos = standing.holds_until_nanos - standing.assessment.cogs_nanos
                place = standing.subscription_id, standing.period.start_micros
                known[tenant_id] = Headroom(place, left_nanos)
            elif tenant_id in watches:
                known.pop(tenant_id, None)
            else:
                known[tenant_id] = Headroom(None, 0)
        short = set()
        for kind, added in () if waiting is None else waiting.sums.items():
            tenant_id = kind.usage.tenant_id
            if tenant_id in tenant_ids:
                headroom = known.get(tenant_id)
                if headroom is None:
                    short.add(tenant_id)
                elif headroom.place is not None:
                    headroom.left_nanos -= added.cost_nanos
                    if headroom.left_nanos <= SLACK_NANOS or headroom.place != kind.place:
                        short.add(tenant_id)
        return short


class Gathering:
    """Records of a partition that will go into one transaction."""

    def __init__(self, owned: Owned, basis: tuple[int, int]) -> None:
        self.records: list[Any] = []
        self._bytes = 0
        self.tally: Tally | None = Tally()  # None: they are to be read again.
        self.counted: set[bytes] = set()  # What of them the ledger has already.
        self.hurried: set[str] = set()  # Tenants that can't wait.
        self.basis = basis  # What they were rated by.
        self.is_urgent = False  # Nobody waits.
        self.is_behind = False  # Kafka has more: it is urgent, and goes in one piece.
        self._taken = owned.taken
        self._since_s = time.monotonic()

    @property
    def is_full(self) -> bool:
        """Can't it take any more?"""
        return len(self.records) >= RECORDS_MAX or self._bytes >= BYTES_MAX

    def extend(self, records: Sequence[Any]) -> None:
        self.records.extend(records)
        self._bytes += sum(len(record.value or b"") for record in records)

    def follows(self, owned: Owned) -> bool:
        """Do these records go on where the partition stands?"""
        return not (owned.is_revoked or owned.is_displaced or self._taken != owned.taken)

    def hurry(self, tenant_ids: set[str]) -> None:
        """Note that these tenants can't wait."""
        self.hurried |= tenant_ids
        kinds = 0 if self.tally is None else len(self.tally.sums)
        if self.hurried and (kinds <= KINDS_FEW or HURRIED_SHARE * len(self.hurried) > kinds):
            self.is_urgent = True

    def read_again(self) -> None:
        """Drop what was added up. It is read again as it is settled: soon."""
        self.tally, self.is_urgent = None, True

    def is_due(self, wait_s: float) -> bool:
        return self.is_urgent or self.is_full or time.monotonic() >= self._since_s + wait_s


class Gatherings:
    """Those of a consumer, one for each partition. Lives in one event loop."""

    def __init__(self, rater: Rater, *, calm_s_max: float) -> None:
        self._rater = rater
        self._calm_s_max = calm_s_max
        self._basis = rater.basis
        self._headrooms = Headrooms()
        self._open: dict[Owned, Gathering] = {}

    def clear(self) -> None:
        """Drop all: their records come again."""
        self._open.clear()

    async def add(self, owned: Owned, records: Sequence[Any]) -> None:
        """Take records that follow on those which were added before."""
        gathering = self._followed(owned)
        if gathering is None:
            gathering = self._open[owned] = Gathering(owned, self._rater.basis)
        gathering.extend(records)
        owned.calm_records = len(gathering.records)
        gathering.is_behind = len(records) >= BEHIND_RECORDS
        gathering.is_urgent |= gathering.is_behind
        if gathering.basis != self._rater.basis:
            gathering.read_again()
        tally = gathering.tally
        if tally is None:
            return
        await self._rater.add_known(records, tally)
        if gathering.is_behind:
            return
        if tally.unknown or tally.single:
            try:
                await self._rater.add_rest(tally)
            except Exception:  # noqa: BLE001 - it comes again where it is settled, and is told.
                gathering.read_again()
                return
        short = self._current_headrooms().take(tally)
        gathering.hurry(short.union(one.tenant_id for one in tally.rated))

    def hurried(self) -> Iterator[tuple[Owned, Gathering]]:
        """Yield where usage of some tenants is to be written ahead of the others'."""
        for owned, gathering in self._followed_all():
            if gathering.hurried and not gathering.is_behind:
                yield owned, gathering

    def due(self) -> Iterator[tuple[Owned, Gathering]]:
        """Yield what is to be settled now."""
        for owned, gathering in self._followed_all():
            if gathering.basis != self._rater.basis:
                gathering.read_again()
            # So long a wait is enough: it does not wait for other partitions, too.
            gathering.is_urgent |= gathering.is_due(self._calm_s_max)
            if gathering.is_due(min(self._calm_s_max, WAIT_PER_COMMIT * owned.commit_s)):
                owned.calm_records = 0  # From now on it does not wait by choice.
                yield owned, gathering

    def take(self, owned: Owned) -> Gathering:
        """Take out what is to be settled: what comes from now on waits anew."""
        owned.calm_records = 0
        return self._open.pop(owned)

    def settled(
        self,
        owned: Owned,
        tenant_ids: Collection[str],
        watches: Mapping[str, Watch],
        standings: Mapping[str, Standing],
    ) -> None:
        """Note what the ledger says after a transaction: see `Headrooms.learn`."""
        waiting = self._open.get(owned)
        metered = self._rater.with_metered_quotas(standings)
        short = self._current_headrooms().learn(
            *(tenant_ids, watches, standings, metered),
            None if waiting is None else waiting.tally,
        )
        if waiting is not None and short:
            waiting.hurry(short)

    def _followed(self, owned: Owned) -> Gathering | None:
        """Return what was gathered; what is of no use any more is dropped: it will come again."""
        gathering = self._open.get(owned)
        if gathering is not None and not gathering.follows(owned):
            del self._open[owned]
            return None
        return gathering

    def _followed_all(self) -> Iterator[tuple[Owned, Gathering]]:
        for owned in list(self._open):
            gathering = self._followed(owned)
            if gathering is not None:
                yield owned, gathering

    def _current_headrooms(self) -> Headrooms:
        if self._basis != self._rater.basis:
            self._basis = self._rater.basis
            self._headrooms.clear()
        return self._headrooms
