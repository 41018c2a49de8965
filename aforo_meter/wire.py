"""UsageEvent on Kafka → domain. What can't be read is said, never guessed."""

import json
from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

from aforo_meter.domain.completeness import FILLED, STANDS_FOR
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.rating import (
    MICROS_PER_UNIT,
    REPORTED,
    LoggedKey,
    Measured,
    ToldAgain,
    Usage,
)
from aforo_meter.domain.sessions import Boundary, Sighting
from aforo_meter.domain.usage import UNITS_MAX, Outcome
from aforo_proto import usage_pb2

OUTCOMES: Final = {
    usage_pb2.OUTCOME_ALLOW: Outcome.ALLOW,
    usage_pb2.OUTCOME_THROTTLE: Outcome.THROTTLE,
    usage_pb2.OUTCOME_BLOCK: Outcome.BLOCK,
    usage_pb2.OUTCOME_NOT_DECIDED: Outcome.NOT_DECIDED,
}
BOUNDARIES: Final = {
    usage_pb2.SESSION_BOUNDARY_UNSPECIFIED: Boundary.STEP,
    usage_pb2.SESSION_BOUNDARY_START: Boundary.START,
    usage_pb2.SESSION_BOUNDARY_HEARTBEAT: Boundary.HEARTBEAT,
    usage_pb2.SESSION_BOUNDARY_END: Boundary.END,
}
STATUSES: Final = {
    number: name.removeprefix("EXECUTION_STATUS_").lower() if number else ""
    for name, number in usage_pb2.ExecutionStatus.items()
}
UNKNOWN_STATUS: Final = "unknown"  # Of a newer sender. It decides about no money.
NO_EVENT: Final = "not an aforo.v1.UsageEvent"
REPORTED_LENGTH: Final = max(map(len, REPORTED))
GATEWAY: Final = "envoy:"
COMPLETENESS: Final = "completeness"
WEIGHT_UNITS_MAX: Final = 1_000_000  # The catalog's own bound; one row holds a million such calls.
# Between them lies every event that can be meant: 2020 and 2100.
OCCURRED_MICROS_MIN: Final = 1_577_836_800_000_000
OCCURRED_MICROS_MAX: Final = 4_102_444_800_000_000


class UnreadableEventError(Exception):
    """A record that is no usage event, or one that nothing can be billed by."""


def usage_of(value: bytes | None) -> Usage:
    """Decode one record's value.

    Raises:
        UnreadableEventError: It names the field and what is wrong with it.
    """
    try:
        event = usage_pb2.UsageEvent.FromString(value or b"")
    except DecodeError as error:
        raise UnreadableEventError(NO_EVENT) from error
    return usage_from(event, value)


def usage_from(event: usage_pb2.UsageEvent, value: bytes | None) -> Usage:
    """Read an event, of which the encoded form is known too.

    Raises:
        UnreadableEventError: It names the field and what is wrong with it.
    """
    outcome = _outcome_of(event)
    # A text with a NUL has one in its bytes. Hardly a record has any, and looking is quick.
    if b"\0" in (value or b"") and any("\0" in text for text in _texts(event)):
        raise UnreadableEventError("a name has a NUL in it, which no database would keep")
    dimensions = event.dimensions
    features = tuple(sorted(event.features))
    from_gateway = event.source.startswith(GATEWAY)
    is_heartbeat = event.session_boundary == usage_pb2.SESSION_BOUNDARY_HEARTBEAT
    return Usage(
        event_id=event.event_id,
        tenant_id=event.tenant_id,
        subscription_id=event.subscription_id,
        features=features,
        occurred_at_micros=event.occurred_at_micros,
        outcome=outcome,
        reason=event.reason,
        shadow_reason=event.shadow_reason,
        provider=dimensions.provider,
        model=dimensions.model,
        measures=() if is_heartbeat else tuple(_measured(measure) for measure in event.measures),
        tool=dimensions.tool,
        execution_status=STATUSES.get(dimensions.execution_status, UNKNOWN_STATUS),
        weight_units=event.weight_units or 1,
        from_gateway=from_gateway,
        late=event.late,
        call=_call_of(event),
        logged=_logged_of(event, outcome, ",".join(features))
        if from_gateway
        else _filled_of(event),
        estimated=event.estimated,
        logged_calls=_stands_for(event) if event.source == COMPLETENESS else 1,
        sighting=_sighting_of(event) if dimensions.session else None,
    )


def _call_of(event: usage_pb2.UsageEvent) -> ToldAgain | None:
    """Return how an event tells of a call of which others tell too; None: it is the only one."""
    told_again = event.interim or event.continued or event.estimated
    if not told_again or not event.decision_id:
        return None
    return ToldAgain(event.decision_id, event.interim, event.estimated)


