"""Clients that begin and don't go on, or go on slowly: for a while, and no longer."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from aforo_authz.limits import Limits
from aforo_authz.server import TcpAddress
from aforo_authz.server_ngh2 import Ngh2Server
from aforo_authz.tls import Tls, TlsFiles
from tests.certificates import certificate
from tests.contract.http2_server import ECHO, Http2Process
from tests.contract.raw_http2 import Seen, after
from tests.http2_frames import (
    CALM,
    DATA,
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW,
    NO_ERROR,
    PREFACE,
    data,
    encoded,
    frame,
    grpc_call,
    grpc_fields,
    grpc_message,
    headers,
    settings,
)

pytestmark = pytest.mark.contract

BLOCK = encoded(grpc_fields(ECHO))
NOT_GRPC = [(n, v) for n, v in grpc_fields(ECHO) if n != "content-type"]
GREETING = PREFACE + settings()
# Looked at once a second, by a time that is up to a second old: less would be no time at all.
IMPATIENT = Limits(handshake_s_max=2.0, request_s_max=2.0, idle_s_max=2.0)


class HalfOpen(NamedTuple):
    what: str
    sent: bytes
    code: int  # Of the last GOAWAY.
    stream: str = "nothing"  # How stream 1 ends.

    def __str__(self) -> str:
        return self.what


HALF_OPEN = [
    HalfOpen("nothing at all", b"", CALM),
    HalfOpen("half a preface", PREFACE[:10], CALM),
    HalfOpen("no SETTINGS", PREFACE, CALM),
    HalfOpen("no call", GREETING, NO_ERROR),
    HalfOpen("half a frame's header", GREETING + settings()[:4], NO_ERROR),
    HalfOpen("half a HEADERS frame", GREETING + headers(1, BLOCK)[:20], NO_ERROR),
    HalfOpen("half a header block", GREETING + headers(1, BLOCK[:20], flags=0), NO_ERROR),
    HalfOpen("no message", GREETING + headers(1, BLOCK), NO_ERROR, "reset 11"),
    HalfOpen(
        "half a message",
        GREETING + headers(1, BLOCK) + data(1, b"\0\0", flags=0),
        NO_ERROR,
        "reset 11",
    ),
    HalfOpen(
        "half a DATA frame",
        GREETING + headers(1, BLOCK) + frame(DATA, END_STREAM, 1, b"\0", length=100),
        NO_ERROR,
        "reset 11",
    ),
    HalfOpen(
        "a refused call without its end", GREETING + headers(1, NOT_GRPC), NO_ERROR, "HTTP 415"
    ),
    HalfOpen(
        "a window that stays shut",
        GREETING + settings((INITIAL_WINDOW, 0)) + grpc_call(1, ECHO, b"x"),
        NO_ERROR,
    ),
]


@pytest.fixture(scope="module")
def impatient() -> Iterator[Http2Process]:
    with Http2Process(limits=IMPATIENT) as server:
        yield server
        assert "Traceback" not in server.log


def read_to_the_end(connection: socket.socket) -> Seen:
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    return Seen.of(received, ended=True)


def test_who_does_not_go_on_is_let_go(impatient: Http2Process) -> None:
    """All at once: each of them waits for the server's clock."""
    connections = []
    for case in HALF_OPEN:
        connection = impatient.connect()
        connection.sendall(case.sent)
        connections.append(connection)

    ends = {}
    for case, connection in zip(HALF_OPEN, connections, strict=True):
        with connection:
            seen = read_to_the_end(connection)
        ends[case.what] = (seen.goaways[-1:], seen.outcome(1))

    assert ends == {case.what: ([case.code], case.stream) for case in HALF_OPEN}
    assert after(impatient, grpc_call(1, ECHO, b"x")).outcome(1) == "answered"


def test_a_call_that_comes_byte_by_byte_is_answered() -> None:
    call = grpc_call(1, ECHO, b"slowly")
    with Http2Process() as server:
        seen = after(server, call, pieces=len(call))

    assert seen.bodies[1] == grpc_message(b"slowly")


def test_a_call_that_comes_too_slowly_is_reset_though_it_never_pauses(
    impatient: Http2Process,
) -> None:
    trickle = data(1, b"\0", flags=0)
    with impatient.connect() as connection:
        connection.sendall(GREETING + headers(1, BLOCK, flags=END_HEADERS))
        connection.settimeout(0.05)
        received = b""
        for _ in range(400):  # Twenty seconds: a hang.
            connection.sendall(trickle)
            with contextlib.suppress(TimeoutError):
                received += connection.recv(1 << 16)
            if Seen.of(received, ended=False).resets:
                break

    assert Seen.of(received, ended=False).resets == {1: CALM}


async def test_who_breaks_tls_off_half_way_does_not_stop_the_clock_for_others(
    tmp_path: Path,
) -> None:
    """Broken HTTP/2 under TLS: the connection stays until its TLS has ended, or is cut off.

    The sweep that lets silent clients go comes by meanwhile, and must not ask libnghttp2 for
    anything.
    """
    chain, key = certificate(tmp_path, "server", "DNS:localhost")
    tls = Tls(TlsFiles(certificate=chain, key=key))
    server = Ngh2Server({}, limits=IMPATIENT, tls=tls)
    (address,) = await server.start([TcpAddress("127.0.0.1", 0)])
    assert isinstance(address, TcpAddress)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])

    broken = await asyncio.to_thread(shake_hands, address, context)
    broken.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(30))
    await asyncio.sleep(1.5)  # Nothing is read, so TLS does not end until sweeps come by.
    silent = await asyncio.to_thread(shake_hands, address, context)
    seen = await asyncio.to_thread(read_to_the_end, silent)

    assert seen.goaways == [CALM]
    broken.close()
    silent.close()
    await server.drain(0.0)


def shake_hands(address: TcpAddress, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection((address.host, address.port), timeout=20.0)
    return context.wrap_socket(plain)
