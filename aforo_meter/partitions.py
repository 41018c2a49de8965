"""Which partitions this consumer has, and where it stands in each: the ledger's word, not Kafka's.

A consumer that takes a partition over goes on where the ledger stands. One that loses it stops
before its next write; if it was too slow to hear of the loss, the ledger refuses the write.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from aforo_meter import consume_metrics as metrics
from aforo_meter.ledger import (
    Ledger,
    LedgerUnavailableError,
    Partition,
    PartitionLostError,
    Place,
)

RETRY_S: Final = 0.2

T = TypeVar("T")

log = structlog.get_logger()


class LostRecordsError(Exception):
    """Kafka no longer has what the ledger needs next; the message names the ways out."""

    def __init__(self, partition: Partition, wanted: int, first: int) -> None:
        super().__init__(
            f"{partition.topic}/{partition.number}: the ledger goes on at offset {wanted}, which"
            f" Kafka does not have; its first is {first}. Usage was deleted before it was charged,"
            " or the topic was made anew, or this is another cluster. Either bring the records"
            " back, or accept the loss: start once with"
            " AFORO_METER_CONSUME_ACCEPT_LOST_RECORDS=true, which goes on at that first one; events"
            " that the ledger has seen in the last 35 days are not charged again"
        )


@dataclass(slots=True, eq=False)
class Owned:
    """A partition that this consumer has been given."""

    partition: Partition
    next_offset: int
    settled_micros: int = 0  # All records up to this append time are in the ledger.
    # Everything up to this time is known to be in the ledger, by Kafka's word; as of the heartbeat.
    confirmed_micros: int = 0
    # Its tenants' contracts, prices and margins were not looked at since it came to us.
    is_new: bool = True
    is_revoked: bool = False
    is_displaced: bool = False  # The ledger stands elsewhere: see `seek_again`.
    taken: int = 0  # Another number: it was begun anew, where the ledger stood.
    calm_records: int = 0  # That were read, and wait by choice: see gathering.py.
    commit_s: float = 0.0  # How long its last transaction took, with its wait.
    # Held while something is written for it, so that its place is the one that was read.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def place(self) -> Place:
        return Place(self.partition, self.next_offset)

    def displaced(self, error: PartitionLostError) -> None:
        """Note that the ledger refused a write: another consumer has been there."""
        metrics.PARTITIONS_LOST.inc()
        log.warning("another consumer has been there", error=str(error))
        self.is_displaced = True


class Partitions(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types.
    """The listener of rebalances. Lives in one event loop, with one Kafka consumer at a time."""

    def __init__(
        self, ledger: Ledger, *, accept_lost_records: bool, released: Callable[[int], None]
    ) -> None:
        """Remember the wiring.

        Args:
            ledger: Says where to go on.
            accept_lost_records: Go on at the earliest record where the right one is gone.
            released: Called with the number of a partition that others may have from now on.
        """
        self._ledger = ledger
        self._accept_lost_records = accept_lost_records
        self._released = released
        self._consumer: Any = None
        self._owned: dict[Partition, Owned] = {}
        self._count = 1  # Partitions of the topic.
        self.failure: Exception | None = None  # aiokafka swallows what a listener raises.

    def attach(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    def all(self) -> list[Owned]:
        return list(self._owned.values())

    def get(self, partition: Partition) -> Owned | None:
        return self._owned.get(partition)

    def of_tenant(self, tenant_id: str) -> Owned | None:
        """Return the partition that holds a tenant's events, if it is ours."""
        # As Kafka's own clients place a key: see the default partitioner.
        number = (murmur2(tenant_id.encode()) & 0x7FFFFFFF) % self._count
        return next((o for o in self._owned.values() if o.partition.number == number), None)

    def settled_until(self, tenant_id: str) -> int | None:
        """Return until when a tenant's usage is in the ledger; None: its partition isn't ours."""
        owned = self.of_tenant(tenant_id)
        return None if owned is None else owned.confirmed_micros

    def end_of(self, owned: Owned) -> int | None:
        """Return the end that Kafka named with the last records, or None if it did not yet."""
        topic_partition = TopicPartition(*owned.partition)
        if topic_partition not in self._consumer.assignment():
            return None
        end: int | None = self._consumer.highwater(topic_partition)
        return end

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Let go: nothing is written for them once this returns."""
        for topic_partition in revoked:
            owned = self._owned.pop(_key(topic_partition), None)
            if owned is None:
                continue
            owned.is_revoked = True
            async with owned.lock:
                self._released(owned.partition.number)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Go on where the ledger stands."""
        try:
            for topic_partition in assigned:
                numbers = self._consumer.partitions_for_topic(topic_partition.topic)
                self._count = max(1, len(numbers or ()))
                await self._take(topic_partition)
        except Exception as error:  # noqa: BLE001 - the consumer raises it in its own task.
            self.failure = error

    async def seek_again(self, owned: Owned) -> None:
        """Go on where the ledger stands by now: somebody else wrote for the partition.

        Raises:
            LedgerUnavailableError, KafkaError, LostRecordsError.
        """
        async with owned.lock:
            if not owned.is_revoked:
                await self._take(TopicPartition(*owned.partition))

    async def lost(self, owned: Owned) -> None:
        """Go on at the earliest record, if the loss of what the ledger needs next is accepted.

        Raises:
            LostRecordsError: It is not.
            LedgerUnavailableError, KafkaError: Not now.
        """
        async with owned.lock:
            if owned.is_revoked:
                return
            topic_partition = TopicPartition(*owned.partition)
            first = await self._first_of(topic_partition)
            await self._give_up(owned.partition, wanted=owned.next_offset, first=first)
            await self._take(topic_partition)

    async def _take(self, topic_partition: TopicPartition) -> None:
        partition = _key(topic_partition)
        next_offset = await self._retried(lambda: self._start_of(topic_partition))
        if topic_partition not in self._consumer.assignment():
            return  # Taken away again meanwhile.
        self._consumer.seek(topic_partition, next_offset)
        known = self._owned.get(partition)
        if known is None:
            self._owned[partition] = Owned(partition, next_offset)
        else:
            known.next_offset, known.is_new, known.is_displaced = next_offset, True, False
            known.settled_micros = known.confirmed_micros = 0
            known.taken, known.calm_records = known.taken + 1, 0
        log.info("partition taken", partition=partition.number, next_offset=next_offset)

    async def _start_of(self, topic_partition: TopicPartition) -> int:
        partition = _key(topic_partition)
        stored = await self._ledger.next_offset(partition)
        first = await self._first_of(topic_partition)
        # A stored one beyond the end shows when it is fetched: see `lost`.
        if stored is not None and stored >= first:
            return stored
        if stored is None:
            await self._ledger.set_offset(partition, first)
        else:
            await self._give_up(partition, wanted=stored, first=first)
        return first

    async def _first_of(self, topic_partition: TopicPartition) -> int:
        first: int = (await self._consumer.beginning_offsets([topic_partition]))[topic_partition]
        return first

    async def _give_up(self, partition: Partition, *, wanted: int, first: int) -> None:
        error = LostRecordsError(partition, wanted, first)
        if not self._accept_lost_records:
            raise error
        log.error("records are lost, as accepted", error=str(error))
        await self._ledger.set_offset(partition, first)

    async def _retried(self, work: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await work()
            except (LedgerUnavailableError, KafkaError, OSError) as error:
                log.warning("a partition can't be taken yet; trying again", error=repr(error))
                await asyncio.sleep(RETRY_S)


def _key(topic_partition: TopicPartition) -> Partition:
    return Partition(topic_partition.topic, topic_partition.partition)
