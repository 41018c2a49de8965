"""What clients may do wrong to the server over libnghttp2: it costs them, and nobody else."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from aforo_authz.limits import Limits
from aforo_authz.server import (
    INTERNAL,
    OK,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    Address,
    AddressError,
    TcpAddress,
    UnixAddress,
)
from aforo_authz.server_ngh2 import Ngh2Server
from lab.servers import HANG_S
from tests.contract.http2_client import PREFACE, Http2Client, framed, grpc_headers

pytestmark = [
    pytest.mark.contract,
    pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]),
]

ECHO, HANG, LATER, BUDGET = "/t.S/Echo", "/t.S/Hang", "/t.S/Later", "/t.S/Budget"
CANCEL, FRAME_SIZE_ERROR, PROTOCOL_ERROR, NO_ERROR = 8, 6, 1, 0


class World:
    """A server, and what its methods saw."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.release = asyncio.Event()
        self.server = Ngh2Server(
            {
                ECHO: lambda message, _: message,
                HANG: self._hang,
                LATER: self._later,
                BUDGET: lambda _, budget_s: repr(budget_s).encode(),
            }
        )
        self.address: Address
        self.clients: list[Http2Client] = []

    async def _hang(self, message: bytes, _budget_s: float | None) -> bytes:
        self.begun += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return message

    async def _later(self, message: bytes, _budget_s: float | None) -> bytes:
        await asyncio.sleep(0)
        return message

    async def client(self, **options: bytes) -> Http2Client:
        client = await Http2Client.connect(self.address, **options)
        self.clients.append(client)
        return client


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    (world.address,) = await world.server.start([TcpAddress("127.0.0.1", 0)])
    yield world
    for client in world.clients:
        await client.close()
    await world.server.drain(0.0)


@contextlib.asynccontextmanager
async def others_go_on(world: World) -> AsyncIterator[None]:
    """Whatever one client does in the body, another one's connection is not touched."""
    other = await world.client()
    assert (await other.call(ECHO, b"before")).message == b"before"
    yield
    assert (await other.call(ECHO, b"after")).message == b"after"


async def test_a_right_call_is_answered_in_grpcs_form(world: World) -> None:
    client = await world.client()

    answer = await client.call(ECHO, b"hello")

    assert answer.message == b"hello"
    assert answer.headers == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "0",
    }


