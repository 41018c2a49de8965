"""The fields of an event that arrives over HTTP: names, lengths, what a product needs. Pure.

One table: events are validated by it and the OpenAPI document is made from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# In UTF-16 code units, as the clients count them. Those without a figure are bounded by what an
# event may have in all (METADATA_BYTES_MAX).
TEXT_UNITS_MAX: Final[Mapping[str, int]] = {
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
    "aforoDecisionId": 32,
}

REQUIRED: Final = ("customerId", "metricName", "quantity", "occurredAt", "idempotencyKey")

METADATA_BYTES_MAX: Final = 16 * 1024
METADATA_LEVELS_MAX: Final = 32

BATCH_EVENTS_MAX: Final = 1000
ASYNC_BATCH_EVENTS_MAX: Final = 10_000

HEARTBEAT_METRIC: Final = "system.session.heartbeat"
HEARTBEAT_CUSTOMER: Final = "system"  # Of a client that does not know who pays.
CALL_TOKENS_METRIC: Final = "system.call.tokens"  # What a call at the gateway used after all.


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What a kind of product needs besides the five, and the metrics that it has by default."""

    required: tuple[str, ...] = ()
    metrics: tuple[str, ...]


PRODUCTS: Final[Mapping[str, Product]] = {
    "API": Product(metrics=("api_calls",)),
    "AGENTIC_API": Product(metrics=("api_calls",)),
    "AI_AGENT": Product(
        required=("agentId", "sessionId"),
        metrics=("ai_agent.capability_invocations", "ai_agent.steps"),
    ),
    "MCP_SERVER": Product(
        required=("toolName", "agentId"), metrics=("mcp_server.tool_invocations",)
    ),
    "GRPC_API": Product(required=("grpcService", "grpcMethod"), metrics=("grpc_api.rpc_calls",)),
    "GRAPHQL_API": Product(required=("gqlOperationType",), metrics=("graphql_api.operations",)),
    "WEBSOCKET_API": Product(
        required=("wsConnectionId",),
        metrics=(
            "websocket_api.connection_opened",
            "websocket_api.connection_closed",
            "websocket_api.message",
        ),
    ),
    "MQTT_BROKER": Product(
        required=("mqttTopic",),
        metrics=(
            *("mqtt_broker.publish", "mqtt_broker.deliver", "mqtt_broker.subscribe"),
            *("mqtt_broker.unsubscribe", "mqtt_broker.connect", "mqtt_broker.disconnect"),
        ),
    ),
}


class Boundary(StrEnum):
    """What an event says of its session. All of them are heartbeats: they are never billed."""

    HEARTBEAT = "HEARTBEAT"
    START = "SESSION_START"
    END = "SESSION_END"


def snake(name: str) -> str:
    """Return a field's name as Python writes it: `toolName` is `tool_name`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


SNAKE: Final[Mapping[str, str]] = {
    name: snake(name)
    for name in (
        *TEXT_UNITS_MAX,
        *("gqlOperationType", "sessionBoundary", "model", "provider"),
        *("inputTokens", "outputTokens", "cachedInputTokens", "cacheCreationTokens"),
        "reasoningTokens",
    )
}
