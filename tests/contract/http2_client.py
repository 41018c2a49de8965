"""A client that speaks HTTP/2 frame by frame, rightly or wrongly, and nothing by itself.

Built on hyperframe and hpack: another implementation than the server's.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from aforo_authz.server import Address, UnixAddress
from lab.servers import HANG_S

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_BYTES = 9

Headers = Sequence[tuple[str, str]]


@dataclass
class Answer:
    """What one stream received until it ended."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None  # The error code of RST_STREAM.

    @property
    def message(self) -> bytes:
        """The one gRPC message, without its prefix."""
        assert self.body[:1] == b"\0"
        assert int.from_bytes(self.body[1:5]) == len(self.body) - 5
        return self.body[5:]

    @property
    def grpc_status(self) -> int:
        return int(self.headers["grpc-status"])


def grpc_headers(path: str, *more: tuple[str, str]) -> Headers:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "aforo"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),  # codespell:ignore te
        *more,
    ]


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(message).to_bytes(4) + message


class Http2Client:
    """One connection. Frames go out as they are told; what comes in is kept by stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._next_stream_id = 1
        self.answers: dict[int, Answer] = {}
        self.ended: set[int] = set()
        self.goaways: list[GoAwayFrame] = []
        self.settings: dict[int, int] = {}
        self.pongs = 0
        self.closed = False

    @classmethod
    async def connect(cls, address: Address, *, preface: bytes = PREFACE) -> Self:
        if isinstance(address, UnixAddress):
            reader, writer = await asyncio.open_unix_connection(str(address.path))
        else:
            reader, writer = await asyncio.open_connection(address.host, address.port)
        client = cls(reader, writer)
        client.send(preface)
        if preface == PREFACE:
            client.send(SettingsFrame(0))
        return client

    def send(self, *parts: Frame | bytes) -> None:
        """Write everything at once: it arrives together."""
        self._writer.write(b"".join(p if isinstance(p, bytes) else p.serialize() for p in parts))

    @property
    def unsent_bytes(self) -> int:
        """What the server's side has not taken yet, and is kept here."""
        return self._writer.transport.get_write_buffer_size()

    def headers_frame(
        self, headers: Headers, *, stream_id: int | None = None, end_stream: bool = False
    ) -> HeadersFrame:
        if stream_id is None:
            stream_id = self._next_stream_id
            self._next_stream_id += 2
            self.answers[stream_id] = Answer()
        frame = HeadersFrame(stream_id, data=self._encoder.encode(headers), flags=["END_HEADERS"])
        if end_stream:
            frame.flags.add("END_STREAM")
        return frame

    def request(self, path: str, body: bytes, *more: tuple[str, str]) -> tuple[int, Frame, Frame]:
        headers = self.headers_frame(grpc_headers(path, *more))
        return (
            headers.stream_id,
            headers,
            DataFrame(headers.stream_id, data=body, flags=["END_STREAM"]),
        )

    def begin(self, path: str, message: bytes = b"", *more: tuple[str, str]) -> int:
        stream_id, *frames = self.request(path, framed(message), *more)
        self.send(*frames)
        return stream_id

    async def call(self, path: str, message: bytes = b"", *more: tuple[str, str]) -> Answer:
        return await self.answer(self.begin(path, message, *more))

    async def answer(self, stream_id: int) -> Answer:
        """Read until the stream has ended."""
        async with asyncio.timeout(HANG_S):
            while stream_id not in self.ended:
                assert await self.read_frame(), f"closed before stream {stream_id} was answered"
        return self.answers[stream_id]

    async def read_to_the_end(self) -> None:
        """Read until the server closes the connection."""
        async with asyncio.timeout(HANG_S):
            while await self.read_frame():
                pass

    async def read_frame(self) -> bool:
        """Take in one frame; False at the end of the connection."""
        try:
            head = await self._reader.readexactly(FRAME_HEADER_BYTES)
            frame, length = Frame.parse_frame_header(memoryview(head))
            frame.parse_body(memoryview(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed = True
            return False
        self._take_in(frame)
        return True

    def _take_in(self, frame: Frame) -> None:
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.settings |= frame.settings
            self.send(SettingsFrame(0, flags=["ACK"]))
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append(frame)
        elif isinstance(frame, PingFrame) and "ACK" in frame.flags:
            self.pongs += 1
        elif isinstance(frame, PingFrame):
            self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, RstStreamFrame):
            self.answers[frame.stream_id].reset = frame.error_code
            self.ended.add(frame.stream_id)
        elif isinstance(frame, HeadersFrame):
            for name, value in self._decoder.decode(frame.data):
                self.answers[frame.stream_id].headers[str(name)] = str(value)
        elif isinstance(frame, DataFrame):
            self.answers[frame.stream_id].body += frame.data
        if "END_STREAM" in frame.flags:
            self.ended.add(frame.stream_id)

    async def close(self) -> None:
        """Close; what the other side does not take within a moment is dropped."""
        self._writer.close()
        try:
            async with asyncio.timeout(2.0):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except ConnectionError:
            pass
