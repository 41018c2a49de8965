"""What changes margins without new usage: contracts, prices, the end of a period, a lost Redis."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import structlog
from aiokafka import TopicPartition

from aforo_meter import consume_metrics as metrics
from aforo_meter.batches import Rater, now_micros
from aforo_meter.contracts import Contracts
from aforo_meter.domain.periods import DAY_MICROS
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.rating import ChargeKey, rerate
from aforo_meter.gathering import Gatherings
from aforo_meter.ledger import (
    Ledger,
    PartitionLostError,
    PriceConflictError,
    Reprice,
    TooLargeError,
    Watch,
    Written,
)
from aforo_meter.partitions import Owned, Partitions
from aforo_meter.publish import Publisher
from aforo_meter.transitions import log_transitions

ASSESS_TENANTS_MAX: Final = 200  # In one transaction.
REPRICE_ROWS_MAX: Final = 1000
OFFSETS_TIMEOUT_S: Final = 1.0
CLOSE_EVERY_S: Final = 3600.0
PRUNE_ROWS_MAX: Final = 10_000  # In one transaction.

log = structlog.get_logger()


class Upkeep:
    """Keeps the margins of this consumer's partitions true. Lives in one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        contracts: Contracts,
        rater: Rater,
        partitions: Partitions,
        publisher: Publisher,
        gatherings: Gatherings,
        *,
        close_after_days: int,
        accrue_every_s: int,
    ) -> None:
        self._ledger = ledger
        self._contracts = contracts
        self._rater = rater
        self._partitions = partitions
        self._publisher = publisher
        self._gatherings = gatherings
        self._close_after_micros = close_after_days * DAY_MICROS
        self._accrue_every_micros = accrue_every_s * 1_000_000
        self._due_micros: dict[str, int] = {}  # By tenant: when time alone changes its margin.
        self._to_assess: set[str] = set()
        self._to_reprice: set[str] = set()
        self._to_reprice_all = False
        self._closed_at_s = -CLOSE_EVERY_S

    def note(self, tenant_ids: Iterable[str]) -> None:
        """Follow these tenants from now on."""
        new = [name for name in tenant_ids if name not in self._due_micros]
        for tenant_id, watch in self._rater.watches(new).items():
            self._due_micros[tenant_id] = self._due_of(watch)

    def tenants(self) -> Sequence[str]:
        """Return whom it follows: those with a contract that the ledger knows."""
        return list(self._due_micros)

    def reprice_soon(self, tenant_ids: Iterable[str]) -> None:
        """See with the next look whether unpriced rows of these tenants have a price."""
        self._to_reprice |= set(tenant_ids)

    async def look(self) -> None:
        """Look once at everything that may have changed.

        Raises:
            RedisError, OSError, NotSyncedError, UnreadableError: Redis does not answer, or holds
                too little. It is looked at again.
            LedgerUnavailableError: The ledger does not answer.
        """
        look = await self._contracts.look()
        # Noted before anything can fail: what was not done is done with the next look.
        self._to_assess |= look.tenants
        self._to_reprice |= look.tenants
        self._to_reprice_all |= look.prices
        if look.emptied and not self._publisher.is_rebuilding:
            self._rebuild(owned.partition.number for owned in self._partitions.all())
        if look.prices or look.tenants:
            self._rater.trust_prices()
        new = [owned for owned in self._partitions.all() if owned.is_new]
        if new:
            self._to_assess |= await self._take_over(new)
            self._to_reprice_all = True
        await self._reprice_due()
        now = now_micros()
        self._to_assess |= {name for name, due in self._due_micros.items() if due <= now}
        # Somebody has corrected what these cost: see `aforo-meter rerate`.
        self._to_assess |= self._due_micros.keys() & set(await self._ledger.adjusted())
        await self._reassess(self._to_assess)
        self._to_assess.clear()
        for owned in new:
            owned.is_new = False

    async def heartbeat(self, consumer: Any) -> None:  # noqa: ANN401 - aiokafka ships no types.
        """Say until when each partition is in the ledger, and that we are alive.

        Raises:
            RedisError, OSError, KafkaError, TimeoutError: It can't be said now.
        """
        asked_micros = now_micros()
        owned = {one.partition.number: one for one in self._partitions.all()}
        if not owned:
            return
        async with asyncio.timeout(OFFSETS_TIMEOUT_S):
            ends = await consumer.end_offsets(
                [TopicPartition(*o.partition) for o in owned.values()]
            )
        progress: dict[int, int] = {}
        for topic_partition, told in ends.items():
            one = owned[topic_partition.partition]
            if one.is_revoked:  # While the broker was asked: another consumer tells of it now.
                continue
            # Some brokers of Kafka's protocol name the start of the last batch as the end.
            end = max(told, self._partitions.end_of(one) or 0)
            lag = max(0, end - one.next_offset)
            behind = max(0, lag - one.calm_records)
            metrics.LAG.labels(str(topic_partition.partition)).set(behind)
            settled_micros = asked_micros if lag == 0 else min(asked_micros, one.settled_micros)
            one.confirmed_micros = settled_micros
            is_behind = one.is_new or self._publisher.is_behind(topic_partition.partition)
            if settled_micros and not is_behind:
                progress[topic_partition.partition] = settled_micros
        self._rebuild(await self._publisher.heartbeat(progress))

    async def prune(self) -> None:
        """Close periods once an hour, and forget events that were kept long enough.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        metrics.UNPRICED.set(await self._ledger.unpriced_rows())
        now = now_micros()
        # A few at a time: others write too.
        await self._ledger.prune(
            now_micros=now, rows_max=PRUNE_ROWS_MAX, retention=self._rater.retention
        )
        if time.monotonic() - self._closed_at_s < CLOSE_EVERY_S:
            return
        closed = await self._ledger.close(
            ended_by_micros=now - self._close_after_micros, now_micros=now
        )
        if closed:
            log.info("periods are closed; usage of them is added beside", periods=closed)
        self._closed_at_s = time.monotonic()

    async def _take_over(self, new: Sequence[Owned]) -> set[str]:
        """Learn the contracts of the tenants in new partitions; return those tenants."""
        numbers = {owned.partition.number for owned in new}
        ours = set()
        for tenant_id in await self._ledger.tenants():
            owned = self._partitions.of_tenant(tenant_id)
            if tenant_id and owned is not None and owned.partition.number in numbers:
                ours.add(tenant_id)
        await self._contracts.know((tenant_id, "") for tenant_id in ours)
        self.note(ours)
        return ours

    async def _reassess(self, tenant_ids: Iterable[str]) -> None:
        for owned, names in self._by_partition(tenant_ids).items():
            for start in range(0, len(names), ASSESS_TENANTS_MAX):
                await self._reassess_some(owned, names[start : start + ASSESS_TENANTS_MAX])

    async def _reassess_some(self, owned: Owned, names: Sequence[str]) -> None:
        watches = self._rater.watches(names)
        async with owned.lock:
            if owned.is_revoked:
                return
            try:
                written = await self._ledger.reassess(owned.place, watches, now_micros=now_micros())
            except PartitionLostError as error:
                owned.displaced(error)
                return
        self._settled(owned, written, names)

    async def _reprice_due(self) -> None:
        """Rate what waited for a price, where there may be one now."""
        if self._to_reprice_all:
            self._to_reprice |= set(await self._ledger.tenants())
            self._to_reprice_all = False
        # Whoever is noted from here on is looked at the next time.
        due, self._to_reprice = self._to_reprice, set()
        try:
            for owned, names in self._by_partition(due).items():
                for tenant_id in names:
                    await self._reprice(owned, tenant_id)
        except BaseException:
            self._to_reprice |= due
            raise

    async def _reprice(self, owned: Owned, tenant_id: str) -> None:
        rows = await self._ledger.unpriced(tenant_id)
        moves = [(row, price) for row in rows if (price := self._price_of(row)) is not None]
        for start in range(0, len(moves), REPRICE_ROWS_MAX):
            some = moves[start : start + REPRICE_ROWS_MAX]
            if not await self._reprice_some(owned, tenant_id, some):
                await self._reprice(owned, tenant_id)
                return

    def _price_of(self, row: ChargeKey) -> PriceEntry | None:
        price = rerate(row, self._contracts.prices(row.tenant_id))
        return None if price is None or self._rater.refuses(price.price_id) else price

    async def _reprice_some(
        self, owned: Owned, tenant_id: str, moves: Sequence[tuple[ChargeKey, PriceEntry]]
    ) -> bool:
        """Give rows their prices; return False if some of these prices can't be had."""
        async with owned.lock:
            if owned.is_revoked:
                return True
            try:
                written = await self._ledger.reprice(
                    owned.place,
                    Reprice(moves=moves, currency=self._rater.currency),
                    self._rater.watches([tenant_id]),
                    now_micros=now_micros(),
                )
            except PartitionLostError as error:
                owned.displaced(error)
                return True
            except PriceConflictError as error:
                self._rater.refuse_prices(error.price_ids)
                log.error("usage stays unpriced", error=str(error))
                return False
            except TooLargeError as error:
                log.error("usage stays unpriced", error=str(error))
                return True
        metrics.REPRICED.inc(written.rows_repriced)
        log.info("waiting usage has a price", tenant=tenant_id, rows=written.rows_repriced)
        self._settled(owned, written, [tenant_id])
        return True

    def _settled(self, owned: Owned, written: Written, names: Sequence[str]) -> None:
        log_transitions(written.transitions)
        watches = self._rater.watches(names)
        self._gatherings.settled(owned, names, watches, written.standings)
        for tenant_id, watch in watches.items():
            self._due_micros[tenant_id] = self._due_of(watch)
            self._publisher.mark(tenant_id, owned.partition.number)
        for tenant_id in names:
            if self._contracts.terms(tenant_id) is None:
                self._due_micros.pop(tenant_id, None)

    def _due_of(self, watch: Watch) -> int:
        """Return when a margin changes by time alone: its period ends, or its revenue accrues."""
        end_micros = watch.period.end_micros
        if not watch.is_accruing:
            return end_micros
        return min(end_micros, now_micros() + self._accrue_every_micros)

    def _by_partition(self, tenant_ids: Iterable[str]) -> dict[Owned, list[str]]:
        found: dict[Owned, list[str]] = {}
        for tenant_id in sorted(tenant_ids):
            owned = self._partitions.of_tenant(tenant_id)
            if owned is not None:
                found.setdefault(owned, []).append(tenant_id)
        return found

    def _rebuild(self, numbers: Iterable[int]) -> None:
        wanted = set(numbers)
        if not wanted:
            return
        tenants = {
            tenant_id: owned.partition.number
            for tenant_id in self._due_micros
            if (owned := self._partitions.of_tenant(tenant_id)) is not None
            and owned.partition.number in wanted
        }
        log.info("redis has no margins, or not all; they are written again", tenants=len(tenants))
        self._publisher.rebuild(tenants)