@pytest.mark.parametrize(
    "preface", [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01" + bytes(40), bytes(24)]
)
async def test_who_speaks_no_http2_is_cut_off(world: World, preface: bytes) -> None:
    async with others_go_on(world):
        client = await world.client(preface=preface)
        await client.read_to_the_end()

        assert client.closed


async def test_a_frame_over_the_agreed_size_ends_the_connection(world: World) -> None:
    async with others_go_on(world):
        client = await world.client()
        stream_id, headers, _ = client.request(ECHO, b"")
        client.send(headers, DataFrame(stream_id, data=bytes(16_385)))
        await client.read_to_the_end()

        assert [goaway.error_code for goaway in client.goaways] == [FRAME_SIZE_ERROR]


async def test_a_request_without_a_path_is_refused_and_the_connection_lives(world: World) -> None:
    client = await world.client()
    headers = [(n, v) for n, v in grpc_headers(ECHO) if n != ":path"]
    frame = client.headers_frame(headers, end_stream=True)
    client.send(frame)

    answer = await client.answer(frame.stream_id)

    assert answer.reset == PROTOCOL_ERROR
    assert (await client.call(ECHO, b"next")).message == b"next"


async def test_trailers_of_a_client_end_its_message(world: World) -> None:
    client = await world.client()
    stream_id, headers, _ = client.request(ECHO, b"")
    trailers = client.headers_frame([("x-checksum", "1")], stream_id=stream_id, end_stream=True)
    client.send(headers, DataFrame(stream_id, data=framed(b"abc")), trailers)

    assert (await client.answer(stream_id)).message == b"abc"


@pytest.mark.parametrize("path", [ECHO, LATER, HANG, "/t.S/Unknown"])
async def test_a_reset_that_arrives_with_its_request_costs_that_call_alone(
    world: World, path: str
) -> None:
    """Envoy gives up on a check that takes too long; request and reset may be read together."""
    client = await world.client()
    first, *request = client.request(path, framed(b"x"))
    second, *next_request = client.request(ECHO, framed(b"next"))
    client.send(*request, RstStreamFrame(first, error_code=CANCEL), *next_request)

    assert (await client.answer(second)).message == b"next"
    assert (await client.call(ECHO, b"later")).message == b"later"
    assert first not in client.ended


@pytest.mark.parametrize("path", [ECHO, LATER, HANG, "/t.S/Unknown"])
async def test_a_client_that_leaves_in_the_moment_of_its_call_has_broken_nothing(
    world: World, path: str
) -> None:
    """Call, reset and GOAWAY may be read together: then there is nobody left to answer."""
    refused: list[str] = []
    world.server.refused = refused.append
    client = await world.client()
    await client.call(ECHO)
    stream_id, *request = client.request(path, framed(b"x"))
    leaving = GoAwayFrame(0)
    client.send(*request, RstStreamFrame(stream_id, error_code=CANCEL), leaving)

    await client.read_to_the_end()

    assert not client.goaways
    assert not refused
    assert await world_is_responsive(world) == b"other"


async def test_a_reset_ends_the_work_for_it(world: World) -> None:
    client = await world.client()
    stream_id = client.begin(HANG)
    await until(lambda: world.begun == 1)
    client.send(RstStreamFrame(stream_id, error_code=CANCEL))

    await until(lambda: world.cancelled == 1)
    assert (await client.call(ECHO, b"next")).message == b"next"


async def test_a_client_that_leaves_ends_the_work_for_it(world: World) -> None:
    client = await world.client()
    for _ in range(3):
        client.begin(HANG)
    await until(lambda: world.begun == 3)
    await client.close()

    await until(lambda: world.cancelled == 3)
    await until(lambda: not world.server.connections)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (framed(b"x", compressed=True), UNIMPLEMENTED),
        (framed(b"whole")[:-1], INTERNAL),
        (framed(b"one") + framed(b"two"), INTERNAL),
        (b"\0\0", INTERNAL),
        (b"", INTERNAL),
    ],
    ids=["compressed", "truncated", "two messages", "half a prefix", "nothing"],
)
async def test_what_is_not_one_plain_message_is_an_error_of_that_call(
    world: World, body: bytes, status: int
) -> None:
    client = await world.client()
    stream_id, *frames = client.request(ECHO, body)
    client.send(*frames)

    assert (await client.answer(stream_id)).grpc_status == status
    assert (await client.call(ECHO, b"next")).grpc_status == OK


@pytest.mark.parametrize("kind", ["text/plain", "application/json", None])
async def test_what_is_not_grpc_is_an_unsupported_media_type(
    world: World, kind: str | None
) -> None:
    client = await world.client()
    headers = [(n, v) for n, v in grpc_headers(ECHO) if n != "content-type"]
    if kind is not None:
        headers.append(("content-type", kind))
    frame = client.headers_frame(headers)
    client.send(frame, DataFrame(frame.stream_id, data=framed(b"x"), flags=["END_STREAM"]))

    answer = await client.answer(frame.stream_id)

    assert answer.headers[":status"] == "415"
    assert answer.body == b""
    assert (await client.call(ECHO, b"next")).message == b"next"


