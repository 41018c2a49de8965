"""Hands encoded spans to a receiver, over HTTP. Blocks: for a thread of its own.

OpenTelemetry's own exporters can't be used: they and xds-protos install different versions of the
same files (docs/decisions/0008).
"""

import gzip
import ssl
from typing import Protocol

import httpx2

from aforo_authz.otlp import GRPC, Otlp

# What a receiver may take later, by the protocol's specification.
HTTP_LATER = frozenset({429, 502, 503, 504})


class SendError(Exception):
    """The receiver did not take it. `later`: it may, if asked again."""

    def __init__(self, why: str, *, later: bool) -> None:
        super().__init__(why)
        self.later = later


class Sender(Protocol):
    def send(self, message: bytes) -> None:
        """Hand one ExportTraceServiceRequest over.

        Raises:
            SendError: The receiver did not take it.
        """

    def close(self) -> None: ...


def sender(otlp: Otlp) -> Sender:
    if otlp.protocol == GRPC:
        # Only who asks for it pays for its 20 MB of memory.
        from aforo_authz.otlp_send_grpc import GrpcSender  # noqa: PLC0415

        return GrpcSender(otlp)
    return _HttpSender(otlp)


class _HttpSender:
    def __init__(self, otlp: Otlp) -> None:
        authorities = otlp.authorities.decode() if otlp.authorities is not None else None
        context = ssl.create_default_context(cadata=authorities)
        if otlp.certificate is not None:
            context.load_cert_chain(*otlp.certificate)
        self._url = otlp.url.geturl()
        self._gzip = otlp.gzip
        self._headers = {**dict(otlp.headers), "content-type": "application/x-protobuf"}
        if otlp.gzip:
            self._headers["content-encoding"] = "gzip"
        self._client = httpx2.Client(verify=context, timeout=otlp.timeout_s)

    def send(self, message: bytes) -> None:
        body = gzip.compress(message) if self._gzip else message
        try:
            answer = self._client.post(self._url, content=body, headers=self._headers)
        except httpx2.HTTPError as error:
            # Others quote what they complain of, and that may be a header with a key.
            words = f": {error}" if isinstance(error, httpx2.NetworkError) else ""
            raise SendError(type(error).__name__ + words, later=True) from None
        status = answer.status_code
        if not httpx2.codes.is_success(status):
            raise SendError(f"HTTP {status}", later=status in HTTP_LATER)

    def close(self) -> None:
        self._client.close()
