"""An open-loop load generator: requests start on schedule, whatever became of the earlier ones.

A closed loop waits for an answer before it asks again, so a stall of one second costs it one
bad figure instead of a thousand ("coordinated omission"). Here each latency counts from the
moment at which the schedule wanted the request to start.
"""

import asyncio
import ctypes
import os
import struct
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

CLOCK_MONOTONIC = 1
NON_BLOCKING = os.O_NONBLOCK  # TFD_NONBLOCK has the same value.
DRAIN_S_MAX = 5.0  # After the last request has started; a test waits longer.


@dataclass(slots=True, kw_only=True)
class LoadResult:
    """What came back. Only requests scheduled after the warm-up are counted."""

    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    # How late the generator itself was at worst: above a millisecond or two, distrust the rest.
    late_s_max: float = 0.0

    def quantile_ms(self, quantile: float) -> float:
        """Return the latency that this share of the answers did not exceed."""
        assert self.latencies_s, f"no request was answered: {self.errors}"
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] * 1000


class LoadGenerator:
    """Sends at a fixed rate over kept-alive connections to one address on 127.0.0.1.

    Args:
        port: Where to send.
        rate_per_s: Requests a second.
        duration_s: For how long, warm-up included; `stop` ends it earlier.
        request: The bytes of the n-th request, head and body.
        connections: At least as many as are under way at once; else requests queue here, and
            their waiting counts.
        warm_up_s: Requests scheduled in this first part are sent, but not counted.
        drain_s: How long the last answers may take.
    """

    def __init__(
        self,
        *,
        port: int,
        rate_per_s: float,
        duration_s: float,
        request: Callable[[int], bytes],
        connections: int = 64,
        warm_up_s: float = 0.0,
        drain_s: float = DRAIN_S_MAX,
    ) -> None:
        self.port = port
        self.result = LoadResult()
        self._interval_s = 1.0 / rate_per_s
        self._count = round(rate_per_s * duration_s)
        self._warm_up_s = warm_up_s
        self._drain_s = drain_s
        self._request = request
        self._connections = connections
        self._idle: list[_Connection] = []
        self._waiting: deque[int] = deque()
        self._sent = 0
        self._pending = self._count
        self._started_s = 0.0
        self._done = asyncio.Event()

    async def run(self) -> LoadResult:
        loop = asyncio.get_running_loop()
        opened = [
            loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
            for _ in range(self._connections)
        ]
        transports = [transport for transport, _ in await asyncio.gather(*opened)]
        timer = timer_fd(self._interval_s)
        self._started_s = time.perf_counter()
        loop.add_reader(timer, self._tick, timer)
        try:
            limit_s = self._count * self._interval_s + self._drain_s
            await asyncio.wait_for(self._done.wait(), limit_s)
        except TimeoutError:
            self.result.errors["unanswered"] += self._pending
        finally:
            loop.remove_reader(timer)
            os.close(timer)
            for transport in transports:
                transport.abort()
        return self.result

    def stop(self) -> None:
        """Start no more requests: `run` returns when those under way are answered."""
        self._pending -= self._count - self._sent
        self._count = self._sent
        if self._pending == 0:
            self._done.set()

    def _tick(self, timer: int) -> None:
        """Start all that is due: more than one where a tick came late."""
        os.read(timer, 8)
        now_s = time.perf_counter()
        due = min(self._count, int((now_s - self._started_s) / self._interval_s))
        for number in range(self._sent, due):
            late_s = now_s - self.scheduled_s(number)
            self.result.late_s_max = max(self.result.late_s_max, late_s)
            if self._idle:
                self._idle.pop().send(number, self._request(number))
            else:
                self._waiting.append(number)
        self._sent = due

    def scheduled_s(self, number: int) -> float:
        return self._started_s + (number + 1) * self._interval_s

    def ready(self, connection: "_Connection") -> None:
        """Take back a connection that has nothing to do."""
        if self._waiting:
            number = self._waiting.popleft()
            connection.send(number, self._request(number))
        else:
            self._idle.append(connection)

    def answered(self, number: int, status: int) -> None:
        if self._counts(number):
            self.result.latencies_s.append(time.perf_counter() - self.scheduled_s(number))
            self.result.statuses[status] += 1
        self._settle()

    def failed(self, number: int, error: str) -> None:
        if self._counts(number):
            self.result.errors[error] += 1
        self._settle()

    def lost(self, connection: "_Connection") -> None:
        """Drop a connection that was closed; the others carry on."""
        if connection in self._idle:
            self._idle.remove(connection)

    def _counts(self, number: int) -> bool:
        return number * self._interval_s >= self._warm_up_s

    def _settle(self) -> None:
        self._pending -= 1
        if self._pending == 0:
            self._done.set()


class _Connection(asyncio.Protocol):
    """One request at a time; knows just enough HTTP to see where an answer ends."""

    def __init__(self, owner: LoadGenerator) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._number: int | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._owner.ready(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        number, self._number = self._number, None
        if number is not None:
            self._owner.failed(number, type(error).__name__ if error else "closed")
        self._owner.lost(self)

    def send(self, number: int, data: bytes) -> None:
        assert self._transport is not None, "an idle connection is open"
        self._number = number
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        if self._number is None or not is_complete(received):
            return
        number, self._number = self._number, None
        self._received = b""
        self._owner.answered(number, int(received[9:12]))
        self._owner.ready(self)


def is_complete(received: bytes) -> bool:
    """Say whether these bytes are a whole response (of a server that sends lower-case names)."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    at = received.find(b"content-length: ", 0, end)
    if at >= 0:
        size = int(received[at + 16 : received.index(b"\r\n", at)])
        return len(received) >= end + 4 + size
    if received.find(b"transfer-encoding: chunked", 0, end) >= 0:
        return received.endswith(b"0\r\n\r\n")
    return True


def timer_fd(interval_s: float) -> int:
    """Return a timer's file descriptor that is readable every `interval_s`.

    Event loops round their own timers to a millisecond, which is more than what is measured.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timer: int = libc.timerfd_create(CLOCK_MONOTONIC, NON_BLOCKING)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create failed")
    seconds, nanos = divmod(round(interval_s * 1e9), 1_000_000_000)
    setting = struct.pack("4q", seconds, nanos, seconds, nanos)  # struct itimerspec, 64 bits.
    if libc.timerfd_settime(timer, 0, setting, None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime failed")
    return timer
