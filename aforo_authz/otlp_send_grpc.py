"""The same over gRPC."""

import grpc

from aforo_authz.otlp import GRPC, PORTS, Otlp
from aforo_authz.otlp_send import SendError

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
# What a receiver may take later, by the protocol's specification.
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


class GrpcSender:
    def __init__(self, otlp: Otlp) -> None:
        target = f"{otlp.url.hostname}:{otlp.url.port or PORTS[GRPC]}"
        if otlp.secure:
            certificate, key = otlp.certificate or (None, None)
            credentials = grpc.ssl_channel_credentials(
                otlp.authorities,
                key.read_bytes() if key else None,
                certificate.read_bytes() if certificate else None,
            )
            self._channel = grpc.secure_channel(target, credentials)
        else:
            self._channel = grpc.insecure_channel(target)
        self._export = self._channel.unary_unary(EXPORT, None, None)
        self._compression = grpc.Compression.Gzip if otlp.gzip else grpc.Compression.NoCompression
        self._headers = otlp.headers
        self._timeout_s = otlp.timeout_s

    def send(self, message: bytes) -> None:
        try:
            self._export(
                message,
                timeout=self._timeout_s,
                metadata=self._headers,
                compression=self._compression,
            )
        except grpc.RpcError as error:
            code = error.code().name
            raise SendError(f"{code}: {error.details()}", later=code in GRPC_LATER) from None

    def close(self) -> None:
        self._channel.close()
