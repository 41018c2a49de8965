"""Several processes on one address: the parent accepts connections and deals them out.

Envoy opens few connections and keeps them, so chance must not decide where they go: each goes to
the worker with the fewest. The parent serves nothing itself; a worker that dies is started again.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import structlog

from aforo_authz import handover, metrics_http
from aforo_authz.http2 import LINGER_S
from aforo_authz.metrics_workers import WorkersMetrics
from aforo_authz.server import (
    Address,
    TcpAddress,
    bound_socket,
    identity_of,
    stop_signal,
    unlink_socket,
)
from aforo_authz.settings import Settings

log = structlog.get_logger("aforo_authz")

RESTART_S, RESTART_S_MAX = 0.1, 5.0  # Pauses before a worker is started again, doubled each time.
STEADY_S = 30.0  # Who lived so long begins with the short pause again.


@dataclass(slots=True)
class Worker:
    """One process, and the channel by which it gets connections."""

    number: int
    metrics_path: Path
    process: asyncio.subprocess.Process | None = None
    channel: socket.socket | None = None
    connections: int = 0
    dealt: int = 0  # Connections in its life: of equals, whoever had fewer gets the next.


class Workers:
    """The parent of all workers.

    Args:
        settings: Theirs; `workers` says how many.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = Path(tempfile.mkdtemp(prefix="aforo-authz-"))
        self._workers = [
            Worker(number, self._home / f"worker-{number}.sock")
            for number in range(settings.workers)
        ]
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then let all workers drain.

        Raises:
            AddressError: An address can't be listened on.
        """
        self._stop = stop_signal()
        metrics = WorkersMetrics([worker.metrics_path for worker in self._workers])
        listeners = [(address, bound_socket(address)) for address in self._settings.addresses]
        bound = [(address, identity_of(address)) for address, _ in listeners]
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(
                metrics_http.serve(
                    self._settings.metrics_listen, metrics.exposed, is_ready=metrics.all_ready
                )
            )
            async with asyncio.TaskGroup() as tasks:
                keepers = [tasks.create_task(self._keep(worker)) for worker in self._workers]
                accepting = [
                    tasks.create_task(self._accept(address, listener))
                    for address, listener in listeners
                ]
                log.info("serving", addresses=[str(a) for a, _ in bound], workers=len(keepers))
                await self._stop.wait()
                for task in accepting:
                    task.cancel()
                for (_, listener), (address, identity) in zip(listeners, bound, strict=True):
                    listener.close()
                    unlink_socket(address, identity)
                await self._end()
                for task in keepers:
                    task.cancel()

    async def _keep(self, worker: Worker) -> None:
        """Have the worker run, as long as we are to serve."""
        loop = asyncio.get_running_loop()
        pause_s = RESTART_S
        while not self._stop.is_set():
            began_s = loop.time()
            await self._start(worker)
            assert worker.process is not None, "it was just started"
            code = await worker.process.wait()
            self._let_go(worker)
            if self._stop.is_set():
                return
            pause_s = RESTART_S if loop.time() - began_s > STEADY_S else pause_s
            log.error("a worker ended", worker=worker.number, code=code, again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_S_MAX)

    async def _start(self, worker: Worker) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - the library's
        command = [sys.executable, "-m", "aforo_authz", "worker", str(theirs.fileno())]
        settings = {
            "AFORO_AUTHZ_METRICS_LISTEN": f"unix:{worker.metrics_path}",
            "AFORO_AUTHZ_TRANSPORT": self._settings.transport,
        }
        worker.process = await asyncio.create_subprocess_exec(
            *command,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **settings},
            # Ctrl-C reaches the parent, who lets all of them drain.
            start_new_session=True,
        )
        theirs.close()
        worker.channel, worker.connections = ours, 0
        asyncio.get_running_loop().add_reader(ours, self._hear, worker)

    def _hear(self, worker: Worker) -> None:
        """Take note of connections that have ended: a byte for each."""
        assert worker.channel is not None, "only who has one is heard"
        ended = handover.ended(worker.channel)
        if ended is None:
            self._let_go(worker)
        else:
            worker.connections -= ended

    def _let_go(self, worker: Worker) -> None:
        if worker.channel is not None:
            asyncio.get_running_loop().remove_reader(worker.channel)
            worker.channel.close()
            worker.channel = None

    async def _accept(self, address: Address, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)  # noqa: FBT003 - the library's
        secured = isinstance(address, TcpAddress)
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.error("a connection was not accepted", error=str(error))
                await asyncio.sleep(RESTART_S)
                continue
            with connection:
                self._deal(connection, secured=secured)

    def _deal(self, connection: socket.socket, *, secured: bool) -> None:
        """Give a connection to the worker that has the fewest."""
        for worker in sorted(self._workers, key=lambda w: (w.connections, w.dealt)):
            if worker.channel is not None and handover.give(
                worker.channel, connection, secured=secured
            ):
                worker.connections += 1
                worker.dealt += 1
                return
        log.error("a connection was refused: no worker is running")

    async def _end(self) -> None:
        """Let all workers drain; whoever takes too long is ended."""
        running = [w.process for w in self._workers if w.process and w.process.returncode is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        settings = self._settings
        try:
            async with asyncio.timeout(settings.drain_notice_s + settings.drain_s + 2 * LINGER_S):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            for process in running:
                if process.returncode is None:
                    log.error("a worker did not drain in time", pid=process.pid)
                    process.kill()
        for worker in self._workers:
            worker.metrics_path.unlink(missing_ok=True)
        self._home.rmdir()