def _logged_of(event: usage_pb2.UsageEvent, outcome: Outcome, feature: str) -> LoggedKey | None:
    """Return which decisions the gateway's event is counted with; None: with none."""
    if not event.decision_id or event.interim:
        return None
    if outcome is Outcome.ALLOW and event.shadow_reason and event.shadow_reason == event.reason:
        outcome = Outcome.BLOCK  # Envoy's own shadow mode let pass what we had refused.
    hour_micros = event.decided_hour_s * 1_000_000
    if not OCCURRED_MICROS_MIN <= hour_micros < OCCURRED_MICROS_MAX:
        hour_micros = event.occurred_at_micros  # Decided by an authz that does not tell the hour.
    return LoggedKey(
        hour_micros - hour_micros % HOUR_MICROS, event.tenant_id, feature, outcome.value
    )


def _filled_of(event: usage_pb2.UsageEvent) -> LoggedKey | None:
    if event.source != COMPLETENESS or not event.estimated:
        return None
    hour_micros = event.occurred_at_micros - event.occurred_at_micros % HOUR_MICROS
    return LoggedKey(hour_micros, event.tenant_id, ",".join(sorted(event.features)), FILLED)


def _stands_for(event: usage_pb2.UsageEvent) -> int:
    """Return how many lost calls an estimate of ours stands for."""
    try:
        count = json.loads(event.metadata_json or "{}").get(STANDS_FOR, 0)
    except (ValueError, AttributeError):
        count = None
    if not isinstance(count, int) or not 0 <= count <= UNITS_MAX:
        raise UnreadableEventError(f"{STANDS_FOR} in metadata_json is no number of calls")
    return count


def _sighting_of(event: usage_pb2.UsageEvent) -> Sighting | None:
    """Return what the event says of its session; None: it is a refusal, or not yet over."""
    if event.interim or event.outcome == usage_pb2.OUTCOME_BLOCK:
        return None
    dimensions = event.dimensions
    return Sighting(
        dimensions.session,
        BOUNDARIES.get(event.session_boundary, Boundary.STEP),
        dimensions.product,
        dimensions.agent,
        event.occurred_at_micros,
    )


def _outcome_of(event: usage_pb2.UsageEvent) -> Outcome:
    """Return what became of the call, once the event as a whole makes sense."""
    if not event.event_id:
        raise UnreadableEventError("event_id is empty: duplicates could not be told apart")
    if not OCCURRED_MICROS_MIN <= event.occurred_at_micros < OCCURRED_MICROS_MAX:
        raise UnreadableEventError(
            f"occurred_at_micros {event.occurred_at_micros} is not between 2020 and 2100"
        )
    outcome = OUTCOMES.get(event.outcome)
    if outcome is None:
        raise UnreadableEventError(f"outcome {event.outcome} is unknown to this version")
    if outcome is Outcome.BLOCK and event.measures:
        raise UnreadableEventError("the call was refused, and yet it has measures")
    if any("," in feature for feature in event.features):
        raise UnreadableEventError("a feature's id has a comma in it")
    if event.interim and not event.decision_id:
        raise UnreadableEventError("interim without a decision_id: its end could not be told")
    if not 0 <= event.weight_units <= WEIGHT_UNITS_MAX:
        raise UnreadableEventError(
            f"weight_units {event.weight_units} is not between 0 and {WEIGHT_UNITS_MAX}"
        )
    return outcome


def _texts(event: usage_pb2.UsageEvent) -> Iterator[str]:
    """Return the texts that become columns of the ledger."""
    yield from (event.event_id, event.tenant_id, event.subscription_id)
    yield from (event.reason, event.shadow_reason)
    yield event.decision_id
    dimensions = event.dimensions
    yield from (dimensions.provider, dimensions.model, dimensions.tool)
    yield from (dimensions.session, dimensions.product, dimensions.agent)
    yield from event.features
    yield from (measure.meter for measure in event.measures)


def _measured(measure: usage_pb2.Measure) -> Measured:
    if not measure.meter:
        raise UnreadableEventError("a measure names no meter")
    if not 0 <= measure.units <= UNITS_MAX or not 0 <= measure.micros < MICROS_PER_UNIT:
        raise UnreadableEventError(
            f"{measure.meter}: {measure.units} units and {measure.micros} micros"
            f" are not between 0 and {UNITS_MAX}"
        )
    return Measured(measure.meter, measure.units * MICROS_PER_UNIT + measure.micros)
