"""Entries of rarer shapes: other namespaces, MCP, what upstreams report, calls under way."""

from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from google.protobuf import any_pb2

from aforo_meter.access_log import Reader, StreamReader
from aforo_meter.domain.metering import Applied, Metering, Quantity, Rule, built_in_rules
from aforo_meter.event_reading import EventReader
from aforo_proto import llm_pb2, usage_pb2
from tests.unit.test_access_log import (
    DECIDED,
    RECEIVED_MICROS,
    event_of,
    make_entry,
    make_message,
    make_reader,
    make_tokens,
    measures_of,
    read,
    read_event,
)

OPENAI = {"input_tokens": 58, "cached_tokens": 40, "output_tokens": 25, "reasoning_tokens": 5}


def with_metadata(namespace: str, fields: dict[str, Any], **made: Any) -> HTTPAccessLogEntry:  # noqa: ANN401 - passed on.
    entry = make_entry(**made)
    entry.common_properties.metadata.filter_metadata[namespace].update(fields)
    return entry


def tokens_of(entry: HTTPAccessLogEntry) -> dict[str, int]:
    return {
        meter.removeprefix("llm.").removesuffix("_tokens"): units
        for meter, units in measures_of(read_event(entry)).items()
        if meter.startswith("llm.")
    }


def test_a_build_without_the_filter_tells_tokens_in_our_namespace() -> None:
    entry = with_metadata("aforo.usage", {"model": "gpt-4o", **OPENAI})

    assert tokens_of(entry) == {"input": 18, "cached_input": 40, "output": 20, "reasoning": 5}
    assert read_event(entry).dimensions.model == "gpt-4o"


def test_anthropics_cache_stands_beside_its_input() -> None:
    fields = {
        "input_tokens": 25,
        "cache_read_input_tokens": 50,
        "cache_creation_input_tokens": "100",
        "output_tokens": 15,
    }

    assert tokens_of(with_metadata("aforo.usage", fields)) == {
        "input": 25,
        "cached_input": 50,
        "cache_creation": 100,
        "output": 15,
    }


def test_envoy_ai_gateway_includes_caches_in_its_input() -> None:
    fields = {
        "llm_input_token": 175,
        "llm_output_token": 15,
        "llm_total_token": 190,
        "llm_cached_input_token": 50,
        "llm_cache_creation_input_token": 100,
        "llm_reasoning_token": 5,
        "model_name_override": "claude-sonnet-4-5",
        "backend_name": "default/anthropic/route/chat/rule/0/ref/0",
    }
    entry = with_metadata("io.envoy.ai_gateway", fields)
    dimensions = read_event(entry).dimensions

    assert tokens_of(entry) == {
        "input": 25,
        "cached_input": 50,
        "cache_creation": 100,
        "output": 10,
        "reasoning": 5,
    }
    assert (dimensions.provider, dimensions.model) == ("anthropic", "claude-sonnet-4-5")


def test_one_place_is_believed_and_no_token_counts_twice() -> None:
    entry = with_metadata("aforo.usage", OPENAI, tokens=make_tokens())
    entry.common_properties.metadata.filter_metadata["io.envoy.ai_gateway"].update(
        {"llm_input_token": 999}
    )
    assert tokens_of(entry)["input"] == 25, "of Envoy's own filter"
    entry.common_properties.metadata.typed_filter_metadata.clear()
    assert tokens_of(entry)["input"] == 18
    entry.common_properties.metadata.filter_metadata["aforo.usage"].Clear()
    assert tokens_of(entry)["input"] == 999


def test_a_filter_that_read_nothing_leaves_the_word_to_the_next() -> None:
    nothing = llm_pb2.TokenUsage(extraction_status=llm_pb2.TokenUsage.FAILED)

    assert tokens_of(with_metadata("aforo.usage", OPENAI, tokens=nothing))["input"] == 18


@pytest.mark.parametrize("value", [1.5, -1, "many", float("nan"), 1e15])
@pytest.mark.parametrize(
    ("namespace", "bad", "good"),
    [
        ("aforo.usage", "input_tokens", "output_tokens"),
        ("io.envoy.ai_gateway", "llm_input_token", "llm_output_token"),
    ],
)
def test_a_number_that_is_none_costs_the_tokens_and_not_the_call(
    namespace: str, bad: str, good: str, value: object
) -> None:
    """Else an API that answers with what it was sent would be used without being charged."""
    entry = with_metadata(namespace, {bad: value, good: 7})
    reader = make_reader()
    (reading,) = read(make_message(entry), reader)

    assert measures_of(event_of(reading)) == measures_of(read_event(make_entry()))
    assert reader.counts["tokens_unreadable", ""] == 1


