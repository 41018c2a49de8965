"""Clients that send what no library would: HTTP/1.1 as bytes, HTTP/2 with any header."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from hpack import Encoder
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame

from aforo_authz.server import TcpAddress
from tests.contract.http2_client import Answer as StreamAnswer
from tests.contract.http2_client import Http2Client

STREAM_ID = 1
FRAME_BYTES_MAX = 16_384  # As long as nobody agreed on more.
Line = tuple[bytes, bytes]  # A header's name and value, as they stand on the wire.


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: no status if the connection or the stream was ended instead."""

    status: int | None
    headers: dict[str, str] = field(default_factory=dict)


async def http1(
    port: int, path: bytes, lines: Sequence[Line], *, method: bytes = b"GET", host: bytes = b"a"
) -> Answer:
    """Send one request and read the head of its answer."""
    head = [method + b" " + path + b" HTTP/1.1", b"host: " + host]
    head += [name + b": " + value for name, value in lines]
    if not any(name.lower() == b"connection" for name, _ in lines):
        head.append(b"connection: close")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\r\n".join([*head, b"", b""]))
    try:
        received = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(status=None)
    finally:
        writer.close()
    first, *rest = received.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in rest)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Answer(status=int(first.split(" ")[1]), headers=headers)


async def http2(
    port: int, path: bytes, lines: Sequence[Line], *, method: bytes = b"GET", host: bytes = b"a"
) -> Answer:
    """Send one request on a connection of its own, and read the head of its answer."""
    client = await Http2Client.connect(TcpAddress("127.0.0.1", port))
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", host)]
    client.answers[STREAM_ID] = answer = StreamAnswer()
    # Without Huffman's code, which would make odd bytes three times as long.
    client.send(*_headers(Encoder().encode([*pseudo, *lines], huffman=False)))
    try:
        while not (answer.headers or STREAM_ID in client.ended) and await client.read_frame():
            pass  # The head says it all, and no body shall wait for us to make room for it.
    finally:
        await client.close()
    status = answer.headers.get(":status")
    return Answer(status=int(status) if status else None, headers=answer.headers)


def _headers(block: bytes) -> list[Frame]:
    pieces = [block[at : at + FRAME_BYTES_MAX] for at in range(0, len(block), FRAME_BYTES_MAX)]
    frames: list[Frame] = [
        HeadersFrame(STREAM_ID, data=pieces[0], flags=["END_STREAM"]),
        *(ContinuationFrame(STREAM_ID, data=piece) for piece in pieces[1:]),
    ]
    frames[-1].flags.add("END_HEADERS")
    return frames


CLIENTS = {"http1": http1, "http2": http2}
