"""Records from Kafka: what can't be billed by is refused with a sentence that says why."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.usage import UNITS_MAX, Outcome
from aforo_meter.wire import UnreadableEventError, usage_of
from aforo_proto import usage_pb2
from aforo_proto.usage_pb2 import Dimensions, Measure, UsageEvent

AT = 1_795_000_000_000_000


def event(**changes: object) -> UsageEvent:
    fields: dict[str, object] = {
        "event_id": "e1",
        "tenant_id": "acme",
        "subscription_id": "sub-1",
        "features": ["chat", "api"],
        "occurred_at_micros": AT,
        "outcome": usage_pb2.OUTCOME_ALLOW,
        "reason": "allowed",
        "dimensions": Dimensions(provider="openai", model="gpt-4o"),
        "measures": [Measure(meter="llm.input_tokens", units=12, micros=500_000)],
    }
    return UsageEvent(**(fields | changes))  # type: ignore[arg-type]


def test_an_event_is_read_to_the_micro() -> None:
    usage = usage_of(event().SerializeToString())

    assert (usage.event_id, usage.tenant_id, usage.subscription_id) == ("e1", "acme", "sub-1")
    assert usage.features == ("api", "chat")
    assert usage.outcome is Outcome.ALLOW
    assert (usage.provider, usage.model) == ("openai", "gpt-4o")
    assert [tuple(one) for one in usage.measures] == [("llm.input_tokens", 12_500_000)]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"event_id": ""}, "event_id is empty"),
        ({"occurred_at_micros": 0}, "occurred_at_micros 0 is not between"),
        ({"occurred_at_micros": 2**62}, "is not between 2020 and 2100"),
        ({"outcome": usage_pb2.OUTCOME_UNSPECIFIED}, "outcome 0 is unknown"),
        ({"outcome": 17}, "outcome 17 is unknown"),
        ({"outcome": usage_pb2.OUTCOME_BLOCK}, "refused, and yet it has measures"),
        ({"features": ["a,b"]}, "comma"),
        ({"dimensions": Dimensions(model="a\0b")}, "NUL"),
        ({"measures": [Measure(units=1)]}, "names no meter"),
        ({"measures": [Measure(meter="m", units=-1)]}, "m: -1 units"),
        ({"measures": [Measure(meter="m", units=UNITS_MAX + 1)]}, "are not between 0 and"),
        ({"measures": [Measure(meter="m", units=1, micros=-1)]}, "m: 1 units and -1 micros"),
        ({"measures": [Measure(meter="m", units=1, micros=1_000_000)]}, "1000000 micros"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(UnreadableEventError, match=complaint):
        usage_of(event(**changes).SerializeToString())


@pytest.mark.parametrize("value", [None, b"", b"\xff\xff", b"{}"])
def test_what_is_no_event_is_refused(value: bytes | None) -> None:
    with pytest.raises(UnreadableEventError):
        usage_of(value)


@given(value=st.binary(max_size=200))
def test_no_bytes_cause_any_other_error(value: bytes) -> None:
    with contextlib.suppress(UnreadableEventError):
        usage_of(value)