def test_what_is_no_number_at_all_says_nothing() -> None:
    assert tokens_of(with_metadata("aforo.usage", {"input_tokens": True})) == {}


def test_openais_usage_of_null_says_nothing() -> None:
    assert tokens_of(with_metadata("aforo.usage", {"input_tokens": None, "output_tokens": 3})) == {
        "output": 3
    }


def tool_call(**params: object) -> HTTPAccessLogEntry:
    fields = {"method": "tools/call", "is_mcp_request": True, "params": params}
    entry = with_metadata("envoy.filters.http.mcp", fields)
    entry.request.request_headers["mcp-session-id"] = "s-1"
    return entry


def test_a_tool_call_has_tool_agent_and_session() -> None:
    event = read_event(tool_call(name="get_weather", _meta={"agent_id": "agent-7"}))

    assert measures_of(event)["mcp.tool_calls"] == 1
    assert (event.dimensions.tool, event.dimensions.agent) == ("get_weather", "agent-7")
    assert (event.dimensions.session, event.dimensions.product) == ("s-1", "MCP_SERVER")
    assert event.session_boundary == usage_pb2.SESSION_BOUNDARY_UNSPECIFIED, "a step"


def test_names_that_a_client_chooses_are_bounded() -> None:
    event = read_event(tool_call(name="t" * 5000, _meta={"agent_id": "a" * 5000}))

    assert len(event.dimensions.tool) == len(event.dimensions.agent) == 128


def test_a_tool_name_that_is_not_utf_8_is_no_way_past_the_meter() -> None:
    payload = make_message(tool_call(name="not-utf-8")).replace(b"not-utf-8", b"\xff" * 9)
    (reading,) = read(payload)
    event = event_of(reading)

    assert measures_of(event)["mcp.tool_calls"] == 1
    assert event.dimensions.tool == "(unreadable)"


def test_a_refused_or_excluded_tool_call_is_none() -> None:
    refused = tool_call(name="x")
    refused.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"].update(
        {"decision": "block"}
    )
    refused.response.response_code_details = "ext_authz_denied"
    excluded = tool_call(name="x")
    excluded.response.response_code.value = 429

    assert not read_event(refused).measures
    assert not read_event(excluded).measures
    assert read_event(excluded).dimensions.tool == "x"


@pytest.mark.parametrize(
    ("status", "opened", "measures", "boundary"),
    [
        (200, "s-9", {"mcp.sessions": 1}, usage_pb2.SESSION_BOUNDARY_START),
        (200, "", {"mcp.sessions": 1}, usage_pb2.SESSION_BOUNDARY_UNSPECIFIED),
        (500, "s-9", {}, usage_pb2.SESSION_BOUNDARY_UNSPECIFIED),
    ],
)
def test_a_session_opens_when_the_server_says_so(
    status: int, opened: str, measures: dict[str, int], boundary: int
) -> None:
    entry = with_metadata("envoy.filters.http.mcp", {"method": "initialize"}, status=status)
    entry.request.request_headers["mcp-session-id"] = "chosen-by-the-client"
    if opened:
        entry.response.response_headers["mcp-session-id"] = opened
    event = read_event(entry)

    assert {key: one for key, one in measures_of(event).items() if "mcp" in key} == measures
    assert event.session_boundary == boundary
    assert event.dimensions.session == (opened if status == 200 else "")


@pytest.mark.parametrize("status", [0, 301, 401, 404, 500])
def test_an_error_neither_opens_nor_continues_a_session(status: int) -> None:
    call = tool_call(name="x")
    listening, ending = make_entry(), make_entry()
    listening.request.request_method, ending.request.request_method = 1, 5
    for entry in (call, listening, ending):
        entry.response.response_code.value = status
        entry.request.request_headers["mcp-session-id"] = "made-up"
        event = read_event(entry)

        assert event.dimensions.session == ""
        assert event.session_boundary == usage_pb2.SESSION_BOUNDARY_UNSPECIFIED
        assert event.dimensions.product == "MCP_SERVER"


