"""GET, over TCP or a UNIX socket, of pages for operators: bounded in size and time."""

import email.utils
import http.client
import socket
import time
from dataclasses import dataclass
from typing import Final

from aforo_admin.domain.diagnosis import SECOND_MICROS, Clock
from aforo_admin.settings import host_and_port

BYTES_MAX: Final = 32 << 20
UNIX: Final = "unix:"


class NoAnswerError(Exception):
    """Nobody answered as HTTP does; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An answer."""

    status: int
    body: bytes
    date: str  # As its header says it; empty if it has none.
    asked_at_micros: int
    answered_at_micros: int

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def clock(self, part: str) -> Clock | None:
        """Return what time its server has, which says it in whole seconds; None if it does not."""
        said = email.utils.parsedate_to_datetime(self.date) if self.date else None
        if said is None:
            return None
        middle_micros = (self.asked_at_micros + self.answered_at_micros) // 2
        theirs_micros = int(said.timestamp()) * SECOND_MICROS + SECOND_MICROS // 2
        trip_micros = self.answered_at_micros - self.asked_at_micros
        return Clock(
            part=part,
            ahead_micros=theirs_micros - middle_micros,
            # Servers keep a date for up to a second before they work it out again.
            unsure_micros=SECOND_MICROS * 3 // 2 + trip_micros // 2,
        )


def check_address(text: str) -> str:
    """Return an address if it is one; ValueError says what is expected."""
    if not text.removeprefix(UNIX):
        raise ValueError(f"{text!r}: expected host:port or unix:/path")
    if not text.startswith(UNIX):
        host_and_port(text)
    return text


def get(address: str, path: str, *, timeout_s: float) -> Page:
    """Ask for a page.

    Args:
        address: host:port or unix:/path.
        path: With its query.
        timeout_s: Of each step; who asks bounds the whole.

    Raises:
        NoAnswerError: There was none.
    """
    connection = _Connection(address, timeout_s)
    asked_at_micros = now_micros()
    try:
        connection.request("GET", path, headers={"Host": "localhost", "Connection": "close"})
        answer = connection.getresponse()
        answered_at_micros = now_micros()
        body = answer.read(BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswerError(str(error) or type(error).__name__) from error
    finally:
        connection.close()
    return Page(
        status=answer.status,
        body=body,
        date=answer.getheader("date", ""),
        asked_at_micros=asked_at_micros,
        answered_at_micros=answered_at_micros,
    )


def now_micros() -> int:
    return time.time_ns() // 1000


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: str, timeout_s: float) -> None:
        self._path = address.removeprefix(UNIX) if address.startswith(UNIX) else ""
        host, port = ("localhost", 80) if self._path else host_and_port(address)
        super().__init__(host, port, timeout=timeout_s)

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
