"""A receiver of spans: OTLP over HTTP or gRPC, decoded with messages that are not ours."""

import contextlib
import gzip
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass(frozen=True, kw_only=True)
class Span:
    """One span, as it arrived."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    failed: bool
    attributes: dict[str, Any]
    service: str
    nanos: tuple[int, int]  # Begin and end, Unix time.


@dataclass
class Receiver:
    """Keeps what arrives. `answer` is the HTTP status that it answers with."""

    url: str = ""
    answer: int = 200
    requests: list[dict[str, str]] = field(default_factory=list)  # Their headers.
    paths: list[str] = field(default_factory=list)
    raw: bytes = b""
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def take(self, message: bytes) -> None:
        self.raw += message
        for of_resource in ExportTraceServiceRequest.FromString(message).resource_spans:
            service = _attributes(of_resource.resource.attributes)["service.name"]
            # The name that this version of the messages has for scope_spans: the same number.
            for of_scope in of_resource.instrumentation_library_spans:
                self.spans += [_span(span, service) for span in of_scope.spans]


def _span(span: Any, service: str) -> Span:  # noqa: ANN401 - untyped messages
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.SpanKind.Name(span.kind),
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
        service=service,
        nanos=(span.start_time_unix_nano, span.end_time_unix_nano),
    )


def _attributes(pairs: Any) -> dict[str, Any]:  # noqa: ANN401 - untyped messages
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:  # noqa: ANN401 - of any type
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


@contextlib.contextmanager
def over_http(tls: tuple[Path, Path] | None = None) -> Iterator[Receiver]:
    """Serve; with a certificate and its key, to whom it trusts and with whom that trusts only."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            receiver.requests.append({name.lower(): v for name, v in self.headers.items()})
            receiver.paths.append(self.path)
            if receiver.answer == 200:
                receiver.take(body)
            self.send_response(receiver.answer)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls[0])
        context.load_cert_chain(*tls)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def over_grpc(tls: tuple[Path, Path] | None = None) -> Iterator[Receiver]:
    """The same over gRPC."""
    receiver = Receiver()

    def export(message: bytes, context: "grpc.ServicerContext") -> bytes:
        receiver.requests.append({k: str(v) for k, v in context.invocation_metadata()})
        receiver.take(message)
        return b""

    handler = grpc.unary_unary_rpc_method_handler(export)
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE, {"Export": handler})]
    )
    if tls is None:
        receiver.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    else:
        chain, key = (path.read_bytes() for path in tls)
        credentials = grpc.ssl_server_credentials([(key, chain)], chain, require_client_auth=True)
        receiver.url = f"https://127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


RECEIVERS = {"http/protobuf": over_http, "grpc": over_grpc}
