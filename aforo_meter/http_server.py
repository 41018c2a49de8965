"""uvicorn whose clients hear of its end before it comes. Ingest and the admin's pages share it."""

import asyncio
import time
from collections.abc import Sequence
from socket import socket
from typing import Final

import uvicorn

# A client that is about to use a kept connection again finds it open for so long.
FAREWELL_S: Final = 1.0
LOOK_EVERY_S: Final = 0.05


class Server(uvicorn.Server):
    """uvicorn that says `connection: close` in its last answers, and only then closes.

    Its own way is to close at once each connection that is idle. A request that is already on its
    way there is lost, and no client may send a POST again unasked: a rolling restart would fail
    one now and then. Until `farewell_s` are over, or nobody is connected any more, requests are
    answered, of new connections too.
    """

    def __init__(self, config: uvicorn.Config, *, farewell_s: float = FAREWELL_S) -> None:
        super().__init__(config)
        self._farewell_s = farewell_s

    async def shutdown(self, sockets: Sequence[socket] | None = None) -> None:
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        until_s = time.monotonic() + self._farewell_s
        # uvicorn has no event for it.
        while state.connections and not self.force_exit and time.monotonic() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
        await super().shutdown(None if sockets is None else list(sockets))
