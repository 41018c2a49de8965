"""uvicorn, with the bounds that it lacks: on heads, on slow heads, on connections."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aforo_meter.http_server import Server
from aforo_meter.ingest.problems import MEDIA_TYPE, problem_body
from aforo_meter.listen import (
    TcpAddress,
    UnixAddress,
    claim,
    listen_error,
    parse_addresses,
    restrict,
)

HEAD_BYTES_MAX: Final = 16 * 1024
HEAD_S: Final = 10.0
KEEP_ALIVE_S: Final = 75
BACKLOG: Final = 1024
CONNECTIONS_MAX: Final = 2000


class Protocol(HttpToolsProtocol):
    """One connection. A head that is too large or too slow ends it, with an answer."""

    # Before its first request a connection has none, whatever the base class declares.
    cycle: RequestResponseCycle | None  # type: ignore[assignment]
    _head_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            self._refuse(503, "Too many connections.")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        # Counted by what arrives at once, so that a body's beginning may be in it; the parser has
        # told by now whether the head is over.
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(431, f"The head of a request has at most {HEAD_BYTES_MAX} bytes.")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEAD_BYTES_MAX:
            self._refuse(431, f"The head of a request has at most {HEAD_BYTES_MAX} bytes.")
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        if self.cycle is not None and not self.transport.is_closing():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(
            HEAD_S, self._refuse, 408, f"The head did not arrive within {HEAD_S:g} seconds."
        )

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, detail: str) -> None:
        self._forget_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = problem_body(status, detail)
            head = f"HTTP/1.1 {status} \r\ncontent-type: {MEDIA_TYPE}\r\n"
            head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()


class IngestServer(Server):
    """A server within a loop that is not its own: the signals are the process's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    app: Starlette, sockets: Sequence[socket.socket], *, drain_s: float
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve on sockets that listen while the body runs; then let requests under way end."""
    server = IngestServer(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(drain_s)),
            backlog=BACKLOG,
        )
    )
    task: asyncio.Task[None] = asyncio.create_task(server.serve(sockets=list(sockets)))
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it.
            await asyncio.sleep(0.01)
        yield task
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def listening(listen: str, *, setting: str) -> Iterator[Sequence[socket.socket]]:
    """Listen on addresses while the body runs. Who connects waits until somebody serves.

    Raises:
        ListenError: An address is in use or can't be listened on.
    """
    with contextlib.ExitStack() as found:
        sockets: list[socket.socket] = []
        for address in parse_addresses(listen):
            claim(address, setting=setting)
            try:
                sockets.append(found.enter_context(_bound(address)))
            except OSError as error:
                raise listen_error(address, error, setting=setting) from error
            restrict(address)
        yield sockets


def _bound(address: TcpAddress | UnixAddress) -> socket.socket:
    place: Any
    if isinstance(address, UnixAddress):
        family, place = socket.AF_UNIX, address.path
    else:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, place = found[0]
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(place)
        one.listen(BACKLOG)
        one.setblocking(False)  # noqa: FBT003 - the name of its one argument says it.
    except BaseException:
        one.close()
        raise
    return one
