"""A stand-in for a gRPC service: it answers with the status, and as often, as it is asked.

grpc.aio: /lab.Lab/Unary and /lab.Lab/Stream; request metadata `x-lab-status: 5`,
`x-lab-messages: 3`, `x-lab-gap-ms: 100`.
"""

from __future__ import annotations  # grpc-stubs has generics that grpc has not.

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio

SERVICE = "lab.Lab"
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcUpstream:
    """Serves on a free port of 127.0.0.1. `async with` starts and ends it."""

    def __init__(self) -> None:
        self.port = 0
        self.calls = 0
        self._server = grpc.aio.server()
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Stream": grpc.unary_stream_rpc_method_handler(self._stream),
        }
        service = grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._server.add_generic_rpc_handlers((service,))

    async def __aenter__(self) -> Self:
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=0)

    async def _unary(self, request: bytes, context: Context) -> bytes:
        self.calls += 1
        await _end_as_asked(context)
        return request

    async def _stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        self.calls += 1
        asked = _asked(context)
        for number in range(int(asked.get("x-lab-messages", "1"))):
            if number:
                await asyncio.sleep(int(asked.get("x-lab-gap-ms", "0")) / 1000)
            yield request
        await _end_as_asked(context)


def _asked(context: Context) -> dict[str, str]:
    return {key: str(value) for key, value in context.invocation_metadata() or ()}


async def _end_as_asked(context: Context) -> None:
    code = int(_asked(context).get("x-lab-status", "0"))
    if code:
        await context.abort(CODES[code], "as it was asked for")
