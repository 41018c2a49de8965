"""What an event over HTTP may say: the whole table of fields, a case for each rule."""

import itertools
from decimal import Decimal
from typing import Any

import pytest

from aforo_meter.domain.ingest import Reading, read_event
from aforo_meter.domain.ingest_fields import (
    METADATA_BYTES_MAX,
    METADATA_LEVELS_MAX,
    PRODUCTS,
    REQUIRED,
    TEXT_UNITS_MAX,
    Boundary,
    snake,
)
from aforo_meter.domain.ingest_values import Rejection
from aforo_meter.domain.outcomes import ExecutionStatus
from tests.ingest_samples import RULES, event, read

UNIT = 1_000_000
# By the contract, not by our table.
LENGTHS = {
    "customerId": 64,
    "metricName": 255,
    "idempotencyKey": 255,
    "productType": 20,
    "executionStatus": 20,
    "traceId": 128,
    "spanId": 32,
    "sessionId": 64,
    "agentId": 36,
    "toolName": 64,
    "capabilityName": 64,
    "subscriptionId": 64,
    "endpointPath": 512,
    "httpMethod": 16,
    "grpcService": 255,
    "grpcMethod": 128,
    "gqlOperationName": 255,
    "wsConnectionId": 64,
    "wsCloseReason": 32,
    "mqttTopic": 500,
    "mqttClientId": 128,
    "aforoDecisionId": 32,  # Ours: no published client sends it.
}
FILLED = {
    "agentId": "agent-1",
    "sessionId": "session-1",
    "toolName": "search",
    "grpcService": "pkg.Service",
    "grpcMethod": "Get",
    "gqlOperationType": "QUERY",
    "wsConnectionId": "connection-1",
    "mqttTopic": "a/b",
}
REQUIREMENTS = [(name, needed) for name, product in PRODUCTS.items() for needed in product.required]


def test_the_table_of_lengths_is_that_of_the_contract() -> None:
    assert dict(TEXT_UNITS_MAX) == LENGTHS


def problem(**fields: Any) -> str:  # noqa: ANN401 - of an event
    try:
        read(**fields)
    except Rejection as rejection:
        return str(rejection)
    return ""


@pytest.mark.parametrize(("name", "limit"), LENGTHS.items())
def test_a_text_may_be_as_long_as_its_limit_and_not_a_unit_longer(name: str, limit: int) -> None:
    for letter, units in (("x", 1), ("ß", 1), ("😀", 2)):
        fits = letter * (limit // units)
        # Fitting is not being known: a status and a metric are looked up too.
        assert "at most" not in problem(**{name: fits})
        with pytest.raises(Rejection, match=rf"{name}: at most {limit} characters") as caught:
            read(**{name: fits + letter})
        assert caught.value.field == name


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("value", [True, Decimal("1.5"), {}, [], ["x"]], ids=repr)
def test_a_text_that_is_none_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(Rejection, match=f"{name}: must be a text"):
        read(**{name: value})


@pytest.mark.parametrize("name", ["customerId", "idempotencyKey", "traceId", "agentId"])
@pytest.mark.parametrize("value", ["a\0b", "a\ud800b"], ids=ascii)
def test_letters_that_no_database_keeps_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(Rejection, match=f"{name}: has"):
        read(**{name: value})


def test_a_number_for_an_id_is_taken_for_its_digits() -> None:
    assert read(customerId=42).customer_id == "42"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, None) for name in REQUIRED),
        *itertools.product(("customerId", "metricName", "idempotencyKey"), ("", "  ")),
    ],
)
def test_each_of_the_five_is_required(name: str, value: object) -> None:
    with pytest.raises(Rejection, match=f"{name}: is required"):
        read(**{name: value})


@pytest.mark.parametrize("body", [None, [], "text", 1, True], ids=repr)
def test_an_event_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(Rejection, match="event: must be an object"):
        read_event(body, RULES)


@pytest.mark.parametrize(("product", "needed"), REQUIREMENTS)
def test_a_product_needs_its_fields(product: str, needed: str) -> None:
    fields = {name: FILLED[name] for name in PRODUCTS[product].required}
    for missing in (None, " "):
        with pytest.raises(Rejection, match=f"{needed}: is required of {product}"):
            read(productType=product, **(fields | {needed: missing}))


