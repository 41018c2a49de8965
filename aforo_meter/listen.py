"""Addresses to listen on: how they are written, and whether they are free. It serves nothing."""

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

PROBE_TIMEOUT_S = 0.5


class ListenError(Exception):
    """An address can't be listened on; the message names it, the setting and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAddress:
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress

UNIX_PATH_BYTES_MAX = 107  # sun_path of Linux, less the closing NUL.


def parse_address(text: str) -> Address:
    """Read `host:port`, `[v6]:port` or `unix:/path`.

    Raises:
        ValueError: The message says what was expected.
    """
    scheme, _, path = text.partition(":")
    if scheme == "unix":
        if not path.startswith("/"):
            raise ValueError(f"{text!r}: a UNIX socket is written unix:/absolute/path")
        if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
            raise ValueError(
                f"{text!r}: the path of a UNIX socket has at most {UNIX_PATH_BYTES_MAX} bytes"
            )
        return UnixAddress(path=path)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r}: expected host:port, [ipv6]:port or unix:/path")
    if int(port) > 65535:  # noqa: PLR2004 - what a TCP port is.
        raise ValueError(f"{text!r}: a port is at most 65535")
    return TcpAddress(host=host.removeprefix("[").removesuffix("]"), port=int(port))


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Read a comma-separated list of at least one address."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("expected at least one host:port or unix:/path")
    return tuple(parse_address(part) for part in parts)


def claim(address: Address, *, setting: str) -> None:
    """Make sure that nobody listens on an address, and remove what a killed process left there.

    gRPC would share a TCP port (SO_REUSEPORT) and take over a UNIX socket in use without a word.

    Raises:
        ListenError: It is in use, not ours to use, or not an address of this machine.
    """
    try:
        if isinstance(address, UnixAddress):
            _claim_unix(address)
        else:
            _claim_tcp(address)
    except OSError as error:
        raise listen_error(address, error, setting=setting) from error


def restrict(address: Address) -> None:
    """Let only our user and group write to a socket: who does is believed."""
    if isinstance(address, UnixAddress):
        Path(address.path).chmod(0o660)


def listen_error(address: Address, error: OSError, *, setting: str) -> ListenError:
    """Say in one line why an address can't be used."""
    if error.errno == errno.EADDRINUSE:
        return ListenError(
            f"{address} is already in use: stop what listens there, or change {setting}"
        )
    reason = error.strerror or str(error)
    return ListenError(f"can't listen on {address}: {reason}; change {setting}")


def _claim_tcp(address: TcpAddress) -> None:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, place in found:
        with socket.socket(family, kind, protocol) as probe:
            # Without it, connections of an earlier run that still close would look like a listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)


def _claim_unix(address: UnixAddress) -> None:
    folder = Path(address.path).parent
    if not folder.is_dir():
        raise OSError(errno.ENOENT, f"{folder} is no directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"{folder} may not be written to")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(address.path).st_mode):
            raise OSError(errno.EEXIST, "a file that is not a socket stands there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(address.path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            # Nobody accepts: its owner was killed and could not remove it.
            os.unlink(address.path)  # noqa: PTH108 - beside os.lstat, on the same string.
            return
        except (TimeoutError, BlockingIOError):
            pass  # Its backlog is full: somebody is there.
        raise OSError(errno.EADDRINUSE, "in use")
