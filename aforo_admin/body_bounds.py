"""No request may send more than makes sense: Django keeps a whole body before it looks at it."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from aforo_admin.yaml_nodes import BYTES_MAX  # Of a catalog: the largest that anybody sends.

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOO_LARGE: Final = {
    "type": "urn:aforo:problem:too-large",
    "title": "Too large",
    "status": 413,
    "detail": f"a body may have {BYTES_MAX} bytes: send less at once",
}


def bounded(app: App, *, bytes_max: int = BYTES_MAX) -> App:
    """Return an ASGI app that refuses what says that it is larger, and hangs up on what is."""

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _says(scope) > bytes_max:
            await _refuse(send)
            return
        left = bytes_max

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message if left >= 0 else {"type": "http.disconnect"}

        await app(scope, counted, send)

    return asked


def _says(scope: Scope) -> int:
    """Return how long a body says that it is; 0: it does not, or not so that it counts."""
    given = dict(scope["headers"]).get(b"content-length", b"")
    return int(given) if given.isdigit() else 0


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(TOO_LARGE).encode()})
