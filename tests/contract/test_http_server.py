"""An HTTP server ends: who is connected is told so first, and no request is lost on its way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aforo_meter.http_server import Server
from lab.ports import free_port
from lab.servers import HANG_S, eventually

HEAD_END = b"\r\n\r\n"
AT_ONCE_S = 0.0


class LabServer(Server):
    """Echoes, and leaves the signals alone."""

    def __init__(self, http: Literal["h11", "httptools"], farewell_s: float) -> None:
        self.port = free_port()
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        config = uvicorn.Config(
            Starlette(routes=[Route("/", self.echo, methods=["POST"])]),
            port=self.port,
            http=http,
            lifespan="off",
            log_config=None,
        )
        super().__init__(config, farewell_s=farewell_s)

    async def echo(self, request: Request) -> Response:
        self.asked.set()
        await self.may_answer.wait()
        return Response(await request.body())

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, body: bytes) -> None:
        head = f"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}".encode()
        self._writer.write(head + HEAD_END + body)
        await self._writer.drain()

    async def answer(self, size: int) -> tuple[bytes, bytes]:
        """Return head and body of an answer whose body has so many bytes."""
        async with asyncio.timeout(HANG_S):
            head = await self._reader.readuntil(HEAD_END)
            return head, await self._reader.readexactly(size)

    async def ended(self) -> bool:
        async with asyncio.timeout(HANG_S):
            return await self._reader.read() == b""


@asynccontextmanager
async def serving(server: LabServer) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    try:
        yield task
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.wait_for(task, HANG_S)


@asynccontextmanager
async def connected(server: LabServer) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def told_to_close(head: bytes) -> bool:
    return b"\r\nconnection: close\r\n" in head


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_who_is_connected_is_answered_once_more_and_told(
    http: Literal["h11", "httptools"],
) -> None:
    server = LabServer(http, farewell_s=HANG_S)
    async with serving(server) as task, connected(server) as kept:
        await kept.send(b"one")
        first, _ = await kept.answer(3)
        server.should_exit = True
        await asyncio.sleep(0.3)  # It has seen that by now; later would be as good.
        await kept.send(b"two")
        last, body = await kept.answer(3)

        assert (told_to_close(first), told_to_close(last)) == (False, True)
        assert body == b"two"
        assert await kept.ended()
        await asyncio.wait_for(task, HANG_S / 2)  # Nobody is connected: it waits no longer.


async def test_who_comes_before_the_end_is_served() -> None:
    server = LabServer("httptools", farewell_s=HANG_S)
    # Who is silent keeps it from ending.
    async with serving(server), connected(server) as silent:
        await silent.send(b"one")
        await silent.answer(3)
        server.should_exit = True
        await asyncio.sleep(0.3)
        async with connected(server) as late:
            await late.send(b"late")
            head, body = await late.answer(4)

        assert told_to_close(head)
        assert body == b"late"


async def test_who_says_nothing_is_left_after_a_while_and_who_was_asking_is_answered() -> None:
    server = LabServer("httptools", farewell_s=AT_ONCE_S)
    async with serving(server) as task, connected(server) as silent, connected(server) as asking:
        await silent.send(b"one")
        await silent.answer(3)
        server.asked.clear()
        server.may_answer.clear()
        await asking.send(b"two")
        await asyncio.wait_for(server.asked.wait(), HANG_S)
        server.should_exit = True

        assert await silent.ended()
        server.may_answer.set()
        _, body = await asking.answer(3)
        assert body == b"two"
        await asyncio.wait_for(task, HANG_S)
