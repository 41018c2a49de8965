"""Access-log entries of every shape, as Envoy may send them, for tests by law."""

import uuid
from typing import Any

from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from google.protobuf import any_pb2
from hypothesis import strategies as st

from aforo_proto import llm_pb2

HEX_32 = "0123456789abcdef" * 2
DETAILS = (
    *("via_upstream", "ext_authz_denied", "ext_authz_error", "route_not_found", "direct_response"),
    *("upstream_reset_after_response_started{remote_reset}",),
    *("internal_redirect", "cors_response", "downstream_remote_disconnect", "response_timeout"),
)
PATHS = (
    *("/healthz", "/healthz?x=1", "/v1/users/42", "/v1/users/42;a=1/x", "*", "", "/v1/chat"),
    *("/v1/batches/b_1/run", "/files/a/b/c", "/v1/chat/completions", "/\u00fc", "/" + "a/" * 400),
)
counts = st.one_of(st.integers(0, 300), st.integers(0, 3_000_000))
wild_counts = st.one_of(counts, st.just(10**15))


def texts(*common: str) -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(common), st.text(max_size=20))


said = st.fixed_dictionaries(
    {"decision": st.sampled_from(["allow", "allow", "throttle", "block", "reroute", ""])},
    optional={
        "tenant": texts("acme", "globex", "t" * 129),
        "subscription": texts("sub-1"),
        "features": texts("chat", "api,chat", " chat , ,api"),
        "reason": texts("within_limits", "quota_exceeded"),
        "shadow_reason": texts("quota_exceeded"),
        "provider": texts("openai", "azure"),
        "decision_id": texts(HEX_32, "d" * 128, "d" * 129, ""),
        "hour": texts("1774000000", "9" * 13),
        "weight": texts("10", "-1"),
        "plan": texts("pro"),
        "ext_authz_duration": st.just(3.0),
    },
)


@st.composite
def token_usages(draw: st.DrawFn, *, usual: bool) -> llm_pb2.TokenUsage:
    numbers = st.one_of(st.none(), counts if usual else wild_counts)
    usage = llm_pb2.TokenUsage(
        llm_protocol=draw(st.sampled_from(llm_pb2.TokenUsage.LlmProtocol.values())),
        model=draw(texts("gpt-4o-2024-08-06", "m" * 500)),
        extraction_status=draw(st.sampled_from(llm_pb2.TokenUsage.ExtractionStatus.values())),
    )
    into, out = usage.input_token_details, usage.output_token_details
    for message, number in (
        (usage.input_tokens, draw(numbers)),
        (usage.output_tokens, draw(numbers)),
        (into.cached_tokens, draw(numbers)),
        (into.cache_creation_tokens, draw(numbers)),
        (into.tool_use_tokens, draw(numbers)),
        (out.reasoning_tokens, draw(numbers)),
    ):
        if number is not None:
            message.SetInParent()
            message.value = number
    return usage


def _metadata(draw: st.DrawFn, entry: HTTPAccessLogEntry, *, usual: bool) -> None:
    metadata = entry.common_properties.metadata
    if draw(st.integers(0, 9)):
        values = {key: value for key, value in draw(said).items() if value != ""}
        if usual:
            values |= {"decision": draw(st.sampled_from(["allow", "throttle", "block"]))}
            values |= {"tenant": "acme", "decision_id": HEX_32}
        metadata.filter_metadata["envoy.filters.http.ext_authz"].update(values)
    if draw(st.booleans()):
        usage = draw(token_usages(usual=usual))
        name = "TokenUsage" if usual else draw(st.sampled_from(["TokenUsage", "Other"]))
        metadata.typed_filter_metadata["envoy.ai.token_usage"].CopyFrom(
            any_pb2.Any(
                type_url=f"type.googleapis.com/envoy.data.ai.v3.{name}",
                value=usage.SerializeToString(),
            )
        )
    if usual:
        return
    others: list[tuple[str, dict[str, Any]]] = [
        ("aforo.request", {"model": "gpt-4o", "hide_usage": True}),
        ("aforo.usage", {"input_tokens": 11, "output_tokens": "7", "model": "gpt-4o"}),
        ("aforo.usage", {"input_tokens": 1.5}),
        ("io.envoy.ai_gateway", {"llm_input_token": 5, "backend_name": "default/openai/route/x"}),
        (
            "envoy.filters.http.mcp",
            {"method": "tools/call", "params": {"name": "x", "_meta": {"agent_id": "a"}}},
        ),
        ("envoy.filters.http.mcp", {"method": "initialize", "params": {}}),
    ]
    for name, fields in draw(st.lists(st.sampled_from(others), max_size=2)):
        if draw(st.booleans()):
            metadata.filter_metadata[name].update(fields)


