"""A real Envoy between a client, a check that answers as asked, an upstream, and ship.

Its configuration is small and its own: what ship reads must not depend on the one that we give
away. Each part is named in the tests by the request header `x-lab-outcome`.
"""

from __future__ import annotations  # grpc-stubs has generics that grpc has not.

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import yaml
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import (
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.struct_pb2 import Struct
from google.rpc.status_pb2 import Status

from lab.envoy import EnvoyServer
from lab.http_client import HttpClient
from lab.ports import free_port
from lab.servers import scratch_dir
from lab.upstream import FakeLlm
from tests.contract.ship_lab import ShipLab, ship_lab

TYPE = "type.googleapis.com/envoy."
OK, PERMISSION_DENIED = 0, 7
PROTOCOLS = {
    "/v1/chat/completions": "OPENAI_CHAT_COMPLETIONS",
    "/v1/responses": "OPENAI_RESPONSES",
    "/v1/messages": "ANTHROPIC_MESSAGES",
}

Context: TypeAlias = "grpc.aio.ServicerContext[CheckRequest, CheckResponse]"
Edit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLab:
    ship: ShipLab
    client: HttpClient
    upstream: FakeLlm
    envoy: EnvoyServer


@contextlib.asynccontextmanager
async def gateway_lab(
    bootstrap: str, *, edit: Edit = lambda _: None, **settings: str
) -> AsyncIterator[GatewayLab]:
    """Run everything; `edit` changes Envoy's configuration, `settings` are ship's."""
    home = scratch_dir("gateway")
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        ship = await enter(ship_lab(bootstrap, partitions=3, **settings))
        upstream = await enter(FakeLlm())
        await enter(check_server(home / "authz.sock"))
        config = home / "envoy.yaml"
        config.write_text(yaml.safe_dump(configuration()))
        envoy = EnvoyServer(
            config,
            listeners={"ingress": free_port()},
            clusters={
                "upstream": [upstream.port],
                "authz": [home / "authz.sock"],
                "als": [ship.socket_path],
            },
            edit=edit,
            log_dir=home,
        )
        stack.callback(envoy.stop)
        await asyncio.to_thread(envoy.start)
        client = await enter(HttpClient(f"http://127.0.0.1:{envoy.port('ingress')}"))
        yield GatewayLab(ship=ship, client=client, upstream=upstream, envoy=envoy)


@contextlib.asynccontextmanager
async def check_server(path: Path) -> AsyncIterator[None]:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=CheckRequest.FromString,
        response_serializer=CheckResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "envoy.service.auth.v3.Authorization", {"Check": handler}
            )
        ]
    )
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=0)


async def check(request: CheckRequest, context: Context) -> CheckResponse:
    """Decide as `x-lab-outcome` says, for the tenant whose key is `x-api-key`."""
    headers = request.attributes.request.http.headers
    tenant, outcome = headers.get("x-api-key", "acme"), headers.get("x-lab-outcome", "allow")
    if outcome == "unavailable":
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the read model cannot be asked")
    said = said_of(tenant, outcome)
    if outcome == "block":
        return CheckResponse(
            status=Status(code=PERMISSION_DENIED),
            dynamic_metadata=said,
            denied_response=DeniedHttpResponse(
                status=HttpStatus(code=429), body='{"title":"Margin Limit Exceeded"}'
            ),
        )
    marks = [HeaderValueOption(header=HeaderValue(key="x-aforo-throttle", value="true"))]
    return CheckResponse(
        status=Status(code=OK),
        dynamic_metadata=said,
        ok_response=OkHttpResponse(headers=marks if outcome == "throttle" else []),
    )


def said_of(tenant: str, outcome: str) -> Struct:
    """Return the metadata that proto/README.md describes."""
    said = Struct()
    said.update(
        {
            "tenant": tenant,
            "subscription": f"sub-{tenant}",
            "features": "chat,api",
            "decision": outcome,
            "reason": "margin_limit_exceeded" if outcome == "block" else "within_limits",
            "decision_id": "d" * 32,
        }
    )
    return said


def configuration() -> dict[str, Any]:
    """Return a configuration with a listener `ingress` and three clusters."""
    manager = {
        "@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "ingress",
        "access_log": [access_log()],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes()}]},
        "http_filters": http_filters(),
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    listener = {"name": "ingress", "address": nowhere(), "filter_chains": [chain]}
    clusters = [cluster("upstream", http2=False), cluster("authz"), cluster("als")]
    return {
        "node": {"id": "gateway-lab", "cluster": "lab"},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def manager_of(document: dict[str, Any]) -> dict[str, Any]:
    (listener,) = document["static_resources"]["listeners"]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def access_log() -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": f"{TYPE}extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": {
                "log_name": "aforo",
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "als"}},
                "buffer_flush_interval": "0.05s",
                "buffer_size_bytes": 1 << 20,
                "custom_tags": [{"tag": "uid", "value": "%UNIQUE_ID%"}],
            },
            "additional_request_headers_to_log": ["origin", "access-control-request-method"],
        },
    }


def routes() -> list[dict[str, Any]]:
    models = [
        {
            "name": f"route{path.replace('/', '-')}",
            "match": {"path": path},
            "route": {"cluster": "upstream", "timeout": "0s"},
            "typed_per_filter_config": {
                "envoy.filters.http.ai_protocol_manager": {
                    "@type": f"{TYPE}extensions.filters.http.ai_protocol_manager.v3"
                    ".AiProtocolManagerPerRoute",
                    "response": {"llm_protocol": protocol},
                }
            },
        }
        for path, protocol in PROTOCOLS.items()
    ]
    echo = {"name": "echo", "match": {"prefix": "/"}, "route": {"cluster": "upstream"}}
    return [*models, echo]


def http_filters() -> list[dict[str, Any]]:
    return [
        {
            "name": "envoy.filters.http.ext_authz",
            "typed_config": {
                "@type": f"{TYPE}extensions.filters.http.ext_authz.v3.ExtAuthz",
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "2s"},
                "failure_mode_allow": True,
            },
        },
        {
            "name": "envoy.filters.http.ai_protocol_manager",
            "typed_config": {
                "@type": f"{TYPE}extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager",
                "response_handling": {"token_usage": {}},
            },
        },
        {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{TYPE}extensions.filters.http.router.v3.Router"},
        },
    ]


def cluster(name: str, *, http2: bool = True) -> dict[str, Any]:
    options: Mapping[str, Any] = (
        {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    )
    return {
        "name": name,
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": dict(options),
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": nowhere()}}]}],
        },
    }


def nowhere() -> dict[str, Any]:
    """Return an address that the lab replaces."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": 1}}
