"""Where operators look: /metrics, /livez and /readyz, on a port of their own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from aforo_authz.server import AddressError, TcpAddress, parse_address, plain

REQUEST_BYTES_MAX = 8192
REQUEST_TIMEOUT_S = 5.0


@contextlib.asynccontextmanager
async def serve(
    listen: str, registry: CollectorRegistry, *, is_ready: Callable[[], bool]
) -> AsyncIterator[None]:
    """Serve /metrics, /livez and /readyz while the body runs; nothing if `listen` is empty.

    It runs on the process's own loop, so that an answer says that the loop turns.

    Raises:
        AddressError: The address is unusable.
    """
    if not listen:
        yield
        return
    address = parse_address(listen)
    if not isinstance(address, TcpAddress):
        raise AddressError(f"AFORO_AUTHZ_METRICS_LISTEN={listen}: must be host:port")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, ValueError):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_page(head, registry, is_ready=is_ready))
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(
            answer, address.host, address.port, limit=REQUEST_BYTES_MAX
        )
    except OSError as error:
        raise AddressError(
            f"cannot listen on {address}: {plain(error)};"
            " stop what uses it, or set AFORO_AUTHZ_METRICS_LISTEN to another address"
        ) from error
    async with server:
        yield


def _page(head: bytes, registry: CollectorRegistry, *, is_ready: Callable[[], bool]) -> bytes:
    path = head.split(b" ", 2)[1].partition(b"?")[0] if head.count(b" ") > 1 else b""
    status, kind, body = "404 Not Found", "text/plain", b"try /livez, /readyz or /metrics\n"
    if path == b"/metrics":
        status, kind, body = "200 OK", CONTENT_TYPE_LATEST, generate_latest(registry)
    elif path == b"/livez" or (path == b"/readyz" and is_ready()):
        status, body = "200 OK", b"ok\n"
    elif path == b"/readyz":
        status, body = "503 Service Unavailable", b"not ready\n"
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    ).encode() + body
