"""UsageEvent on Kafka → domain. What can't be read is said, never guessed."""

from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

from aforo_meter.domain.rating import MICROS_PER_UNIT, Measured, Usage
from aforo_meter.domain.usage import UNITS_MAX, Outcome
from aforo_proto import usage_pb2

OUTCOMES: Final = {
    usage_pb2.OUTCOME_ALLOW: Outcome.ALLOW,
    usage_pb2.OUTCOME_THROTTLE: Outcome.THROTTLE,
    usage_pb2.OUTCOME_BLOCK: Outcome.BLOCK,
    usage_pb2.OUTCOME_NOT_DECIDED: Outcome.NOT_DECIDED,
}
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
        raise UnreadableEventError("not an aforo.v1.UsageEvent") from error
    outcome = _outcome_of(event)
    dimensions = event.dimensions
    return Usage(
        event_id=event.event_id,
        tenant_id=event.tenant_id,
        subscription_id=event.subscription_id,
        features=tuple(sorted(event.features)),
        occurred_at_micros=event.occurred_at_micros,
        outcome=outcome,
        reason=event.reason,
        shadow_reason=event.shadow_reason,
        provider=dimensions.provider,
        model=dimensions.model,
        measures=tuple(_measured(measure) for measure in event.measures),
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
    if any("\0" in text for text in _texts(event)):
        raise UnreadableEventError("a name has a NUL in it, which no database would keep")
    return outcome


def _texts(event: usage_pb2.UsageEvent) -> Iterator[str]:
    """Return the texts that become columns of the ledger."""
    yield from (event.event_id, event.tenant_id, event.subscription_id)
    yield from (event.reason, event.shadow_reason)
    yield from (event.dimensions.provider, event.dimensions.model)
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
