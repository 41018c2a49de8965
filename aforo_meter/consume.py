"""`aforo-meter consume`: Kafka → rating → ledger → margins in Redis. It wires, runs and waits.

Each record is settled exactly once: the ledger commits charges and position together. What fails
for a while (Redis, Kafka, the database) is waited for; the position does not move meanwhile.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aforo_meter import consume_metrics as metrics
from aforo_meter import process, redis_client
from aforo_meter.alert_work import alert_work
from aforo_meter.batches import Rater, now_micros
from aforo_meter.completeness_sql import SqlCompleteness
from aforo_meter.contracts import Contracts
from aforo_meter.dead_letters import DeadLetters
from aforo_meter.gathering import Gatherings
from aforo_meter.kafka_place import client_options, start
from aforo_meter.ledger import (
    Ledger,
    Partition,
    Retention,
)
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.partitions import LostRecordsError, Owned, Partitions
from aforo_meter.publish import Publisher
from aforo_meter.reconciliation import Reconciliation, rules_of
from aforo_meter.sessions_sql import SqlSessions
from aforo_meter.settings import variable
from aforo_meter.settings_consume import ConsumeSettings
from aforo_meter.settings_types import MIB
from aforo_meter.settling import AWAY, Settling
from aforo_meter.underway import Underway
from aforo_meter.upkeep import Upkeep
from aforo_meter.waits import Waits, entered

RETRY_S: Final = 0.2
HEARTBEAT_S: Final = 1.0
CANCEL_AGAIN_S: Final = 0.2
PRUNE_S: Final = 5.0
STOP_S_MAX: Final = 2.0  # For each of the last things that are said to Redis and to Kafka.
REDIS_TIMEOUT_S: Final = 2.0
FETCH_WAIT_MS: Final = 100
# Of one partition and of all: what waits in memory. The more comes together, the less each costs.
PARTITION_BYTES_MAX: Final = 12 * MIB
FETCH_BYTES_MAX: Final = 96 * MIB
METADATA_AGE_MS: Final = 10_000  # New partitions of the topic are noticed after this.

log = structlog.get_logger()


async def run(settings: ConsumeSettings) -> int:
    """Consume until SIGTERM or SIGINT; return 1 if it can't go on.

    Raises:
        LedgerError: There is no ledger, or it has another schema.
        ListenError: The address for metrics is in use.
    """
    process.look_for_garbage_rarely()
    process.take_turns()
    stop = process.stop_on_signals()
    redis = redis_client.connect(
        settings.redis_url,
        timeout_s=REDIS_TIMEOUT_S,
        # At once, for a connection that broke while idle. All longer waits are ours.
        retry=Retry(NoBackoff(), retries=1),
    )
    consumption: Consumption | None = None
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        # First: who waits for the ledger lives, and says so.
        await stack.enter_async_context(
            process.health_server(
                settings.metrics_listen,
                kind="consume",
                setting=variable(ConsumeSettings, "metrics_listen"),
                ready=lambda: consumption is not None and consumption.ready,
            )
        )
        ledger = await entered(
            stack, lambda: SqlLedger(settings.ledger_url), stop, Waits("the ledger")
        )
        if ledger is None:
            return 0
        consumption = Consumption(settings, redis, ledger)
        try:
            await consumption.run(stop)
        except LostRecordsError as error:
            log.error("stopped: records are lost", error=str(error))
            return 1
    log.info("stopped")
    return 0


class Consumption:
    """One process's consumption: its parts and the tasks that run them."""

    def __init__(self, settings: ConsumeSettings, redis: Redis, ledger: SqlLedger) -> None:
        self._settings = settings
        self._ledger: Ledger = ledger
        self._contracts = Contracts(redis, ledger.currency)
        retention = Retention(
            gateway_days=settings.gateway_ids_days, ingest_days=settings.ingest_ids_days
        )
        self._rater = Rater(self._contracts, ledger, retention)
        self._publisher = Publisher(
            redis, ledger, self._contracts, ingest_ids_days=settings.ingest_ids_days
        )
        self._partitions = Partitions(
            ledger,
            accept_lost_records=settings.accept_lost_records,
            released=self._release,
        )
        self._gatherings = Gatherings(self._rater, calm_s_max=settings.calm_ms_max / 1000)
        self._upkeep = Upkeep(
            *(ledger, self._contracts, self._rater, self._partitions, self._publisher),
            self._gatherings,
            close_after_days=settings.close_after_days,
            accrue_every_s=settings.accrue_every_s,
        )
        self._reconciliation = Reconciliation(
            redis,
            SqlCompleteness(ledger),
            SqlSessions(ledger),
            rules_of(settings),
            settled_until=self._partitions.settled_until,
            now_micros=now_micros,
        )
        self._alert_work = alert_work(
            *(settings, redis, ledger, self._contracts, self._partitions, self._publisher),
            tenants=self._upkeep.tenants,
        )
        self._dead_letters = DeadLetters(settings.kafka_bootstrap, settings.dead_letter_topic)
        self._waits = Waits("usage")
        self._settling = Settling(
            *(ledger, self._rater, self._dead_letters, self._upkeep, self._publisher),
            *(self._waits, self._gatherings),
        )
        self._consumer: Any = None  # aiokafka ships no types.

    @property
    def ready(self) -> bool:
        """Are there prices, and partitions, to work with? A spare member has none, and waits."""
        return self._contracts.book is not None and self._consumer is not None

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set.

        Raises:
            LostRecordsError: Kafka no longer has what the ledger needs next.
        """
        settings, reconciliation = self._settings, self._reconciliation
        compare_s, alerts_s = settings.completeness_poll_ms / 1000, settings.alerts_poll_ms / 1000
        work = [
            asyncio.create_task(self._consume(stop), name="consume"),
            asyncio.create_task(self._publisher.run(), name="publish"),
            *(
                asyncio.create_task(self._repeat(what, work, every_s=every_s), name=what)
                for what, work, every_s in (
                    ("contracts", self._upkeep.look, settings.contract_poll_ms / 1000),
                    ("progress", self._heartbeat, HEARTBEAT_S),
                    ("pruning", self._upkeep.prune, PRUNE_S),
                    ("decisions", reconciliation.keep, settings.decisions_poll_ms / 1000),
                    ("completeness", reconciliation.judge, compare_s),
                    ("sessions", reconciliation.tidy, compare_s),
                    *((what, work, alerts_s) for what, work in self._alert_work.items()),
                )
            ),
        ]
        try:
            # The first to end is the consumer that was stopped, or whatever failed.
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._close(work)
        for task in done:
            task.result()

    async def _close(self, work: Sequence[asyncio.Task[None]]) -> None:
        left = set(work)
        while left:
            # Said again until it is heard: redis-py can lose a cancellation that comes as one of
            # its own time-outs ends.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S_MAX):
                await self._publisher.flush()
                await self._dead_letters.close()

    async def _repeat(
        self, what: str, work: Callable[[], Awaitable[None]], *, every_s: float
    ) -> None:
        waits = Waits(what)
        while True:
            try:
                await work()
                waits.worked()
            except AWAY as error:
                waits.failed(error)
            await asyncio.sleep(every_s)

    def _release(self, partition: int) -> None:
        """Say nothing more of a partition: another consumer does."""
        self._publisher.forget(partition)
        with contextlib.suppress(KeyError):  # It was never told of.
            metrics.LAG.remove(str(partition))

    async def _heartbeat(self) -> None:
        if self._consumer is not None:
            await self._upkeep.heartbeat(self._consumer)

    async def _consume(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with self._connected():
                    await self._take_batches(stop)
            except (KafkaError, OSError) as error:
                self._waits.failed(error)
                await process.wait_for(stop, timeout_s=1.0)

    @contextlib.asynccontextmanager
    async def _connected(self) -> Any:  # noqa: ANN401
        settings = self._settings
        consumer = AIOKafkaConsumer(
            **client_options(settings.kafka_bootstrap),
            group_id=settings.group,
            client_id="aforo-meter-consume",
            enable_auto_commit=False,
            # The ledger says where to go on; a range that Kafka has lost is never skipped.
            auto_offset_reset="none",
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=max(50, settings.session_timeout_ms // 3),
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=PARTITION_BYTES_MAX,
            fetch_max_bytes=FETCH_BYTES_MAX,
            metadata_max_age_ms=METADATA_AGE_MS,
        )
        try:
            await start(consumer)
            await self._subscribe(consumer)
            self._consumer = consumer
            self._waits.worked()
            yield
        finally:
            self._consumer = None
            # It commits nothing. Partitions go to the others at once.
            with contextlib.suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(consumer.stop(), STOP_S_MAX)

    async def _subscribe(self, consumer: Any) -> None:  # noqa: ANN401
        topic = self._settings.kafka_topic
        if topic not in await consumer.topics():
            raise TopicMissingError(
                f"Kafka has no topic {topic}; run: aforo-meter topics --bootstrap"
                f" {self._settings.kafka_bootstrap}"
            )
        self._partitions.attach(consumer)
        consumer.subscribe([topic], listener=self._partitions)

    async def _take_batches(self, stop: asyncio.Event) -> None:
        self._gatherings.clear()
        async with Underway() as underway:
            await self._take_batches_into(underway, stop)

    async def _take_batches_into(self, underway: Underway, stop: asyncio.Event) -> None:
        pause_s, began_s = self._settings.batch_ms_max / 1000, 0.0
        while not stop.is_set():
            # Records come together meanwhile. Who is behind does not wait.
            await process.wait_for(stop, timeout_s=began_s + pause_s - time.monotonic())
            began_s = time.monotonic()
            underway.look()
            if self._partitions.failure is not None:
                raise self._partitions.failure
            await self._seek_displaced()
            try:
                batches = await self._fetch(stop)
            except NoOffsetForPartitionError:
                continue  # It was asked before the ledger could say where to begin.
            except OffsetOutOfRangeError as error:
                await self._lose(error.args[0])
                continue
            await self._lose(self._beyond_the_end())
            for topic_partition, records in batches.items():
                owned = self._owned(topic_partition)
                if owned is not None:
                    await self._gatherings.add(owned, records)
                    await self._settling.begin_due(underway, stop)
            await self._settling.begin_due(underway, stop)

    async def _fetch(self, stop: asyncio.Event) -> Mapping[TopicPartition, Sequence[Any]]:
        """Return records, or none after a while. In a rebalance it waits for the assignment."""
        settings = self._settings
        fetching = asyncio.ensure_future(
            self._consumer.getmany(
                timeout_ms=settings.batch_ms_max, max_records=settings.batch_records_max
            )
        )
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({fetching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await fetching if fetching.done() else {}
        finally:
            fetching.cancel()
            stopping.cancel()

    async def _seek_displaced(self) -> None:
        """Go on where the ledger stands: there, or nowhere if Kafka has lost that."""
        for owned in self._partitions.all():
            if owned.is_displaced:
                await self._partitions.seek_again(owned)

    def _beyond_the_end(self) -> list[TopicPartition]:
        """Return partitions that end before we go on: their topic was made anew.

        Kafka itself refuses to read there; not every broker of its protocol does.
        """
        return [
            TopicPartition(*owned.partition)
            for owned in self._partitions.all()
            if (end := self._partitions.end_of(owned)) is not None and end < owned.next_offset
        ]

    async def _lose(self, topic_partitions: Iterable[TopicPartition]) -> None:
        for topic_partition in topic_partitions:
            owned = self._owned(topic_partition)
            if owned is not None:
                await self._partitions.lost(owned)

    def _owned(self, topic_partition: TopicPartition) -> Owned | None:
        return self._partitions.get(Partition(topic_partition.topic, topic_partition.partition))


class TopicMissingError(KafkaError):
    """The topic is not there; the message says how to make it."""
