"""What is the same for many calls (where, by which rules, what came of it) → what events share.

A plan is worked out once for equal facts and kept. Who called is no part of it: there may be more
tenants than plans worth keeping.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from envoy.config.core.v3.base_pb2 import RequestMethod

from aforo_meter import envoy_values
from aforo_meter.domain.metering import (
    Applied,
    Counted,
    Quantity,
    Traits,
    Unmetered,
    why_no_usage,
)
from aforo_meter.domain.outcomes import execution_status
from aforo_meter.domain.usage import (
    MICROS_PER_UNIT,
    ROUTE_CHARACTERS_MAX,
    TEXT_CHARACTERS_MAX,
    Outcome,
    UsageError,
    clip,
    outcome_of,
)
from aforo_meter.event_encoding import MeasureCode, measure_code
from aforo_proto import usage_pb2

METHODS: Final[Mapping[int, str]] = {
    number: name for name, number in RequestMethod.items() if number
}
OUTCOMES: Final = {
    Outcome.ALLOW: usage_pb2.OUTCOME_ALLOW,
    Outcome.THROTTLE: usage_pb2.OUTCOME_THROTTLE,
    Outcome.BLOCK: usage_pb2.OUTCOME_BLOCK,
    Outcome.NOT_DECIDED: usage_pb2.OUTCOME_NOT_DECIDED,
}
REFUSED_DETAILS: Final = frozenset({"ext_authz_denied", "ext_authz_error", "ext_authz_invalid"})
SWITCHING_PROTOCOLS: Final = 101
# An upstream that breaks off: what came before the answer began is an answer of Envoy's own.
BROKEN_OFF: Final = "upstream_reset_after_response_started"
NEVER_BEGAN: Final = "upstream_reset_before_response_started"
# Envoy's limits of time, which end an answer that has begun. Before that Envoy answers itself.
TIME_IS_UP: Final = frozenset(
    {
        "stream_idle_timeout",
        "max_duration_timeout",
        "response_timeout",
        "upstream_per_try_idle_timeout",
        "upstream_max_stream_duration_reached",
    }
)
TIMEOUT_STATUSES: Final = frozenset({408, 504})
HOUR_DIGITS_MAX: Final = 12
WEIGHT_DIGITS_MAX: Final = 12


class Facts(NamedTuple):
    """As they stand in the entry, undecoded: what is only compared need not be understood."""

    features: bytes | None
    decision: bytes | None
    reason: bytes | None
    shadow_reason: bytes | None
    provider: bytes | None
    hour: bytes | None
    weight: bytes | None
    route: bytes
    method: int
    status: bytes
    details: bytes
    flags: bytes
    preflight: bool
    grpc_status: bytes
    fits: tuple[bool, ...]  # Which of the rules fit the path.


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What events with equal facts have in common."""

    shared: usage_pb2.UsageEvent
    counted: tuple[Counted, ...]  # Empty where the call is no usage.
    unmetered: Unmetered | None
    decided: bool
    refused: bool  # At the gate: whatever was reported is nobody's usage.
    aborted: bool
    broken_off: bool  # In the midst of the answer: by the upstream, or by a limit of time.
    provider: str  # As the decision says; it goes before what a protocol tells.
    counts: tuple[tuple[str, str], ...]  # What is worth counting about each.
    # For the way that builds no objects. `quick` is False where it can't be taken.
    quick: bool
    prefix: bytes = field(repr=False)  # `shared`, and the measures that are the same for each.
    request_code: MeasureCode | None
    response_code: MeasureCode | None


def plan_of(facts: Facts, rules: Applied) -> Plan:
    """Work out a plan.

    Raises:
        UsageError: Something is said of the calls that can't be understood.
    """
    decision = envoy_values.text(facts.decision)
    details = envoy_values.readable(facts.details)
    flags = envoy_values.flags(facts.flags)
    # The flag too: a client that leaves may change the details, and the status says nothing, since
    # a gRPC call is refused with 200.
    refused = details in REFUSED_DETAILS or flags.unauthorized
    status = envoy_values.status(facts.status)
    ending = _ending(status, details, flags)
    outcome = outcome_of(decision, refused_at_gate=refused)
    method = METHODS.get(facts.method, "")
    executed = execution_status(
        status=status,
        grpc_status=envoy_values.readable(facts.grpc_status).strip(),
        blocked=outcome is Outcome.BLOCK,
        aborted=ending.aborted,
        timed_out=ending.timed_out,
    )
    provider = clip(envoy_values.text(facts.provider))
    shared = usage_pb2.UsageEvent(
        outcome=OUTCOMES[outcome],
        aborted=ending.aborted,
        dimensions=usage_pb2.Dimensions(
            provider=provider,
            route=clip(envoy_values.readable(facts.route), ROUTE_CHARACTERS_MAX),
            method=method,
            status=status,
            execution_status=usage_pb2.ExecutionStatus.Value(f"EXECUTION_STATUS_{executed}")
            if executed
            else usage_pb2.EXECUTION_STATUS_UNSPECIFIED,
        ),
    )
    if decision:
        passed_in_shadow = decision == Outcome.BLOCK != outcome
        _attribute(shared, facts, passed_in_shadow=passed_in_shadow)
    unmetered = why_no_usage(
        refused_at_gate=refused,
        details=details,
        method=method,
        looks_like_preflight=facts.preflight,
    )
    counted: tuple[Counted, ...] = ()
    if unmetered is None:
        traits = Traits(
            method=method,
            route=shared.dimensions.route,
            features=frozenset(shared.features),
            status=status,
            execution_status=executed or "",
        )
        unmetered, counted = rules.apply(traits, facts.fits)
    return _compiled(
        shared,
        counted,
        unmetered,
        refused=refused,
        aborted=ending.aborted,
        broken_off=ending.broken_off,
        provider=provider,
    )