@pytest.mark.parametrize(("product", "needed"), REQUIREMENTS)
@pytest.mark.parametrize("spelling", [str, snake])
def test_what_a_product_needs_may_stand_in_metadata(
    product: str, needed: str, spelling: type[str]
) -> None:
    fields = {name: FILLED[name] for name in PRODUCTS[product].required}
    del fields[needed]

    reading = read(productType=product, metadata={spelling(needed): FILLED[needed]}, **fields)

    assert reading.product == product


def test_what_stands_in_metadata_is_as_long_as_it_may_be_outside() -> None:
    fields: dict[str, Any] = {"productType": "MCP_SERVER", "toolName": "search"}

    with pytest.raises(Rejection, match="agentId: at most 36 characters"):
        read(metadata={"agent_id": "x" * 37}, **fields)


@pytest.mark.parametrize("product", ["api", " Mcp_Server ", "SOMETHING_NEW", None])
def test_products_are_read_in_any_case_and_new_ones_need_nothing(product: str | None) -> None:
    reading = read(productType=product, toolName="search", agentId="agent-1")

    assert reading.product == (product or "").strip().upper()


@pytest.mark.parametrize("status", ExecutionStatus)
def test_statuses_are_read_in_any_case(status: ExecutionStatus) -> None:
    assert read(executionStatus=f" {status.lower()} ").status is status


def test_an_unknown_status_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(Rejection, match=r"executionStatus: one of SUCCESS, .*HITL_REQUIRED"):
        read(executionStatus="FINE")


@pytest.mark.parametrize(
    ("metric", "meter"),
    [
        ("api_calls", "api.calls"),
        ("ai_agent.capability_invocations", "agent.capability_calls"),
        ("ai_agent.steps", "agent.steps"),
        ("mcp_server.tool_invocations", "mcp.tool_calls"),
        ("grpc_api.rpc_calls", "grpc.calls"),
        ("graphql_api.operations", "graphql.operations"),
        ("websocket_api.connection_opened", "websocket.connections"),
        ("websocket_api.connection_closed", "websocket.connections_closed"),
        ("websocket_api.message", "websocket.messages"),
        ("mqtt_broker.publish", "mqtt.messages"),
        ("api.calls", "api.calls"),
        ("seats", "seats"),
        ("licences", "seats"),
    ],
)
def test_a_metric_is_a_meter(metric: str, meter: str) -> None:
    assert read(metricName=metric, quantity=3).measures == ((meter, 3 * UNIT),)


def test_every_default_metric_of_every_product_is_known() -> None:
    for name in itertools.chain.from_iterable(one.metrics for one in PRODUCTS.values()):
        assert read(metricName=name).measures


def test_an_unknown_metric_is_refused_by_its_own_kind() -> None:
    with pytest.raises(Rejection, match="metricName: no metric 'flights'") as caught:
        read(metricName="flights")

    assert caught.value.kind == "unknown_metric"


def test_tokens_in_metadata_become_measures_each_in_one_kind() -> None:
    metadata = {
        "inputTokens": 100,
        "cachedInputTokens": 30,
        "cacheCreationTokens": 20,
        "outputTokens": Decimal("50.0"),
        "reasoningTokens": 10,
        "model": "gpt-4o",
        "provider": "openai",
    }

    reading = read(metadata=metadata)

    assert dict(reading.measures) == {
        "api.calls": UNIT,
        "llm.input_tokens": 50 * UNIT,
        "llm.cached_input_tokens": 30 * UNIT,
        "llm.cache_creation_tokens": 20 * UNIT,
        "llm.output_tokens": 40 * UNIT,
        "llm.reasoning_tokens": 10 * UNIT,
    }
    assert (reading.provider, reading.model) == ("openai", "gpt-4o")


def test_tokens_may_be_spelt_with_underscores_and_count_once_if_spelt_twice() -> None:
    metadata = {"input_tokens": 7, "inputTokens": 7, "output_tokens": 2}

    assert dict(read(metadata=metadata).measures) == {
        "api.calls": UNIT,
        "llm.input_tokens": 7 * UNIT,
        "llm.output_tokens": 2 * UNIT,
    }


