"""Unary gRPC over libnghttp2: small, and several times as fast as grpcio's asyncio server.

Owns sockets and connections; streams and framing are `http2.py`'s.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping

import structlog

from aforo_authz.http2 import NOTICE_S, Http2Connection, Owner
from aforo_authz.limits import Limits
from aforo_authz.server import (
    Address,
    Method,
    Methods,
    TcpAddress,
    bound_socket,
    guarded,
    identity_of,
    unlink_socket,
    wait_idle,
)
from aforo_authz.tls import Tls

log = structlog.get_logger(__name__)

SWEEP_S = 1.0
TLS_LOOK_S = 10.0  # How often certificates are looked at for a change.
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
OUT_OF_FILES_PAUSE_S = 0.5


class Ngh2Server:
    """Serves methods over HTTP/2: in clear on UNIX sockets, with TLS on TCP if there is any.

    Args:
        methods: By path.
        limits: What a client may cost.
        tls: For TCP addresses.
        refused: Told of everything that goes beyond a limit, by kind.
        connection: Makes what speaks on each connection.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
        refused: Callable[[str], None] = lambda _kind: None,
        connection: Callable[[Owner], Http2Connection] = Http2Connection,
    ) -> None:
        self.methods: Mapping[bytes, Method] = {
            path.encode(): guarded(method) for path, method in methods.items()
        }
        self.limits = limits or Limits()
        self.connections: set[Http2Connection] = set()
        self.refused = refused
        self.closed: Callable[[], None] = lambda: None  # Told of each connection's end.
        self.now_s = 0.0
        self._tls = tls
        self._connection = connection
        self._listeners: list[socket.socket] = []
        self._bound: list[tuple[Address, tuple[int, int] | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, addresses: list[Address]) -> list[Address]:
        self.now_s = asyncio.get_running_loop().time()
        self._begin(self._sweep())
        if self._tls is not None:
            self._begin(self._follow_certificates(self._tls))
        for address in addresses:
            listener = bound_socket(address)
            listener.setblocking(False)  # noqa: FBT003 - the library's
            if isinstance(address, TcpAddress):
                address = TcpAddress(address.host, listener.getsockname()[1])  # noqa: PLW2901
            self._listeners.append(listener)
            self._bound.append((address, identity_of(address)))
            self._begin(self._accept(listener, secured=isinstance(address, TcpAddress)))
        return [address for address, _ in self._bound]

    def adopt(self, connection: socket.socket, *, secured: bool) -> None:
        """Serve a connection that was accepted here, or elsewhere and handed over."""
        self._begin(self._open(connection, self._tls if secured else None))

    async def drain(self, grace_s: float) -> None:
        for task in list(self._tasks):
            task.cancel()
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.announce_end()
        notice_s = min(NOTICE_S, grace_s)
        await asyncio.sleep(notice_s)
        for connection in list(self.connections):
            connection.go_away()
        await wait_idle(lambda: all(c.idle for c in self.connections), grace_s - notice_s)
        for connection in list(self.connections):
            connection.close()
        for address, identity in self._bound:
            unlink_socket(address, identity)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket, *, secured: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in OUT_OF_FILES:
                    self.refused("open_files")
                    log.error("cannot accept: raise the limit of open files", error=str(error))
                    await asyncio.sleep(OUT_OF_FILES_PAUSE_S)
                # Anything else is the one connection's: its client left before it was accepted.
                continue
            self.adopt(connection, secured=secured)

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
