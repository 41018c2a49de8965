"""What is read of an event that may be of a known kind: bytes, which are compared, not decoded.

Two events of one shape say the same but for their ids, their quantities and the minute.
"""

from operator import attrgetter
from typing import Any, Final

from google.protobuf.message import DecodeError

from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.rating import MICROS_PER_UNIT, Measured
from aforo_meter.domain.usage import UNITS_MAX
from aforo_meter.wire import GATEWAY, REPORTED_LENGTH
from aforo_proto import usage_pb2, usage_shape_pb2

MEASURES_MAX: Final = 50_000  # Some 12 MB.

Shape = tuple[Any, ...]

parse = usage_shape_pb2.UsageEvent.FromString

_GATEWAY: Final = GATEWAY.encode()
_said: Final = attrgetter(
    *("tenant_id", "subscription_id", "source", "outcome", "reason", "shadow_reason"),
    *("decided_hour_s", "weight_units", "late", "estimated", "interim", "continued"),
    "session_boundary",
)


def shape_of(event: usage_shape_pb2.UsageEvent) -> Shape:
    """Return all that an event says but for its ids, quantities and metadata, by the hour."""
    return (
        _said(event),
        event.occurred_at_micros // HOUR_MICROS,
        tuple(event.features[:]),
        tuple(event.dimensions[:]),
        event.decision_id != b"",
        # Of other sources, how the id begins says which one it is.
        event.source.startswith(_GATEWAY) or event.event_id[:REPORTED_LENGTH],
    )


class Measures:
    """Reads measures. Most were met before: they are short, and say small numbers."""

    def __init__(self) -> None:
        self._known: dict[bytes, Measured] = {}

    def of(self, event: usage_shape_pb2.UsageEvent) -> list[Measured] | None:
        """Return what was measured; None: some of it is not as it has to be."""
        known = self._known
        try:
            return [known[encoded] for encoded in event.measures[:]]
        except KeyError:
            return self._read(event.measures[:])

    def _read(self, measures: list[bytes]) -> list[Measured] | None:
        if len(self._known) >= MEASURES_MAX:
            self._known.clear()
        for encoded in measures:
            measured = _measured(encoded)
            if measured is None:
                return None
            self._known[encoded] = measured
        return [self._known[encoded] for encoded in measures]


def _measured(encoded: bytes) -> Measured | None:
    try:
        told = usage_pb2.Measure.FromString(encoded)
    except DecodeError:
        return None
    units, micros = told.units, told.micros
    if not 0 <= units <= UNITS_MAX or not 0 <= micros < MICROS_PER_UNIT:
        return None
    return Measured(told.meter, units * MICROS_PER_UNIT + micros)
