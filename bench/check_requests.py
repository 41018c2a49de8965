"""CheckRequests as Envoy sends them: the client's headers, both addresses, its own metadata."""

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from bench.read_model import api_key

HEADERS = {
    ":authority": "api.example.com",
    ":method": "POST",
    ":path": "/v1/chat/completions",
    ":scheme": "https",
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "content-length": "1234",
    "content-type": "application/json",
    "user-agent": "python-httpx/0.28",
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-proto": "https",
    "x-request-id": "0b6a1d5c-0d5e-4c5e-8f5e-3c0e5d5b5c0e",
}


class CheckRequests:
    """Makes one request after another, by putting the key of a tenant into the same bytes."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._place = api_key(kind, 0).encode()
        self._template = _template(api_key(kind, 0))

    def of(self, number: int) -> bytes:
        """Return a call of a tenant, without gRPC's framing."""
        # Keys are of one length, so that all lengths in the message stay true.
        return self._template.replace(self._place, api_key(self._kind, number).encode())


def framed(message: bytes) -> bytes:
    """Return the body of a unary gRPC call."""
    return b"\0" + len(message).to_bytes(4) + message


def _template(key: str) -> bytes:
    request = CheckRequest()
    attributes = request.attributes
    for peer, address, port in (
        (attributes.source, "203.0.113.7", 50_123),
        (attributes.destination, "10.0.0.2", 443),
    ):
        peer.address.socket_address.address = address
        peer.address.socket_address.port_value = port
    http = attributes.request.http
    attributes.request.time.FromSeconds(1_770_000_000)
    http.id, http.protocol, http.scheme, http.host = "12345", "HTTP/1.1", "https", "api.example.com"
    http.method, http.path, http.size = "POST", "/v1/chat/completions", 1234
    http.headers.update({**HEADERS, "x-api-key": key})
    attributes.context_extensions["aforo.provider"] = "openai"
    attributes.metadata_context.SetInParent()
    written: bytes = request.SerializeToString()
    return written
