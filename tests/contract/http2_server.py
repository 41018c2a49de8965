"""The server over libnghttp2 in a process of its own, so that its memory can be measured.

Started by `Http2Process`: `python -m tests.contract.http2_server LOOP LIMITS`. It ends with its
standard input.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import uvloop

from aforo_authz.limits import Limits
from aforo_authz.log import configure_logging
from aforo_authz.server import TcpAddress
from aforo_authz.server_ngh2 import Ngh2Server

ECHO, LATER, HANG = "/t.S/Echo", "/t.S/Later", "/t.S/Hang"


class Http2Process:
    """A server, from outside."""

    def __init__(self, loop: str = "uvloop", limits: Limits | None = None) -> None:
        told = json.dumps(dataclasses.asdict(limits or Limits()))
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, loop, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20.0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    @property
    def peak_kib(self) -> int:
        """The most memory that the process ever had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def stop(self) -> None:
        self._process.communicate()  # Closes its standard input.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()


def echo(message: bytes, _budget_s: float | None) -> bytes:
    return message


async def later(message: bytes, _budget_s: float | None) -> bytes:
    await asyncio.sleep(0)
    return message


async def hang(message: bytes, _budget_s: float | None) -> bytes:
    await asyncio.get_running_loop().create_future()
    return message


async def serve(limits: Limits) -> None:
    server = Ngh2Server({ECHO: echo, LATER: later, HANG: hang}, limits=limits)
    (address,) = await server.start([TcpAddress("127.0.0.1", 0)])
    assert isinstance(address, TcpAddress)
    sys.stdout.write(f"{address.port}\n")
    sys.stdout.flush()
    with contextlib.suppress(ConnectionError):
        await asyncio.to_thread(os.read, 0, 1)
    await server.drain(0.0)


def main() -> None:
    loop, told = sys.argv[1:]
    configure_logging("warning")
    make_loop = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(serve(Limits(**json.loads(told))))


if __name__ == "__main__":
    main()
