"""A dead letter → the events that it should have been, under ids that are the same each time."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from pydantic import ValidationError
from redis.exceptions import RedisError

from aforo_meter import access_log
from aforo_meter.batches import AHEAD_MICROS_MAX
from aforo_meter.command_arguments import CommandError
from aforo_meter.contract_messages import UnreadableError
from aforo_meter.dlq import Letter
from aforo_meter.domain.metering import Metering
from aforo_meter.records import Record
from aforo_meter.settings_ship import ShipSettings
from aforo_meter.ship_rules import event_reader, rules_now
from aforo_meter.shown_events import event_of
from aforo_meter.wire import UnreadableEventError, usage_of
from aforo_proto import usage_pb2

# What ship could not send was an event already.
TOO_LARGE: Final = "too large for "
WHOLE_MESSAGE: Final = "not a StreamAccessLogsMessage"
# Protobuf's tags of length-delimited fields: StreamAccessLogsMessage.http_logs and .log_entry.
HTTP_LOGS: Final = b"\x12"
LOG_ENTRY: Final = b"\x0a"
VARINT_BITS: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of a letter."""

    records: Sequence[Record] = ()
    says: str  # Which events, or why there are none.

    @property
    def is_sound(self) -> bool:
        return bool(self.records)


def attempt(
    letter: Letter,
    *,
    topic: str,
    letters_topic: str,
    settings: ShipSettings,
    now_micros: int,
    metering: Metering | None = None,
) -> Outcome:
    """Read a letter again, as those who could not do now.

    Args:
        letter: What it is about.
        topic: Where events go whose letter names none.
        letters_topic: A part of the ids of events that have none of their own.
        settings: Ship's, for what counts as usage.
        now_micros: To tell what is too far ahead.
        metering: The catalog's rules, as ship follows them; None: the built-in ones hold.
    """
    said = letter.letter
    from_access_log = said.stage == "ship" and not said.reason.startswith(TOO_LARGE)
    target = said.topic or topic
    if not from_access_log:
        return _as_it_was(said.payload, target, now_micros=now_micros)
    numbers = itertools.count()

    def next_id() -> str:
        return f"dlq:{letters_topic}:{letter.place}:{next(numbers)}"

    events = event_reader(settings, metering, new_id=next_id)
    reader = access_log.StreamReader(access_log.Reader(events))
    message = said.payload if said.reason == WHOLE_MESSAGE else _wrapped(said.payload)
    readings = list(reader.read(message))
    wrong = [one.reason for one in readings if isinstance(one, access_log.Unreadable)]
    if wrong:
        return Outcome(says=f"still: {wrong[0]}")
    records = [
        Record(target, one.key, one.value) for one in readings if isinstance(one, access_log.Event)
    ]
    if not records:
        return Outcome(says="still: it tells of no finished call, so there is nothing to count")
    told = [usage_pb2.UsageEvent.FromString(record.value) for record in records]
    return Outcome(records=records, says=_named(told))


def edited(letter: Letter, content: bytes, *, topic: str, letters_topic: str) -> Outcome:
    """Return what a repaired event makes of a letter.

    Args:
        letter: What it is about.
        content: The event: JSON, as dlq show --json prints it under `event`; or protobuf.
        topic: Where it goes if the letter does not say.
        letters_topic: A part of the event's id, if it has none.

    Raises:
        CommandError: It is no event, or has another id than the letter's own.
    """
    event = _event_of_file(content)
    original = event_of(letter.letter.payload)
    own = original.event_id if original is not None else ""
    if own and event.event_id not in ("", own):
        # Under another id, a second retry of the letter as it was would count it twice.
        raise CommandError(
            f"the edited event has the id {event.event_id!r}, and the letter {own!r};"
            " keep the letter's"
        )
    event.event_id = own or event.event_id or f"dlq:{letters_topic}:{letter.place}:0"
    return _as_it_was(event.SerializeToString(), letter.letter.topic or topic, now_micros=None)


def event_json(payload: bytes) -> Mapping[str, Any] | None:
    """Return the event in a form that can be edited; None if it is none that can be read."""
    event = event_of(payload)
    if event is None:
        return None
    found: dict[str, Any] = json_format.MessageToDict(event, preserving_proto_field_name=True)
    return found


def entry_text(letter: Letter) -> str:
    """Return what stands in a letter of ship, as protobuf's text; "" if that can't be told."""
    message = access_log.text_of(letter.letter.payload)
    return message if letter.letter.reason != WHOLE_MESSAGE else ""


def ship_settings(bootstrap: str) -> ShipSettings:
    """Return what ship reads entries by, by its variables as they are here; else its defaults.

    Raises:
        CommandError: One of its variables is wrong.
    """
    try:
        return ShipSettings(kafka_bootstrap=bootstrap)
    except ValidationError as error:
        raise CommandError(
            "AFORO_METER_SHIP_… is set and wrong, and says what is not metered; run:"
            " aforo-meter check-config ship"
        ) from error


async def catalog_rules(settings: ShipSettings) -> Metering | None:
    """Return the rules that ship follows; None where those built in hold.

    Raises:
        CommandError: They can't be had: by others a letter would count otherwise than its call.
    """
    try:
        return await rules_now(settings)
    except (RedisError, OSError, LookupError, UnreadableError) as error:
        raise CommandError(
            f"the metering rules, at AFORO_METER_SHIP_REDIS_URL, can't be had: {error}"
        ) from error


def _as_it_was(payload: bytes, topic: str, *, now_micros: int | None) -> Outcome:
    """Return an event to send unchanged, if the consumer can read it now."""
    try:
        usage = usage_of(payload)
    except UnreadableEventError as error:
        return Outcome(says=f"still: {error}; repair it: --edit FILE")
    if now_micros is not None and usage.occurred_at_micros > now_micros + AHEAD_MICROS_MAX:
        return Outcome(
            says=f"still: occurred_at_micros {usage.occurred_at_micros} is more than a day ahead"
            " of us; repair it: --edit FILE"
        )
    event = usage_pb2.UsageEvent.FromString(payload)
    record = Record(topic=topic, key=event.tenant_id.encode(), value=payload)
    return Outcome(records=[record], says=_named([event]))


def _event_of_file(content: bytes) -> usage_pb2.UsageEvent:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    try:
        if value is None:
            return usage_pb2.UsageEvent.FromString(content)
        if isinstance(value, dict) and isinstance(value.get("event"), dict):
            value = value["event"]  # All that dlq show --json prints.
        return json_format.ParseDict(value, usage_pb2.UsageEvent())
    except (DecodeError, json_format.ParseError, AttributeError, TypeError) as error:
        raise CommandError(
            f"the edited file holds no aforo.v1.UsageEvent: {str(error).splitlines()[0]};"
            " begin with what dlq show --json prints under event"
        ) from error


def _wrapped(entry: bytes) -> bytes:
    """Return a message that holds one entry, as Envoy would have sent it alone."""
    inner = LOG_ENTRY + _varint(len(entry)) + entry
    return HTTP_LOGS + _varint(len(inner)) + inner


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 1 << VARINT_BITS:
        found.append(number % (1 << VARINT_BITS) + (1 << VARINT_BITS))
        number >>= VARINT_BITS
    found.append(number)
    return bytes(found)


def _named(events: Sequence[usage_pb2.UsageEvent]) -> str:
    first = events[0]
    more = f" and {len(events) - 1} more" if len(events) > 1 else ""
    return f"event {first.event_id} of {first.tenant_id or '(nobody)'}{more}"
