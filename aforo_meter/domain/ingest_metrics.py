"""Metric names of clients → meters. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from aforo_meter.domain.usage import (
    API_CALLS,
    BYTES_REQUEST,
    BYTES_RESPONSE,
    LLM_CACHE_CREATION,
    LLM_CACHED_INPUT,
    LLM_INPUT,
    LLM_OUTPUT,
    LLM_REASONING,
)

AGENT_SESSIONS: Final = "agent.sessions"

# What the published clients send without being told otherwise. Opening and closing a connection
# are meters of their own: one connection must not count twice.
DEFAULTS: Final[Mapping[str, str]] = {
    "api_calls": API_CALLS,
    "ai_agent.capability_invocations": "agent.capability_calls",
    "ai_agent.steps": "agent.steps",
    "mcp_server.tool_invocations": "mcp.tool_calls",
    "grpc_api.rpc_calls": "grpc.calls",
    "graphql_api.operations": "graphql.operations",
    "websocket_api.connection_opened": "websocket.connections",
    "websocket_api.connection_closed": "websocket.connections_closed",
    "websocket_api.message": "websocket.messages",
    "mqtt_broker.publish": "mqtt.messages",
    "mqtt_broker.deliver": "mqtt.deliveries",
    "mqtt_broker.subscribe": "mqtt.subscribes",
    "mqtt_broker.unsubscribe": "mqtt.unsubscribes",
    "mqtt_broker.connect": "mqtt.connects",
    "mqtt_broker.disconnect": "mqtt.disconnects",
}
TOKEN_METERS: Final = frozenset(
    {
        *(LLM_INPUT, LLM_CACHED_INPUT, LLM_CACHE_CREATION, LLM_OUTPUT, LLM_REASONING),
        "llm.tool_tokens",
    }
)
BUILT_IN: Final = frozenset(
    {
        *DEFAULTS.values(),
        *TOKEN_METERS,
        *(BYTES_REQUEST, BYTES_RESPONSE, AGENT_SESSIONS, "mcp.sessions"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMeter:
    """A meter that the catalog names."""

    meter: str
    unit: str = ""
    aliases: tuple[str, ...] = ()


class Metric(NamedTuple):
    """What a metric name means."""

    meter: str
    is_tokens: bool  # Its quantity counts tokens, so that metadata must not count them again.


def metrics_of(meters: Iterable[NamedMeter] = ()) -> dict[str, Metric]:
    """Return all metric names that are known, with what they mean.

    The catalog's names and aliases come before the built-in ones: the owner may give a client's
    name another meaning. A meter's own name is never an alias of another one.
    """
    named = list(meters)
    units = {one.meter: one.unit for one in named}

    def metric(meter: str) -> Metric:
        is_tokens = meter in TOKEN_METERS or units.get(meter, "").lower() in {"token", "tokens"}
        return Metric(meter, is_tokens)

    found = {name: metric(meter) for name, meter in DEFAULTS.items()}
    found |= {alias: metric(one.meter) for one in named for alias in one.aliases}
    found |= {meter: metric(meter) for meter in BUILT_IN}
    found |= {one.meter: metric(one.meter) for one in named}
    return found
