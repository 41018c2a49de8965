"""How a parent hands connections to its workers: as open files, over a pair of sockets.

One byte comes with each connection and says how to speak on it. One byte goes back for each that
has ended, so that the parent knows who has how many. The end of the pair is the end of a process.
"""

import asyncio
import contextlib
import socket

from aforo_authz.server_ngh2 import Ngh2Server

PLAIN, SECURED = b"p", b"s"


def give(channel: socket.socket, connection: socket.socket, *, secured: bool) -> bool:
    """Hand a connection over; False if the worker takes none."""
    try:
        socket.send_fds(channel, [SECURED if secured else PLAIN], [connection.fileno()])
    except OSError:
        return False
    return True


def ended(channel: socket.socket) -> int | None:
    """Return how many connections have ended since the last look; None if the worker has."""
    try:
        return len(channel.recv(65_536)) or None
    except BlockingIOError:
        return 0
    except OSError:
        return None


def receive(server: Ngh2Server, channel: socket.socket, stop: asyncio.Event) -> None:
    """Serve what a parent hands over from now on, and stop when it is gone."""
    loop = asyncio.get_running_loop()
    channel.setblocking(False)  # noqa: FBT003 - the library's

    def take() -> None:
        try:
            # One byte, one file: not more than one connection is read at once.
            how, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            how, descriptors = b"", []
        if not how:
            loop.remove_reader(channel)
            stop.set()
        for descriptor in descriptors:
            server.adopt(socket.socket(fileno=descriptor), secured=how == SECURED)

    def tell_closed() -> None:
        with contextlib.suppress(OSError):
            channel.send(b"-")

    server.closed = tell_closed
    loop.add_reader(channel, take)
