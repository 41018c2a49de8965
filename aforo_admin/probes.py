"""/livez and /readyz of the pages, before Django: probes come without TLS and under any name."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from aforo_admin.body_bounds import App, Receive, Scope, Send

log = structlog.get_logger()

ANSWER_S: Final = 2.0  # Kubernetes waits longer (k8s/base/admin).
GOOD_FOR_S: Final = 1.0  # Whoever asks more often costs the database nothing.


class Readiness:
    """Whether the catalog's database answers, asked once at a time. Lives in one event loop.

    Args:
        ask: Raises what the database raises; may block.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[bool] | None = None
        self._ready = False
        self._said: bool | None = None
        self._good_until_s = 0.0

    async def __call__(self) -> bool:
        if time.monotonic() < self._good_until_s:
            return self._ready
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._find())
        try:
            # One that hangs goes on: another thread for each probe would be one too many.
            self._ready = await asyncio.wait_for(asyncio.shield(self._asking), ANSWER_S)
        except TimeoutError:
            self._ready = False
            self._say("no answer")
        self._good_until_s = time.monotonic() + GOOD_FOR_S
        return self._ready

    async def _find(self) -> bool:
        try:
            await asyncio.to_thread(self._ask)
        except Exception as error:  # noqa: BLE001 - whatever it is, no page would do better.
            self._say(type(error).__name__)  # Its text may name the database's user and host.
            return False
        self._say(None)
        return True

    def _say(self, why: str | None) -> None:
        """Log when it changes."""
        ready = why is None
        if ready != self._said and not ready:
            log.warning("the catalog's database can't be read: not ready", error=why)
        elif ready != self._said:
            log.info("ready")
        self._said = ready


def probed(app: App, is_ready: Callable[[], Awaitable[bool]]) -> App:
    """Return an ASGI app that answers probes itself; the rest is the app's."""

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path") if scope["type"] == "http" else None
        if path == "/livez":
            await _tell(send, status=200, text="alive")
        elif path == "/readyz":
            ready = await is_ready()
            text = "ready" if ready else "the catalog's database can't be read: see the log"
            await _tell(send, status=200 if ready else 503, text=text)
        else:
            await app(scope, receive, send)

    return asked


async def _tell(send: Send, *, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
