"""Where operators look: /metrics, /livez and /readyz, on a port of their own."""

import asyncio
import contextlib
import email.utils
from collections.abc import AsyncIterator, Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST

from aforo_authz.server import AddressError, UnixAddress, bound_socket, parse_address

REQUEST_BYTES_MAX = 8192
REQUEST_TIMEOUT_S = 5.0


@contextlib.asynccontextmanager
async def serve(
    listen: str,
    exposed: Callable[[], Awaitable[bytes]],
    *,
    is_ready: Callable[[], Awaitable[bool]],
) -> AsyncIterator[None]:
    """Serve /metrics, /livez and /readyz while the body runs; nothing if `listen` is empty.

    It runs on the process's own loop, so that an answer says that the loop turns.

    Args:
        listen: host:port or unix:/path.
        exposed: Returns the metrics, as text.
        is_ready: Says whether calls can be decided.

    Raises:
        AddressError: The address is unusable.
    """
    if not listen:
        yield
        return
    address = parse_address(listen)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, ValueError):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _page(head, exposed, is_ready))
                await writer.drain()
        writer.close()

    try:
        listener = bound_socket(address)  # It listens when it is served.
        if isinstance(address, UnixAddress):
            server = await asyncio.start_unix_server(answer, sock=listener, limit=REQUEST_BYTES_MAX)
        else:
            server = await asyncio.start_server(answer, sock=listener, limit=REQUEST_BYTES_MAX)
    except AddressError as error:
        text = str(error).replace("AFORO_AUTHZ_LISTEN", "AFORO_AUTHZ_METRICS_LISTEN")
        raise AddressError(text) from error
    async with server:
        yield


async def _page(
    head: bytes,
    exposed: Callable[[], Awaitable[bytes]],
    is_ready: Callable[[], Awaitable[bool]],
) -> bytes:
    path = head.split(b" ", 2)[1].partition(b"?")[0] if head.count(b" ") > 1 else b""
    status, kind, body = "404 Not Found", "text/plain", b"try /livez, /readyz or /metrics\n"
    if path == b"/metrics":
        status, kind, body = "200 OK", CONTENT_TYPE_LATEST, await exposed()
    elif path == b"/livez" or (path == b"/readyz" and await is_ready()):
        status, body = "200 OK", b"ok\n"
    elif path == b"/readyz":
        status, body = "503 Service Unavailable", b"not ready\n"
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        f"date: {email.utils.formatdate(usegmt=True)}\r\nconnection: close\r\n\r\n"
    ).encode() + body
