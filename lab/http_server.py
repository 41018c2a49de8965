"""A lean HTTP/1.1 server on asyncio, for the lab's stand-ins: no framework, no routing.

Measured on one of two shared cores with uvloop: some 20,000 small requests a second, so that a
benchmark of the gateway does not measure its own upstream.
"""

import asyncio
import http
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self, cast

import uvloop

HEAD_BYTES_MAX = 128 * 1024  # Twice what Envoy lets through.


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, with its body read to the end."""

    method: str
    target: str  # With its query.
    headers: tuple[tuple[str, str], ...]  # Names in lower case, in the order they came.
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """Return the first header of this (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One response: a body at once, or `pieces` one after the other as chunks."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: tuple[bytes, ...] | None = None
    delay_s: float = 0.0  # Before the head.
    gap_s: float = 0.0  # Between the pieces.
    breaks_after: int | None = None  # Pieces: then the connection is cut.
    on_written: Callable[[], None] | None = None  # After the last byte, and only then.
    # With status 101: what comes after goes in here, and what it returns goes back.
    then: Callable[[bytes], bytes] | None = None


Handler = Callable[[Request], Reply]


class BadRequestError(Exception):
    """The peer does not speak HTTP/1.1; the connection is closed."""


class HttpServer:
    """Serves one handler on 127.0.0.1. `async with` starts and ends it."""

    def __init__(self, handler: Handler, *, port: int = 0) -> None:
        self.port = port  # 0 until it is started: then the one that the system chose.
        self._handler = handler
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self._handler, self._connections), "127.0.0.1", self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None, "the server was not started"
        self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        await self._server.wait_closed()


class _Connection(asyncio.Protocol):
    def __init__(self, handler: Handler, connections: "set[_Connection]") -> None:
        self._handler = handler
        self._connections = connections
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._answering: asyncio.Task[None] | None = None
        self._upgraded: Callable[[bytes], bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        if self._answering is not None:
            self._answering.cancel()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._upgraded is not None:
            self._write(self._upgraded(data))
            return
        self._received += data
        self._advance()

    def _advance(self) -> None:
        """Answer every request that is complete; one that takes time stops the rest."""
        try:
            while self._answering is None and (request := take_request(self._received)):
                reply = self._handler(request)
                if reply.delay_s or reply.gap_s or reply.breaks_after is not None:
                    self._answering = asyncio.create_task(self._answer_slowly(request, reply))
                else:
                    self._answer(request, reply)
        except BadRequestError:
            self.abort()

    def _answer(self, request: Request, reply: Reply) -> None:
        if self._transport is None:
            return
        pieces = [head_of(reply)]
        if request.method != "HEAD":
            pieces += [reply.body] if reply.pieces is None else [*map(chunk, reply.pieces), LAST]
        self._transport.writelines(pieces)
        self._upgraded = reply.then
        self._finish(request, reply)

    async def _answer_slowly(self, request: Request, reply: Reply) -> None:
        await asyncio.sleep(reply.delay_s)
        self._write(head_of(reply))
        if reply.pieces is None:
            self._write(reply.body)
        else:
            for number, piece in enumerate(reply.pieces):
                if number:
                    await asyncio.sleep(reply.gap_s)
                if number == reply.breaks_after:
                    self.abort()
                    return
                self._write(chunk(piece))
            self._write(LAST)
        self._answering = None
        self._finish(request, reply)
        self._advance()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _finish(self, request: Request, reply: Reply) -> None:
        if self._transport is None:
            return
        if reply.on_written is not None:
            reply.on_written()
        if (request.header("connection") or "").lower() == "close":
            self._transport.close()


LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def head_of(reply: Reply) -> bytes:
    try:
        phrase = http.HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {reply.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if reply.pieces is not None:
        lines.append("transfer-encoding: chunked")
    elif reply.status >= 200 and reply.status != http.HTTPStatus.NO_CONTENT:  # noqa: PLR2004
        lines.append(f"content-length: {len(reply.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def take_request(received: bytearray) -> Request | None:
    """Remove the first complete request from what was received; None if there is none yet.

    Raises:
        BadRequestError: These bytes cannot become a request.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > HEAD_BYTES_MAX:
            raise BadRequestError(f"no end of the head within {HEAD_BYTES_MAX} bytes")
        return None
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    try:
        method, target, _ = first.split(" ")
        headers = tuple(
            (name.lower(), value.strip())
            for name, _, value in (line.partition(":") for line in lines)
        )
        fields = dict(headers)
        start = end + 4
        if fields.get("transfer-encoding", "").lower() == "chunked":
            found = chunked_body(received, start)
        else:
            found = sized_body(received, start, int(fields.get("content-length", "0")))
    except ValueError as error:
        raise BadRequestError(f"not HTTP/1.1: {first!r}") from error
    if found is None:
        return None
    body, stop = found
    del received[:stop]
    return Request(method=method, target=target, headers=headers, body=body)


def sized_body(received: bytearray, start: int, size: int) -> tuple[bytes, int] | None:
    if len(received) < start + size:
        return None
    return bytes(received[start : start + size]), start + size


def chunked_body(received: bytearray, start: int) -> tuple[bytes, int] | None:
    """Return the joined chunks and where they end. Trailers are skipped."""
    # A large body arrives in hundreds of parts: don't read its chunks before its end is there.
    if received.find(b"\r\n\r\n", start) < 0:
        return None
    chunks: list[bytes] = []
    at = start
    while (line_end := received.find(b"\r\n", at)) >= 0:
        size = int(received[at:line_end].partition(b";")[0], 16)
        at = line_end + 2
        if size == 0:
            stop = received.find(b"\r\n\r\n", line_end)
            return None if stop < 0 else (b"".join(chunks), stop + 4)
        if len(received) < at + size + 2:
            return None
        chunks.append(bytes(received[at : at + size]))
        at += size + 2
    return None


def run(server: HttpServer, *, name: str, port_option: str) -> int:
    """Serve until SIGTERM or Ctrl-C, and return the process's exit code."""
    try:
        uvloop.run(_serve_until_told(server, name=name))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        line = f"cannot listen on 127.0.0.1:{server.port}: {reason}; choose another {port_option}"
        sys.stderr.write(line + "\n")
        return 2
    return 0


async def _serve_until_told(server: HttpServer, *, name: str) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with server:
        sys.stderr.write(f"{name} listens on http://127.0.0.1:{server.port}\n")
        await told.wait()
