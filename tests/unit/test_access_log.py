"""Envoy's access-log messages read into usage events."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf import any_pb2
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.access_log import Event, Reader, Reading, StreamReader, Unreadable
from aforo_meter.domain.metering import Applied, Metering, built_in_rules
from aforo_meter.event_reading import EventReader
from aforo_proto import llm_pb2, usage_pb2

RECEIVED_MICROS = 1_795_000_002_000_000
UID = "0f0e7fd2-51cb-4ef6-8e2c-f9ae7e0a0001"
DECIDED = {
    "tenant": "acme",
    "subscription": "sub-1",
    "plan": "pro",
    "features": "search,llm",
    "decision": "allow",
    "reason": "within_limits",
    "decision_id": "d" * 32,
    "catalog_version": "7",
}


def make_entry(
    *,
    said: dict[str, Any] | None = None,
    uid: str = UID,
    details: str = "via_upstream",
    status: int = 200,
    tokens: llm_pb2.TokenUsage | None = None,
    tokens_type: str = "type.googleapis.com/envoy.data.ai.v3.TokenUsage",
    log_type: int = AccessLogType.DownstreamEnd,
) -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry()
    common = entry.common_properties
    common.start_time.FromMicroseconds(1_795_000_000_123_456)
    common.access_log_type = log_type
    common.route_name = "openai"
    if uid:
        common.custom_tags["uid"] = uid
    if said is None:
        said = DECIDED
    if said:
        common.metadata.filter_metadata["envoy.filters.http.ext_authz"].update(said)
    if tokens is not None:
        packed = any_pb2.Any(type_url=tokens_type, value=tokens.SerializeToString())
        common.metadata.typed_filter_metadata["envoy.ai.token_usage"].CopyFrom(packed)
    entry.request.request_method = 3
    entry.request.path = "/v1/chat/completions"
    entry.request.request_id = "8e7a9c9c-client-may-choose-this"
    entry.request.request_body_bytes = 120
    entry.response.response_code.value = status
    entry.response.response_body_bytes = 900
    entry.response.response_code_details = details
    return entry


def make_message(*entries: HTTPAccessLogEntry, node_id: str = "") -> bytes:
    message = StreamAccessLogsMessage()
    if node_id:
        message.identifier.node.id = node_id
    message.http_logs.log_entry.extend(entries)
    data: bytes = message.SerializeToString()
    return data


def make_tokens() -> llm_pb2.TokenUsage:
    tokens = llm_pb2.TokenUsage(
        llm_protocol=llm_pb2.TokenUsage.ANTHROPIC_MESSAGES,
        model="claude-sonnet-4-5",
        extraction_status=llm_pb2.TokenUsage.COMPLETE,
    )
    tokens.input_tokens.value = 175
    tokens.output_tokens.value = 15
    tokens.input_token_details.cached_tokens.value = 50
    tokens.input_token_details.cache_creation_tokens.value = 100
    return tokens


def make_reader(*, new_id: Callable[[], str] = lambda: "ours") -> StreamReader:
    rules = built_in_rules(
        unmetered_paths=frozenset({"/healthz"}), unmetered_statuses=frozenset({429})
    )
    events = EventReader(Applied(Metering(rules=rules)), new_id=new_id)
    return StreamReader(Reader(events), now_micros=lambda: RECEIVED_MICROS)


def read(payload: bytes, reader: StreamReader | None = None) -> list[Reading]:
    return (reader or make_reader()).read(payload)


def event_of(reading: Reading) -> usage_pb2.UsageEvent:
    assert isinstance(reading, Event), reading
    return usage_pb2.UsageEvent.FromString(reading.value)


def read_event(entry: HTTPAccessLogEntry) -> usage_pb2.UsageEvent:
    (reading,) = read(make_message(entry))
    return event_of(reading)


def measures_of(event: usage_pb2.UsageEvent) -> dict[str, int]:
    return {one.meter: one.units for one in event.measures}


def with_broken_string(payload: bytes, text: bytes) -> bytes:
    """Make a string in a message one that protobuf refuses, its length unchanged."""
    assert text in payload
    return payload.replace(text, b"\xff" * len(text), 1)


def test_an_entry_becomes_an_event_with_what_the_decision_said() -> None:
    event = read_event(make_entry(tokens=make_tokens()))

    assert (event.event_id, event.tenant_id, event.subscription_id) == (UID, "acme", "sub-1")
    assert list(event.features) == ["llm", "search"]
    assert (event.outcome, event.reason) == (usage_pb2.OUTCOME_ALLOW, "within_limits")
    assert event.decision_id == "d" * 32
    assert event.occurred_at_micros == 1_795_000_000_123_456
    assert (event.dimensions.provider, event.dimensions.model) == ("anthropic", "claude-sonnet-4-5")
    assert (event.dimensions.route, event.dimensions.method) == ("openai", "POST")
    assert event.dimensions.status == 200
    assert measures_of(event) == {
        "api.calls": 1,
        "bytes.request": 120,
        "bytes.response": 900,
        "llm.input_tokens": 25,
        "llm.cached_input_tokens": 50,
        "llm.cache_creation_tokens": 100,
        "llm.output_tokens": 15,
    }
    assert not event.estimated
    assert not event.aborted


def test_the_routes_provider_wins_over_the_protocols() -> None:
    entry = make_entry(said={**DECIDED, "provider": "azure"}, tokens=make_tokens())

    assert read_event(entry).dimensions.provider == "azure"


def test_who_called_comes_from_the_decision_and_from_nothing_else() -> None:
    entry = make_entry(said={})
    entry.request.request_headers["x-tenant-id"] = "globex"
    entry.request.request_headers["x-aforo-tenant"] = "globex"
    entry.common_properties.custom_tags["tenant"] = "globex"
    entry.common_properties.metadata.filter_metadata["aforo.request"].update({"tenant": "globex"})
    entry.request.path = "/?tenant=globex"
    event = read_event(entry)

    assert event.tenant_id == ""
    assert event.outcome == usage_pb2.OUTCOME_NOT_DECIDED
    assert measures_of(event)["api.calls"] == 1, "unattributed usage must be visible"
    assert b"globex" not in event.SerializeToString()


def test_envoys_own_numbers_in_the_namespace_are_no_decision() -> None:
    event = read_event(make_entry(said={"ext_authz_duration": 3.0}))

    assert event.outcome == usage_pb2.OUTCOME_NOT_DECIDED


@pytest.mark.parametrize("uid", ["", "-", "1", UID + "0", "x" * 36])
def test_an_id_that_is_not_unique_by_its_shape_is_replaced(uid: str) -> None:
    event = read_event(make_entry(uid=uid))

    assert event.event_id == "ours", "and never the x-request-id, which a client may repeat"


def test_ids_of_our_own_are_all_different() -> None:
    reader = make_reader(new_id=lambda: str(uuid.uuid4()))
    readings = read(make_message(*[make_entry(uid="") for _ in range(100)]), reader)

    assert len({event_of(one).event_id for one in readings}) == 100


@pytest.mark.parametrize("status", [429, 200])
def test_our_denial_is_an_intervention_whatever_its_status(status: int) -> None:
    said = {**DECIDED, "decision": "block", "reason": "margin_limit_exceeded"}
    reader = make_reader()
    (reading,) = read(
        make_message(make_entry(said=said, details="ext_authz_denied", status=status)), reader
    )
    event = event_of(reading)

    assert event.outcome == usage_pb2.OUTCOME_BLOCK
    assert event.reason == "margin_limit_exceeded"
    assert event.dimensions.execution_status == usage_pb2.EXECUTION_STATUS_BLOCKED
    assert not event.measures
    assert reader.counts == {("event", "OUTCOME_BLOCK"): 1, ("unmetered", "refused_at_gate"): 1}


def test_a_client_that_leaves_does_not_turn_a_denial_into_usage() -> None:
    entry = make_entry(
        said={**DECIDED, "decision": "block"}, details="downstream_remote_disconnect"
    )
    entry.common_properties.response_flags.unauthorized_details.reason = 1
    event = read_event(entry)

    assert event.outcome == usage_pb2.OUTCOME_BLOCK
    assert not event.measures


def test_a_denial_that_passed_in_envoys_shadow_mode_is_usage_with_its_reason() -> None:
    event = read_event(
        make_entry(said={**DECIDED, "decision": "block", "reason": "quota_exceeded"})
    )

    assert event.outcome == usage_pb2.OUTCOME_ALLOW
    assert event.shadow_reason == "quota_exceeded"
    assert measures_of(event)["api.calls"] == 1


def test_our_own_shadow_reason_is_kept() -> None:
    event = read_event(make_entry(said={**DECIDED, "shadow_reason": "margin_limit_exceeded"}))

    assert (event.reason, event.shadow_reason) == ("within_limits", "margin_limit_exceeded")


def test_partial_tokens_are_estimates() -> None:
    tokens = make_tokens()
    tokens.extraction_status = llm_pb2.TokenUsage.PARTIAL

    assert read_event(make_entry(tokens=tokens)).estimated


def test_a_client_that_leaves_is_noted_and_pays_for_what_it_got() -> None:
    entry = make_entry(details="downstream_remote_disconnect", status=0)
    event = read_event(entry)

    assert event.aborted
    assert measures_of(event) == {"api.calls": 1, "bytes.request": 120, "bytes.response": 900}


def test_an_http2_client_that_resets_its_stream_is_noted() -> None:
    entry = make_entry()
    entry.common_properties.response_flags.downstream_remote_reset = True

    assert read_event(entry).aborted


@pytest.mark.parametrize("log_type", [AccessLogType.UpstreamEnd, AccessLogType.DownstreamStart, 77])
def test_entries_about_unfinished_calls_are_told_apart(log_type: int) -> None:
    reader = make_reader()

    assert read(make_message(make_entry(log_type=log_type)), reader) == []
    assert [what for what, _ in reader.counts] == ["ignored"]


@pytest.mark.parametrize(
    ("log_type", "details"),
    [
        (AccessLogType.NotSet, "filter_chain_not_found"),  # At a listener.
        (AccessLogType.DownstreamEnd, "http1.codec_error"),
    ],
)
def test_what_is_no_request_is_nobodys_call(log_type: int, details: str) -> None:
    entry = HTTPAccessLogEntry()
    entry.common_properties.access_log_type = log_type
    entry.common_properties.start_time.seconds = 1_795_000_000
    entry.common_properties.custom_tags["uid"] = UID
    entry.response.response_code_details = details
    reader = make_reader()

    assert read(make_message(entry), reader) == []
    assert reader.counts == {("ignored", AccessLogType.Name(log_type)): 1}


def test_a_call_that_somebody_decided_is_one_whatever_else_is_missing() -> None:
    entry = make_entry()
    entry.request.path = ""
    entry.request.ClearField("request_method")

    assert read_event(entry).tenant_id == "acme"


def test_an_entry_of_no_type_is_a_call_if_it_tells_of_a_request() -> None:
    (reading,) = read(make_message(make_entry(log_type=AccessLogType.NotSet)))

    assert event_of(reading).measures


def test_tcp_entries_are_counted_and_left() -> None:
    message = StreamAccessLogsMessage()
    message.tcp_logs.log_entry.add()
    reader = make_reader()

    assert read(message.SerializeToString(), reader) == []
    assert reader.counts == {("ignored", "tcp"): 1}


def test_the_source_is_told_once_and_holds_for_the_stream() -> None:
    reader = make_reader()
    first = read(make_message(make_entry(), node_id="gateway-1"), reader)
    second = read(make_message(make_entry()), reader)

    assert [event_of(one).source for one in [*first, *second]] == ["envoy:gateway-1"] * 2


def test_texts_from_outside_are_bounded() -> None:
    tokens = make_tokens()
    tokens.model = "m" * 5000
    entry = make_entry(tokens=tokens)
    entry.common_properties.route_name = "r" * 5000
    event = read_event(entry)

    assert len(event.dimensions.model) == 128
    assert len(event.dimensions.route) == 512


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"said": {**DECIDED, "decision": "reroute"}}, "unknown decision"),
        ({"said": {**DECIDED, "tenant": "t" * 129}}, "tenant is 129 characters"),
        ({"tokens": make_tokens(), "tokens_type": "x/envoy.data.ai.v4.Usage"}, "unknown type"),
    ],
)
def test_what_is_not_understood_becomes_a_dead_letter(change: dict[str, Any], reason: str) -> None:
    entry = make_entry(**change)
    (reading,) = read(make_message(entry))

    assert isinstance(reading, Unreadable)
    assert reason in reading.reason
    assert HTTPAccessLogEntry.FromString(reading.payload) == entry, "nothing of it is lost"


def test_token_usage_that_is_none_becomes_a_dead_letter() -> None:
    entry = make_entry(tokens=make_tokens())
    entry.common_properties.metadata.typed_filter_metadata["envoy.ai.token_usage"].value = b"\xff"
    good = make_entry()
    broken, fine = read(make_message(entry, good))

    assert isinstance(broken, Unreadable)
    assert "TokenUsage" in broken.reason
    assert isinstance(fine, Event)


def test_a_count_beyond_belief_becomes_a_dead_letter() -> None:
    tokens = make_tokens()
    tokens.output_tokens.value = 2**64 - 1
    (reading,) = read(make_message(make_entry(tokens=tokens)))

    assert isinstance(reading, Unreadable)
    assert "not believable" in reading.reason


@pytest.mark.parametrize("seconds", [0, -5, 2**62])
def test_an_entry_without_a_time_has_no_period_to_be_billed_in(seconds: int) -> None:
    entry = make_entry()
    entry.common_properties.start_time.seconds = seconds
    entry.common_properties.start_time.nanos = 0
    (reading,) = read(make_message(entry))

    assert isinstance(reading, Unreadable)
    assert "start_time" in reading.reason


def test_a_broken_message_is_kept_as_it_came() -> None:
    assert read(b"\xff\xff\x01") == [
        Unreadable(reason="not a StreamAccessLogsMessage", payload=b"\xff\xff\x01")
    ]


def test_a_text_that_is_not_utf_8_costs_nobody_an_event() -> None:
    entry = make_entry()
    entry.request.path = "/not-utf-8"
    entry.request.user_agent = "not-utf-8 either"
    payload = make_message(entry).replace(b"not-utf-8", b"\xff" * 9)
    (reading,) = read(payload)

    assert event_of(reading).dimensions.path == "/" + "\ufffd" * 9


def test_one_broken_entry_does_not_hide_its_neighbours() -> None:
    """protobuf refuses all of a message for one key that is not UTF-8."""
    first, broken, last = make_entry(), make_entry(), make_entry()
    broken.request.request_headers["not-utf-8"] = "x"
    payload = with_broken_string(make_message(first, broken, last, node_id="gw"), b"not-utf-8")
    readings = read(payload)

    assert [type(one) for one in readings] == [Event, Unreadable, Event]
    assert isinstance(readings[1], Unreadable)
    assert readings[1].payload in payload
    assert event_of(readings[2]).source == "envoy:gw"


@given(st.binary(max_size=300))
def test_no_bytes_can_stop_a_stream(payload: bytes) -> None:
    for reading in read(payload):
        assert isinstance(reading, Event | Unreadable)


@given(st.data())
def test_no_damage_to_a_message_can_stop_a_stream(data: st.DataObject) -> None:
    payload = bytearray(make_message(make_entry(tokens=make_tokens()), make_entry(), node_id="gw"))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    for reading in read(bytes(payload)):
        assert isinstance(reading, Event | Unreadable)
