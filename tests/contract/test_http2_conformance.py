"""What RFC 9113 asks of a server, section by section, as bytes on a socket.

In the manner of the h2spec suite. Where the RFC lets a server choose between an error of the stream
and one of the connection (5.4), or libnghttp2 does otherwise than it says, the row says so.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.contract.http2_server import ECHO, HANG, Http2Process
from tests.contract.raw_http2 import LAST_STREAM, after
from tests.http2_frames import (
    ACK,
    COMPRESSION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL,
    FRAME_BYTES_MAX,
    FRAME_SIZE,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PROTOCOL,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    STREAMS_MAX,
    WINDOW_BYTES_MAX,
    WINDOW_UPDATE,
    continuation,
    data,
    encoded,
    frame,
    goaway,
    grpc_call,
    grpc_fields,
    grpc_message,
    headers,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)

pytestmark = pytest.mark.contract

ANSWERED, IGNORED, UNSUPPORTED, NOT_UNARY = "answered", "nothing", "HTTP 415", "gRPC 13"
BLOCK = encoded(grpc_fields(ECHO))
OPEN = headers(1, BLOCK)
WHOLE = grpc_message(b"x")
WIDE = settings((INITIAL_WINDOW, 65_535))
CALL, HANGING = grpc_call(1, ECHO, b"x"), grpc_call(1, HANG)


def gone(code: int) -> str:
    """The connection ends, and GOAWAY says why."""
    return f"gone {code}"


def reset(code: int) -> str:
    """The stream ends, and RST_STREAM says why."""
    return f"reset {code}"


class Case(NamedTuple):
    section: str
    what: str
    sent: bytes
    end: str  # Of stream 1, or of the connection.
    greet: bool = True  # With preface and SETTINGS before it.
    then: bytes = b""  # Sent when the answers are out.

    def __str__(self) -> str:
        return f"{self.section} {self.what}"


def unary(*more: tuple[str, str], without: str = "", first: tuple[str, str] | None = None) -> bytes:
    """Return a call with fields added, left out, or put in front."""
    fields = [each for each in grpc_fields(ECHO) if each[0] != without]
    return headers(1, [*([first] if first else []), *fields, *more]) + data(1, WHOLE)


def changed(name: str, value: str) -> bytes:
    """Return a call with one of its fields saying something else, where it stood."""
    fields = [(n, value if n == name else v) for n, v in grpc_fields(ECHO)]
    return headers(1, fields) + data(1, WHOLE)


def block(added: bytes, *, before: bool = False) -> bytes:
    """Return a call with bytes added to its header block."""
    return headers(1, added + BLOCK if before else BLOCK + added) + data(1, WHOLE)


CONNECTION = [
    Case("3.4", "HTTP/1.1 instead of the preface", b"GET / HTTP/1.1\r\n\r\n" + bytes(30),
         gone(PROTOCOL), greet=False),
    Case("3.4", "a preface with one byte wrong", PREFACE[:-1] + b"X" + settings(),
         gone(PROTOCOL), greet=False),
    Case("3.4", "no SETTINGS after the preface", PREFACE + ping(), gone(PROTOCOL), greet=False),
    Case("3.4", "an acknowledgement as the first SETTINGS", PREFACE + settings(flags=ACK),
         gone(PROTOCOL), greet=False),
    Case("4.1", "a frame of an unknown type", frame(0xFE, 0xFF, 1, b"abc") + CALL, ANSWERED),
    Case("4.1", "undefined flags", frame(PING, 0x16, 0, bytes(8)) + CALL, ANSWERED),
    Case("4.1", "the reserved bit", ping() + window_update(1 << 31, 1) + CALL, ANSWERED),
    Case("4.2", "DATA of the greatest size",
         settings(flags=ACK) + OPEN + data(1, grpc_message(bytes(FRAME_BYTES_MAX - 5))), ANSWERED),
    Case("4.2", "DATA over the size", OPEN + data(1, bytes(FRAME_BYTES_MAX + 1)),
         gone(FRAME_SIZE_ERROR)),
    Case("4.2", "HEADERS over the size", headers(1, bytes(FRAME_BYTES_MAX + 1)),
         gone(FRAME_SIZE_ERROR)),
    Case("4.2", "SETTINGS over the size", frame(SETTINGS, 0, 0, bytes(FRAME_BYTES_MAX + 2)),
         gone(FRAME_SIZE_ERROR)),
    Case("4.2", "a length of 16 MiB", frame(DATA, 0, 1, b"", length=(1 << 24) - 1),
         gone(FRAME_SIZE_ERROR)),
    Case("4.3", "a header block that is no HPACK", headers(1, b"\x82\x86" + b"\xff" * 9),
         gone(COMPRESSION)),
    Case("4.3", "a PING inside a header block", headers(1, BLOCK, flags=0) + ping(),
         gone(PROTOCOL)),
    Case("4.3", "HEADERS inside a header block",
         headers(1, BLOCK, flags=0) + headers(3, BLOCK), gone(PROTOCOL)),
    Case("4.3", "CONTINUATION of another stream",
         headers(1, BLOCK, flags=0) + continuation(3, b"", flags=END_HEADERS), gone(PROTOCOL)),
    Case("4.3", "an unknown frame inside a header block",
         headers(1, BLOCK, flags=0) + frame(0x30, 0, 1), gone(PROTOCOL)),
]  # fmt: skip
STREAMS = [
    Case("5.1", "DATA on an idle stream", data(1, WHOLE), gone(PROTOCOL)),
    Case("5.1", "RST_STREAM on an idle stream", rst_stream(1), gone(PROTOCOL)),
    Case("5.1", "WINDOW_UPDATE on an idle stream", window_update(1, 5), gone(PROTOCOL)),
    Case("5.1", "CONTINUATION on an idle stream", continuation(1, b""), gone(PROTOCOL)),
    Case("5.1", "PRIORITY on an idle stream", priority(1, 0) + CALL, ANSWERED),
    # RFC: the next two are errors of the stream, here of the connection (5.4.1).
    Case("5.1", "DATA after END_STREAM", HANGING + data(1, b"x"), gone(STREAM_CLOSED)),
    Case("5.1", "HEADERS after END_STREAM", HANGING + headers(1, BLOCK), gone(STREAM_CLOSED)),
    # RFC: an error of the connection. libnghttp2 has forgotten the stream, and drops what comes.
    Case("5.1", "DATA after the answer", CALL, ANSWERED, then=data(1, b"x")),
    Case("5.1", "HEADERS after the answer", CALL, ANSWERED, then=headers(1, BLOCK)),
    Case("5.1", "CONTINUATION after END_STREAM", HANGING + continuation(1, b"x"), gone(PROTOCOL)),
    # What crosses a reset of ours must be borne, and libnghttp2 bears it after the client's too.
    Case("5.1", "DATA after RST_STREAM", HANGING + rst_stream(1) + data(1, b"x"), IGNORED),
    Case("5.1", "HEADERS after RST_STREAM", HANGING + rst_stream(1) + headers(1, BLOCK), IGNORED),
    Case("5.1", "WINDOW_UPDATE after the answer", CALL, ANSWERED, then=window_update(1, 5)),
    Case("5.1", "RST_STREAM after the answer", CALL, ANSWERED, then=rst_stream(1)),
    Case("5.1", "RST_STREAM twice", HANGING + rst_stream(1) * 2, IGNORED),
    Case("5.1.1", "a stream of even number", grpc_call(2, ECHO), gone(PROTOCOL)),
    Case("5.1.1", "stream 0 for a call", grpc_call(0, ECHO), gone(PROTOCOL)),
    # The RFC asks for an error of the connection; libnghttp2 takes the stream for one long closed.
    Case("5.1.1", "a number below the last one", grpc_call(5, ECHO) + CALL, IGNORED),
    Case("5.3.2", "HEADERS with a priority",
         headers(1, BLOCK, flags=END_HEADERS | PRIORITISED, before=b"\0\0\0\3\1") + data(1, WHOLE),
         ANSWERED),
    Case("5.3.2", "HEADERS that depend on themselves",
         headers(1, BLOCK, flags=END_HEADERS | PRIORITISED, before=b"\0\0\0\1\1"), gone(PROTOCOL)),
    # Priorities are of no more use since RFC 9113: libnghttp2 does not look into them.
    Case("5.3.2", "PRIORITY that depends on itself", priority(1, 1) + CALL, ANSWERED),
    Case("5.5", "an unknown setting", settings((0xAA, 1)) + CALL, ANSWERED),
]  # fmt: skip
FRAMES = [
    Case("6.1", "DATA on stream 0", data(0, b"x"), gone(PROTOCOL)),
    Case("6.1", "DATA with padding",
         OPEN + data(1, b"\x03" + WHOLE + bytes(3), flags=END_STREAM | PADDED), ANSWERED),
    Case("6.1", "padding as long as DATA", OPEN + data(1, b"\x04abcd", flags=PADDED), IGNORED),
    Case("6.1", "padding longer than DATA", OPEN + data(1, b"\x05abcd", flags=PADDED),
         gone(PROTOCOL)),
    # By 4.2 its size is wrong; libnghttp2 names the padding.
    Case("6.1", "padding without its length", OPEN + data(1, b"", flags=PADDED), gone(PROTOCOL)),
    Case("6.2", "HEADERS with padding",
         headers(1, BLOCK + bytes(3), flags=END_HEADERS | PADDED, before=b"\x03") + data(1, WHOLE),
         ANSWERED),
    Case("6.2", "padding longer than HEADERS",
         headers(1, b"abc", flags=END_HEADERS | PADDED, before=b"\xff"), gone(PROTOCOL)),
    Case("6.2", "HEADERS too short for their priority",
         frame(HEADERS, END_HEADERS | PRIORITISED, 1, b"\0\0"), gone(FRAME_SIZE_ERROR)),
    # The RFC asks for an error of the connection; libnghttp2 does not look into PRIORITY.
    Case("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)) + CALL, ANSWERED),
    # RFC: an error of the stream, here of the connection (5.4.1).
    Case("6.3", "PRIORITY of four bytes", frame(PRIORITY, 0, 1, bytes(4)), gone(FRAME_SIZE_ERROR)),
    Case("6.4", "RST_STREAM on stream 0", rst_stream(0), gone(PROTOCOL)),
    Case("6.4", "RST_STREAM of three bytes", HANGING + frame(RST_STREAM, 0, 1, bytes(3)),
         gone(FRAME_SIZE_ERROR)),
    Case("6.4", "RST_STREAM with an unknown code", HANGING + rst_stream(1, 0xFFFF), IGNORED),
    Case("6.5", "SETTINGS: an acknowledgement with a payload",
         frame(SETTINGS, ACK, 0, bytes(6)), gone(FRAME_SIZE_ERROR)),
    Case("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1), gone(PROTOCOL)),
    Case("6.5", "SETTINGS of five bytes", frame(SETTINGS, 0, 0, bytes(5)), gone(FRAME_SIZE_ERROR)),
    Case("6.5.2", "ENABLE_PUSH of 2", settings((ENABLE_PUSH, 2)), gone(PROTOCOL)),
    Case("6.5.2", "a window over 2³¹-1", settings((INITIAL_WINDOW, 1 << 31)), gone(FLOW_CONTROL)),
    Case("6.5.2", "a frame size below 2¹⁴", settings((FRAME_SIZE, 16_383)), gone(PROTOCOL)),
    Case("6.5.2", "a frame size of 2²⁴", settings((FRAME_SIZE, 1 << 24)), gone(PROTOCOL)),
    Case("6.5.2", "no streams for us", settings((STREAMS_MAX, 0)) + CALL, ANSWERED),
    Case("6.5.3", "SETTINGS twice in one frame: the last word counts",
         settings((INITIAL_WINDOW, 0), (INITIAL_WINDOW, 100)) + CALL, ANSWERED),
    Case("6.5.3", "an acknowledgement of nothing", settings(flags=ACK) * 2, gone(PROTOCOL)),
    Case("6.6", "PUSH_PROMISE from a client",
         frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + BLOCK), gone(PROTOCOL)),
    Case("6.7", "PING on a stream", frame(PING, 0, 1, bytes(8)), gone(PROTOCOL)),
    Case("6.7", "PING of seven bytes", frame(PING, 0, 0, bytes(7)), gone(FRAME_SIZE_ERROR)),
    Case("6.7", "an acknowledgement of no ping", ping(flags=ACK) + CALL, ANSWERED),
    Case("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), gone(PROTOCOL)),
    Case("6.8", "GOAWAY of seven bytes", frame(GOAWAY, 0, 0, bytes(7)), gone(FRAME_SIZE_ERROR)),
    Case("6.8", "GOAWAY of streams that never were", goaway(3), gone(PROTOCOL)),
    Case("6.9", "WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, bytes(3)),
         gone(FRAME_SIZE_ERROR)),
    Case("6.9", "a connection's WINDOW_UPDATE of 0", window_update(0, 0), gone(PROTOCOL)),
    # RFC: the next three are errors of the stream, here of the connection (5.4.1).
    Case("6.9", "a stream's WINDOW_UPDATE of 0", HANGING + window_update(1, 0), gone(PROTOCOL)),
    Case("6.9.1", "a stream's window over 2³¹-1",
         HANGING + window_update(1, WINDOW_BYTES_MAX) * 2, gone(FLOW_CONTROL)),
    Case("6.9.2", "a stream's window over 2³¹-1 by SETTINGS",
         HANGING + window_update(1, 70_000) + settings((INITIAL_WINDOW, WINDOW_BYTES_MAX)),
         gone(FLOW_CONTROL)),
    Case("6.9.1", "the connection's window over 2³¹-1", window_update(0, WINDOW_BYTES_MAX),
         gone(FLOW_CONTROL)),
    Case("6.9.1", "an answer through a window of one byte, opened late",
         settings((INITIAL_WINDOW, 1)) + CALL + ping() + WIDE, ANSWERED),
    Case("6.9.2", "a window that SETTINGS turn negative, opened late",
         settings((INITIAL_WINDOW, 3)) + CALL + settings((INITIAL_WINDOW, 0)) + ping() + WIDE,
         ANSWERED),
    Case("6.10", "a header block in three frames",
         headers(1, BLOCK[:9], flags=0) + continuation(1, BLOCK[9:30])
         + continuation(1, BLOCK[30:], flags=END_HEADERS) + data(1, WHOLE), ANSWERED),
    Case("6.10", "CONTINUATION after END_HEADERS",
         OPEN + continuation(1, b"", flags=END_HEADERS), gone(PROTOCOL)),
    Case("6.10", "CONTINUATION on stream 0",
         headers(1, BLOCK, flags=0) + continuation(0, b""), gone(PROTOCOL)),
]  # fmt: skip
MESSAGES = [
    Case("8.1", "trailers", OPEN + data(1, WHOLE, flags=0)
         + headers(1, [("x", "y")], flags=END_HEADERS | END_STREAM), ANSWERED),
    Case("8.1", "trailers that end nothing",
         OPEN + data(1, WHOLE, flags=0) + headers(1, [("x", "y")]), reset(PROTOCOL)),
    Case("8.1", "trailers with a pseudo header", OPEN + data(1, WHOLE, flags=0)
         + headers(1, [(":path", "/")], flags=END_HEADERS | END_STREAM), reset(PROTOCOL)),
    Case("8.1.1", "content-length as long as the message", unary(("content-length", "6")),
         ANSWERED),
    *(Case("8.1.1", f"content-length of {told}", unary(("content-length", told)), reset(PROTOCOL))
      for told in ("5", "7", "-1", "6,6", "six", "99999999999999999999")),
    Case("8.1.1", "content-length twice", unary(*[("content-length", "6")] * 2), reset(PROTOCOL)),
    Case("8.1.1", "content-length over all of DATA",
         headers(1, [*grpc_fields(ECHO), ("content-length", "7")])
         + data(1, WHOLE, flags=0) + data(1, b"yz"), reset(PROTOCOL)),
    Case("8.1.1", "content-length without a message",
         headers(1, [*grpc_fields(ECHO), ("content-length", "6")], flags=END_HEADERS | END_STREAM),
         reset(PROTOCOL)),
    *(Case("8.2.1", what, unary((name, value)), reset(PROTOCOL)) for what, name, value in (
        ("a name in upper case", "X-A", "1"), ("a name with a space", "x a", "1"),
        ("a name with a colon", "x:a", "1"), ("a name beyond ASCII", "x\x80", "1"),
        ("an empty name", "", "1"), ("a value with NUL", "x", "a\0b"),
        ("a value with CR", "x", "a\rb"), ("a value with LF", "x", "a\nb"),
        ("a value that begins with a space", "x", " a"),
        ("a value that ends with a tab", "x", "a\t"))),
    Case("8.2.1", "a value beyond ASCII", unary(("x", "\xff\xfe")), ANSWERED),
    *(Case("8.2.2", name, unary((name, value)), reset(PROTOCOL)) for name, value in (
        ("connection", "close"), ("keep-alive", "timeout=5"), ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"), ("upgrade", "h2c"))),
    Case("8.2.2", "TE other than trailers",
         changed("te", "gzip"), reset(PROTOCOL)),  # codespell:ignore te
    *(Case("8.3", f"{name} twice", unary(first=(name, value)), reset(PROTOCOL))
      for name, value in grpc_fields(ECHO)[:4]),
    *(Case("8.3.1", f"no {name}", unary(without=name), reset(PROTOCOL))
      for name in (":method", ":scheme", ":path")),
    Case("8.3", "an unknown pseudo header", unary(first=(":x", "1")), reset(PROTOCOL)),
    Case("8.3", "a pseudo header of answers", unary(first=(":status", "200")), reset(PROTOCOL)),
    Case("8.3", "a pseudo header after the others", unary((":path", ECHO), without=":path"),
         reset(PROTOCOL)),
    Case("8.3.1", "an empty path", changed(":path", ""), reset(PROTOCOL)),
    Case("8.3.1", "a path without its slash", changed(":path", "t.S/Echo"), reset(PROTOCOL)),
    Case("8.3.1", "a method with a space", changed(":method", "PO ST"), reset(PROTOCOL)),
    Case("8.3.1", "userinfo in :authority", changed(":authority", "u@h"), reset(PROTOCOL)),
    # RFC: may stand for none with Host; libnghttp2 wants one of the two.
    Case("8.3.1", "neither :authority nor host", unary(without=":authority"), reset(PROTOCOL)),
    Case("8.5", "CONNECT with a path", changed(":method", "CONNECT"), reset(PROTOCOL)),
    Case("8.5", "CONNECT, which is not gRPC", headers(1, [(":method", "CONNECT"),
         (":authority", "a")]) + data(1, b"x"), UNSUPPORTED),
    Case("8.4", "an extended CONNECT that nobody offered", unary(first=(":protocol", "websocket")),
         reset(PROTOCOL)),
    Case("8.1", "a message in single bytes",
         OPEN + b"".join(data(1, WHOLE[at : at + 1], flags=0) for at in range(6)) + data(1),
         ANSWERED),
    Case("8.1", "no message", headers(1, BLOCK, flags=END_HEADERS | END_STREAM), NOT_UNARY),
    Case("8.7", "a call that its client gives up", HANGING + ping() + rst_stream(1), IGNORED),
]  # fmt: skip
HPACK = [
    Case("RFC 7541, 2.3.3", "an index of nothing", block(b"\xbe"), gone(COMPRESSION)),
    Case("RFC 7541, 6.1", "index 0", block(b"\x80"), gone(COMPRESSION)),
    Case("RFC 7541, 4.2", "a table larger than agreed", block(b"\x3f\xe2\x1f", before=True),
         gone(COMPRESSION)),
    Case("RFC 7541, 4.2", "a change of the table's size in the middle", block(b"\x20"),
         gone(COMPRESSION)),
    Case("RFC 7541, 4.2", "the table's size down and up", block(b"\x20\x3f\xe1\x1f", before=True),
         ANSWERED),
    Case("RFC 7541, 5.1", "an integer without end", block(b"\x00\x7f" + b"\x80" * 9 + b"\x01"),
         gone(COMPRESSION)),
    Case("RFC 7541, 5.2", "Huffman code with EOS", block(b"\x00\x84\xff\xff\xff\xff\x01a"),
         gone(COMPRESSION)),
    Case("RFC 7541, 5.2", "Huffman code padded with a whole byte", block(b"\x00\x81\xff\x01a"),
         gone(COMPRESSION)),
    Case("RFC 7541, 5.2", "a text longer than its block", block(b"\x00\x05a"), gone(COMPRESSION)),
]  # fmt: skip
CASES = [*CONNECTION, *STREAMS, *FRAMES, *MESSAGES, *HPACK]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest) -> Iterator[Http2Process]:
    with Http2Process(request.param) as server:
        yield server
        assert "Traceback" not in server.log


@pytest.mark.parametrize("pieces", [1, 50], ids=["at once", "in pieces"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_the_rfc_says_is_what_happens_and_others_go_on(
    server: Http2Process, case: Case, pieces: int
) -> None:
    seen = after(server, case.sent, then=case.then, greet=case.greet, pieces=pieces)

    if case.end.startswith("gone"):
        assert seen.ended
        assert [gone(code) for code in seen.goaways] == [case.end]
    else:
        assert not seen.goaways
        assert not seen.ended
        assert seen.outcome(1) == case.end
        assert seen.outcome(LAST_STREAM) == ANSWERED
    assert after(server, CALL).outcome(1) == ANSWERED
