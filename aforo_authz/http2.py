"""One HTTP/2 connection that carries unary gRPC: streams, framing, limits.

libnghttp2 does the rest. Knows nothing of what the methods do. A client can break its stream or its
connection, and nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, cast
from urllib.parse import quote

import structlog
from ngh2 import (
    ConnectionClosed,
    ConnectionStateError,
    DataReceived,
    DenialOfServiceError,
    ErrorCode,
    Header,
    NGH2Error,
    PingAcknowledged,
    RequestReceived,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    StreamUnavailableError,
    TrailersReceived,
)

from aforo_authz import http2_limits
from aforo_authz.answers import LastAnswers
from aforo_authz.grpc_framing import PREFIX_BYTES, framed, parse_timeout_s, unframed
from aforo_authz.limits import Limits
from aforo_authz.server import (
    OK,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    Method,
    RpcError,
)

log = structlog.get_logger(__name__)

WRITE_BUFFER_BYTES_MAX = 8 << 20  # A peer that reads no answers is cut off.
LINGER_S = 5.0  # How long a closed connection may take to send what is queued.
# An error code makes it whole. For all that it says, any stream may have been processed.
GOAWAY = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff"
# How long a client may take to say that it knows: what it sent meanwhile is still served.
NOTICE_S_MAX = 1.0

CONTENT_TYPE = b"application/grpc"
HEADERS = ((b":status", b"200"), (b"content-type", CONTENT_TYPE))
TRAILERS_OK = ((b"grpc-status", b"0"),)
NOT_GRPC = ((b":status", b"415"),)


class Owner(Protocol):
    """The server that a connection belongs to."""

    methods: Mapping[bytes, Method]  # By path.
    limits: Limits
    connections: "set[Http2Connection]"
    now_s: float  # The loop's time, as of the last second: exact enough for limits in seconds.
    refused: Callable[[str], None]  # Counts what goes beyond a limit, by kind.
    unheard: Callable[[bytes], None]  # Told of each answer whose caller had left.
    closed: Callable[[], None]  # Told of each connection's end.
    draining: bool  # Are connections that are made now asked to begin nothing?


class _Stream:
    """One call, from its headers to its answer."""

    __slots__ = ("began_s", "body", "budget_s", "buffered_bytes", "path", "task")

    def __init__(self, path: bytes, budget_s: float | None, began_s: float) -> None:
        self.path = path
        self.budget_s = budget_s
        self.began_s = began_s
        self.body: bytes | bytearray = b""
        self.buffered_bytes = 0
        self.task: asyncio.Task[None] | None = None


class Http2Connection(asyncio.Protocol):
    """One connection of one client."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._streams: dict[int, _Stream] = {}
        self._answers = LastAnswers(owner.limits.streams_max)
        self._buffered_bytes = 0
        self._control_frames = 0  # In this second.
        self._flush_due = False
        self._greeted = False  # Has the client sent its SETTINGS?
        self._retiring = False
        self._informed = False  # Does the client know that it should begin nothing new?
        self._made_s = self._heard_s = owner.now_s
        self._cut_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        limits = self._owner.limits
        self._http2 = http2_limits.begin(limits)
        self._crowded = len(self._owner.connections) >= limits.connections_max
        self._owner.connections.add(self)
        if self._owner.draining:
            # It was waiting to be accepted when we stopped: its first calls are served.
            self.announce_end()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._owner.connections.discard(self)
        self._owner.closed()
        if self._cut_off is not None:
            self._cut_off.cancel()
        for stream in self._streams.values():
            _cancel(stream)
        self._streams.clear()

    def pause_writing(self) -> None:
        self._transport.abort()
        self._owner.refused("unread_answers")
        log.warning("a client reads no answers: connection closed")

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._owner.now_s
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

    @property
    def informed(self) -> bool:
        """Has all arrived that the client began before it knew of the end?"""
        return self._informed or self._transport.is_closing()

    def sweep(self) -> None:
        """End what takes too long: a handshake, a message, a silence. Called once a second."""
        self._answers.age()
        if self._transport.is_closing():
            return
        now_s, limits = self._owner.now_s, self._owner.limits
        self._control_frames = 0
        if not self._greeted and (self._crowded or now_s - self._made_s > limits.handshake_s_max):
            self._refuse("connections" if self._crowded else "handshake_time")
            self._flush()
            return
        for stream_id, stream in list(self._streams.items()):
            if stream.task is None and now_s - stream.began_s > limits.request_s_max:
                self._cut_short(stream_id, "request_time")
        if self.idle and now_s - self._heard_s > limits.idle_s_max:
            if self._retiring:
                # libnghttp2 waits for the rest of what the client began and left: half a header
                # block, a body that nobody reads, a window that stays shut.
                self.close()
            else:
                self._retire()
        self._flush()

    def announce_end(self) -> None:
        """Ask the client to begin nothing new. What crosses this notice is still served.

        A ping goes with it: with its answer, all that the client began before has arrived.
        """
        if not self._transport.is_closing():
            self._http2.send_shutdown_notice()
            self._http2.ping()
            self._flush()

    def go_away(self) -> None:
        """Take nothing new from now on; what has begun is finished."""
        if not self._transport.is_closing():
            self._http2.send_goaway()
            self._flush()

    def close(self) -> None:
        """Close once what is queued has left; who does not take it in time is cut off."""
        if self._flush_due:  # Answers that were made in this turn of the loop.
            self._flush()
        if not self._transport.is_closing():
            self._transport.close()
            loop = asyncio.get_running_loop()
            self._cut_off = loop.call_later(LINGER_S, self._transport.abort)

    def _retire(self) -> None:
        """Close a silent connection, so that a call that crosses the notice is still served."""
        self._retiring = True
        self._owner.refused("idle")
        self.announce_end()
        asyncio.get_running_loop().call_later(NOTICE_S_MAX, self.go_away)

    def _cut_short(self, stream_id: int, kind: str) -> None:
        """End a call whose message is not complete, and all that libnghttp2 keeps of it."""
        self._owner.refused(kind)
        self._take(stream_id)
        self._http2.reset_stream(stream_id, ErrorCode.ENHANCE_YOUR_CALM)

    def _refuse(self, kind: str) -> None:
        self._owner.refused(kind)
        self._http2.terminate_connection(ErrorCode.ENHANCE_YOUR_CALM)

    def _break_off(self, error: NGH2Error) -> None:
        # An error that is raised leaves libnghttp2 without a voice, at the end of a whole frame.
        costly = isinstance(error, DenialOfServiceError)
        code = ErrorCode.ENHANCE_YOUR_CALM if costly else ErrorCode.PROTOCOL_ERROR
        self._transport.write(GOAWAY + code.to_bytes(4))
        self._flush_due = False  # It is the last word.
        self.close()
        self._owner.refused("broken_http2")
        log.warning("a client broke HTTP/2: connection closed", error=str(error))

    def _on_event(self, event: object) -> None:
        kind = type(event)  # None has subclasses: this is cheaper than isinstance.
        if kind is RequestReceived:
            self._begin(cast("RequestReceived", event))
        elif kind is DataReceived:
            data = cast("DataReceived", event)
            self._collect(data.stream_id, data.data, end=data.end_stream)
        elif kind is StreamClosed:
            self._forget(cast("StreamClosed", event).stream_id)
        elif kind is StreamReset:
            self._leave(cast("StreamReset", event).stream_id)
        elif kind is TrailersReceived:
            self._collect(cast("TrailersReceived", event).stream_id, b"", end=True)
        elif kind is ConnectionClosed:
            self.close()
        else:
            self._on_control(kind)

    def _on_control(self, kind: type) -> None:
        """Take note of what is no part of a call: settings, pings, windows."""
        if kind is SettingsReceived:
            if self._crowded and not self._greeted:
                # Not before it has spoken: what arrives at a closed socket takes our word along.
                self._refuse("connections")
            self._greeted = True
        elif kind is PingAcknowledged:
            self._informed = True  # We ping for nothing else.
        self._control_frames += 1
        if self._control_frames == self._owner.limits.control_frames_per_s_max + 1:
            self._refuse("control_frames")

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
        self._streams[event.stream_id] = _Stream(path, budget_s, self._owner.now_s)
        if event.end_stream:
            self._call(event.stream_id)

    def _collect(self, stream_id: int, data: bytes, *, end: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.task is not None:
            return
        if not stream.body:
            stream.body = data  # As a rule all of it comes in one piece.
        else:
            stream.body = bytearray(stream.body) if type(stream.body) is bytes else stream.body
            stream.body += data
        limits = self._owner.limits
        if len(stream.body) > limits.message_bytes_max + PREFIX_BYTES:
            self._owner.refused("message_bytes")
            what = f"larger than {limits.message_bytes_max} bytes"
            self._fail(stream_id, RESOURCE_EXHAUSTED, what)
        elif end:
            self._call(stream_id)
        else:
            stream.buffered_bytes += len(data)
            self._buffered_bytes += len(data)
            if self._buffered_bytes > limits.buffered_bytes_max:
                self._cut_short(stream_id, "buffered_bytes")

    def _call(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        method = self._owner.methods.get(stream.path)
        if method is None:
            self._fail(stream_id, UNIMPLEMENTED, f"no method {stream.path.decode('latin-1')}")
            return
        try:
            answered = method(unframed(stream.body), stream.budget_s)
        except RpcError as error:
            self._fail(stream_id, error.code, error.message)
        else:
            if isinstance(answered, bytes):
                self._succeed(stream_id, answered)
            else:
                work = self._answer_later(stream_id, answered)
                stream.task = asyncio.get_running_loop().create_task(work)

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
        waits = self._take(stream_id) is not None
        if waits and self._respond(stream_id, HEADERS, framed(message)):
            self._answers.keep(stream_id, message)
        else:
            self._owner.unheard(message)

    def _fail(self, stream_id: int, code: int, message: str) -> None:
        assert code != OK
        if self._take(stream_id) is not None:
            status = (b"grpc-status", str(code).encode())
            # gRPC's own percent-encoding: printable ASCII stands for itself, but for the percent.
            words = quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()
            self._respond(stream_id, (*HEADERS, status, (b"grpc-message", words)))

    def _take(self, stream_id: int) -> _Stream | None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._buffered_bytes -= stream.buffered_bytes
        return stream

    def _forget(self, stream_id: int) -> None:
        stream = self._take(stream_id)
        if stream is not None:
            _cancel(stream)

    def _leave(self, stream_id: int) -> None:
        """Forget a call that its caller gave up; our answer, if there is one, crossed his word."""
        self._forget(stream_id)
        answer = self._answers.take(stream_id)
        if answer is not None:
            self._owner.unheard(answer)

    def _respond(
        self, stream_id: int, headers: tuple[Header, ...], framed: bytes | None = None
    ) -> bool:
        """Answer; False if that came too late."""
        http2 = self._http2
        if self._transport.is_closing():
            return False
        try:
            http2.send_response(stream_id, headers, end_stream=framed is None)
            if framed is not None:
                http2.send_data(stream_id, framed)
                http2.send_trailers(stream_id, TRAILERS_OK)
        except (StreamUnavailableError, ConnectionStateError):
            # The client gave up, or left. Its reset, or its GOAWAY, came in the same read, so we
            # have not seen it yet.
            log.debug("an answer came too late", stream=stream_id)
            return False
        return True

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
