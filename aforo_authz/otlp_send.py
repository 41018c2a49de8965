"""Hands encoded spans to a receiver, over HTTP or gRPC. Blocks: for a thread of its own.

OpenTelemetry's own exporters can't be used: they and xds-protos install different versions of the
same files (docs/decisions/0008).
"""

import gzip
import ssl
from collections.abc import Callable

from aforo_authz.otlp import GRPC, PORTS, Otlp

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
# What a receiver may take later, by the protocol's specification.
HTTP_LATER = frozenset({429, 502, 503, 504})
GRPC_LATER = frozenset(
    {
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
)

Send = Callable[[bytes], None]


class SendError(Exception):
    """The receiver did not take it. `later`: it may, if asked again."""

    def __init__(self, why: str, *, later: bool) -> None:
        super().__init__(why)
        self.later = later


def sender(otlp: Otlp) -> Send:
    """Return what hands one ExportTraceServiceRequest over, or raises SendError."""
    return _grpc_sender(otlp) if otlp.protocol == GRPC else _http_sender(otlp)


def _http_sender(otlp: Otlp) -> Send:
    import httpx2  # noqa: PLC0415 - only who sends so pays for it

    context = ssl.create_default_context()
    if otlp.authorities is not None:
        context = ssl.create_default_context(cadata=otlp.authorities.decode())
    if otlp.certificate is not None:
        context.load_cert_chain(*otlp.certificate)
    client = httpx2.Client(verify=context, timeout=otlp.timeout_s)
    headers = {**dict(otlp.headers), "content-type": "application/x-protobuf"}
    if otlp.gzip:
        headers["content-encoding"] = "gzip"

    def send(message: bytes) -> None:
        body = gzip.compress(message) if otlp.gzip else message
        try:
            status = client.post(otlp.url.geturl(), content=body, headers=headers).status_code
        except httpx2.HTTPError as error:
            # Others quote what they complain of, and that may be a header with a key.
            words = f": {error}" if isinstance(error, httpx2.NetworkError) else ""
            raise SendError(type(error).__name__ + words, later=True) from None
        if not httpx2.codes.is_success(status):
            raise SendError(f"HTTP {status}", later=status in HTTP_LATER)

    return send


def _grpc_sender(otlp: Otlp) -> Send:
    import grpc  # noqa: PLC0415 - only who sends so pays for its 20 MB of memory

    target = f"{otlp.url.hostname}:{otlp.url.port or PORTS[GRPC]}"
    if otlp.secure:
        certificate, key = otlp.certificate or (None, None)
        credentials = grpc.ssl_channel_credentials(
            otlp.authorities,
            key.read_bytes() if key else None,
            certificate.read_bytes() if certificate else None,
        )
        channel = grpc.secure_channel(target, credentials)
    else:
        channel = grpc.insecure_channel(target)
    export = channel.unary_unary(EXPORT, None, None)
    compression = grpc.Compression.Gzip if otlp.gzip else grpc.Compression.NoCompression

    def send(message: bytes) -> None:
        try:
            export(message, timeout=otlp.timeout_s, metadata=otlp.headers, compression=compression)
        except grpc.RpcError as error:
            code = error.code().name
            raise SendError(f"{code}: {error.details()}", later=code in GRPC_LATER) from None

    return send
