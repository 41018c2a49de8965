"""Everything between a client and Kafka, in the shipped configuration, for the sweep.

The authorization server says who called and with which id, so that each event can be found again:
the request header `x-lab-case` becomes the decision's id.
"""

from __future__ import annotations  # grpc-stubs has generics that grpc has not.

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import grpc.aio
from envoy.service.auth.v3.external_auth_pb2 import (
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.rpc.status_pb2 import Status

from aforo_proto.usage_pb2 import ExecutionStatus, Outcome, SessionBoundary, UsageEvent
from lab.grpc_upstream import GrpcUpstream
from lab.http_client import HttpClient
from tests.contract.envoy_lab import (
    OK,
    PERMISSION_DENIED,
    AuthzLab,
    Context,
    EnvoyLab,
    cluster,
    envoy_lab,
    manager,
    metadata,
    option,
)
from tests.contract.ship_lab import ShipLab, ship_lab

CASE, LIMIT = "x-lab-case", "x-lab-limit"
HOUR = "1774000000"


def decision_id_of(case: str) -> str:
    return hashlib.md5(case.encode(), usedforsecurity=False).hexdigest()


class CaseAuthz(AuthzLab):
    """Decides as `x-lab-outcome` says, under an id that follows from the case."""

    async def _decide(self, request: CheckRequest, context: Context) -> CheckResponse:
        asked = request.attributes.request.http.headers
        outcome = asked.get("x-lab-outcome", "allow")
        if outcome == "unavailable":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as it was asked for")
        said = {
            "tenant": "acme",
            "subscription": "sub-1",
            "features": "chat,api",
            "decision": outcome,
            "reason": "margin_limit_exceeded" if outcome == "block" else "within_limits",
            "decision_id": decision_id_of(asked.get(CASE, "")),
            "hour": HOUR,
            "weight": "3",
        }
        provider = request.attributes.context_extensions.get("aforo.provider")
        if provider:
            said["provider"] = provider
        if outcome == "block":
            return CheckResponse(
                status=Status(code=PERMISSION_DENIED),
                dynamic_metadata=metadata(said),
                denied_response=DeniedHttpResponse(status=HttpStatus(code=429), body="{}"),
            )
        marks = [option("x-aforo-throttle", "true")] if outcome == "throttle" else []
        return CheckResponse(
            status=Status(code=OK),
            dynamic_metadata=metadata(said),
            ok_response=OkHttpResponse(headers=marks),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepLab:
    envoy: EnvoyLab
    ship: ShipLab
    grpc_upstream: GrpcUpstream
    channel: grpc.aio.Channel
    origin: str

    @property
    def client(self) -> HttpClient:
        return self.envoy.client

    def events(self, case: str) -> list[UsageEvent]:
        """Return what has arrived about a case, in the order of arrival."""
        decision_id = decision_id_of(case)
        return [event for event in self.ship.events if event.decision_id == decision_id]

    async def grpc_call(
        self, case: str, method: str, request: bytes, **asked: object
    ) -> tuple[int, list[bytes]]:
        """Call /lab.Lab/METHOD and return its status and messages."""
        pairs = [(f"x-lab-{name}", str(value)) for name, value in asked.items()]
        named = ((CASE, case), *pairs)
        # Bytes in, bytes out: the stubs want serializers all the same.
        make: Any = getattr(self.channel, "unary_" + ("unary" if method == "Unary" else "stream"))
        call = make(f"/lab.Lab/{method}", None, None)(request, metadata=named)
        messages: list[bytes] = []
        try:
            if method == "Unary":
                messages.append(await call)
            else:
                async for message in call:
                    messages.append(message)  # noqa: PERF401 - kept when the call ends badly.
        except grpc.aio.AioRpcError as error:
            return int(error.code().value[0]), messages
        return 0, messages

    @contextlib.asynccontextmanager
    async def websocket(self, case: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self.origin + "/ws", headers={CASE: case}) as socket,
        ):
            yield socket


@contextlib.asynccontextmanager
async def sweep_lab(
    bootstrap: str, *, flush: str = "30s", **settings: str
) -> AsyncIterator[SweepLab]:
    """Run everything. `flush` is how often Envoy tells of calls under way, `settings` ship's."""
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        ship = await enter(ship_lab(bootstrap, partitions=3, **settings))
        upstream = await enter(GrpcUpstream())

        def edit(document: dict[str, Any]) -> None:
            manager(document)["access_log_options"]["access_log_flush_interval"] = flush
            (host,) = manager(document)["route_config"]["virtual_hosts"]
            host["routes"][-1:-1] = further_routes()
            host["routes"][:0] = limited_routes(host["routes"])
            endpoint = {"address": {"pipe": {"path": str(ship.socket_path)}}}
            receivers = cluster(document, "aforo_als")["load_assignment"]
            receivers["endpoints"] = [{"lb_endpoints": [{"endpoint": endpoint}]}]
            services = cluster(document, "grpc")["load_assignment"]["endpoints"]
            address = services[0]["lb_endpoints"][0]["endpoint"]["address"]
            address["socket_address"]["port_value"] = upstream.port

        envoy = await enter(envoy_lab(edit=edit, authz_server=CaseAuthz))
        port = envoy.envoy.port("ingress")
        channel = await enter(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        yield SweepLab(
            envoy=envoy,
            ship=ship,
            grpc_upstream=upstream,
            channel=channel,
            origin=f"http://127.0.0.1:{port}",
        )


def further_routes() -> list[dict[str, Any]]:
    """Return what a user may add: a route that is tried again, and one that follows redirects."""
    again = {"retry_on": "5xx", "num_retries": 3}
    follow = {"max_internal_redirects": 2, "redirect_response_codes": [302]}
    return [
        {
            "name": "retried",
            "match": {"prefix": "/flaky"},
            "route": {"cluster": "api", "retry_policy": again},
        },
        {
            "name": "redirected",
            "match": {"prefix": "/redirect"},
            "route": {"cluster": "api", "internal_redirect_policy": follow},
        },
    ]


# What ends an answer that takes too long. In a user's Envoy it is minutes.
LIMITS: Mapping[str, dict[str, Any]] = {
    "idle_timeout": {"idle_timeout": "3s"},
    "timeout": {"timeout": "3s"},
    "per_try_idle_timeout": {"retry_policy": {"per_try_idle_timeout": "3s"}},
    "max_stream_duration": {"max_stream_duration": {"max_stream_duration": "3s"}},
}


def limited_routes(routes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the route of a model again for each limit, for calls with a header that names it."""
    (model,) = [route for route in routes if route.get("name") == "openai_chat"]
    return [
        {
            **model,
            "match": {
                **model["match"],
                "headers": [{"name": LIMIT, "string_match": {"exact": name}}],
            },
            "route": {**model["route"], **limit},
        }
        for name, limit in LIMITS.items()
    ]


def told(event: UsageEvent) -> dict[str, object]:
    """Return all that an event says but for ids and times; what is not set is left out."""
    found: dict[str, object] = {
        "tenant": event.tenant_id,
        "subscription": event.subscription_id,
        "features": ",".join(event.features),
        "outcome": Outcome.Name(event.outcome).removeprefix("OUTCOME_"),
        "reason": event.reason,
        "hour": event.decided_hour_s,
        "weight": event.weight_units,
        "estimated": event.estimated,
        "aborted": event.aborted,
        "interim": event.interim,
        "continued": event.continued,
        "source": event.source,
        "measures": {one.meter: one.units + one.micros / 1_000_000 for one in event.measures},
    }
    dimensions = event.dimensions
    for descriptor, value in dimensions.ListFields():
        found[descriptor.name] = value
    if dimensions.execution_status:
        name = ExecutionStatus.Name(dimensions.execution_status)
        found["execution_status"] = name.removeprefix("EXECUTION_STATUS_")
    if event.session_boundary:
        name = SessionBoundary.Name(event.session_boundary)
        found["session_boundary"] = name.removeprefix("SESSION_BOUNDARY_")
    return {key: value for key, value in found.items() if value}


def expected(
    measures: Mapping[str, float], executed: str | None = "SUCCESS", /, **others: object
) -> dict[str, object]:
    """Return what is the same in all cases, with what this one has of its own."""
    usual: dict[str, object] = {
        "tenant": "acme",
        "subscription": "sub-1",
        "features": "api,chat",
        "outcome": "ALLOW",
        "reason": "within_limits",
        "hour": int(HOUR),
        "weight": 3,
        "source": "envoy:aforo-envoy",
        "route": "api",
        "status": 200,
        "execution_status": executed,
        "measures": {meter: units for meter, units in measures.items() if units},
    }
    return {key: value for key, value in (usual | others).items() if value}


def side_by_side(
    case: str, wanted: list[dict[str, object]], received: list[dict[str, object]]
) -> str:
    """Return a table of what was expected beside what was received, field by field."""
    lines = [f"\n{case}"]
    for index in range(max(len(wanted), len(received))):
        ours = wanted[index] if index < len(wanted) else {}
        theirs = received[index] if index < len(received) else {}
        for key in dict.fromkeys([*ours, *theirs]):
            if key in CONSTANT and ours.get(key) == theirs.get(key):
                continue
            left, right = _text(ours.get(key)), _text(theirs.get(key))
            mark = " " if ours.get(key) == theirs.get(key) else "!"
            lines.append(f"{mark} {key:17} {left:60} {right}")
    return "\n".join(lines)


CONSTANT = frozenset({"tenant", "subscription", "features", "hour", "weight", "source", "reason"})


def _text(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key.removeprefix('llm.')}={number:g}" for key, number in value.items())
    return "" if value is None else str(value)