async def test_grpc_with_its_serialisation_named_is_grpc(world: World) -> None:
    client = await world.client()
    headers = [(n, v) for n, v in grpc_headers(ECHO) if n != "content-type"]
    frame = client.headers_frame([*headers, ("content-type", "application/grpc+proto")])
    client.send(frame, DataFrame(frame.stream_id, data=framed(b"x"), flags=["END_STREAM"]))

    assert (await client.answer(frame.stream_id)).message == b"x"


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("250m", "0.25"),
        ("5S", "5"),
        ("99999999H", str(99_999_999 * 3600)),
        ("9" * 5000 + "m", "None"),
        ("123456789S", "None"),
        ("-1S", "None"),
        ("1", "None"),
        ("1x", "None"),
        ("", "None"),
    ],
    ids=lambda value: value[:12],
)
async def test_a_deadline_that_cannot_be_read_is_none(
    world: World, told: str, seconds: str
) -> None:
    client = await world.client()

    answer = await client.call(BUDGET, b"", ("grpc-timeout", told))

    assert answer.message == seconds.encode()


async def test_a_huge_list_of_headers_costs_its_sender_at_most_the_connection(
    world: World,
) -> None:
    async with others_go_on(world):
        client = await world.client()
        block = client.headers_frame(
            grpc_headers(ECHO, *((f"x-{n}", "v" * 4000) for n in range(20))), end_stream=True
        )
        size = 16_000
        data, block.data = block.data, block.data[:size]
        block.flags.discard("END_HEADERS")
        rest = [data[at : at + size] for at in range(size, len(data), size)]
        frames = [ContinuationFrame(block.stream_id, data=part) for part in rest]
        frames[-1].flags.add("END_HEADERS")
        client.send(block, *frames)
        await until_ended_or_closed(client, block.stream_id)

        answer = client.answers[block.stream_id]
        assert client.closed or answer.reset is not None or answer.headers[":status"] != "200"


async def test_too_many_headers_cost_their_sender_at_most_the_connection(world: World) -> None:
    async with others_go_on(world):
        client = await world.client()
        frame = client.headers_frame(
            grpc_headers(ECHO, *((f"x-{n}", "v") for n in range(200))), end_stream=True
        )
        client.send(frame)
        await until_ended_or_closed(client, frame.stream_id)

        assert client.closed or client.answers[frame.stream_id].reset is not None


async def test_an_idle_connection_stays_open_and_answers_pings(world: World) -> None:
    client = await world.client()
    await asyncio.sleep(0.2)
    client.send(PingFrame(0, opaque_data=b"12345678"))

    assert (await client.call(ECHO, b"still")).message == b"still"
    assert client.pongs == 1


async def test_a_thousand_calls_at_once_are_all_answered(world: World) -> None:
    client = await world.client()
    ids = [client.begin(HANG, str(n).encode()) for n in range(1000)]
    await until(lambda: world.begun == 1000)
    world.release.set()

    assert [(await client.answer(i)).message for i in ids] == [str(n).encode() for n in range(1000)]


async def test_more_calls_at_once_than_agreed_cost_their_sender_at_most_the_connection(
    world: World,
) -> None:
    async with others_go_on(world):
        client = await world.client()
        await client.call(ECHO)
        ids = [client.begin(HANG) for _ in range(1001)]
        await until_ended_or_closed(client, ids[-1])

        assert client.closed or client.answers[ids[-1]].reset is not None


async def test_a_message_over_the_limit_is_refused_before_all_of_it_came(world: World) -> None:
    client = await world.client()
    await client.call(ECHO)  # Their settings are here: the window is wide.
    stream_id, headers, _ = client.request(ECHO, b"")
    part = DataFrame(stream_id, data=bytes(16_000))
    client.send(headers, *[part] * 40)
    assert (await client.call(ECHO, b"others")).message == b"others"
    client.send(*[part] * (Limits().message_bytes_max // 16_000 + 1 - 40))

    assert (await client.answer(stream_id)).grpc_status == RESOURCE_EXHAUSTED
    assert (await client.call(ECHO, b"next")).message == b"next"


async def test_a_client_that_opens_its_window_late_gets_all_of_its_answer(world: World) -> None:
    client = await world.client()
    client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}))
    stream_id = client.begin(ECHO, b"patience")
    assert (await world_is_responsive(world)) == b"other"
    client.send(WindowUpdateFrame(stream_id, window_increment=1000))

    assert (await client.answer(stream_id)).message == b"patience"


