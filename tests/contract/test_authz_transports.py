"""Both gRPC servers behave alike, on either event loop: one body of tests, with grpcio's client."""

import asyncio
import re
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import structlog.testing

from aforo_authz.health import PATH as HEALTH
from aforo_authz.health import SERVING, Health
from aforo_authz.limits import Limits
from aforo_authz.server import (
    AddressError,
    Method,
    RpcError,
    Server,
    TcpAddress,
    UnixAddress,
)
from aforo_authz.server_grpcio import GrpcioServer
from aforo_authz.server_ngh2 import Ngh2Server
from lab.servers import eventually

pytestmark = [
    pytest.mark.contract,
    pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]),
]

ECHO, LATER, REFUSE, BREAK, BREAK_LATER, BUDGET, HANG, STALL = (
    f"/test.Service/{name}"
    for name in ("Echo", "Later", "Refuse", "Break", "BreakLater", "Budget", "Hang", "Stall")
)
STALL_S = 0.3
LATER_S = 0.2
LATER_BEGUN: list[bytes] = []


def echo(message: bytes, _budget_s: float | None) -> bytes:
    return message


async def later(message: bytes, _budget_s: float | None) -> bytes:
    LATER_BEGUN.append(message)
    await asyncio.sleep(LATER_S)
    return message[::-1]


def refuse(_message: bytes, _budget_s: float | None) -> bytes:
    raise RpcError(14, "Redis is away: 100 % of it, ä")


def break_down(_message: bytes, _budget_s: float | None) -> bytes:
    raise ZeroDivisionError


async def break_down_later(_message: bytes, _budget_s: float | None) -> bytes:
    await asyncio.sleep(0)
    raise ZeroDivisionError


def budget(_message: bytes, budget_s: float | None) -> bytes:
    return repr(budget_s).encode()


async def hang(message: bytes, _budget_s: float | None) -> bytes:
    await asyncio.sleep(60)
    return message


def stall(message: bytes, budget_s: float | None) -> bytes:
    patience_s = budget_s if message == b"impatient" and budget_s is not None else 0.0
    # As when the machine has no time for us: the loop stands still too.
    time.sleep(patience_s + STALL_S)
    return message


METHODS: dict[str, Method] = {
    ECHO: echo,
    LATER: later,
    REFUSE: refuse,
    BREAK: break_down,
    BREAK_LATER: break_down_later,
    BUDGET: budget,
    HANG: hang,
    STALL: stall,
}

MakeServer = Callable[[], Server]


@pytest.fixture
def unheard() -> list[bytes]:
    return []


@pytest.fixture(params=["ngh2", "grpcio"])
def make_server(request: pytest.FixtureRequest, unheard: list[bytes]) -> MakeServer:
    health = Health(lambda: True)
    health.listening = True
    methods = {**METHODS, HEALTH: health.check}
    make = Ngh2Server if request.param == "ngh2" else GrpcioServer
    return lambda: make(methods, unheard=unheard.append)


@pytest.fixture
async def channel(make_server: MakeServer) -> AsyncIterator[grpc.aio.Channel]:
    server = make_server()
    (address,) = await server.start([TcpAddress("127.0.0.1", 0)])
    async with grpc.aio.insecure_channel(str(address)) as channel:
        yield channel
    await server.drain(1.0)


async def call(
    channel: grpc.aio.Channel, path: str, message: bytes = b"", *, timeout_s: float = 10.0
) -> bytes:
    method = channel.unary_unary(path, None, None)
    answered: bytes = await method(message, timeout=timeout_s)
    return answered


def has_ip_version_6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def status_of(
    channel: grpc.aio.Channel, path: str, message: bytes = b"", *, timeout_s: float = 10.0
) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, path, message, timeout_s=timeout_s)
    return raised.value.code(), raised.value.details() or ""


async def test_a_method_answers_at_once_or_later(channel: grpc.aio.Channel) -> None:
    assert await call(channel, ECHO, b"now") == b"now"
    assert await call(channel, LATER, b"abc") == b"cba"
    assert await call(channel, ECHO, b"") == b""


async def test_a_large_message_crosses_in_many_frames(channel: grpc.aio.Channel) -> None:
    message = bytes(range(256)) * 2048

    assert await call(channel, ECHO, message) == message


async def test_a_message_over_the_limit_is_refused_and_others_go_on(
    channel: grpc.aio.Channel,
) -> None:
    code, _ = await status_of(channel, ECHO, bytes(Limits().message_bytes_max + 1))

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call(channel, ECHO, b"next") == b"next"


async def test_many_calls_share_a_connection(channel: grpc.aio.Channel) -> None:
    messages = [str(number).encode() for number in range(500)]

    answers = await asyncio.gather(*(call(channel, LATER, message) for message in messages))

    assert answers == [message[::-1] for message in messages]


