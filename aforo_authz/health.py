"""The gRPC health service, for Envoy's health checks and the kubelet's probes."""

from collections.abc import Callable

from aforo_authz.server import INVALID_ARGUMENT, NOT_FOUND, RpcError

PATH = "/grpc.health.v1.Health/Check"
SERVICES = ("", "envoy.service.auth.v3.Authorization")

# HealthCheckResponse has one field, an enum: these are its two encodings that we use.
SERVING = b"\x08\x01"
NOT_SERVING = b"\x08\x02"


class Health:
    """Serving once the read model is loaded and somebody can ask us, until draining begins."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self.listening = False
        self.draining = False

    @property
    def serving(self) -> bool:
        return self.listening and self._is_ready() and not self.draining

    async def is_serving(self) -> bool:
        return self.serving

    def check(self, message: bytes, budget_s: float | None) -> bytes:  # noqa: ARG002 - a Method
        try:
            service = _service_of(message)
        except ValueError as error:
            raise RpcError(INVALID_ARGUMENT, "not a HealthCheckRequest") from error
        if service not in SERVICES:
            raise RpcError(NOT_FOUND, f"unknown service {service!r}")
        return SERVING if self.serving else NOT_SERVING


def _service_of(message: bytes) -> str:
    """Return the one field of HealthCheckRequest: a string, number 1."""
    if not message:
        return ""
    length = message[1] if len(message) > 1 else 0
    if message[0] != 0x0A or length > 0x7F or len(message) != 2 + length:  # noqa: PLR2004 - wire
        raise ValueError("not a HealthCheckRequest")
    return message[2:].decode()