@pytest.mark.parametrize("metric", ["llm.input_tokens", "llm.output_tokens", "credits"])
def test_a_token_metric_and_metadata_never_count_the_same_tokens_twice(metric: str) -> None:
    reading = read(metricName=metric, quantity=7, metadata={"inputTokens": 7, "outputTokens": 2})

    assert reading.measures == ((metric, 7 * UNIT),)


@pytest.mark.parametrize(
    "value", [-1, Decimal("1.5"), "7", True, {}, 10**14, Decimal("1E+999999999")], ids=repr
)
def test_tokens_that_are_no_count_are_refused_by_name(value: object) -> None:
    with pytest.raises(Rejection, match=r"metadata\.inputTokens: a whole number from 0"):
        read(metadata={"inputTokens": value})


def test_no_tokens_are_no_measure() -> None:
    assert read(metadata={"inputTokens": 0, "outputTokens": None}).measures == (
        ("api.calls", UNIT),
    )


def test_metadata_is_kept_with_all_that_has_no_place_of_its_own() -> None:
    reading = read(
        metadata={"productId": "p"}, traceId="t", dataBytes=7, wsCloseReason=None, statusCode=200
    )

    # The order in which the event says it; what is null says nothing.
    assert reading.metadata_json == b'{"traceId":"t","dataBytes":7,"productId":"p"}'
    assert reading.status_code == 200


@pytest.mark.parametrize("value", [[], "text", 1, True], ids=repr)
def test_metadata_that_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(Rejection, match="metadata: must be an object"):
        read(metadata=value)


def test_metadata_may_be_as_large_as_its_limit_and_not_a_byte_larger() -> None:
    room = METADATA_BYTES_MAX - len('{"a":""}')

    assert len(read(metadata={"a": "x" * room}).metadata_json) == METADATA_BYTES_MAX
    with pytest.raises(Rejection, match="metadata: at most 16384 bytes"):
        read(metadata={"a": "x" * (room + 1)})
    with pytest.raises(Rejection, match="metadata: at most 16384 bytes"):
        read(metadata={"a": "x" * room}, traceId="t")


def test_metadata_may_be_as_deep_as_its_limit_and_not_a_level_deeper() -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels):
            value = {"a": value}
        return {"deep": value, "many": [[] for _ in range(METADATA_LEVELS_MAX)]}

    assert read(metadata=nested(METADATA_LEVELS_MAX - 1)).metadata_json
    with pytest.raises(Rejection, match="metadata: at most 32 levels"):
        read(metadata=nested(METADATA_LEVELS_MAX))
    with pytest.raises(Rejection, match="metadata: has half of a surrogate pair"):
        read(metadata={"a": "\udc00"})


@pytest.mark.parametrize("boundary", [None, *Boundary])
def test_a_heartbeat_is_never_billed_and_needs_no_fields_of_its_product(
    boundary: Boundary | None,
) -> None:
    reading = read(
        customerId="system",
        metricName="system.session.heartbeat",
        productType="GRPC_API",
        sessionId="session-1",
        sessionBoundary=boundary and boundary.value,
        metadata={"inputTokens": 7},
    )

    assert reading.boundary is (boundary or Boundary.HEARTBEAT)
    # That a session was opened is counted, under a meter that nothing else has.
    opened = (("agent.sessions", UNIT),) if boundary is Boundary.START else ()
    assert reading.measures == opened


def test_a_boundary_makes_a_heartbeat_of_any_metric() -> None:
    reading = read(metricName="flights", sessionBoundary="session_end", sessionId="s")

    assert reading.boundary is Boundary.END
    assert reading.measures == ()


def test_a_heartbeat_names_its_session_wherever() -> None:
    fields: dict[str, Any] = {"metricName": "system.session.heartbeat"}
    said = {"session_id": "s", "sessionBoundary": "SESSION_END"}

    assert read(metadata=said, **fields).session == "s"
    assert read(metadata=said, **fields).boundary is Boundary.END
    with pytest.raises(Rejection, match="sessionId: is required of a heartbeat"):
        read(**fields)
    with pytest.raises(Rejection, match="sessionBoundary: one of HEARTBEAT"):
        read(sessionBoundary="PAUSE", sessionId="s", **fields)