class _Ending(NamedTuple):
    """What ended an answer before its time, if anything did."""

    aborted: bool = False
    timed_out: bool = False
    broken_off: bool = False


def _ending(status: int, details: str, flags: envoy_values.Flags) -> _Ending:
    if status == SWITCHING_PROTOCOLS:
        return _Ending()  # A WebSocket ends by its client's leaving, or in silence.
    timed_out = details in TIME_IS_UP and status not in TIMEOUT_STATUSES
    by_upstream = details.startswith(BROKEN_OFF) or (
        flags.broken_off and not details.startswith(NEVER_BEGAN)
    )
    return _Ending(
        aborted=flags.aborted or details.startswith("downstream_remote_disconnect"),
        timed_out=timed_out,
        broken_off=timed_out or by_upstream,
    )


def _attribute(event: usage_pb2.UsageEvent, facts: Facts, *, passed_in_shadow: bool) -> None:
    """Put in what the decision said, but for whose call it was."""
    event.reason = clip(envoy_values.text(facts.reason))
    event.shadow_reason = clip(envoy_values.text(facts.shadow_reason))
    if passed_in_shadow and not event.shadow_reason:
        event.shadow_reason = event.reason
    features = {one.strip() for one in envoy_values.text(facts.features).split(",")} - {""}
    event.features.extend(sorted(features))
    event.decided_hour_s = _number(facts.hour, digits_max=HOUR_DIGITS_MAX)
    event.weight_units = _number(facts.weight, digits_max=WEIGHT_DIGITS_MAX)


def id_of(name: str, raw: bytes | None) -> str:
    """Return an id that the decision said; "" where it said none.

    Raises:
        UsageError: It is longer than any that the catalog allows. Cut, it would be another's.
    """
    found = envoy_values.text(raw)
    if len(found) > TEXT_CHARACTERS_MAX:
        raise UsageError(f"the decision's {name} is {len(found)} characters long")
    return found


def _number(raw: bytes | None, *, digits_max: int) -> int:
    found = envoy_values.text(raw)
    # What can't be read is not told: it may not cost the event.
    return int(found) if found.isdecimal() and found.isascii() and len(found) <= digits_max else 0


def _compiled(
    shared: usage_pb2.UsageEvent,
    counted: tuple[Counted, ...],
    unmetered: Unmetered | None,
    *,
    refused: bool,
    aborted: bool,
    broken_off: bool,
    provider: str,
) -> Plan:
    codes: dict[Quantity, MeasureCode] = {}
    always = usage_pb2.UsageEvent()
    quick = True
    for one in counted:
        if one.quantity is Quantity.ONE:
            units, micros = divmod(one.micros, MICROS_PER_UNIT)
            always.measures.add(meter=one.meter, units=units, micros=micros)
        elif one.quantity in {Quantity.REQUEST_BYTES, Quantity.RESPONSE_BYTES}:
            # Two meters of the same bytes are rare: the other way has room for them.
            quick = quick and one.quantity not in codes
            codes[one.quantity] = measure_code(one.meter)
        else:
            quick = False
    name = usage_pb2.Outcome.Name(shared.outcome)
    counts = [("event", name)] + ([("unmetered", unmetered.value)] if unmetered else [])
    return Plan(
        decided=shared.outcome != usage_pb2.OUTCOME_NOT_DECIDED,
        shared=shared,
        counted=counted,
        unmetered=unmetered,
        refused=refused,
        aborted=aborted,
        broken_off=broken_off,
        provider=provider,
        counts=tuple(counts),
        quick=quick and not aborted and not broken_off,
        prefix=shared.SerializeToString() + always.SerializeToString(),
        request_code=codes.get(Quantity.REQUEST_BYTES),
        response_code=codes.get(Quantity.RESPONSE_BYTES),
    )
