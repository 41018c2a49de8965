"""All that is wrong with an event, so that its sender need not find one fault a try. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from aforo_meter.domain.ingest import Reading, Rules, read_event
from aforo_meter.domain.ingest_fields import SNAKE
from aforo_meter.domain.ingest_values import Rejection
from aforo_meter.domain.periods import datetime_of
from aforo_meter.domain.usage import API_CALLS

FAULTS_MAX: Final = 8  # Each one more is one more reading.
METADATA: Final = "metadata"
SOUND: Final[Mapping[str, Any]] = {"quantity": 1, "metricName": API_CALLS}
TEXT: Final = "x"
# What may be left out, and must be one of some values.
OPTIONAL: Final = frozenset({"executionStatus", "sessionBoundary", "aforoDecisionId"})


def read_or_tell_all(event: Any, rules: Rules) -> Reading:  # noqa: ANN401 - of JSON.
    """Return what an event says.

    Raises:
        Rejection: It names every field that is wrong, and the limits; its own field is the first.
    """
    try:
        return read_event(event, rules)
    except Rejection as first:
        if type(event) is not dict:
            raise
        found = _faults(event, rules, first)
        if len(found) == 1:
            raise
    told = "; ".join(str(one) for one in found).removeprefix(f"{found[0].field}: ")
    raise Rejection(found[0].field, told)


def _faults(event: Mapping[str, Any], rules: Rules, first: Rejection) -> list[Rejection]:
    """Put right what was found, and read on; a field that is wrong again ends it."""
    found, repaired = [first], dict(event)
    while len(found) < FAULTS_MAX:
        _repair(repaired, found[-1].field, rules)
        try:
            read_event(repaired, rules)
        except Rejection as rejection:
            if rejection.field in {one.field for one in found}:
                break
            found.append(rejection)
        else:
            break
    return found


def _repair(event: dict[str, Any], field: str, rules: Rules) -> None:
    """Put something sound in a field's place."""
    outer, _, inner = field.partition(".")
    if inner:
        names = {inner, SNAKE.get(inner, inner)}
        rest = {name: value for name, value in event[outer].items() if name not in names}
        # What is wrong is left out, what is missing is there.
        event[outer] = rest if len(rest) < len(event[outer]) else {**rest, inner: TEXT}
    elif field == METADATA:
        # What the product is told apart by may have been in it.
        event.update({METADATA: None, "productType": None})
    elif field == "occurredAt":
        event[field] = datetime_of(rules.now_micros).isoformat()
    elif field in OPTIONAL:
        event[field] = None
    else:
        event[field] = SOUND.get(field, TEXT)