async def test_a_client_that_reads_no_answers_is_cut_off(world: World) -> None:
    async with others_go_on(world):
        client = await world.client()
        await client.call(ECHO)
        widest = 2**31 - 1
        client.send(
            SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: widest}),
            WindowUpdateFrame(0, window_increment=widest - 65_535),
        )
        body = framed(bytes(190_000))
        pieces = [body[at : at + 16_000] for at in range(0, len(body), 16_000)]
        connections = len(world.server.connections)

        async with asyncio.timeout(HANG_S):
            while len(world.server.connections) == connections:
                stream_id, headers, _ = client.request(ECHO, b"")
                frames = [DataFrame(stream_id, data=piece) for piece in pieces]
                frames[-1].flags.add("END_STREAM")
                client.send(headers, *frames)
                # Not faster than the server reads: what is kept here would hide what it does.
                await asyncio.sleep(0 if client.unsent_bytes < 1_000_000 else 0.01)


async def test_a_client_that_breaks_http2_and_reads_nothing_is_cut_off_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still queued for it would keep a connection that only closes, open for ever."""
    monkeypatch.setattr("aforo_authz.http2.LINGER_S", 0.2)
    others = set(world.server.connections)
    client = await world.client()
    await client.call(ECHO)
    (connection,) = world.server.connections - others
    widest = 2**31 - 1
    client.send(
        SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: widest}),
        WindowUpdateFrame(0, window_increment=widest - 65_535),
    )
    body = framed(bytes(190_000))
    while not connection._transport.get_write_buffer_size():  # The kernel takes no more.
        stream_id, headers, _ = client.request(ECHO, b"")
        pieces = range(0, len(body), 16_000)
        frames = [DataFrame(stream_id, data=body[at : at + 16_000]) for at in pieces]
        frames[-1].flags.add("END_STREAM")
        client.send(headers, *frames)
        await asyncio.sleep(0.001)
    client.send(b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x")  # Data has no business on stream 0.

    await until(lambda: connection not in world.server.connections)


async def test_draining_says_goaway_and_finishes_what_has_begun(world: World) -> None:
    client = await world.client()
    stream_id = client.begin(HANG, b"begun")
    await until(lambda: world.begun == 1)
    draining = asyncio.ensure_future(world.server.drain(HANG_S))
    while not client.goaways:
        assert await client.read_frame()
    world.release.set()

    assert (await client.answer(stream_id)).message == b"begun"
    await client.read_to_the_end()
    await draining
    assert {goaway.error_code for goaway in client.goaways} == {NO_ERROR}
    assert client.goaways[-1].last_stream_id == stream_id


async def test_an_answer_leaves_though_draining_looks_between_its_making_and_its_writing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_at_each_turn(is_so: Callable[[], bool], _s_max: float | None = None) -> None:
        async with asyncio.timeout(HANG_S):
            while not is_so():  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(0)

    monkeypatch.setattr("aforo_authz.server_ngh2.wait_until", look_at_each_turn)
    client = await world.client()
    stream_id = client.begin(HANG, b"begun")
    await until(lambda: world.begun == 1)
    draining = asyncio.ensure_future(world.server.drain(HANG_S))
    while len(client.goaways) < 2:
        assert await client.read_frame()
    world.release.set()

    assert (await client.answer(stream_id)).message == b"begun"
    await client.read_to_the_end()
    await draining


async def test_a_call_that_crosses_the_first_goaway_is_still_answered(world: World) -> None:
    client = await world.client()
    hanging = client.begin(HANG, b"begun")
    await until(lambda: world.begun == 1)
    draining = asyncio.ensure_future(world.server.drain(HANG_S))
    while not client.goaways:
        assert await client.read_frame()

    # The client had sent it before it read the notice.
    assert (await client.call(ECHO, b"crossing")).message == b"crossing"
    world.release.set()
    await client.answer(hanging)
    await draining


async def test_the_last_goaway_waits_for_a_client_that_is_slow_to_read_the_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aforo_authz.server_ngh2.NOTICE_S_MAX", HANG_S)
    monkeypatch.setattr("aforo_authz.http2.NOTICE_S_MAX", HANG_S)
    client = await world.client()
    await client.call(ECHO)
    draining = asyncio.ensure_future(world.server.drain(HANG_S))
    await asyncio.sleep(0.3)

    # It reads only now that we want to end; what it begins before is answered.
    assert (await client.call(ECHO, b"unaware")).message == b"unaware"
    await client.read_to_the_end()
    await draining
    assert len(client.goaways) == 2


async def test_a_connection_that_waits_to_be_accepted_when_draining_begins_is_served(
    world: World, tmp_path: Path
) -> None:
    path = UnixAddress(tmp_path / "a.sock")
    await world.server.start([path])
    # Without a turn of the loop, in which it would be accepted.
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path.path))
        connection.setblocking(False)  # noqa: FBT003 - the library's
        draining = asyncio.ensure_future(world.server.drain(HANG_S))
        client = Http2Client(*await asyncio.open_unix_connection(sock=connection))
        world.clients.append(client)
        client.send(PREFACE, SettingsFrame(0))

        assert (await client.call(ECHO, b"waited")).message == b"waited"
        await client.read_to_the_end()
        await draining
        await client.close()


async def test_who_takes_over_a_socket_replaces_it_and_leaves_it_to_the_next(
    world: World, tmp_path: Path
) -> None:
    path = UnixAddress(tmp_path / "a.sock")
    await world.server.start([path])
    successor = Ngh2Server({ECHO: lambda message, _: b"new " + message}, take_over=True)

    await successor.bind([path])
    old = await Http2Client.connect(path)
    assert (await old.call(ECHO, b"x")).message == b"x"
    await successor.begin()
    new = await Http2Client.connect(path)
    assert (await new.call(ECHO, b"x")).message == b"new x"
    assert (await old.call(ECHO, b"x")).message == b"x"
    await old.close()
    await new.close()

    # Neither takes a file away that a successor may have written.
    await world.server.drain(0.1)
    await successor.drain(0.1)
    assert names_in(tmp_path) == ["a.sock"]


async def test_a_file_that_is_no_socket_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    server = Ngh2Server({}, take_over=True)

    with pytest.raises(AddressError, match=r"notes\.txt: it is no socket; remove it"):
        await server.bind([UnixAddress(tmp_path / "fine.sock"), UnixAddress(path)])

    assert path.read_text() == "dear diary"
    assert names_in(tmp_path) == ["notes.txt"]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_draining_waits_no_longer_than_it_was_told(world: World) -> None:
    client = await world.client()
    client.begin(HANG)
    await until(lambda: world.begun == 1)

    async with asyncio.timeout(5.0):
        await world.server.drain(0.2)

    await client.read_to_the_end()
    assert world.cancelled == 1


async def test_a_unix_socket_speaks_the_same(world: World, tmp_path: Path) -> None:
    path = UnixAddress(tmp_path / "a.sock")
    await world.server.start([path])
    client = await Http2Client.connect(path)

    assert (await client.call(ECHO, b"x")).message == b"x"
    await client.close()


async def until(probe: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not probe():  # noqa: ASYNC110 - what is waited for is not ours to signal
            await asyncio.sleep(0.001)


async def until_ended_or_closed(client: Http2Client, stream_id: int) -> None:
    async with asyncio.timeout(HANG_S):
        while stream_id not in client.ended and await client.read_frame():
            pass


async def world_is_responsive(world: World) -> bytes:
    other = await world.client()
    answer = await other.call(ECHO, b"other")
    return answer.message
