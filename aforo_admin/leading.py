"""Lead among several processes while a lease in the database is ours; prolong it in good time."""

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog
from django.db import Error as DatabaseError
from django.db import connection

from aforo_admin.control import leases

T = TypeVar("T")

log = structlog.get_logger("aforo_admin")

LEASE: Final = "sync"
LEASE_S: Final = 5.0
RENEW_S: Final = 1.0


@dataclass(slots=True, kw_only=True)
class Leader:
    """Whether this process leads, by its own clock never longer than by the database's."""

    holder: str = field(
        default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    )
    # A thread and a connection of its own: prolonging waits for no query of others.
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _until_s: float = 0.0

    def leads(self) -> bool:
        return time.monotonic() < self._until_s

    async def run(self, stop: asyncio.Event) -> None:
        """Seek the lease and keep it until `stop`; then leave it to others at once."""
        while not stop.is_set():
            await self._seek()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RENEW_S)
        await self._in_thread(self._release)
        self._thread.shutdown()

    async def _seek(self) -> None:
        led = self.leads()
        asked_s = time.monotonic()
        ours = await self._in_thread(self._acquire)
        if ours is not None:  # Else it may be ours still, until it expires.
            self._until_s = asked_s + LEASE_S if ours else 0.0
        if led != self.leads():
            lost = "the lease has lapsed" if ours is not False else "another process leads"
            log.info("leading" if self.leads() else lost, holder=self.holder)

    def _acquire(self) -> bool | None:
        """Say whether the lease is ours; None: the database does not say."""
        try:
            return leases.acquire(LEASE, holder=self.holder, for_s=LEASE_S)
        except DatabaseError as error:
            connection.close()
            log.warning("the lease can't be prolonged", error=str(error).strip())
            return None

    def _release(self) -> None:
        with contextlib.suppress(DatabaseError):
            leases.release(LEASE, holder=self.holder)
        connection.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
