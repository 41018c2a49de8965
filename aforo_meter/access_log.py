"""Envoy's access-log messages → usage events, as they go to Kafka.

Who called comes from the decision's metadata and from nothing else. One entry becomes one event, or
one unreadable piece, or is of a kind that is not metered; nothing in it can raise.

There are two ways to the same event. `EventReader.read` (event_reading.py) is the whole of it, and
`QuickReader` (quick_reading.py) does what most entries need in a quarter of the time, and hands
over what it does not know. `tests/unit/test_quick_reading.py` holds them against each other.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsResponse
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from aforo_meter import envoy_values
from aforo_meter.domain import usage
from aforo_meter.event_encoding import Event
from aforo_meter.event_reading import EventReader, Ignored
from aforo_meter.quick_reading import QuickReader
from aforo_proto.access_log_pb2 import Entry, LogMessage

__all__ = ["Event", "Reader", "Reading", "StreamReader", "Unreadable"]  # For the service.

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
METHOD: Final = "StreamAccessLogs"
CLOSING_RESPONSE: Final[bytes] = StreamAccessLogsResponse().SerializeToString()


class Unreadable(NamedTuple):
    """A piece that can't become an event."""

    reason: str  # a sentence
    # As received, or of one entry if they could be told apart; where that had been parsed, maps may
    # stand in another order.
    payload: bytes


Reading = Event | Unreadable


class Reader:
    """What all streams share: the rules, and what was worked out by them. Rules may change."""

    def __init__(self, events: EventReader) -> None:
        self.events = events
        self.quick = QuickReader(events)

    def follow(self, events: EventReader) -> None:
        """Read what comes from now on by other rules."""
        self.quick = QuickReader(events)
        self.events = events


class StreamReader:
    """Reads one gRPC stream: Envoy says who it is in the first message only.

    `counts` tells what was read since it was last emptied: (what, which) → how often.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        now_micros: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._reader = reader
        self._now_micros = now_micros
        self._source = "envoy:"

    def read(self, payload: bytes) -> list[Reading]:
        """Return what a message of the stream says: an item for each entry that says something."""
        try:
            message = LogMessage.FromString(payload)
        except DecodeError:
            return list(self._salvage(payload))
        if message.HasField("identifier"):
            self._introduce(message.identifier)
        tcp_count = len(message.tcp_logs.log_entry)
        if tcp_count:
            self.counts["ignored", "tcp"] += tcp_count
        return self._read_entries(message.http_logs.log_entry)

    def _read_entries(self, entries: Iterable[Entry]) -> list[Reading]:
        received_micros = self._now_micros()
        quick = self._reader.quick.for_message(self._source, received_micros, self.counts)
        found: list[Reading] = []
        for entry in entries:
            reading = quick(entry) or self._read_rare(entry, received_micros)
            if reading is not None:
                found.append(reading)
        return found

    def _introduce(self, identifier: LogMessage.Identifier) -> None:
        self._source = usage.clip(f"envoy:{envoy_values.readable(identifier.node.id)}")

    def _salvage(self, payload: bytes) -> Iterator[Reading]:
        """Read the sound entries of a message that holds a broken one.

        protobuf refuses a whole message for one piece that it can't read, and a message mixes the
        calls of many tenants: one of them must not be able to hide the others' usage.
        """
        try:
            names = list(_subfields(payload, 1))  # LogMessage.identifier
            parts = list(_subfields(payload, 2))  # .http_logs
            entries = [entry for part in parts for entry in _subfields(part, 1)]  # .log_entry
        except DecodeError:
            names, entries = [], []
        for name in names:
            with contextlib.suppress(DecodeError):
                self._introduce(LogMessage.Identifier.FromString(name))
        if not entries:
            yield self._unreadable("not a StreamAccessLogsMessage", payload)
        for raw in entries:
            try:
                entry = Entry.FromString(raw)
            except DecodeError:
                yield self._unreadable("not an HTTPAccessLogEntry", raw)
            else:
                yield from self._read_entries([entry])

    def _read_rare(self, entry: Entry, received_micros: int) -> Reading | None:
        try:
            found = self._reader.events.read(
                entry, source=self._source, received_micros=received_micros
            )
        except usage.UsageError as error:
            return self._unreadable(str(error), entry.SerializeToString())
        except Exception as error:  # noqa: BLE001 - our mistake costs one entry, not the stream.
            reason = f"could not be read: {type(error).__name__}: {error}"
            return self._unreadable(reason, entry.SerializeToString())
        if isinstance(found, Ignored):
            self.counts["ignored", _type_name(found.access_log_type)] += 1
            return None
        self.counts.update(found.counts)
        return Event(found.event.tenant_id.encode(), found.event.SerializeToString())

    def _unreadable(self, reason: str, payload: bytes) -> Unreadable:
        self.counts["dead_letter", "unreadable"] += 1
        return Unreadable(reason, payload)


def text_of(payload: bytes) -> str:
    """Return an entry for people to read; "" if it is none."""
    try:
        return str(HTTPAccessLogEntry.FromString(payload)).rstrip()
    except DecodeError:
        return ""


def _subfields(payload: bytes, number: int) -> Iterator[bytes]:
    """Return the length-delimited fields of one number, without knowing what is in them."""
    fields = UnknownFieldSet(Empty.FromString(payload))
    for index in range(len(fields)):
        one = fields[index]
        if one.field_number == number and isinstance(one.data, bytes):
            yield one.data


def _type_name(number: int) -> str:
    try:
        return str(AccessLogType.Name(number))
    except ValueError:
        return "unknown"
