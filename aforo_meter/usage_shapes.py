"""What is read of an event that may be of a known kind: bytes, which are compared, not decoded.

Two events of one shape say the same but for their ids, their quantities, their metadata and the
minute.
"""

from operator import attrgetter
from typing import Final

from google.protobuf.message import DecodeError

from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.rating import MICROS_PER_UNIT, Measured
from aforo_meter.domain.usage import UNITS_MAX
from aforo_meter.wire import GATEWAY, REPORTED_LENGTH
from aforo_proto import usage_pb2, usage_shape_pb2

MEASURES_MAX: Final = 50_000  # Some 12 MB.

# What it says beside all that differs, as it was encoded; the hour; whether it has a decision; of
# other sources than gateways, how the id begins, which says which of them it is.
Shape = tuple[bytes, int, bool, bytes]

_GATEWAY: Final = GATEWAY.encode()
_parse: Final = usage_shape_pb2.UsageEvent.FromString
_differs: Final = attrgetter("event_id", "decision_id", "metadata_json", "occurred_at_micros")


# Of an event: its shape, id, time and encoded measures; is what it says beyond its shape certain to
# be readable? A plain tuple: there is one for each event, and a named one takes far longer.
Glance = tuple[Shape, bytes, int, list[bytes], bool]


def glance(value: bytes) -> Glance:
    """Look at an encoded event, without decoding what may have been met before.

    Raises:
        DecodeError: It is none.
    """
    event = _parse(value)
    is_plain = event.ByteSize() == len(value)
    event_id, decision_id, metadata, at_micros = _differs(event)
    from_gateway = event.source.startswith(_GATEWAY)
    encoded = event.measures
    measures = encoded[:]
    # What is left is encoded as it came.
    event.event_id = event.decision_id = event.metadata_json = b""
    event.occurred_at_micros = event.received_at_micros = 0
    del encoded[:]
    prefix = b"" if from_gateway else event_id[:REPORTED_LENGTH]
    return (
        (event.SerializeToString(), at_micros // HOUR_MICROS, decision_id != b"", prefix),
        event_id,
        at_micros,
        measures,
        # Texts have to be UTF-8, without a NUL, and there once: of two the last counts, and the
        # first may be anything.
        is_plain
        and event_id != b""
        and (event_id + decision_id + metadata).isascii()
        and b"\0" not in value,
    )


class Measures:
    """Reads measures. Most were met before: they are short, and say small numbers."""

    def __init__(self) -> None:
        self._known: dict[bytes, Measured] = {}

    def of(self, encoded: list[bytes]) -> list[Measured] | None:
        """Return what was measured; None: some of it is not as it has to be."""
        known = self._known
        try:
            return [known[one] for one in encoded]
        except KeyError:
            return self._read(encoded)

    def _read(self, encoded: list[bytes]) -> list[Measured] | None:
        if len(self._known) >= MEASURES_MAX:
            self._known.clear()
        for one in encoded:
            measured = _measured(one)
            if measured is None:
                return None
            self._known[one] = measured
        return [self._known[one] for one in encoded]


def _measured(encoded: bytes) -> Measured | None:
    try:
        told = usage_pb2.Measure.FromString(encoded)
    except DecodeError:
        return None
    units, micros = told.units, told.micros
    if not 0 <= units <= UNITS_MAX or not 0 <= micros < MICROS_PER_UNIT:
        return None
    return Measured(told.meter, units * MICROS_PER_UNIT + micros)
