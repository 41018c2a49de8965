"""What a real Envoy that traces tells the check of its own span: spans.py relies on it."""

from typing import Any

import pytest

from lab.ports import free_port
from tests.contract.envoy_lab import envoy_lab, manager

pytestmark = [pytest.mark.contract, pytest.mark.slow]

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENTS = f"00-{TRACE_ID}-{SPAN_ID}-01"


def trace(document: dict[str, Any]) -> None:
    """Let Envoy trace, to a collector that is not there: what it exports is not our matter."""
    document["static_resources"]["clusters"].append(
        {
            "name": "collector",
            "type": "STATIC",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/"
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }
            },
            "load_assignment": {
                "cluster_name": "collector",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address()}}]}],
            },
        }
    )
    manager(document)["tracing"] = {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}},
                "service_name": "edge",
            },
        }
    }


def _address() -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": free_port()}}


async def test_envoys_own_span_comes_with_the_call_and_the_clients_with_the_request() -> None:
    async with envoy_lab(edit=trace) as lab:
        await lab.client.get("/v1/search", headers={"traceparent": CLIENTS})
        await lab.client.get("/v1/search")

        first, second = lab.authz.traceparents
        of_clients, of_nobody = (
            request.attributes.request.http.headers for request in lab.authz.requests
        )
        assert first.startswith(f"00-{TRACE_ID}-")
        assert SPAN_ID not in first
        assert of_clients["traceparent"] == CLIENTS
        assert second
        assert TRACE_ID not in second
        assert "traceparent" not in of_nobody


async def test_an_envoy_that_does_not_trace_leaves_the_clients_span_as_the_only_one() -> None:
    async with envoy_lab() as lab:
        await lab.client.get("/v1/search", headers={"traceparent": CLIENTS})

        assert lab.authz.traceparents == [""]
        (request,) = lab.authz.requests
        assert request.attributes.request.http.headers["traceparent"] == CLIENTS
