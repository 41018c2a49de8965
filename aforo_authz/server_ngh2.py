"""Unary gRPC over libnghttp2: small, and several times as fast as grpcio's asyncio server.

Owns sockets and connections; streams and framing are `http2.py`'s.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping

import structlog

from aforo_authz.http2 import NOTICE_S_MAX, Http2Connection, Owner
from aforo_authz.limits import Limits
from aforo_authz.listener import Listener, listeners
from aforo_authz.server import Address, Method, Methods, guarded, wait_until
from aforo_authz.tls import Tls

log = structlog.get_logger(__name__)

SWEEP_S = 1.0
TLS_LOOK_S = 10.0  # How often certificates are looked at for a change.


class Ngh2Server:
    """Serves methods over HTTP/2: in clear on UNIX sockets, with TLS on TCP if there is any.

    Args:
        methods: By path.
        limits: What a client may cost.
        tls: For TCP addresses.
        refused: Told of everything that goes beyond a limit, by kind.
        unheard: Told of each answer whose caller had left before it reached him.
        connection: Makes what speaks on each connection.
        take_over: Replace whoever listens on a UNIX socket of ours.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
        refused: Callable[[str], None] = lambda _kind: None,
        unheard: Callable[[bytes], None] = lambda _answer: None,
        connection: Callable[[Owner], Http2Connection] = Http2Connection,
        take_over: bool = False,
    ) -> None:
        self.methods: Mapping[bytes, Method] = {
            path.encode(): guarded(method) for path, method in methods.items()
        }
        self.limits = limits or Limits()
        self.connections: set[Http2Connection] = set()
        self.refused = refused
        self.unheard = unheard
        self.closed: Callable[[], None] = lambda: None  # Told of each connection's end.
        self.now_s = 0.0
        self.draining = False
        self._tls = tls
        self._connection = connection
        self._take_over = take_over
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._opening: set[asyncio.Task[None]] = set()

    async def start(self, addresses: list[Address]) -> list[Address]:
        """Bind and begin."""
        bound = await self.bind(addresses)
        await self.begin()
        return bound

    async def bind(self, addresses: list[Address]) -> list[Address]:
        bound = listeners(addresses, self, take_over=self._take_over)
        self._listeners += bound
        return [listener.address for listener in bound]

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.now_s = loop.time()
        self._tasks.append(loop.create_task(self._sweep()))
        if self._tls is not None:
            self._tasks.append(loop.create_task(self._follow_certificates(self._tls)))
        for listener in self._listeners:
            listener.begin()

    def adopt(self, connection: socket.socket, *, secured: bool) -> None:
        """Serve a connection that was accepted here, or elsewhere and handed over."""
        work = self._open(connection, self._tls if secured else None)
        task = asyncio.get_running_loop().create_task(work)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def out_of_files(self) -> None:
        self.refused("open_files")

    async def drain(self, grace_s: float) -> None:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + grace_s
        for task in self._tasks:
            task.cancel()
        self.draining = True
        for connection in list(self.connections):
            connection.announce_end()
        while self._listeners:
            self._listeners.pop().end()
        await wait_until(self._all_informed, min(NOTICE_S_MAX, grace_s))
        for connection in list(self.connections):
            connection.go_away()
        await wait_until(lambda: all(c.idle for c in self.connections), ends_s - loop.time())
        for task in self._opening:
            task.cancel()
        for connection in list(self.connections):
            connection.close()

    def _all_informed(self) -> bool:
        return not self._opening and all(c.informed for c in self.connections)

    async def _open(self, connection: socket.socket, tls: Tls | None) -> None:
        connection.setblocking(False)  # noqa: FBT003 - the library's
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection(self),
                connection,
                ssl=tls.context if tls is not None else None,
                ssl_handshake_timeout=self.limits.handshake_s_max if tls is not None else None,
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            connection.close()
            self.closed()
            self.refused("tls_handshake")
            log.debug("no TLS connection came about", error=str(error))

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            self.now_s = loop.time()
            for connection in list(self.connections):
                connection.sweep()

    async def _follow_certificates(self, tls: Tls) -> None:
        while True:
            await asyncio.sleep(TLS_LOOK_S)
            tls.refresh()
