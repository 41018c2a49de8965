"""The dead-letter topic, read: which letters there are, which were sent again. It writes nothing.

A letter stays in Kafka for as long as that keeps it. That it was sent again is told by a record
behind it, of the stage `retried`, which names its place.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Final

from google.protobuf.message import DecodeError

from aforo_meter.command_arguments import CommandError
from aforo_meter.kafka_reading import TopicReader
from aforo_proto import usage_pb2

RETRIED: Final = "retried"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter and where it lies."""

    place: Place
    letter: usage_pb2.DeadLetter
    retried_at_micros: int = 0  # 0: it was not.

    @property
    def name(self) -> str:
        """What it is about: unique among all letters of the topic, and the same in each retry."""
        return str(self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters are meant; all of it must hold."""

    stage: str | None = None
    since_micros: int | None = None
    reason_contains: str = ""
    places: frozenset[Place] = field(default_factory=frozenset)  # Empty: any.

    def admits(self, place: Place, letter: usage_pb2.DeadLetter) -> bool:
        return (
            (not self.places or place in self.places)
            and self.stage in (None, letter.stage)
            and (self.since_micros is None or letter.failed_at_micros >= self.since_micros)
            and self.reason_contains.lower() in letter.reason.lower()
        )


def place_of(text: str) -> Place:
    """Return the place that PARTITION:OFFSET names.

    Raises:
        ValueError: It is none.
    """
    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise ValueError(f"{text!r} is no place; write PARTITION:OFFSET, as dlq list shows it")
    return Place(int(partition), int(offset))


async def retried(reader: TopicReader) -> dict[Place, int]:
    """Return the letters that were sent again, and when."""
    found: dict[Place, int] = {}
    async for _, letter in _all(reader):
        if letter.stage == RETRIED:
            found[Place(letter.partition, letter.offset)] = letter.failed_at_micros
    return found


async def letters(
    reader: TopicReader, wanted: Filter, done: dict[Place, int]
) -> AsyncIterator[Letter]:
    """Find letters, partition by partition, in their order."""
    async for place, letter in _all(reader):
        if letter.stage != RETRIED and wanted.admits(place, letter):
            yield Letter(place=place, letter=letter, retried_at_micros=done.get(place, 0))


async def newest(reader: TopicReader, wanted: Filter, *, records_max: int) -> list[Letter]:
    """Return letters among the last records of each partition, the newest first.

    That one was sent again is told as far as the record that says so is among them: it is younger.
    """
    spans = [
        replace(span, begin=max(span.begin, span.end - records_max))
        for span in await reader.spans()
    ]
    found: list[tuple[Place, usage_pb2.DeadLetter]] = []
    done: dict[Place, int] = {}
    async for partition, records in reader.records(spans):
        for record in records:
            letter = _decoded(record.value)
            if letter.stage == RETRIED:
                done[Place(letter.partition, letter.offset)] = letter.failed_at_micros
            else:
                found.append((Place(partition, record.offset), letter))
    letters = [
        Letter(place=place, letter=letter, retried_at_micros=done.get(place, 0))
        for place, letter in found
        if wanted.admits(place, letter)
    ]
    letters.sort(key=lambda one: (-one.letter.failed_at_micros, one.place))
    return letters


async def one(reader: TopicReader, place: Place) -> Letter:
    """Return one letter.

    Raises:
        CommandError: There is none at that place.
    """
    record = await reader.one(place.partition, place.offset)
    letter = None if record is None else _decoded(record.value)
    if letter is None or letter.stage == RETRIED:
        raise CommandError(f"there is no dead letter at {place}; dlq list shows where they are")
    done = await retried(reader)
    return Letter(place=place, letter=letter, retried_at_micros=done.get(place, 0))


async def _all(reader: TopicReader) -> AsyncIterator[tuple[Place, usage_pb2.DeadLetter]]:
    async for partition, records in reader.records(await reader.spans()):
        for record in records:
            yield Place(partition, record.offset), _decoded(record.value)


def _decoded(value: bytes | None) -> usage_pb2.DeadLetter:
    try:
        return usage_pb2.DeadLetter.FromString(value or b"")
    except DecodeError:
        # Somebody else's: it is shown, and can't be sent again.
        return usage_pb2.DeadLetter(reason="not an aforo.v1.DeadLetter", payload=value or b"")


def marker(letter: Letter, *, events: int, now_micros: int) -> usage_pb2.DeadLetter:
    """Return the record that says that a letter was sent again."""
    return usage_pb2.DeadLetter(
        reason=f"sent again as {events} events" if events != 1 else "sent again",
        stage=RETRIED,
        partition=letter.place.partition,
        offset=letter.place.offset,
        failed_at_micros=now_micros,
    )
