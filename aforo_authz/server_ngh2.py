"""Unary gRPC over libnghttp2: small, and several times as fast as grpcio's asyncio server.

Owns HTTP/2 streams and gRPC framing; knows nothing of what the methods do.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import cast
from urllib.parse import quote

import structlog
from ngh2 import (
    Configuration,
    Connection,
    ConnectionClosed,
    DataReceived,
    Header,
    NGH2Error,
    RequestReceived,
    Role,
    Setting,
    StreamClosed,
    StreamReset,
    StreamUnavailableError,
    TrailersReceived,
)

from aforo_authz.server import (
    INTERNAL,
    MESSAGE_BYTES_MAX,
    OK,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    Address,
    Methods,
    RpcError,
    TcpAddress,
    UnixAddress,
    bound_socket,
    guarded,
    unlink_socket,
    wait_idle,
)

log = structlog.get_logger(__name__)

CONCURRENT_STREAMS_MAX = 1000
CONFIGURATION = Configuration(
    # Envoy sends up to 60 KiB of the client's headers inside the message, few of its own.
    max_inbound_header_list_size=16_384,
    max_inbound_header_count=128,
    # Envoy resets a stream whenever a check times out: bursts of resets are its good right.
    stream_reset_rate_limit=(10_000, 1_000),
)
SETTINGS = {
    Setting.MAX_CONCURRENT_STREAMS: CONCURRENT_STREAMS_MAX,
    Setting.INITIAL_WINDOW_SIZE: 1 << 20,
    Setting.MAX_HEADER_LIST_SIZE: 16_384,
}
CONNECTION_WINDOW = 16 << 20
WRITE_BUFFER_BYTES_MAX = 8 << 20  # A peer that reads no answers is cut off.
LINGER_S = 5.0  # How long a closed connection may take to send what is queued.

# How long a client may take to learn that it should go: what it sent meanwhile is still served.
NOTICE_S = 0.1

CONTENT_TYPE = b"application/grpc"
HEADERS = ((b":status", b"200"), (b"content-type", CONTENT_TYPE))
TRAILERS_OK = ((b"grpc-status", b"0"),)
NOT_GRPC = ((b":status", b"415"),)
PREFIX_BYTES = 5  # gRPC: one byte "compressed?", four bytes of length.
TIMEOUT_CHARS_MAX = 9  # At most eight digits and a unit.
TIMEOUT_UNITS_S = {b"H": 3600, b"M": 60, b"S": 1, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class _Stream:
    """One call, from its headers to its answer."""

    __slots__ = ("body", "budget_s", "path", "task")

    def __init__(self, path: str, budget_s: float | None) -> None:
        self.path = path
        self.budget_s = budget_s
        self.body = bytearray()
        self.task: asyncio.Task[None] | None = None


class _Http2(asyncio.Protocol):
    """One connection of one client."""

    def __init__(self, server: "Ngh2Server") -> None:
        self._server = server
        self._streams: dict[int, _Stream] = {}
        self._flush_due = False
        self._cut_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        self._http2 = Connection(Role.SERVER, CONFIGURATION)
        self._http2.initiate_connection(SETTINGS)
        self._http2.set_local_window_size(CONNECTION_WINDOW)
        self._server.connections.add(self)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._server.connections.discard(self)
        if self._cut_off is not None:
            self._cut_off.cancel()
        for stream in self._streams.values():
            _cancel(stream)
        self._streams.clear()

    def pause_writing(self) -> None:
        self._transport.abort()
        log.warning("a client reads no answers: connection closed")

    def data_received(self, data: bytes) -> None:
        try:
            self._http2.receive_data(data)
            for event in self._http2.events():
                self._on_event(event)
            self._flush()
        except NGH2Error as error:
            self._break_off(error)

    @property
    def idle(self) -> bool:
        return not self._streams

    def announce_end(self) -> None:
        """Ask the client to begin nothing new. What crosses this notice is still served."""
        if not self._transport.is_closing():
            self._http2.send_shutdown_notice()
            self._flush()

    def go_away(self) -> None:
        """Take nothing new from now on; what has begun is finished."""
        if not self._transport.is_closing():
            self._http2.send_goaway()
            self._flush()

    def close(self) -> None:
        """Close once what is queued has left; who does not take it in time is cut off."""
        if not self._transport.is_closing():
            self._transport.close()
            loop = asyncio.get_running_loop()
            self._cut_off = loop.call_later(LINGER_S, self._transport.abort)

    def _break_off(self, error: NGH2Error) -> None:
        with contextlib.suppress(NGH2Error):
            # What libnghttp2 has queued is the GOAWAY that names the error.
            self._transport.write(self._http2.data_to_send())
        self.close()
        log.warning("a client broke HTTP/2: connection closed", error=str(error))

    def _on_event(self, event: object) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, DataReceived):
            self._collect(event.stream_id, event.data, end=event.end_stream)
        elif isinstance(event, StreamReset | StreamClosed):
            stream = self._streams.pop(event.stream_id, None)
            if stream is not None:
                _cancel(stream)
        elif isinstance(event, TrailersReceived):
            self._collect(event.stream_id, b"", end=True)
        elif isinstance(event, ConnectionClosed):
            self.close()

    def _begin(self, event: RequestReceived) -> None:
        path, kind, budget_s = b"", b"", None
        for name, value in event.headers:
            if name == b":path":
                path = value
            elif name == b"content-type":
                kind = value
            elif name == b"grpc-timeout":
                budget_s = parse_timeout_s(value)
        if not kind.startswith(CONTENT_TYPE):
            self._respond(event.stream_id, NOT_GRPC)
            return
        self._streams[event.stream_id] = _Stream(path.decode("latin-1"), budget_s)
        if event.end_stream:
            self._call(event.stream_id)

    def _collect(self, stream_id: int, data: bytes, *, end: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.task is not None:
            return
        stream.body += data
        if len(stream.body) > MESSAGE_BYTES_MAX + PREFIX_BYTES:
            stream.body.clear()
            self._fail(stream_id, RESOURCE_EXHAUSTED, f"larger than {MESSAGE_BYTES_MAX} bytes")
        elif end:
            self._call(stream_id)

    def _call(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        method = self._server.methods.get(stream.path)
        if method is None:
            self._fail(stream_id, UNIMPLEMENTED, f"no method {stream.path}")
            return
        try:
            answered = method(unframed(stream.body), stream.budget_s)
        except RpcError as error:
            self._fail(stream_id, error.code, error.message)
        else:
            if isinstance(answered, bytes):
                self._succeed(stream_id, answered)
            else:
                stream.task = asyncio.ensure_future(self._answer_later(stream_id, answered))

    async def _answer_later(self, stream_id: int, answered: Awaitable[bytes]) -> None:
        try:
            message = await answered
        except RpcError as error:
            self._fail(stream_id, error.code, error.message)
        else:
            self._succeed(stream_id, message)
        # Answers that become ready in the same turn of the loop leave in one write.
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _succeed(self, stream_id: int, message: bytes) -> None:
        if self._streams.pop(stream_id, None) is not None:
            self._respond(stream_id, HEADERS, b"\0" + len(message).to_bytes(4) + message)

    def _fail(self, stream_id: int, code: int, message: str) -> None:
        assert code != OK
        if self._streams.pop(stream_id, None) is not None:
            status = (b"grpc-status", str(code).encode())
            # gRPC's own percent-encoding: printable ASCII stands for itself, but for the percent.
            words = quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()
            self._respond(stream_id, (*HEADERS, status, (b"grpc-message", words)))

    def _respond(
        self, stream_id: int, headers: tuple[Header, ...], framed: bytes | None = None
    ) -> None:
        http2 = self._http2
        if self._transport.is_closing():
            return
        try:
            http2.send_response(stream_id, headers, end_stream=framed is None)
            if framed is not None:
                http2.send_data(stream_id, framed)
                http2.send_trailers(stream_id, TRAILERS_OK)
        except StreamUnavailableError:
            # The client gave up. Its reset came in the same read, so we have not seen it yet.
            log.debug("an answer came too late", stream=stream_id)

    def _flush(self) -> None:
        self._flush_due = False
        if self._transport.is_closing():
            return
        try:
            data = self._http2.data_to_send()
        except NGH2Error as error:
            self._break_off(error)
            return
        if data:
            self._transport.write(data)
        if not self._http2.want_read and not self._http2.want_write:
            self.close()


def _cancel(stream: _Stream) -> None:
    if stream.task is not None:
        # Not at once: a task that was never begun would leave coroutines that nobody awaits.
        asyncio.get_running_loop().call_soon(stream.task.cancel)


class Ngh2Server:
    """Serves methods over cleartext HTTP/2, on TCP and UNIX sockets."""

    def __init__(self, methods: Methods) -> None:
        self.methods = {path: guarded(method) for path, method in methods.items()}
        self.connections: set[_Http2] = set()
        self._servers: list[asyncio.Server] = []
        self._addresses: list[Address] = []

    async def start(self, addresses: list[Address]) -> list[Address]:
        loop = asyncio.get_running_loop()
        for address in addresses:
            listener = bound_socket(address)
            if isinstance(address, UnixAddress):
                server = await loop.create_unix_server(lambda: _Http2(self), sock=listener)
            else:
                server = await loop.create_server(lambda: _Http2(self), sock=listener)
                address = TcpAddress(address.host, listener.getsockname()[1])  # noqa: PLW2901
            self._servers.append(server)
            self._addresses.append(address)
        return self._addresses

    async def drain(self, grace_s: float) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.announce_end()
        notice_s = min(NOTICE_S, grace_s)
        await asyncio.sleep(notice_s)
        for connection in list(self.connections):
            connection.go_away()
        await wait_idle(lambda: all(c.idle for c in self.connections), grace_s - notice_s)
        for connection in list(self.connections):
            connection.close()
        for address in self._addresses:
            unlink_socket(address)


def unframed(body: bytearray) -> bytes:
    """Return the one message of a unary call.

    Raises:
        RpcError: Not exactly one whole, uncompressed message.
    """
    if len(body) < PREFIX_BYTES:
        raise RpcError(INTERNAL, "a unary call needs one message")
    if body[0] != 0:
        raise RpcError(UNIMPLEMENTED, "compressed messages are not supported")
    if int.from_bytes(body[1:PREFIX_BYTES]) != len(body) - PREFIX_BYTES:
        raise RpcError(INTERNAL, "the message's length is not what its prefix says")
    return bytes(body[PREFIX_BYTES:])


def parse_timeout_s(value: bytes) -> float | None:
    """Parse `grpc-timeout`; what cannot be read is no timeout."""
    if len(value) > TIMEOUT_CHARS_MAX:
        return None
    unit = TIMEOUT_UNITS_S.get(value[-1:])
    digits = value[:-1]
    return int(digits) * unit if unit is not None and digits.isdigit() else None