def test_a_session_ends_with_delete() -> None:
    entry = make_entry()
    entry.request.request_method = 5
    entry.request.request_headers["mcp-session-id"] = "s-1"
    event = read_event(entry)

    assert event.session_boundary == usage_pb2.SESSION_BOUNDARY_END
    assert event.dimensions.session == "s-1"


def test_a_header_alone_makes_no_mcp_call_of_a_post() -> None:
    entry = make_entry()
    entry.request.request_headers["mcp-session-id"] = "s-1"

    assert read_event(entry).dimensions.session == ""


PAGES = Metering(
    rules=built_in_rules(unmetered_paths=frozenset(), unmetered_statuses=frozenset({429})),
    meters=frozenset({"report.pages", "mcp.prompts", "llm.of_the_catalog"}),
    aliases={"pagesRendered": "report.pages", "payload": "bytes.response"},
)


def reader_by(metering: Metering) -> StreamReader:
    return StreamReader(Reader(EventReader(Applied(metering))), now_micros=lambda: RECEIVED_MICROS)


@pytest.mark.parametrize(
    ("metric", "quantity", "measure"),
    [
        ("report.pages", "2.5", ("report.pages", 2, 500_000)),
        ("Report.Pages", "2", ("report.pages", 2, 0)),
        ("pagesRendered", "2", ("report.pages", 2, 0)),
        ("agent.steps", "3", ("agent.steps", 3, 0)),
        ("mcp.prompts", "4", ("mcp.prompts", 4, 0)),
        ("bytes.request", "10", None),
        ("bytes.response", "10", None),
        ("mcp.tool_calls", "10", None),
        ("mcp.sessions", "10", None),
        ("payload", "10", None),
        ("api.calls", "10", None),
        ("llm.output_tokens", "10", None),
        ("llm.of_the_catalog", "10", None),
        ("nobody.named.it", "2", None),
        ("report pages", "2", None),
        ("", "2", None),
        ("report.pages", "0", None),
        ("report.pages", "1,2", None),
        ("report.pages", None, None),
    ],
)
def test_an_upstream_reports_a_measure(
    metric: str, quantity: str | None, measure: tuple[str, int, int] | None
) -> None:
    entry = make_entry()
    if metric:
        entry.response.response_headers["x-aforo-metric"] = metric
    if quantity is not None:
        entry.response.response_headers["x-aforo-quantity"] = quantity
    entry.request.request_headers["x-aforo-metric"] = "of.a.client"
    entry.request.request_headers["x-aforo-quantity"] = "1000"
    reader = reader_by(PAGES)
    (reading,) = read(make_message(entry), reader)
    found = [(one.meter, one.units, one.micros) for one in event_of(reading).measures]

    assert len({meter for meter, _, _ in found}) == len(found)
    assert ("of.a.client", 1000, 0) not in found
    if measure is None:
        assert reader.counts["reported_ignored", ""] == 1
        assert sorted(found) == [
            ("api.calls", 1, 0), ("bytes.request", 120, 0), ("bytes.response", 900, 0)
        ]  # fmt: skip
    else:
        assert measure in found


def reporting(metric: str, quantity: str = "2", **made: Any) -> HTTPAccessLogEntry:  # noqa: ANN401 - passed on.
    entry = make_entry(**made)
    entry.response.response_headers["x-aforo-metric"] = metric
    entry.response.response_headers["x-aforo-quantity"] = quantity
    return entry


@pytest.mark.parametrize(("metric", "counts"), [("agent.steps", True), ("report.pages", False)])
def test_before_a_catalog_is_known_the_built_in_meters_may_be_reported(
    metric: str,
    counts: bool,  # noqa: FBT001 - pytest names it.
) -> None:
    reader = make_reader()
    (reading,) = read(make_message(reporting(metric)), reader)

    assert (metric in measures_of(event_of(reading))) is counts
    assert reader.counts["reported_ignored", ""] == (not counts)


def test_a_rule_may_take_any_meter_from_what_is_reported() -> None:
    rule = Rule(rule_id="own", meter="api.calls", quantity=Quantity.REPORTED)
    (reading,) = read(make_message(reporting("api.calls", "7")), reader_by(Metering(rules=(rule,))))

    assert measures_of(event_of(reading)) == {"api.calls": 7}


