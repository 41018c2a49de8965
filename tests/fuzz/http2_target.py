"""Frames, right and wrong, to the real server over real sockets."""

import asyncio
import socket
import zlib
from collections.abc import Hashable, Iterable
from random import Random

from hpack import Decoder, HPACKError

from aforo_authz.health import Health
from aforo_authz.server import UNAVAILABLE, RpcError
from aforo_authz.server_ngh2 import Ngh2Server
from tests.fuzz.engine import Finding
from tests.fuzz.http2_frames import (
    CHECK,
    ECHO,
    FAIL,
    HANG,
    HEALTH,
    LATER,
    WORDS,
    fresh,
    mutated_frames,
)
from tests.fuzz.mutate import mutated
from tests.fuzz.noted import Noted
from tests.fuzz.tenants import make_authorization
from tests.http2_frames import (
    DATA,
    END_STREAM,
    FRAME_HEADER_BYTES,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    Frame,
    frames_of,
    grpc_call,
    settings,
)

HANG_S = 20.0
BROKE = "a client broke HTTP/2: connection closed"
# What ngh2 raises over what it reads; all else it raises over what we ask of it.
THEIRS = ("HTTP/2 engine error", "received header list exceeds")
OTHERS_EVERY = 8
TURNS = 3  # Of the loop, between pieces and before the end: for what answers later.


async def later(message: bytes, _budget_s: float | None) -> bytes:
    await asyncio.sleep(0)
    return message


async def hang(message: bytes, _budget_s: float | None) -> bytes:
    await asyncio.get_running_loop().create_future()
    return message


def fail(_message: bytes, _budget_s: float | None) -> bytes:
    raise RpcError(UNAVAILABLE, "as told: 100 %\n")


class Http2Target:
    """One server; each case is a connection of its own."""

    name = "http2"

    def __init__(self, noted: Noted) -> None:
        self._noted = noted
        self._refused: set[str] = set()
        self._runs = 0
        self.server = Ngh2Server(
            {
                ECHO: lambda message, _: message,
                LATER: later,
                HANG: hang,
                FAIL: fail,
                CHECK: make_authorization().check,
                HEALTH: Health(lambda: True).check,
            },
            refused=self._refused.add,
        )

    async def begin(self) -> None:
        await self.server.start([])
        self._tasks = len(asyncio.all_tasks())

    def fresh(self, random: Random) -> bytes:
        return fresh(random)

    def mutated(self, random: Random, case: bytes, other: bytes) -> bytes:
        if random.random() < 0.25:
            return mutated(random, case, WORDS)
        return mutated_frames(random, case, other)

    async def run(self, case: bytes) -> Iterable[Hashable]:
        self._runs += 1
        received = await self._exchange(case)
        refused = set(self._refused)
        self._refused.clear()
        features = look_at(received, cut="unread_answers" in refused)
        if self.server.connections:
            raise Finding("a connection that has ended is still counted")
        if self._runs % OTHERS_EVERY == 0:
            await self.look_at_others()
        noted = self._noted.taken()
        ours = {error for line, error in noted if line == BROKE and not error.startswith(THEIRS)}
        if ours:
            raise Finding(f"a connection ended for what no client did: {ours}")
        return features | refused | noted

    async def look_at_others(self) -> None:
        """A connection after that one is answered, and nothing runs on for the ones before it.

        Raises:
            Finding: It is not.
        """
        received = await self._exchange(PREFACE + settings() + grpc_call(1, ECHO, b"others"))
        if b"\0\0\0\0\x06others" not in received:
            raise Finding("another connection is not answered")
        if len(asyncio.all_tasks()) > self._tasks + 1:
            raise Finding(f"left running: {asyncio.all_tasks()}")

    async def _exchange(self, sent: bytes) -> bytes:
        """Send a case in pieces, then nothing more; return all that comes back."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - the library's
        self.server.adopt(theirs, secured=False)
        received = bytearray()
        with ours:
            try:
                async with asyncio.timeout(HANG_S):
                    for piece in _pieces(sent):
                        await loop.sock_sendall(ours, piece)
                        await self._turns()
                    ours.shutdown(socket.SHUT_WR)
                    while part := await loop.sock_recv(ours, 1 << 18):
                        received += part
            except TimeoutError as error:
                raise Finding("the connection does not end") from error
            except ConnectionError:
                # The server hung up with bytes of ours unread; what it said before is still here.
                received += _rest_of(ours)
        return bytes(received)

    async def _turns(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
            for connection in self.server.connections:
                streams = connection._streams.values()
                if connection._buffered_bytes != sum(each.buffered_bytes for each in streams):
                    raise Finding("the count of buffered bytes is not that of the streams")


def _pieces(sent: bytes) -> list[bytes]:
    """Cut a case, always at the same places: they are part of it."""
    places = Random(zlib.crc32(sent))  # noqa: S311 - to be repeated
    cuts = sorted(places.randrange(len(sent) + 1) for _ in range(places.choice((0, 0, 1, 3))))
    return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


def _rest_of(connection: socket.socket) -> bytes:
    rest = b""
    try:
        while part := connection.recv(1 << 18):
            rest += part
    except OSError:
        pass
    return rest


def look_at(received: bytes, *, cut: bool) -> set[Hashable]:
    """Return what is remarkable of what a server sent; all of it must be HTTP/2.

    Raises:
        Finding: It is not.
    """
    features: set[Hashable] = set()
    decoder, ended, size = Decoder(), set[int](), 0
    last: Hashable = None
    for each in frames_of(received):
        size += FRAME_HEADER_BYTES + len(each.payload)
        if each.kind in {HEADERS, DATA}:
            if each.stream in ended or not each.stream % 2:
                raise Finding(f"a frame where none may be: {each}")
            if each.flags & END_STREAM:
                ended.add(each.stream)
        told = _remarkable(each, decoder)
        features |= {told, (last, told)}
        last = told
    if size != len(received) and not cut:
        raise Finding(f"the server sent half a frame: {received[size:][:40]!r}")
    return features


def _remarkable(each: Frame, decoder: Decoder) -> Hashable:
    if each.kind == GOAWAY:
        return "goaway", each.payload[4:]
    if each.kind == RST_STREAM:
        return "reset", each.payload
    if each.kind == HEADERS:
        try:
            fields = {str(name): str(value) for name, value in decoder.decode(each.payload)}
        except HPACKError as error:
            raise Finding(f"the server sent no HPACK: {error}") from error
        return fields.get(":status"), fields.get("grpc-status"), fields.get("grpc-message", "")[:9]
    return each.kind, each.flags, len(each.payload) > 0
