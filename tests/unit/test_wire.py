"""Records from Kafka: what can't be billed by is refused with a sentence that says why."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.rating import LoggedKey, ToldAgain
from aforo_meter.domain.sessions import Boundary, Sighting
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
        ({"dimensions": Dimensions(tool="a\0b")}, "NUL"),
        ({"interim": True}, "interim without a decision_id"),
        ({"weight_units": -1}, "weight_units -1 is not between"),
        ({"weight_units": 10**7}, "weight_units 10000000 is not between"),
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


def test_an_event_that_says_no_more_than_before_is_read_as_before() -> None:
    usage = usage_of(event().SerializeToString())

    assert (usage.tool, usage.execution_status, usage.weight_units) == ("", "", 1)
    assert (usage.call, usage.logged, usage.sighting) == (None, None, None)


def test_what_an_event_of_the_gateway_says_is_read() -> None:
    dimensions = Dimensions(
        tool="search",
        agent="helper",
        session="s1",
        product="MCP_SERVER",
        execution_status=usage_pb2.EXECUTION_STATUS_ERROR,
    )
    usage = usage_of(
        event(
            source="envoy:edge-1",
            decision_id="d1",
            continued=True,
            decided_hour_s=AT // 3_600_000_000 * 3600 - 3600,
            weight_units=7,
            dimensions=dimensions,
            session_boundary=usage_pb2.SESSION_BOUNDARY_START,
        ).SerializeToString()
    )

    assert (usage.tool, usage.execution_status, usage.weight_units) == ("search", "error", 7)
    assert usage.call == ToldAgain("d1", interim=False, estimated=False)
    hour = AT // 3_600_000_000 * 3_600_000_000 - 3_600_000_000
    assert usage.logged == LoggedKey(hour, "acme", "api,chat", "allow")
    assert usage.sighting == Sighting("s1", Boundary.START, "MCP_SERVER", "helper", AT)


def test_a_refusal_that_envoys_shadow_mode_let_pass_counts_as_what_was_decided() -> None:
    shadow = {"reason": "plan_blocked", "shadow_reason": "plan_blocked"}
    ours = {"reason": "allowed", "shadow_reason": "plan_blocked"}

    def decided(**changes: str) -> str:
        said = event(source="envoy:e", decision_id="d1", **changes)
        logged = usage_of(said.SerializeToString()).logged
        assert logged is not None
        return logged.outcome

    assert (decided(**shadow), decided(**ours)) == ("block", "allow")


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "ingest", "decision_id": "d1"},
        {"source": "envoy:e"},
        {"source": "envoy:e", "decision_id": "d1", "interim": True},
    ],
)
def test_only_whole_calls_of_the_gateway_count_as_logged(changes: dict[str, object]) -> None:
    assert usage_of(event(**changes).SerializeToString()).logged is None


def test_an_estimate_of_ours_says_how_many_lost_calls_it_stands_for() -> None:
    estimate = event(
        source="completeness", estimated=True, metadata_json='{"stands_for_calls": 12}'
    )
    usage = usage_of(estimate.SerializeToString())

    assert usage.logged is not None
    assert (usage.logged.outcome, usage.logged_calls) == ("filled", 12)
    for broken in ("[]", "{", '{"stands_for_calls": -1}', '{"stands_for_calls": "x"}'):
        estimate.metadata_json = broken
        with pytest.raises(UnreadableEventError, match="stands_for_calls"):
            usage_of(estimate.SerializeToString())


def test_a_heartbeat_is_never_billed() -> None:
    heartbeat = event(
        dimensions=Dimensions(session="s1"), session_boundary=usage_pb2.SESSION_BOUNDARY_HEARTBEAT
    )
    usage = usage_of(heartbeat.SerializeToString())

    assert usage.measures == ()
    assert usage.sighting is not None
    assert usage.sighting.boundary is Boundary.HEARTBEAT


def test_a_status_of_a_newer_sender_is_no_reason_to_lose_usage() -> None:
    said = event(dimensions=Dimensions(execution_status=99))  # type: ignore[arg-type]

    assert usage_of(said.SerializeToString()).execution_status == "unknown"