@pytest.mark.parametrize(
    "why", ["internal_redirect", "route_not_found", "cors_response", "ext_authz_denied", "429"]
)
def test_nothing_is_reported_of_a_call_that_is_no_usage(why: str) -> None:
    made: dict[str, Any] = {"status": 429} if why == "429" else {"details": why}
    reader = reader_by(PAGES)
    (reading,) = read(make_message(reporting("report.pages", tokens=make_tokens(), **made)), reader)
    meters = measures_of(event_of(reading))

    assert "report.pages" not in meters
    assert ("llm.input_tokens" in meters) is (why != "ext_authz_denied"), "tokens were paid for"
    assert not reader.counts["reported_ignored", ""]


def under_way(**made: Any) -> HTTPAccessLogEntry:  # noqa: ANN401 - passed on.
    return make_entry(log_type=AccessLogType.DownstreamPeriodic, **made)


def test_a_call_under_way_has_its_bytes_so_far_and_nothing_else() -> None:
    event = read_event(under_way())

    assert event.interim
    assert measures_of(event) == {"bytes.request": 120, "bytes.response": 900}
    assert event.decision_id == DECIDED["decision_id"]
    assert event.dimensions.execution_status == usage_pb2.EXECUTION_STATUS_UNSPECIFIED


def test_what_nobody_could_join_to_its_call_is_left() -> None:
    assert read(make_message(under_way(said={}))) == []
    anonymous = {key: value for key, value in DECIDED.items() if key != "decision_id"}
    assert read(make_message(under_way(said=anonymous))) == []


@pytest.mark.parametrize(
    ("duration_ms", "continued"), [(29_999, False), (30_000, True), (10**8, True)]
)
def test_a_call_that_was_told_of_before_says_so_at_its_end(
    duration_ms: int,
    continued: bool,  # noqa: FBT001 - pytest names it.
) -> None:
    entry = make_entry()
    entry.common_properties.duration.FromMilliseconds(duration_ms)

    assert read_event(entry).continued is continued


def left_early(**made: Any) -> HTTPAccessLogEntry:  # noqa: ANN401 - passed on.
    entry = make_entry(details="downstream_remote_disconnect", **made)
    entry.common_properties.upstream_cluster = "llm"
    entry.response.response_headers["content-type"] = "text/event-stream; charset=utf-8"
    return entry


def test_a_client_that_hangs_up_on_a_model_pays_an_estimate() -> None:
    entry = left_early(said={**DECIDED, "provider": "anthropic"})
    event = read_event(entry)

    assert (event.estimated, event.aborted) == (True, True)
    assert measures_of(event)["llm.input_tokens"] == 30, "120 bytes, four a token"
    assert measures_of(event)["llm.output_tokens"] == 8, "900 bytes of events, 120 each"


AFTER = "upstream_reset_after_response_started{connection_termination}"
BEFORE = "upstream_reset_before_response_started{connection_termination}"


def broken_off(flag: str = "", details: str = "via_upstream", **made: Any) -> HTTPAccessLogEntry:  # noqa: ANN401 - passed on.
    entry = left_early(**made)
    entry.response.response_code_details = details
    if flag:
        setattr(entry.common_properties.response_flags, flag, True)
    return entry


@pytest.mark.parametrize(
    ("flag", "details"),
    [
        ("upstream_connection_termination", "via_upstream"),
        ("upstream_remote_reset", AFTER),
        ("", AFTER),
    ],
)
def test_a_model_that_breaks_off_costs_the_same_estimate(flag: str, details: str) -> None:
    event = read_event(broken_off(flag, details, said={**DECIDED, "provider": "anthropic"}))

    assert (event.estimated, event.aborted) == (True, False)
    assert event.dimensions.execution_status == usage_pb2.EXECUTION_STATUS_SUCCESS
    assert measures_of(event)["llm.input_tokens"] == 30, "120 bytes, four a token"
    assert measures_of(event)["llm.output_tokens"] == 8, "900 bytes of events, 120 each"


@pytest.mark.parametrize("what", ["told", "no answer", "Envoy's answer", "no model", "WebSocket"])
def test_an_upstream_that_breaks_off_without_need_of_an_estimate(what: str) -> None:
    said = {**DECIDED, "provider": "openai"}
    flag = "upstream_connection_termination"
    entry = broken_off(flag, AFTER, said=DECIDED if what == "no model" else said)
    if what == "told":
        entry = broken_off(flag, AFTER, said=said, tokens=make_tokens())
    if what == "no answer":
        entry.response.response_body_bytes = 0
    if what == "Envoy's answer":
        entry = broken_off(flag, BEFORE, said=said, status=503)
    if what == "WebSocket":
        entry.response.response_code.value = 101
    event = read_event(entry)

    assert not event.estimated
    assert measures_of(event).get("llm.output_tokens", 15) == 15


