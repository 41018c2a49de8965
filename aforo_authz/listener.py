"""A socket on which connections arrive, from its binding to its end: none that arrived is lost."""

import asyncio
import errno
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import structlog

from aforo_authz.server import (
    Address,
    AddressError,
    TcpAddress,
    UnixAddress,
    bound_socket,
    identity_of,
    somebody_listens,
    unlink_socket,
)

log = structlog.get_logger(__name__)

BACKLOG = 1024  # Connections that may wait to be accepted.
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
OUT_OF_FILES_PAUSE_S = 0.5


class Taker(Protocol):
    """Who gets the connections."""

    def adopt(self, connection: socket.socket, *, secured: bool) -> None: ...

    def out_of_files(self) -> None:
        """Take note that one could not be accepted."""
        ...


class Listener:
    """Listens on one address, and accepts in the loop's own turn.

    Not in a task, which could be cancelled between a connection's arrival and its service.

    Args:
        address: Where.
        taker: Who gets the connections.
        take_over: Replace whoever listens on a UNIX socket, with `begin`.

    Raises:
        AddressError: The address can't be had.
    """

    def __init__(self, address: Address, taker: Taker, *, take_over: bool = False) -> None:
        self._taker = taker
        self._take_over = take_over
        self._secured = isinstance(address, TcpAddress)
        self._pause: asyncio.TimerHandle | None = None
        # Until it begins, a UNIX socket has a name of its own: another one may be serving.
        self._unborn: Path | None = None
        if isinstance(address, UnixAddress):
            self._check(address)
            self._unborn = address.path.with_name(f".{secrets.token_hex(3)}")
            self._socket = _bound_elsewhere(address, self._unborn)
            self._identity = identity_of(UnixAddress(self._unborn))
        else:
            self._socket = bound_socket(address)
            self._identity = None
            address = TcpAddress(address.host, self._socket.getsockname()[1])
        self.address: Address = address

    def begin(self) -> None:
        """Listen. Until then who connects is refused, or reaches whom we take over from.

        Raises:
            AddressError: Another process was faster.
        """
        self._socket.listen(BACKLOG)
        if self._unborn is not None and isinstance(self.address, UnixAddress):
            self._check(self.address)
            # In one step: at no moment nobody listens on the path.
            self._unborn.replace(self.address.path)
            self._unborn = None
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def end(self) -> None:
        """Take what has arrived, and stop.

        The file of a UNIX socket goes, but for one that took over: its own successor may be
        replacing it in this moment. A file on which nobody listens is in nobody's way.
        """
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._accept()
        self._socket.close()
        if self._unborn is not None:
            self._unborn.unlink(missing_ok=True)
        elif not self._take_over:
            unlink_socket(self.address, self._identity)

    def _check(self, address: UnixAddress) -> None:
        """Raise AddressError if our socket would take the place of what must stay."""
        problem, remedy = "", ""
        if address.path.exists() and not address.path.is_socket():
            problem, remedy = "it is no socket", "remove it"
        elif not self._take_over and somebody_listens(address.path):
            problem = "Address already in use"
            remedy = "stop what uses it, set AFORO_AUTHZ_TAKE_OVER=true"
        if problem:
            raise AddressError(
                f"cannot listen on {address}: {problem};"
                f" {remedy}, or set AFORO_AUTHZ_LISTEN to another address"
            )

    def _accept(self) -> None:
        """Take every connection that waits."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_FILES:
                    log.error("cannot accept: raise the limit of open files", error=str(error))
                    self._taker.out_of_files()
                    self._wait()
                # Else it is the one connection's: its client left before it was accepted. If more
                # wait, we are called again.
                return
            self._taker.adopt(connection, secured=self._secured)

    def _wait(self) -> None:
        """Look again in a while: as long as no file can be opened, each look would fail."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._pause = loop.call_later(
            OUT_OF_FILES_PAUSE_S, loop.add_reader, self._socket, self._accept
        )


def listeners(
    addresses: Iterable[Address], taker: Taker, *, take_over: bool = False
) -> list[Listener]:
    """Return a listener for each address, or none.

    Raises:
        AddressError: One of them can't be had.
    """
    made: list[Listener] = []
    try:
        for address in addresses:
            made.append(Listener(address, taker, take_over=take_over))  # noqa: PERF401 - see below
    except AddressError:
        for listener in made:
            listener.end()
        raise
    return made


def _bound_elsewhere(address: UnixAddress, path: Path) -> socket.socket:
    """Return a socket bound to another path, with errors about the address that is meant."""
    try:
        return bound_socket(UnixAddress(path))
    except AddressError as error:
        raise AddressError(str(error).replace(str(path), str(address.path))) from error