@st.composite
def entries(draw: st.DrawFn) -> HTTPAccessLogEntry:
    usual = draw(st.booleans())  # Of the shape that most have.
    entry = HTTPAccessLogEntry()
    common, request, response = entry.common_properties, entry.request, entry.response
    common.access_log_type = AccessLogType.DownstreamEnd
    common.start_time.seconds = draw(st.integers(1_700_000_000, 1_800_000_000))
    if not usual:
        common.access_log_type = draw(st.sampled_from([0, 5, 6, 6, 6]))
        common.start_time.seconds = draw(st.sampled_from([0, -1, 1, 2**50, 1_800_000_000]))
    common.start_time.nanos = draw(st.integers(0, 999_999_999))
    common.duration.FromMilliseconds(draw(st.sampled_from([1, 999, 5000, 29_999, 30_000, 10**9])))
    common.route_name = draw(texts("api", "r" * 600))
    common.upstream_cluster = draw(st.sampled_from(["api", ""]))
    uid = draw(st.sampled_from(["fresh"] if usual else ["fresh", "", "-"]))
    if uid:
        identity = uuid.UUID(int=draw(st.integers(0, 2**128 - 1)))
        common.custom_tags["uid"] = str(identity).upper() if uid == "fresh" else uid
    flags = common.response_flags
    flag = draw(
        st.sampled_from(["", "other", "torn"] if usual else ["auth", "reset", "left", "cut"])
    )
    flags.downstream_remote_reset = flag == "reset"
    flags.downstream_connection_termination = flag == "left"
    flags.upstream_remote_reset = flag == "cut"
    flags.upstream_connection_termination = flag == "torn"
    flags.upstream_request_timeout = flag == "other"
    if flag == "auth":
        flags.unauthorized_details.reason = 1
    request.request_method = draw(st.integers(0, 9))
    request.path = draw(texts(*PATHS))
    request.request_body_bytes = draw(counts if usual else wild_counts)
    names = ["origin", "x-aforo-throttle"] if usual else ["origin", "mcp-session-id"]
    for name in draw(st.lists(st.sampled_from(names), max_size=2)):
        request.request_headers[name] = "s-1"
    response.response_code.value = draw(st.sampled_from([0, 200, 201, 302, 404, 429, 499, 503]))
    response.response_body_bytes = draw(counts if usual else wild_counts)
    response.response_code_details = draw(st.sampled_from(DETAILS[:5] if usual else DETAILS))
    for name, value in draw(st.lists(st.sampled_from(HEADERS[: 3 if usual else 9]), max_size=3)):
        response.response_headers[name] = value
    if not draw(st.integers(0, 4)):
        response.response_trailers["grpc-status"] = draw(st.sampled_from(["0", "7", "x"]))
    _metadata(draw, entry, usual=usual)
    return entry


HEADERS = [
    ("content-type", "application/json"),
    ("content-type", "text/event-stream; charset=utf-8"),
    ("grpc-status", "5"),
    ("mcp-session-id", "s-2"),
    ("x-aforo-metric", "reports.pages"),
    ("x-aforo-metric", "api.calls"),
    ("x-aforo-metric", "agent.steps"),
    ("x-aforo-quantity", "2.5"),
]
