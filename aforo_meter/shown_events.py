"""Usage events and dead letters as people and programs read them."""

import json
import re
from typing import Any, Final

from google.protobuf.message import DecodeError

from aforo_meter.domain.periods import datetime_of
from aforo_proto import usage_pb2

TEXT_BYTES_SHOWN: Final = 2048
YEAR_10000_MICROS: Final = 253_402_300_800_000_000
PREFIX_OUTCOME: Final = "OUTCOME_"
PREFIX_STATUS: Final = "EXECUTION_STATUS_"
PREFIX_BOUNDARY: Final = "SESSION_BOUNDARY_"
# What a terminal may obey, or that turns lines round: json.dumps leaves it as it is.
UNSAFE: Final = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
DIMENSIONS: Final = ("provider", "model", "route", "method", "path", "tool", "agent", "session")


def event_of(value: bytes | None) -> usage_pb2.UsageEvent | None:
    """Return the event that a record holds; None if it is none."""
    try:
        return usage_pb2.UsageEvent.FromString(value or b"")
    except DecodeError:
        return None


def fields_of(event: usage_pb2.UsageEvent) -> dict[str, Any]:
    """Return what an event says, by the names that a search goes by; what is unset is left out."""
    dimensions = event.dimensions
    fields: dict[str, Any] = {
        "event_id": event.event_id,
        "source": event.source,
        "tenant": event.tenant_id,
        "subscription": event.subscription_id,
        "features": list(event.features),
        "occurred_at": instant(event.occurred_at_micros),
        "received_at": instant(event.received_at_micros) if event.received_at_micros else "",
        "decision_id": event.decision_id,
        "outcome": _name(usage_pb2.Outcome, event.outcome, PREFIX_OUTCOME),
        "reason": event.reason,
        "shadow_reason": event.shadow_reason,
        **{name: getattr(dimensions, name) for name in DIMENSIONS},
        "status": dimensions.status,
        "product": dimensions.product,
        "execution_status": _name(
            usage_pb2.ExecutionStatus, dimensions.execution_status, PREFIX_STATUS
        ),
        "session_boundary": _name(
            usage_pb2.SessionBoundary, event.session_boundary, PREFIX_BOUNDARY
        ),
        "measures": {one.meter: quantity(one) for one in event.measures},
        "weight_units": event.weight_units,
        **{name: getattr(event, name) for name in ("estimated", "aborted", "interim", "late")},
        "continued": event.continued,
        "metadata": metadata_of(event),
    }
    return {name: value for name, value in fields.items() if value not in ("", 0, [], {}, None)}


def metadata_of(event: usage_pb2.UsageEvent) -> Any:  # noqa: ANN401 - of JSON.
    """Return what a client attached: an object, or the text as it is if it is no JSON."""
    try:
        return json.loads(event.metadata_json or "{}")
    except (ValueError, RecursionError):
        return event.metadata_json


def quantity(measure: usage_pb2.Measure) -> str:
    """Return a quantity exactly: `12` or `12.5`."""
    if not measure.micros:
        return str(measure.units)
    return f"{measure.units}.{measure.micros:06d}".rstrip("0")


def instant(micros: int) -> str:
    """Return an instant as text, whatever number stands there."""
    if not 0 <= micros < YEAR_10000_MICROS:
        return f"{micros} µs"
    return datetime_of(micros).isoformat().replace("+00:00", "Z")


def line_of(event: usage_pb2.UsageEvent) -> str:
    """Return an event on one line."""
    measures = ", ".join(f"{one.meter} {quantity(one)}" for one in event.measures)
    outcome = _name(usage_pb2.Outcome, event.outcome, PREFIX_OUTCOME)
    parts = [
        instant(event.occurred_at_micros),
        event.tenant_id or "(nobody)",
        event.event_id,
        outcome,
        measures or "no usage",
    ]
    about = [f"{name}={value}" for name in DIMENSIONS if (value := getattr(event.dimensions, name))]
    attached = [event.metadata_json] if event.metadata_json else []
    return plain("  ".join([*parts, *about, *attached]))


def plain(text: str) -> str:
    """Return a line that no terminal obeys: clients choose many of its words."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def json_text(value: Any, *, indent: int | None = None) -> str:  # noqa: ANN401 - of JSON.
    """Return JSON for people and programs, which no terminal obeys either."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def payload_text(payload: bytes) -> str:
    """Return bytes as text if they are text, else as hex; cut short."""
    shown, cut = payload[:TEXT_BYTES_SHOWN], len(payload) > TEXT_BYTES_SHOWN
    try:
        text = shown.decode("utf-8", errors="ignore" if cut else "strict")
        is_text = all(letter.isprintable() or letter in "\n\r\t" for letter in text)
    except UnicodeDecodeError:
        is_text = False
    body = text if is_text else shown.hex(" ", 4)
    return f"{body} … ({len(payload)} bytes)" if cut else body


def _name(enum: Any, number: int, prefix: str) -> str:  # noqa: ANN401 - of protobuf.
    if not number:
        return ""
    try:
        return str(enum.Name(number)).removeprefix(prefix).lower()
    except ValueError:
        return str(number)