def test_usage_within_a_session_is_a_step_of_it() -> None:
    reading = read(productType="AI_AGENT", agentId="a", sessionId="s", capabilityName="plan")

    assert reading.boundary is None
    assert (reading.agent, reading.session, reading.tool) == ("a", "s", "plan")


DECISION_ID = "0123456789abcdef0123456789abcdef"
TOKENS = {"provider": "openai", "model": "gpt-4o", "inputTokens": 12, "outputTokens": 345}


def corrects(**fields: Any) -> Reading:  # noqa: ANN401 - of an event
    return read(**({"metricName": "system.call.tokens", "aforoDecisionId": DECISION_ID} | fields))


def test_the_true_tokens_of_a_call_name_it_and_count_nothing_else() -> None:
    reading = corrects(metadata=TOKENS, quantity=7, sessionId="s", productType="AI_AGENT")

    assert reading.decision_id == DECISION_ID
    assert dict(reading.measures) == {
        "llm.input_tokens": 12 * UNIT,
        "llm.output_tokens": 345 * UNIT,
    }
    assert (reading.provider, reading.model) == ("openai", "gpt-4o")
    assert reading.session == "", "no step of a session"


@pytest.mark.parametrize("name", ["aforoDecisionId", "aforo_decision_id"])
def test_the_call_may_be_named_in_metadata(name: str) -> None:
    reading = corrects(aforoDecisionId=None, metadata={**TOKENS, name: DECISION_ID})

    assert reading.decision_id == DECISION_ID


def test_a_call_that_used_no_tokens_after_all_says_so_by_a_zero() -> None:
    reading = corrects(metadata={"provider": "openai", "model": "gpt-4o", "outputTokens": 0})

    assert reading.measures == (("llm.output_tokens", 0),)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"metricName": "api_calls"}, "aforoDecisionId: goes with the metricName system.call"),
        ({"metricName": "llm.output_tokens"}, "aforoDecisionId: goes with the metricName"),
        ({"sessionBoundary": "SESSION_END", "sessionId": "s"}, "and no sessionBoundary"),
        ({"aforoDecisionId": None}, "aforoDecisionId: is required of system.call.tokens"),
        ({"aforoDecisionId": DECISION_ID.upper()}, "in lower case; this is '0123456789ABCDEF"),
        ({"aforoDecisionId": DECISION_ID[1:]}, "the 32 hex digits of the call's x-aforo-decision"),
        ({"aforoDecisionId": DECISION_ID + "0"}, "aforoDecisionId: at most 32 characters"),
        ({"aforoDecisionId": [DECISION_ID]}, "aforoDecisionId: must be a text"),
        ({"metadata": {**TOKENS, "model": ""}}, "metadata.model: is required"),
        ({"metadata": {**TOKENS, "provider": None}}, "metadata.provider: is required"),
        ({"metadata": {**TOKENS, "outputTokens": -1}}, "metadata.outputTokens: a whole number"),
        ({"metadata": {"provider": "p", "model": "m"}}, "metadata.outputTokens: is required"),
        ({"metadata": None}, "metadata.provider: is required"),
    ],
)
def test_what_can_correct_no_call_is_refused_by_name(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Rejection) as caught:
        corrects(**({"metadata": TOKENS} | fields))
    assert says in str(caught.value)


def test_values_are_shown_cut_short() -> None:
    with pytest.raises(Rejection) as caught:
        read(metricName="x" * 200)

    assert len(str(caught.value)) < 250


def test_a_null_is_nothing() -> None:
    whole = event() | dict.fromkeys(set(LENGTHS) - set(REQUIRED)) | {"metadata": None}

    assert read_event(whole, RULES).session == ""


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, ""),
        ({"endpointPath": "/v1/users/42?page=2"}, "/v1/users/:id"),
        ({"grpcService": "pkg.Service", "grpcMethod": "Get"}, "/pkg.Service/Get"),
    ],
    ids=str,
)
def test_a_path_is_told_by_its_template(fields: dict[str, str], path: str) -> None:
    assert read(**fields).path == path
