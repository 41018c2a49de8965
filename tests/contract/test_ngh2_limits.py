"""What a client may take: connections, time, silence. Beyond that it is let go, and counted."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hyperframe.frame import DataFrame

from aforo_authz.limits import Limits
from aforo_authz.server import Address, TcpAddress
from aforo_authz.server_ngh2 import Ngh2Server
from lab.servers import HANG_S, eventually
from tests.contract.http2_client import PREFACE, Http2Client, framed, grpc_headers

pytestmark = [
    pytest.mark.contract,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]),
]

ECHO = "/t.S/Echo"
ENHANCE_YOUR_CALM, NO_ERROR = 11, 0


class World:
    def __init__(self, limits: Limits) -> None:
        self.refused: Counter[str] = Counter()
        self.server = Ngh2Server(
            {ECHO: lambda message, _: message}, limits=limits, refused=self._refuse
        )
        self.address: Address = TcpAddress("127.0.0.1", 0)
        self.clients: list[Http2Client] = []

    def _refuse(self, kind: str) -> None:
        self.refused[kind] += 1

    async def client(self) -> Http2Client:
        client = await Http2Client.connect(self.address)
        self.clients.append(client)
        return client


async def let_go(address: Address, words: bytes = b"") -> bytes:
    """Say these words and nothing more; return what came until the server hung up."""
    assert isinstance(address, TcpAddress)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(words)
        async with asyncio.timeout(HANG_S):
            return await reader.read(-1)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(limits: Limits) -> AsyncIterator[World]:
    world = World(limits)
    (world.address,) = await world.server.start([world.address])
    try:
        yield world
    finally:
        await world.server.drain(0.0)
        for client in world.clients:
            await client.close()


async def test_one_connection_too_many_is_told_to_calm_down_and_closed() -> None:
    async with serving(Limits(connections_max=2)) as world:
        first, second = await world.client(), await world.client()
        assert (await first.call(ECHO, b"1")).message == b"1"
        assert (await second.call(ECHO, b"2")).message == b"2"

        third = await world.client()
        await third.read_to_the_end()

        assert third.goaways[-1].error_code == ENHANCE_YOUR_CALM
        assert world.refused["connections"] == 1
        await eventually(lambda: len(world.server.connections) == 2)
        assert (await first.call(ECHO, b"still")).message == b"still"
        await first.close()
        await eventually(lambda: len(world.server.connections) == 1)
        fourth = await world.client()
        assert (await fourth.call(ECHO, b"4")).message == b"4"


async def test_a_connection_too_many_that_says_nothing_is_closed_as_well() -> None:
    async with serving(Limits(connections_max=1)) as world:
        first = await world.client()
        assert (await first.call(ECHO, b"1")).message == b"1"

        told = await asyncio.gather(*(let_go(world.address) for _ in range(3)))

        assert all(ENHANCE_YOUR_CALM.to_bytes(4) in each for each in told)
        assert world.refused["connections"] == 3
        await eventually(lambda: len(world.server.connections) == 1)


async def test_who_never_says_a_word_is_let_go() -> None:
    async with serving(Limits(handshake_s_max=0.2)) as world:
        words = [b"", PREFACE[:10], PREFACE]

        told = await asyncio.gather(*(let_go(world.address, each) for each in words))

        assert all(ENHANCE_YOUR_CALM.to_bytes(4) in each for each in told)
        assert world.refused["handshake_time"] == 3
        await eventually(lambda: not world.server.connections)


async def test_a_message_that_does_not_arrive_ends_its_call_alone() -> None:
    async with serving(Limits(request_s_max=0.2)) as world:
        client = await world.client()
        headers = client.headers_frame(grpc_headers(ECHO))
        client.send(headers, DataFrame(headers.stream_id, data=framed(b"half")[:6]))

        answer = await client.answer(headers.stream_id)

        assert answer.reset == ENHANCE_YOUR_CALM
        assert world.refused["request_time"] == 1
        assert (await client.call(ECHO, b"next")).message == b"next"


async def test_a_silent_connection_is_asked_to_go_and_closed() -> None:
    async with serving(Limits(idle_s_max=0.2)) as world:
        client = await world.client()
        assert (await client.call(ECHO, b"1")).message == b"1"

        await eventually(lambda: bool(world.refused["idle"]))
        await client.read_to_the_end()

        assert client.goaways[-1].error_code == NO_ERROR
        await eventually(lambda: not world.server.connections)


async def test_unfinished_messages_of_one_connection_have_room_for_so_much_together() -> None:
    limits = Limits(message_bytes_max=1 << 16, buffered_bytes_max=1 << 17)
    async with serving(limits) as world:
        client = await world.client()
        stream_ids = []
        for _ in range(6):
            headers = client.headers_frame(grpc_headers(ECHO))
            body = framed(bytes(60_000))[:30_000]
            parts = [body[at : at + 16_000] for at in range(0, len(body), 16_000)]
            client.send(headers, *(DataFrame(headers.stream_id, data=part) for part in parts))
            stream_ids.append(headers.stream_id)

        await eventually(lambda: bool(world.refused["buffered_bytes"]))
        assert (await client.answer(stream_ids[4])).reset == ENHANCE_YOUR_CALM
        assert (await client.call(ECHO, b"next")).message == b"next"
