"""One connection on which bytes are sent as they are told, and what came of them."""

import contextlib
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from hpack import Decoder

from tests.contract.http2_server import ECHO, Http2Process
from tests.http2_frames import (
    ACK,
    DATA,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    Frame,
    frames_of,
    grpc_call,
    grpc_message,
    ping,
    settings,
)

PROBE = b"are you?"
LAST_STREAM = 1_000_001  # Above those that any case uses.
SEND_BYTES = 65_536


@dataclass
class Seen:
    """What a server sent."""

    ended: bool = False  # The connection is closed.
    goaways: list[int] = field(default_factory=list)  # Error codes.
    resets: dict[int, int] = field(default_factory=dict)  # Error codes, by stream.
    headers: dict[int, dict[str, str]] = field(default_factory=dict)  # Trailers too.
    bodies: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, received: bytes, *, ended: bool) -> Self:
        seen, decoder = cls(ended=ended), Decoder()
        for frame in frames_of(received):
            seen._take_in(frame, decoder)
        return seen

    def _take_in(self, frame: Frame, decoder: Decoder) -> None:
        if frame.kind == GOAWAY:
            self.goaways.append(int.from_bytes(frame.payload[4:8]))
        elif frame.kind == RST_STREAM:
            self.resets[frame.stream] = int.from_bytes(frame.payload)
        elif frame.kind == HEADERS:
            fields = {str(name): str(value) for name, value in decoder.decode(frame.payload)}
            self.headers[frame.stream] = self.headers.get(frame.stream, {}) | fields
        elif frame.kind == DATA:
            self.bodies[frame.stream] = self.bodies.get(frame.stream, b"") + frame.payload

    def outcome(self, stream: int) -> str:
        """Say in a word how a stream stands."""
        told = self.headers.get(stream, {})
        if stream in self.resets:
            return f"reset {self.resets[stream]}"
        if told.get(":status", "200") != "200":
            return f"HTTP {told[':status']}"
        if "grpc-status" in told:
            return "answered" if told["grpc-status"] == "0" else f"gRPC {told['grpc-status']}"
        return "nothing"


def after(
    server: Http2Process, sent: bytes, *, then: bytes = b"", greet: bool = True, pieces: int = 1
) -> Seen:
    """Send bytes; return what came until the server closed, or had dealt with all of them.

    `then` is sent when what came before it is dealt with.

    An acknowledged ping shows that what was sent before it was read, a second one that the answers
    are out: acknowledgements overtake other frames. A call on the same connection comes last.
    """
    sent = (PREFACE + settings() if greet else b"") + sent + ping(PROBE)
    received = b""
    heard, last = ping(PROBE, flags=ACK), grpc_message(b"last")
    with server.connect() as connection:
        _send(connection, sent, pieces)
        for awaited, times, next_sent in (
            (heard, 1, then + ping(PROBE)),
            (heard, 2, grpc_call(LAST_STREAM, ECHO, b"last")),
            (last, 1, b""),
        ):
            while received.count(awaited) < times:
                part = _received(connection)
                if not part:
                    return Seen.of(received, ended=True)
                received += part
            _send(connection, next_sent)
    return Seen.of(received, ended=False)


def _send(connection: socket.socket, sent: bytes, pieces: int = 1) -> None:
    size = max(1, -(-len(sent) // pieces))
    with contextlib.suppress(ConnectionError):  # What it said before it hung up is still read.
        for at in range(0, len(sent), size):
            connection.sendall(sent[at : at + size])


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except ConnectionError:
        return b""


def flood(
    server: Http2Process, setup: bytes, parts: Iterable[bytes], *, reads: bool = True
) -> Seen:
    """Send parts as fast as the server takes them, until it hangs up or there are no more.

    What it says is read all the while, or only when it has hung up.
    """
    received, waiting = bytearray(), bytearray(PREFACE + settings() + setup)
    ended = False
    source = iter(parts)
    with server.connect() as connection:
        connection.setblocking(False)  # noqa: FBT003 - the library's
        while not ended:
            while len(waiting) < SEND_BYTES and (part := next(source, b"")):
                waiting += part
            if not waiting:
                break
            readable, writable, _ = select.select(
                [connection] if reads else [], [connection], [], 20.0
            )
            assert readable or writable, "the server neither reads nor hangs up"
            if readable:
                part = _received(connection)
                received += part
                ended = not part
            if writable and not ended:
                try:
                    del waiting[: connection.send(waiting[:SEND_BYTES])]
                except ConnectionError:
                    reads = True  # It has hung up; what it said before that is still here.

    return Seen.of(bytes(received), ended=ended)
