"""What `aforo-meter dlq` does: it prints letters, and sends again what they are by now."""

import argparse
import heapq
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from aforo_meter import dlq, dlq_retry
from aforo_meter.command_arguments import FAILED, OK, CommandError
from aforo_meter.dlq import Filter, Letter, Place
from aforo_meter.kafka_reading import TopicReader, open_topic
from aforo_meter.kafka_sending import Sender, open_sender
from aforo_meter.records import Record
from aforo_meter.shown_events import (
    event_of,
    fields_of,
    instant,
    json_text,
    payload_text,
    plain,
)

# Ship itself follows the catalog's: its call may have counted otherwise, or not at all.
BY_BUILT_IN_RULES: Final = (
    "aforo-meter: entries of the access log are read by the built-in metering rules, not the"
    " catalog's: AFORO_METER_SHIP_REDIS_URL, as ship has it, is not set here"
)


async def list_letters(options: argparse.Namespace) -> int:
    """Print the newest letters that are meant.

    Raises:
        CommandError: Kafka does not answer, or there is no such topic.
    """
    async with open_topic(options.bootstrap, options.dead_letter_topic) as reader:
        done = await dlq.retried(reader)
        newest: list[tuple[int, Place, Letter]] = []
        matched = hidden = 0
        async for letter in dlq.letters(reader, _filter(options), done):
            if letter.retried_at_micros and not options.retried:
                hidden += 1
                continue
            matched += 1
            entry = (letter.letter.failed_at_micros, letter.place, letter)
            # Only what is shown is held: a topic may have millions.
            push = heapq.heappush if len(newest) < options.limit else heapq.heappushpop
            push(newest, entry)
    found = [letter for _, _, letter in sorted(newest, key=lambda entry: entry[:2])]
    if options.json:
        for letter in found:
            print(json_text(_row(letter)))  # noqa: T201
        return OK
    for letter in found:
        print(_line(letter))  # noqa: T201
    more = f", the newest {len(found)} are shown (--limit)" if matched > len(found) else ""
    again = f"; {hidden} were sent again (--retried)" if hidden else ""
    print(f"{matched} dead letters{more}{again}")  # noqa: T201
    return OK


async def show_letter(options: argparse.Namespace) -> int:
    """Print one letter.

    Raises:
        CommandError: There is none at that place.
    """
    async with open_topic(options.bootstrap, options.dead_letter_topic) as reader:
        letter = await dlq.one(reader, options.place)
    whole = json_text(_whole(letter), indent=2)
    print(whole if options.json else _page(letter))  # noqa: T201
    return OK


async def retry_letters(options: argparse.Namespace) -> int:
    """Read letters again; with --apply, send what they are.

    Raises:
        CommandError: Kafka does not answer; what was sent until then counts once all the same.
    """
    content = _content(options)
    async with open_topic(options.bootstrap, options.dead_letter_topic) as reader:
        done = await dlq.retried(reader)
        if not options.apply:
            return await _each(options, reader, done, content, None)
        async with open_sender(options.bootstrap) as sender:
            return await _each(options, reader, done, content, sender)


async def _each(
    options: argparse.Namespace,
    reader: TopicReader,
    done: dict[Place, int],
    content: bytes | None,
    sender: Sender | None,
) -> int:
    settings = dlq_retry.ship_settings(options.bootstrap)
    metering = await dlq_retry.catalog_rules(settings) if content is None else None
    is_told = content is not None or metering is not None
    sound = wrong = 0
    missing = set(options.places)
    async for letter in _chosen(options, reader, done):
        missing.discard(letter.place)
        if not (is_told or _holds_event(letter)):
            print(BY_BUILT_IN_RULES, file=sys.stderr)  # noqa: T201
            is_told = True
        names = {"topic": options.topic, "letters_topic": options.dead_letter_topic}
        if content is not None:
            outcome = dlq_retry.edited(letter, content, **names)
        else:
            now = _now_micros()
            outcome = dlq_retry.attempt(
                letter, **names, settings=settings, now_micros=now, metering=metering
            )
        if sender is not None and outcome.is_sound:
            await _send(sender, letter, outcome.records, options.dead_letter_topic)
        does = "sent" if sender is not None else "would be sent"
        before = letter.retried_at_micros
        was = f" (it was sent before, {instant(before)}: it counts once)" if before else ""
        said = f"{does}: {outcome.says}" if outcome.is_sound else outcome.says
        print(plain(f"{letter.place}  {said}{was}"))  # noqa: T201
        sound, wrong = sound + outcome.is_sound, wrong + (not outcome.is_sound)
    for place in sorted(missing):
        print(f"{place}  there is no such dead letter, or it is not of those that are asked for")  # noqa: T201
    wrong += len(missing)
    does = "sent again" if sender is not None else "to send again (--apply)"
    print(f"{sound} letters {does}, {wrong} stay as they are")  # noqa: T201
    return FAILED if wrong else OK


