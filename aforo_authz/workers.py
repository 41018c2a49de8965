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
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from aforo_authz import handover, metrics_http
from aforo_authz.http2 import LINGER_S
from aforo_authz.listener import Listener, listeners
from aforo_authz.metrics_workers import WorkersMetrics
from aforo_authz.server import AddressError, stop_signal, wait_until
from aforo_authz.serving import FIRST_LOAD_S_MAX
from aforo_authz.settings import Settings

log = structlog.get_logger("aforo_authz")

RESTART_S, RESTART_S_MAX = 0.1, 5.0  # Pauses before a worker is started again, doubled each time.
READY_LOOK_S = 0.05  # How often the parent that takes over asks whether its workers are ready.
WORKERS_START_S_MAX = 5.0
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
        self._metrics = WorkersMetrics([worker.metrics_path for worker in self._workers])
        self._listeners: list[Listener] = []
        self._listening = False
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then let all workers drain.

        Raises:
            AddressError: An address can't be listened on.
        """
        self._stop = stop_signal()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(
                metrics_http.serve(
                    self._settings.metrics_listen, self._metrics.exposed, is_ready=self._is_ready
                )
            )
            # Before there are workers: an address may not be had.
            self._listeners = listeners(
                self._settings.addresses, self, take_over=self._settings.take_over
            )
            async with _one_error(), asyncio.TaskGroup() as tasks:
                keepers = [tasks.create_task(self._keep(worker)) for worker in self._workers]
                await wait_until(self._is_staffed)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._first_load_s_max):
                        await self._workers_ready()
                if not self._stop.is_set():
                    self._begin()
                await self._stop.wait()
                for listener in self._listeners:
                    listener.end()
                await self._end()
                for task in keepers:
                    task.cancel()

    def _begin(self) -> None:
        for listener in self._listeners:
            listener.begin()
        self._listening = True
        addresses = [str(listener.address) for listener in self._listeners]
        log.info("serving", addresses=addresses, workers=len(self._workers))

    def adopt(self, connection: socket.socket, *, secured: bool) -> None:
        """Give a connection to the worker that has the fewest."""
        with connection:
            for worker in sorted(self._workers, key=lambda w: (w.connections, w.dealt)):
                if worker.channel is not None and handover.give(
                    worker.channel, connection, secured=secured
                ):
                    worker.connections += 1
                    worker.dealt += 1
                    return
        log.error("a connection was refused: no worker is running")

    def out_of_files(self) -> None:
        """The log says it; the workers' metrics are their own."""

    async def _is_ready(self) -> bool:
        return self._listening and await self._metrics.all_ready()

    @property
    def _first_load_s_max(self) -> float | None:
        """As for a single process, and time for workers to start."""
        return None if self._settings.take_over else WORKERS_START_S_MAX + FIRST_LOAD_S_MAX

    def _is_staffed(self) -> bool:
        return self._stop.is_set() or all(worker.channel for worker in self._workers)

    async def _workers_ready(self) -> None:
        """Wait until all workers are ready, or we are to stop."""
        ready = False
        while not (ready or self._stop.is_set()):
            await asyncio.sleep(READY_LOOK_S)
            ready = await self._metrics.all_ready()

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


@contextlib.asynccontextmanager
async def _one_error() -> AsyncIterator[None]:
    """Turn a group of errors that says that an address can't be had into just that."""
    try:
        yield
    except ExceptionGroup as group:
        for error in group.exceptions:
            if isinstance(error, AddressError):
                raise error from None
        raise
