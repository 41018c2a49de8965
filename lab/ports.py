"""Loopback ports for servers, which no two processes are given."""

import atexit
import contextlib
import random
import socket
from collections.abc import Iterator


def free_port() -> int:
    """Return a loopback port that is free, and that no other process is given by this function.

    Between this answer and the server's bind there may be a second. So the port is none of those
    that the kernel gives to clients, nor one that was returned before.
    """
    for port in _OWN_PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no loopback port from 10000 to 31999 is left: end what holds them")


def _own_ports() -> Iterator[int]:
    """Yield ports of blocks that are claimed as long as this process lives."""
    blocks = [range(first, first + 100) for first in range(10_000, 32_000, 100)]
    for block in random.sample(blocks, len(blocks)):
        claim = socket.socket(socket.AF_UNIX)
        atexit.register(claim.close)
        # An abstract name: the kernel lets one process have it, and frees it when that one ends.
        with contextlib.suppress(OSError):
            claim.bind(f"\0aforo-ports-{block.start}")
            yield from block


_OWN_PORTS = _own_ports()
