"""HTTP/2 as bytes, right or wrong: frames and header blocks as they are told, nothing checked."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_BYTES = 9
FRAME_BYTES_MAX = 16_384  # What both sides agree on where nobody says anything else.
WINDOW_BYTES_MAX = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE = range(6)
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(6, 10)
END_STREAM, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x4, 0x8, 0x20
ACK = 0x1
# Identifiers of settings.
HEADER_TABLE_SIZE, ENABLE_PUSH, STREAMS_MAX, INITIAL_WINDOW, FRAME_SIZE, LIST_SIZE = range(1, 7)
# Error codes, RFC 9113, section 7.
NO_ERROR, PROTOCOL, INTERNAL, FLOW_CONTROL, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED, CANCEL, COMPRESSION, CONNECT, CALM = range(6, 12)

Fields = Iterable[tuple[str, str]]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    def to_bytes(self) -> bytes:
        return frame(self.kind, self.flags, self.stream, self.payload)


def frame(
    kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int | None = None
) -> bytes:
    """Return a frame; with `length`, one that lies about its own."""
    told = len(payload) if length is None else length
    return b"".join(
        (told.to_bytes(3), bytes((kind, flags)), (stream & 0xFFFFFFFF).to_bytes(4), payload)
    )


def frames_of(data: bytes) -> Iterator[Frame]:
    """Read whole frames; what is left over at the end is not told."""
    at = 0
    while len(data) - at >= FRAME_HEADER_BYTES:
        end = at + FRAME_HEADER_BYTES + int.from_bytes(data[at : at + 3])
        if end > len(data):
            return
        stream = int.from_bytes(data[at + 5 : at + 9]) & 0x7FFFFFFF
        yield Frame(data[at + 3], data[at + 4], stream, data[at + FRAME_HEADER_BYTES : end])
        at = end


def settings(*pairs: tuple[int, int], flags: int = 0) -> bytes:
    payload = b"".join(key.to_bytes(2) + value.to_bytes(4) for key, value in pairs)
    return frame(SETTINGS, flags, 0, payload)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4))


def rst_stream(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4))


def priority(stream: int, depends_on: int, weight: int = 15) -> bytes:
    return frame(PRIORITY, 0, stream, depends_on.to_bytes(4) + bytes((weight,)))


def ping(opaque: bytes = bytes(8), *, flags: int = 0) -> bytes:
    return frame(PING, flags, 0, opaque)


def goaway(last_stream: int = 0, code: int = NO_ERROR, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4) + code.to_bytes(4) + text)


def headers(
    stream: int, fields: Fields | bytes, *, flags: int = END_HEADERS, before: bytes = b""
) -> bytes:
    """Return HEADERS; `before` is what padding and priority put in front of the block."""
    block = fields if isinstance(fields, bytes) else encoded(fields)
    return frame(HEADERS, flags, stream, before + block)


def continuation(stream: int, block: bytes, *, flags: int = 0) -> bytes:
    return frame(CONTINUATION, flags, stream, block)


def data(stream: int, payload: bytes = b"", *, flags: int = END_STREAM) -> bytes:
    return frame(DATA, flags, stream, payload)


def encoded(fields: Fields, *, indexed: bool = False) -> bytes:
    """Encode fields as literals, without Huffman: any bytes, and nobody's state is needed.

    With `indexed` they go into the receiver's dynamic table.
    """
    start = b"\x40" if indexed else b"\x00"
    return b"".join(
        start + hpack_text(name.encode("latin-1")) + hpack_text(value.encode("latin-1"))
        for name, value in fields
    )


def hpack_text(text: bytes) -> bytes:
    return hpack_integer(len(text), 7) + text


def hpack_integer(value: int, bits: int, start: int = 0) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes((start | value,))
    coded = bytearray((start | most,))
    value -= most
    while value > 0x7F:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def grpc_fields(path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "aforo"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),  # codespell:ignore te
        *more,
    ]


def grpc_message(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4) + message


def grpc_call(stream: int, path: str, message: bytes = b"", *more: tuple[str, str]) -> bytes:
    return headers(stream, grpc_fields(path, *more)) + data(stream, grpc_message(message))