async def test_an_error_of_ours_reaches_the_caller_with_code_and_words(
    channel: grpc.aio.Channel,
) -> None:
    code, words = await status_of(channel, REFUSE)

    assert code is grpc.StatusCode.UNAVAILABLE
    assert words == "Redis is away: 100 % of it, ä"


@pytest.mark.parametrize("path", [BREAK, BREAK_LATER])
async def test_a_wrong_turn_in_our_code_is_unavailable_and_takes_nothing_down(
    channel: grpc.aio.Channel, path: str
) -> None:
    code, words = await status_of(channel, path)

    assert code is grpc.StatusCode.UNAVAILABLE
    assert re.fullmatch("internal error, decision id [0-9a-f]{32}", words)
    assert await call(channel, ECHO, b"next") == b"next"


@pytest.mark.parametrize("path", [BREAK, BREAK_LATER])
async def test_a_wrong_turn_is_logged_under_the_id_that_the_caller_is_told(
    channel: grpc.aio.Channel, path: str
) -> None:
    with structlog.testing.capture_logs() as lines:
        _, words = await status_of(channel, path)

    (line,) = (line for line in lines if line["event"] == "a method broke")
    assert line["log_level"] == "error"
    assert isinstance(line["exc_info"], ZeroDivisionError)
    assert words.endswith(line["decision_id"])


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    code, _ = await status_of(channel, "/no.Such/Method")

    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_callers_deadline_reaches_the_method(channel: grpc.aio.Channel) -> None:
    began_s = time.monotonic()
    left_s = float(await call(channel, BUDGET, timeout_s=5.0))
    took_s = time.monotonic() - began_s

    assert 4.9 - took_s < left_s <= 5.1  # Clients may round up.


async def test_an_answer_that_comes_when_its_caller_has_left_is_told_and_no_other(
    channel: grpc.aio.Channel, unheard: list[bytes]
) -> None:
    assert await call(channel, STALL, b"patient") == b"patient"
    await status_of(channel, STALL, b"impatient", timeout_s=2.0)
    await eventually(lambda: bool(unheard))

    assert await call(channel, ECHO, b"next") == b"next"
    assert unheard == [b"impatient"]


async def test_a_caller_who_gives_up_leaves_the_connection_intact(
    channel: grpc.aio.Channel,
) -> None:
    code, _ = await status_of(channel, HANG, timeout_s=0.1)

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await call(channel, ECHO, b"next") == b"next"


async def test_health_answers_for_the_server_and_for_envoys_service(
    channel: grpc.aio.Channel,
) -> None:
    service = b"envoy.service.auth.v3.Authorization"
    named = b"\x0a" + bytes([len(service)]) + service

    assert await call(channel, HEALTH) == SERVING
    assert await call(channel, HEALTH, named) == SERVING
    code, _ = await status_of(channel, HEALTH, b"\x0a\x04nope")
    assert code is grpc.StatusCode.NOT_FOUND
    code, _ = await status_of(channel, HEALTH, b"\xff\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_unix_socket_serves_and_disappears_with_the_server(
    make_server: MakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "a.sock"
    server = make_server()
    await server.start([UnixAddress(path)])

    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert await call(channel, ECHO, b"x") == b"x"
    await server.drain(1.0)

    assert not path.exists()


async def test_an_address_of_ip_version_6_is_served_and_written_with_brackets(
    make_server: MakeServer,
) -> None:
    if not has_ip_version_6():
        pytest.skip("this machine has no [::1]")
    server = make_server()
    (address,) = await server.start([TcpAddress("::1", 0)])

    async with grpc.aio.insecure_channel(str(address)) as channel:
        assert await call(channel, ECHO, b"x") == b"x"
    await server.drain(1.0)
    assert str(address).startswith("[::1]:")


async def test_a_socket_that_a_killed_process_left_is_replaced(
    make_server: MakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    server = make_server()

    await server.start([UnixAddress(path)])

    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert await call(channel, ECHO, b"x") == b"x"
    await server.drain(1.0)


async def test_a_port_in_use_is_named_with_what_to_do(make_server: MakeServer) -> None:
    first, second = make_server(), make_server()
    (address,) = await first.start([TcpAddress("127.0.0.1", 0)])

    with pytest.raises(AddressError, match=r"cannot listen on 127\.0\.0\.1:\d+.*AFORO_AUTHZ_LIST"):
        await second.start([address])
    await second.drain(0.0)
    await first.drain(0.0)


async def test_draining_finishes_what_has_begun(make_server: MakeServer) -> None:
    server = make_server()
    (address,) = await server.start([TcpAddress("127.0.0.1", 0)])
    async with grpc.aio.insecure_channel(str(address)) as channel:
        await call(channel, ECHO)
        LATER_BEGUN.clear()
        begun = asyncio.ensure_future(call(channel, LATER, b"abc"))
        await eventually(lambda: b"abc" in LATER_BEGUN, every_s=0.001)

        await server.drain(5.0)

        assert await begun == b"cba"
