"""What Envoy needs around it to be tested alone.

An authorization server that answers as each request asks (header `x-lab-outcome`), an
access-log receiver that keeps every entry, and upstreams that tell what reached them.
"""

from __future__ import annotations  # grpc-stubs has generics that grpc has not.

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from envoy.service.auth.v3.external_auth_pb2 import (
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.rpc.status_pb2 import Status

from aforo_proto.llm_pb2 import TokenUsage
from lab.envoy import Address, EnvoyServer
from lab.http_client import HttpClient
from lab.patience import PATIENT_S, patient, patient_with_log
from lab.ports import free_port
from lab.servers import HANG_S, eventually, scratch_dir
from lab.upstream import FakeLlm

SHIPPED = Path(__file__).parents[2] / "envoy" / "aforo.yaml"
AUTHZ_NAMESPACE = "envoy.filters.http.ext_authz"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"  # grpc.health.v1.HealthCheckResponse

OK = grpc.StatusCode.OK.value[0]
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED.value[0]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def option(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def metadata(values: Mapping[str, str]) -> Struct:
    struct = Struct()
    struct.update(dict(values))
    return struct


def allowed(*, throttled: bool = False) -> CheckResponse:
    """Allow as Aforo does: who calls for the upstream, the decision for the caller and the log."""
    decision = "throttle" if throttled else "allow"
    upstream = {
        "x-aforo-tenant": "acme",
        "x-aforo-subscription": "sub-1",
        "x-aforo-features": "llm",
        "x-aforo-decision": decision,
    }
    caller = {
        "x-aforo-decision": decision,
        "x-aforo-reason": "within_limits",
        "x-aforo-decision-id": "d" * 32,
    }
    if throttled:
        upstream["x-aforo-throttle"] = caller["x-aforo-throttle"] = "true"
    return CheckResponse(
        status=Status(code=OK),
        dynamic_metadata=metadata({"tenant": "acme", "decision": decision}),
        ok_response=OkHttpResponse(
            headers=[option(*pair) for pair in upstream.items()],
            response_headers_to_add=[option(*pair) for pair in caller.items()],
        ),
    )


def setting(headers: Mapping[str, str]) -> CheckResponse:
    """Allow, and set these headers of the request, whatever they are."""
    return CheckResponse(
        status=Status(code=OK),
        ok_response=OkHttpResponse(headers=[option(*pair) for pair in headers.items()]),
    )


def denied(*, code: int) -> CheckResponse:
    headers = {
        "x-aforo-decision": "block",
        "retry-after": "60",
        "content-type": "application/problem+json",
    }
    return CheckResponse(
        status=Status(code=code),
        dynamic_metadata=metadata({"tenant": "acme", "decision": "block"}),
        denied_response=DeniedHttpResponse(
            status=HttpStatus(code=429),
            headers=[option(*pair) for pair in headers.items()],
            body='{"title":"Margin Limit Exceeded"}',
        ),
    )


class AuthzLab:
    """Envoy's authorization service; its outcome is chosen by the request that it judges."""

    def __init__(self, address: Address) -> None:
        self.requests: list[CheckRequest] = []
        self.traceparents: list[str] = []  # Of the calls themselves, not of what they ask about.
        self.ready = True
        self._server = _server(
            address,
            _service(
                "envoy.service.auth.v3.Authorization",
                Check=grpc.unary_unary_rpc_method_handler(
                    self._check,
                    request_deserializer=CheckRequest.FromString,
                    response_serializer=CheckResponse.SerializeToString,
                ),
            ),
            _service(
                "grpc.health.v1.Health", Check=grpc.unary_unary_rpc_method_handler(self._health)
            ),
        )

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        await self._server.stop(grace=0)

    async def _health(self, _: bytes, __: Context) -> bytes:
        return SERVING if self.ready else NOT_SERVING

    async def _check(self, request: CheckRequest, context: Context) -> CheckResponse:
        self.requests.append(request)
        metadata = dict(context.invocation_metadata() or ())
        self.traceparents.append(str(metadata.get("traceparent", "")))
        return await self._decide(request, context)

    async def _decide(self, request: CheckRequest, context: Context) -> CheckResponse:
        outcome = request.attributes.request.http.headers.get("x-lab-outcome", "allow")
        return await OUTCOMES[outcome](context)


async def _answer(response: CheckResponse) -> CheckResponse:
    return response


async def _abort(context: Context) -> CheckResponse:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "the read model cannot be asked")
    raise AssertionError("abort raises")


async def _raise(_: Context) -> CheckResponse:
    raise RuntimeError("a bug in the handler, on purpose")


async def _too_slow(_: Context) -> CheckResponse:
    await asyncio.sleep(HANG_S)
    return allowed()


OUTCOMES: Mapping[str, Callable[[Context], Awaitable[CheckResponse]]] = {
    "allow": lambda _: _answer(allowed()),
    "bare-ok": lambda _: _answer(CheckResponse(status=Status(code=OK))),
    "throttle": lambda _: _answer(allowed(throttled=True)),
    "deny": lambda _: _answer(denied(code=PERMISSION_DENIED)),
    "deny-without-status": lambda _: _answer(denied(code=OK)),
    "unavailable-in-body": lambda _: _answer(CheckResponse(status=Status(code=UNAVAILABLE))),
    "abort": _abort,
    "raise": _raise,
    "too-slow": _too_slow,
    "invalid-header": lambda _: _answer(setting({"x-aforo-bad": "1\r\nx-aforo-tenant: other"})),
    "overreach": lambda _: _answer(
        setting(
            {":path": "/admin", "host": "elsewhere.example", "x-other": "1"}
            | {"x-aforo-tenant": "acme"}
        )
    ),
}


class LogLab:
    """Envoy's access-log service; keeps every entry."""

    def __init__(self, address: Address) -> None:
        self.entries: list[HTTPAccessLogEntry] = []
        self._server = _server(
            address,
            _service(
                "envoy.service.accesslog.v3.AccessLogService",
                StreamAccessLogs=grpc.stream_unary_rpc_method_handler(
                    self._stream,
                    request_deserializer=StreamAccessLogsMessage.FromString,
                    response_serializer=StreamAccessLogsResponse.SerializeToString,
                ),
            ),
        )

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        await self._server.stop(grace=0)

    async def _stream(
        self, messages: AsyncIterator[StreamAccessLogsMessage], _: Context
    ) -> StreamAccessLogsResponse:
        async for message in messages:
            self.entries.extend(message.http_logs.log_entry)
        return StreamAccessLogsResponse()

    async def entry(self, path: str) -> HTTPAccessLogEntry:
        """Return the only entry about a request with this path, its query included."""
        await eventually(lambda: self.about(path))
        # Long enough for a second one, which there must not be, to be flushed too.
        await asyncio.sleep(0.3)
        (entry,) = self.about(path)
        return entry

    def about(self, path: str) -> list[HTTPAccessLogEntry]:
        return [entry for entry in self.entries if entry.request.path == path]


def _service(
    name: str, **handlers: grpc.RpcMethodHandler[Any, Any]
) -> grpc.GenericRpcHandler[Any, Any]:
    return grpc.method_handlers_generic_handler(name, handlers)


def _server(address: Address, *services: grpc.GenericRpcHandler[Any, Any]) -> grpc.aio.Server:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(services)
    server.add_insecure_port(
        f"unix:{address}" if isinstance(address, Path) else f"127.0.0.1:{address}"
    )
    return server


def ext_authz(document: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the check, to be edited in place."""
    (found,) = (one for one in http_filters(document) if one["name"] == AUTHZ_NAMESPACE)
    typed_config: dict[str, Any] = found["typed_config"]
    return typed_config


def cluster(document: dict[str, Any], name: str) -> dict[str, Any]:
    clusters: list[dict[str, Any]] = document["static_resources"]["clusters"]
    (found,) = (one for one in clusters if one["name"] == name)
    return found


def http_filters(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the filters that each request passes, to be edited in place."""
    filters: list[dict[str, Any]] = manager(document)["http_filters"]
    return filters


def manager(document: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the HTTP connection manager, to be edited in place."""
    (listener,) = document["static_resources"]["listeners"]
    typed_config: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return typed_config


def authz_metadata(entry: HTTPAccessLogEntry) -> dict[str, Any]:
    filters = entry.common_properties.metadata.filter_metadata
    return MessageToDict(filters[AUTHZ_NAMESPACE]) if AUTHZ_NAMESPACE in filters else {}


def token_usage(entry: HTTPAccessLogEntry) -> dict[str, Any] | None:
    """Return what Envoy read from the answer: model and tokens; None if it read nothing."""
    typed = entry.common_properties.metadata.typed_filter_metadata
    if "envoy.ai.token_usage" not in typed:
        return None
    usage = TokenUsage.FromString(typed["envoy.ai.token_usage"].value)
    return {
        "model": usage.model,
        "input": usage.input_tokens.value,
        "cached": usage.input_token_details.cached_tokens.value,
        "cache_creation": usage.input_token_details.cache_creation_tokens.value,
        "output": usage.output_tokens.value,
        "reasoning": usage.output_token_details.reasoning_tokens.value,
        "status": TokenUsage.ExtractionStatus.Name(usage.extraction_status),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyLab:
    envoy: EnvoyServer
    authz: AuthzLab
    log: LogLab  # The first of the two receivers.
    backup: LogLab
    api: FakeLlm
    premium: FakeLlm
    economy: FakeLlm
    client: HttpClient

    def forget(self) -> None:
        """Start a test with nothing seen."""
        self.authz.requests.clear()
        self.log.entries.clear()
        self.backup.entries.clear()
        for upstream in (self.api, self.premium, self.economy):
            upstream.last.clear()

    def unique(self, path: str) -> str:
        """Return the path with a query that no other request has."""
        return f"{path}?n={next(_numbers)}"


_numbers = itertools.count(1)


@contextlib.asynccontextmanager
async def envoy_lab(
    *,
    edit: Callable[[dict[str, Any]], None] = lambda _: None,
    tcp: bool = False,
    check_s: float | None = PATIENT_S,
    authz_server: Callable[[Address], AuthzLab] = AuthzLab,
    config: Path = SHIPPED,
    more_listeners: Iterable[str] = (),
) -> AsyncIterator[EnvoyLab]:
    """Run the shipped configuration, moved to free addresses and edited, with all around it.

    Args:
        edit: Changes to the parsed configuration, in place.
        tcp: Reach Aforo's servers over TCP instead of UNIX sockets.
        check_s: How long a decision may take, and nobody is taken for dead meanwhile: the test
            and the servers run in one event loop. None: as the configuration says.
        authz_server: Makes what decides.
        config: Another configuration than the shipped one.
        more_listeners: Those that it has beside `ingress`.
    """

    def prepare(document: dict[str, Any]) -> None:
        edit(document)
        if check_s is not None:
            patient(document, check_s=check_s)
            patient_with_log(document)

    home = scratch_dir("contract")
    sockets: dict[str, Address] = {
        name: free_port() if tcp else home / f"{name}.sock" for name in ("authz", "als-a", "als-b")
    }
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        authz = await enter(authz_server(sockets["authz"]))
        log = await enter(LogLab(sockets["als-a"]))
        backup = await enter(LogLab(sockets["als-b"]))
        api, premium = await enter(FakeLlm()), await enter(FakeLlm(name="premium"))
        economy = await enter(FakeLlm(name="economy"))
        envoy = EnvoyServer(
            config,
            listeners={name: free_port() for name in ("ingress", *more_listeners)},
            clusters={
                "api": [api.port],
                "llm": [premium.port],
                "llm_economy": [economy.port],
                "aforo_authz": [sockets["authz"]],
                "aforo_als": [sockets["als-a"], sockets["als-b"]],
            },
            edit=prepare,
            log_dir=home,
        )
        # In a thread: while it starts, it asks the servers of this loop for their health.
        stack.callback(envoy.stop)
        await asyncio.to_thread(envoy.start)
        client = await enter(HttpClient(f"http://127.0.0.1:{envoy.port('ingress')}"))
        yield EnvoyLab(
            envoy=envoy,
            authz=authz,
            log=log,
            backup=backup,
            api=api,
            premium=premium,
            economy=economy,
            client=client,
        )
