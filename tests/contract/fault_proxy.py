"""An HTTP proxy before ingest that does to requests what networks and overload do."""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from aiohttp import web

from lab.ports import free_port

# Longer than any SDK waits for an answer.
PATIENCE_S = 10.5


class FaultProxy:
    """Forwards requests, but for what a plan does to them.

    Args:
        to: Where it forwards.
        plan: Given a request's body and which attempt with it this is, from 1 on, it returns an
            answer, or None for no answer at all: the connection is cut.
    """

    def __init__(
        self, to: str, plan: Callable[["FaultProxy", bytes, int], Awaitable[web.Response | None]]
    ) -> None:
        self.port = free_port()
        self.requests = 0
        self.up = asyncio.Event()
        self.up.set()
        self._to = to
        self._plan = plan
        self._attempts: Counter[bytes] = Counter()
        self._headers: dict[bytes, dict[str, str]] = {}
        self._client: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def forward(self, body: bytes) -> web.Response | None:
        """Return the server's answer; None if it does not give one."""
        await self.up.wait()
        try:
            async with self._client.post(
                f"{self._to}/v1/ingest/batch", data=body, headers=self._headers[body]
            ) as answer:
                return web.Response(
                    body=await answer.read(),
                    status=answer.status,
                    headers={"content-type": answer.headers["content-type"]},
                )
        except aiohttp.ClientError:
            return None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        assert request.path == "/v1/ingest/batch", request.path
        self.requests += 1
        digest = hashlib.sha256(body).digest()
        self._attempts[digest] += 1
        self._headers[body] = {
            name: value
            for name, value in request.headers.items()
            if name.lower() in {"x-api-key", "x-tenant-id", "content-type"}
        }
        answer = await self._plan(self, body, self._attempts[digest])
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FaultProxy"]:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/{path:.*}", self._answer)
        # A client that gives up must not take back what was sent on.
        runner = web.AppRunner(app, handler_cancellation=False, access_log=None, shutdown_timeout=1)
        await runner.setup()
        async with aiohttp.ClientSession() as self._client:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            try:
                yield self
            finally:
                await runner.cleanup()


def refusal(status: int, *, retry_after_s: int) -> web.Response:
    return web.Response(
        text='{"title": "Later", "status": %d}' % status,  # noqa: UP031 - braces.
        status=status,
        headers={
            "content-type": "application/problem+json",
            "retry-after": str(retry_after_s),
        },
    )


async def nothing(proxy: FaultProxy, body: bytes, _: int) -> web.Response | None:
    return await proxy.forward(body)


async def too_many(proxy: FaultProxy, body: bytes, attempt: int) -> web.Response | None:
    """Refuse each request once."""
    return refusal(429, retry_after_s=1) if attempt == 1 else await proxy.forward(body)


async def unavailable(proxy: FaultProxy, body: bytes, attempt: int) -> web.Response | None:
    """Store each request and say that it wasn't; then refuse it; then take it."""
    if attempt == 1:
        await proxy.forward(body)
    if attempt <= 2:
        return refusal(503, retry_after_s=1)
    return await proxy.forward(body)


async def slow(proxy: FaultProxy, body: bytes, attempt: int) -> web.Response | None:
    """Answer the first request of each client when it has given up, and the others late."""
    answer = await proxy.forward(body)
    await asyncio.sleep(PATIENCE_S if attempt == 1 and proxy.requests % 4 == 1 else 0.2)
    return answer
