"""A topic read from one instant on to where it ended when we began. It joins no group."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from aforo_meter.command_arguments import CommandError
from aforo_meter.kafka_place import client_options, start, told

FETCH_RECORDS_MAX: Final = 5000
FETCH_WAIT_MS: Final = 500
STALLED_S_MAX: Final = 60.0  # Without one record, although the broker has more.
START_S_MAX: Final = 20.0
CLOSE_S_MAX: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Records of one partition: [begin, end)."""

    partition: int
    begin: int
    end: int
    is_cut: bool = False  # The broker no longer has all that was asked for.


class TopicReader:
    """One consumer, by itself. Use `open_topic`."""

    def __init__(self, consumer: Any, bootstrap: str, topic: str) -> None:  # noqa: ANN401
        self._consumer = consumer  # aiokafka ships no types.
        self._bootstrap = bootstrap
        self._topic = topic
        found = consumer.partitions_for_topic(topic)
        self._partitions = [TopicPartition(topic, number) for number in sorted(found or ())]
        self._consumer.assign(self._partitions)

    async def spans(self, since_micros: int | None = None) -> list[Span]:
        """Return what every partition has now.

        Args:
            since_micros: Leave out records that were written before; None: none of them.
        """
        with _translated(self._bootstrap):
            first = await self._consumer.beginning_offsets(self._partitions)
            last = await self._consumer.end_offsets(self._partitions)
            begin = dict(first)
            if since_micros is not None and self._partitions:
                since_ms = max(0, since_micros // 1000)
                found = await self._consumer.offsets_for_times(
                    dict.fromkeys(self._partitions, since_ms)
                )
                for one, answer in found.items():
                    # A record without a time (-1) is not known to be younger: begin at the first.
                    begin[one] = last[one] if answer is None else max(first[one], answer.offset)
        return [
            Span(
                partition=one.partition,
                begin=min(begin[one], last[one]),
                end=last[one],
                is_cut=0 < first[one] == begin[one],
            )
            for one in self._partitions
        ]

    async def records(self, spans: Sequence[Span]) -> AsyncIterator[tuple[int, Sequence[Any]]]:
        """Read spans to their ends: some records of one partition at a time, in its order.

        Raises:
            CommandError: Kafka does not answer, or gives no more although there is more.
        """
        ends = {
            TopicPartition(self._topic, one.partition): one.end
            for one in spans
            if one.begin < one.end
        }
        with _translated(self._bootstrap):
            self._consumer.assign(list(ends) or self._partitions)
            for one in spans:
                if one.begin < one.end:
                    self._consumer.seek(TopicPartition(self._topic, one.partition), one.begin)
        stalled_at_s = time.monotonic() + STALLED_S_MAX
        while ends:
            with _translated(self._bootstrap):
                fetched = await self._consumer.getmany(
                    *ends, timeout_ms=FETCH_WAIT_MS, max_records=FETCH_RECORDS_MAX
                )
            for partition, records in fetched.items():
                wanted = [record for record in records if record.offset < ends[partition]]
                if wanted:
                    yield partition.partition, wanted
                stalled_at_s = time.monotonic() + STALLED_S_MAX
            await self._drop_ended(ends)
            if ends and time.monotonic() > stalled_at_s:
                raise CommandError(
                    f"kafka at {self._bootstrap} gives nothing more of {self._topic},"
                    f" {len(ends)} partitions short of their ends; look at the brokers, and"
                    " try again"
                )

    async def _drop_ended(self, ends: dict[TopicPartition, int]) -> None:
        with _translated(self._bootstrap):
            # The position, not the last record: what compaction took away is passed as well.
            ended = [one for one in ends if await self._consumer.position(one) >= ends[one]]
        for one in ended:
            del ends[one]
            self._consumer.pause(one)

    async def one(self, partition: int, offset: int) -> Any:  # noqa: ANN401
        """Return one record; None if there is none at that place (any more)."""
        for span in await self.spans():
            if span.partition == partition and span.begin <= offset < span.end:
                wanted = Span(partition=partition, begin=offset, end=offset + 1)
                async for _, records in self.records([wanted]):
                    return records[0] if records[0].offset == offset else None
        return None


@contextlib.asynccontextmanager
async def open_topic(bootstrap: str, topic: str) -> AsyncIterator[TopicReader]:
    """Open a topic for reading.

    Raises:
        CommandError: The brokers can't be reached, or have no such topic.
    """
    consumer = AIOKafkaConsumer(
        **client_options(bootstrap),
        group_id=None,
        client_id="aforo-meter-tools",
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_bytes=32 * 1024 * 1024,
    )
    try:
        with _translated(bootstrap):
            await asyncio.wait_for(start(consumer), START_S_MAX)
            topics = await consumer.topics()
        if topic not in topics:
            raise CommandError(
                f"kafka at {bootstrap} has no topic {topic}; name another one, or run:"
                f" aforo-meter topics --bootstrap {bootstrap} --topic {topic}"
            )
        yield TopicReader(consumer, bootstrap, topic)
    finally:
        with contextlib.suppress(KafkaError, TimeoutError):
            await asyncio.wait_for(consumer.stop(), CLOSE_S_MAX)


@contextlib.contextmanager
def _translated(bootstrap: str) -> Any:  # noqa: ANN401
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise away(bootstrap, error) from error


def away(bootstrap: str, error: BaseException) -> CommandError:
    """Return what to say of brokers that don't do what they are asked."""
    return CommandError(
        f"kafka at {bootstrap}: {told(error)}; check --bootstrap, and that the brokers run"
    )


def count_of(spans: Sequence[Span]) -> int:
    """Return how many records there are to read, at most."""
    return sum(one.end - one.begin for one in spans)


def limited(spans: Sequence[Span], ends: Mapping[int, int]) -> list[Span]:
    """Return spans that end no later than where somebody else stands."""
    return [
        Span(
            partition=one.partition,
            begin=one.begin,
            end=max(one.begin, min(one.end, ends.get(one.partition, 0))),
            is_cut=one.is_cut,
        )
        for one in spans
    ]
