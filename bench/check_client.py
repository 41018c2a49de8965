"""An open-loop client of the decision server: checks at a fixed rate, over a few connections."""

import asyncio
import gc
import os
import time
from collections.abc import Callable
from typing import cast

from ngh2 import Connection, DataReceived, Role, Setting, StreamClosed

from aforo_authz.authorize import PATH
from bench.check_requests import framed
from lab.load import LoadResult, timer_fd

HEADERS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH.encode()),
    (b":authority", b"bench"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
    (b"grpc-timeout", b"250m"),
)
DRAIN_S_MAX = 5.0


class CheckClient:
    """Sends checks when they are due, whatever has been answered.

    Args:
        port: Of the server, on 127.0.0.1.
        rate_per_s: Checks a second.
        count: How many.
        message: The n-th CheckRequest, serialised.
        connections: HTTP/2 connections; checks go to each in turn.
    """

    def __init__(
        self,
        *,
        port: int,
        rate_per_s: float,
        count: int,
        message: Callable[[int], bytes],
        connections: int = 8,
    ) -> None:
        self.result = LoadResult()
        self._port = port
        self._interval_s = 1.0 / rate_per_s
        self._count = count
        self._message = message
        self._connections = connections
        self._open: list[_Connection] = []
        self._sent = 0
        self._answered = 0
        self._began_s = 0.0
        self._done = asyncio.Event()

    async def run(self) -> LoadResult:
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            _, connection = await loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
            self._open.append(connection)
        timer = timer_fd(self._interval_s)
        gc.disable()  # A search through all that is to be sent would make this one late.
        self._began_s = time.perf_counter()
        loop.add_reader(timer, self._tick, timer)
        try:
            await asyncio.wait_for(self._done.wait(), self._count * self._interval_s + DRAIN_S_MAX)
        except TimeoutError:
            self.result.errors["unanswered"] += self._count - self._answered
        finally:
            gc.enable()
            loop.remove_reader(timer)
            os.close(timer)
            for connection in self._open:
                connection.close()
        return self.result

    def _tick(self, timer: int) -> None:
        os.read(timer, 8)
        now_s = time.perf_counter()
        due = min(self._count, int((now_s - self._began_s) / self._interval_s))
        for number in range(self._sent, due):
            late_s = now_s - self._due_s(number)
            self.result.late_s_max = max(self.result.late_s_max, late_s)
            self._open[number % len(self._open)].send(number, self._message(number))
        self._sent = due
        for connection in self._open:
            connection.flush()

    def _due_s(self, number: int) -> float:
        return self._began_s + (number + 1) * self._interval_s

    def answered(self, number: int, *, whole: bool) -> None:
        if whole:
            self.result.latencies_s.append(time.perf_counter() - self._due_s(number))
        else:
            self.result.errors["no message"] += 1
        self._answered += 1
        if self._answered == self._count:
            self._done.set()


class _Connection(asyncio.Protocol):
    def __init__(self, owner: CheckClient) -> None:
        self._owner = owner
        self._http2 = Connection(Role.CLIENT)
        self._calls: dict[int, tuple[int, bool]] = {}  # stream → (number, was there a message?)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._http2.initiate_connection({Setting.ENABLE_PUSH: 0})
        self.flush()

    def send(self, number: int, message: bytes) -> None:
        stream_id = self._http2.send_request(HEADERS)
        self._http2.send_data(stream_id, framed(message), end_stream=True)
        self._calls[stream_id] = (number, False)

    def flush(self) -> None:
        data = self._http2.data_to_send()
        if data:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._http2.receive_data(data)
        for event in self._http2.events():
            if isinstance(event, DataReceived):
                number, _ = self._calls[event.stream_id]
                self._calls[event.stream_id] = (number, True)
            elif isinstance(event, StreamClosed):
                number, whole = self._calls.pop(event.stream_id)
                self._owner.answered(number, whole=whole)
        self.flush()

    def close(self) -> None:
        self._transport.abort()