TIMEOUTS = [
    "stream_idle_timeout",
    "max_duration_timeout",
    "response_timeout",
    "upstream_per_try_idle_timeout",
    "upstream_max_stream_duration_reached",
]


@pytest.mark.parametrize("details", TIMEOUTS)
def test_a_limit_of_time_that_ends_an_answer_costs_the_same_estimate(details: str) -> None:
    event = read_event(broken_off("", details, said={**DECIDED, "provider": "anthropic"}))

    assert (event.estimated, event.aborted) == (True, False)
    assert event.dimensions.execution_status == usage_pb2.EXECUTION_STATUS_TIMEOUT
    assert measures_of(event)["llm.input_tokens"] == 30, "120 bytes, four a token"
    assert measures_of(event)["llm.output_tokens"] == 8, "900 bytes of events, 120 each"


@pytest.mark.parametrize("details", TIMEOUTS)
@pytest.mark.parametrize(
    ("status", "executed"),
    [
        (408, usage_pb2.EXECUTION_STATUS_TIMEOUT),
        (504, usage_pb2.EXECUTION_STATUS_TIMEOUT),
        (101, usage_pb2.EXECUTION_STATUS_UNSPECIFIED),
    ],
)
def test_envoys_own_words_of_a_timeout_and_a_silent_websocket_cost_no_estimate(
    details: str, status: int, executed: usage_pb2.ExecutionStatus.ValueType
) -> None:
    entry = broken_off("", details, said={**DECIDED, "provider": "anthropic"}, status=status)
    event = read_event(entry)

    assert not event.estimated
    assert event.dimensions.execution_status == executed


def test_what_envoy_noted_of_the_request_is_the_better_estimate() -> None:
    entry = left_early()
    info = llm_pb2.RequestInfo(
        input_llm_protocol=llm_pb2.TokenUsage.OPENAI_CHAT_COMPLETIONS, model="gpt-4o"
    )
    info.estimated_input_tokens.value = 43
    entry.common_properties.metadata.typed_filter_metadata["envoy.ai.request_info"].CopyFrom(
        any_pb2.Any(
            type_url="type.googleapis.com/envoy.data.ai.v3.RequestInfo",
            value=info.SerializeToString(),
        )
    )
    event = read_event(entry)

    assert measures_of(event)["llm.input_tokens"] == 43
    assert measures_of(event)["llm.output_tokens"] == 5, "900 bytes of events, 205 each"
    assert (event.dimensions.provider, event.dimensions.model) == ("openai", "gpt-4o")


@pytest.mark.parametrize("what", ["told", "refused", "no upstream", "no model"])
def test_nothing_is_estimated_where_nothing_was_used_or_all_is_known(what: str) -> None:
    said = {**DECIDED, "provider": "openai"}
    entry = left_early(said=DECIDED if what == "no model" else said)
    if what == "told":
        entry = left_early(said=said, tokens=make_tokens())
    if what == "refused":
        entry.common_properties.response_flags.unauthorized_details.reason = 1
    if what == "no upstream":
        entry.common_properties.upstream_cluster = ""
    event = read_event(entry)

    assert not event.estimated
    assert measures_of(event).get("llm.output_tokens", 15) == 15


def test_hour_and_weight_of_the_decision_travel_along() -> None:
    event = read_event(make_entry(said={**DECIDED, "hour": "1795000000", "weight": "10"}))

    assert (event.decided_hour_s, event.weight_units) == (1_795_000_000, 10)
    assert event.received_at_micros == RECEIVED_MICROS
    broken = read_event(make_entry(said={**DECIDED, "hour": "soon", "weight": "-1"}))
    assert (broken.decided_hour_s, broken.weight_units) == (0, 0)


def test_grpcs_own_status_says_what_became_of_the_call() -> None:
    entry = make_entry()
    entry.response.response_headers["grpc-status"] = "0"
    entry.response.response_trailers["grpc-status"] = "8"
    event = read_event(entry)

    assert event.dimensions.execution_status == usage_pb2.EXECUTION_STATUS_BLOCKED
    assert event.dimensions.status == 200
    assert measures_of(event)["api.calls"] == 1, "the upstream's word, not ours"
