"""grpcio's asyncio server behind the same functions: the second transport."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc

from aforo_authz.server import (
    MESSAGE_BYTES_MAX,
    Address,
    AddressError,
    Method,
    Methods,
    RpcError,
    TcpAddress,
    UnixAddress,
    answer,
    bound_socket,
    guarded,
    owner_and_group_only,
    unlink_socket,
)

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioServer:
    """Serves methods with grpc.aio, without its own serialisation."""

    def __init__(self, methods: Methods) -> None:
        self._addresses: list[Address] = []
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.so_reuseport", 0),  # A port in use must be an error, not a shared one.
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(_handlers(methods))

    async def start(self, addresses: list[Address]) -> list[Address]:
        for address in addresses:
            # Binding it ourselves first gives the same errors, and clears away a dead socket.
            bound_socket(address).close()
            if isinstance(address, UnixAddress):
                unlink_socket(address)
            try:
                with owner_and_group_only():
                    port = self._server.add_insecure_port(str(address))
            except RuntimeError as error:
                raise AddressError(f"cannot listen on {address}: {error}") from error
            chosen = address if isinstance(address, UnixAddress) else TcpAddress(address.host, port)
            self._addresses.append(chosen)
        await self._server.start()
        return self._addresses

    async def drain(self, grace_s: float) -> None:
        await self._server.stop(grace_s)
        for address in self._addresses:
            unlink_socket(address)


def _handlers(methods: Methods) -> "list[grpc.GenericRpcHandler[bytes, bytes]]":
    handlers = []
    for path, method in methods.items():
        _, service, name = path.split("/")
        handler = grpc.unary_unary_rpc_method_handler(_behaviour(guarded(method)))
        handlers.append(grpc.method_handlers_generic_handler(service, {name: handler}))
    return handlers


def _behaviour(method: Method) -> Callable[[bytes, "Context"], Awaitable[bytes]]:
    async def call(message: bytes, context: "Context") -> bytes:
        try:
            return await answer(method, message, context.time_remaining())
        except RpcError as error:
            await context.abort(CODES[error.code], error.message)
        raise AssertionError("abort raises")

    return call