async def _chosen(
    options: argparse.Namespace, reader: TopicReader, done: dict[Place, int]
) -> AsyncIterator[Letter]:
    async for letter in dlq.letters(reader, _filter(options), done):
        if not (options.all and letter.retried_at_micros):
            yield letter


async def _send(
    sender: Sender, letter: Letter, records: Sequence[Record], letters_topic: str
) -> None:
    await sender.send(records)
    # Only now: a letter is never taken for sent that was not.
    marker = dlq.marker(letter, events=len(records), now_micros=_now_micros())
    await sender.send([Record(topic=letters_topic, key=None, value=marker.SerializeToString())])


def _content(options: argparse.Namespace) -> bytes | None:
    if options.edit is None:
        return None
    try:
        content: bytes = options.edit.read_bytes()
    except OSError as error:
        raise CommandError(f"{options.edit} can't be read: {error.strerror}") from error
    return content


def _filter(options: argparse.Namespace) -> Filter:
    return Filter(
        stage=options.stage,
        since_micros=options.since,
        reason_contains=options.reason_contains,
        places=frozenset(getattr(options, "places", ())),
    )


def _line(letter: Letter) -> str:
    said = letter.letter
    again = "  sent again" if letter.retried_at_micros else ""
    where = f"{letter.place!s:>8}  {instant(said.failed_at_micros)}  {said.stage or '?':<7}"
    return f"{where}  {len(said.payload):>7} B  {plain(said.reason)}{again}"


def _row(letter: Letter) -> dict[str, Any]:
    said = letter.letter
    found: dict[str, Any] = {
        "place": str(letter.place),
        "partition": letter.place.partition,
        "offset": letter.place.offset,
        "failed_at": instant(said.failed_at_micros),
        "stage": said.stage,
        "reason": said.reason,
        "payload_bytes": len(said.payload),
    }
    if said.topic:
        found["stood_at"] = f"{said.topic} {said.partition}:{said.offset}"
    if letter.retried_at_micros:
        found["retried_at"] = instant(letter.retried_at_micros)
    return found


def _whole(letter: Letter) -> dict[str, Any]:
    payload = letter.letter.payload
    return {
        **_row(letter),
        "event": dlq_retry.event_json(payload) if _holds_event(letter) else None,
        "payload_hex": payload.hex(),
    }


def _holds_event(letter: Letter) -> bool:
    said = letter.letter
    return said.stage != "ship" or said.reason.startswith(dlq_retry.TOO_LARGE)


def _page(letter: Letter) -> str:
    lines = [plain(f"{name:<14} {value}") for name, value in _row(letter).items()]
    event = event_of(letter.letter.payload) if _holds_event(letter) else None
    if event is not None:
        lines += ["", "as an event:", json_text(fields_of(event), indent=2)]
    elif not _holds_event(letter):
        entry = dlq_retry.entry_text(letter)
        lines += ["", "as an entry of Envoy's access log:", entry] if entry else []
    return "\n".join([*lines, "", "as it came:", payload_text(letter.letter.payload)])


def _now_micros() -> int:
    return time.time_ns() // 1000
