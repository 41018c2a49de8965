"""What both transports serve: methods that turn bytes into bytes, and the addresses they are on.

The hot path speaks gRPC through libnghttp2 (`server_ngh2.py`); grpcio's server (`server_grpcio.py`)
can take its place, and the same tests run over both.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

# The codes of gRPC that we use.
OK = 0
INVALID_ARGUMENT = 3
NOT_FOUND = 5
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14


class RpcError(Exception):
    """An answer that is an error of the call, not a decision: Envoy's failure_mode_allow rules."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class OwnFaultError(RpcError):
    """A wrong turn in our own code. No decision came of it, so it has an id that none has."""

    def __init__(self) -> None:
        self.decision_id = secrets.token_hex(16)
        super().__init__(UNAVAILABLE, f"internal error, decision id {self.decision_id}")


# (message, seconds left until the caller gives up or None) → message, now or later.
Method = Callable[[bytes, float | None], bytes | Awaitable[bytes]]
Methods = Mapping[str, Method]


class AddressError(Exception):
    """An address that can't be listened on; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


class Server(Protocol):
    """A transport that serves `Methods` until it is drained."""

    async def start(self, addresses: list[Address]) -> list[Address]:
        """Bind and begin."""
        ...

    async def bind(self, addresses: list[Address]) -> list[Address]:
        """Make the addresses ours; return them, with the ports that were chosen for port 0.

        Raises:
            AddressError: One of them is in use or can't be bound.
        """
        ...

    async def begin(self) -> None:
        """Serve on them."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, tell clients to go, finish what has begun, at most `grace_s`."""
        ...


def parse_address(text: str) -> Address:
    """Parse `host:port`, `[v6]:port` or `unix:/path`.

    Raises:
        AddressError: It is neither.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise AddressError(f"{text!r}: a UNIX socket needs an absolute path, unix:/run/a.sock")
        return UnixAddress(path)
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - the last port
        raise AddressError(f"{text!r} is no address: write host:port or unix:/path")
    return TcpAddress(host.strip("[]"), int(port))


def bound_socket(address: Address) -> socket.socket:
    """Return a socket that is bound, and does not listen yet.

    A UNIX socket that nobody listens on is what a killed process left behind: it is replaced.

    Raises:
        AddressError: The address is in use, or can't be bound.
    """
    try:
        if isinstance(address, UnixAddress):
            return _unix_socket(address.path)
        return _tcp_socket(address)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        remedy = "make its folder" if missing else "stop what uses it"
        raise AddressError(
            f"cannot listen on {address}: {plain(error)};"
            f" {remedy}, or set AFORO_AUTHZ_LISTEN to another address"
        ) from error


def plain(error: OSError) -> str:
    """Return what the system says is wrong, without what Python adds to it."""
    return os.strerror(error.errno) if error.errno else str(error)


def _tcp_socket(address: TcpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address.host, address.port))
        listener.setblocking(False)  # noqa: FBT003 - the library's
    except OSError:
        listener.close()
        raise
    return listener


def _unix_socket(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode) and not somebody_listens(path):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with owner_and_group_only():
            listener.bind(str(path))
        listener.setblocking(False)  # noqa: FBT003 - the library's
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def owner_and_group_only() -> Iterator[None]:
    """A UNIX socket bound in the body is open to its owner and group, from the first moment.

    The file's mode is the only lock on that door.
    """
    mask = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(mask)


def somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def identity_of(address: Address) -> tuple[int, int] | None:
    """Return what tells a UNIX socket's file from a later one at the same path."""
    if not isinstance(address, UnixAddress):
        return None
    with contextlib.suppress(FileNotFoundError):
        found = address.path.stat()
        return found.st_dev, found.st_ino
    return None


def unlink_socket(address: Address, identity: tuple[int, int] | None) -> None:
    """Remove a UNIX socket's file, unless a new process has taken its place meanwhile."""
    if isinstance(address, UnixAddress) and identity == identity_of(address):
        address.path.unlink(missing_ok=True)


def guarded(method: Method) -> Method:
    """Return a method that raises RpcError and nothing else.

    A wrong turn in our own code is an outage of this call, UNAVAILABLE, so that Envoy's
    failure_mode_allow decides; it is logged under the id that the caller is told, and takes neither
    the connection nor the process down.
    """

    def call(message: bytes, budget_s: float | None) -> bytes | Awaitable[bytes]:
        try:
            answered = method(message, budget_s)
        except RpcError:
            raise
        except Exception as error:
            raise _own_fault(error) from error
        return answered if isinstance(answered, bytes) else _guarded_later(answered)

    return call


async def _guarded_later(answered: Awaitable[bytes]) -> bytes:
    try:
        return await answered
    except RpcError:
        raise
    except Exception as error:
        raise _own_fault(error) from error


def _own_fault(error: Exception) -> OwnFaultError:
    fault = OwnFaultError()
    log.error("a method broke", decision_id=fault.decision_id, exc_info=error)
    return fault


async def answer(method: Method, message: bytes, budget_s: float | None) -> bytes:
    """Run a method to its end, whether it answers now or later."""
    result = method(message, budget_s)
    return result if isinstance(result, bytes) else await result


def stop_signal() -> asyncio.Event:
    """Return what is set when somebody asks this process to end: SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def wait_until(is_so: Callable[[], bool], s_max: float | None = None) -> None:
    """Wait until something is so, at most `s_max`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(s_max):
            while not is_so():  # noqa: ASYNC110 - a few times in the life of a process
                await asyncio.sleep(0.01)
