"""grpcio's asyncio server behind the same functions: the second transport."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc
import structlog

from aforo_authz.limits import Limits
from aforo_authz.server import (
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
    identity_of,
    owner_and_group_only,
    unlink_socket,
)
from aforo_authz.tls import Tls, TlsError, TlsFiles

log = structlog.get_logger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Behaviour: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioServer:
    """Serves methods with grpc.aio, without its own serialisation.

    Args:
        methods: By path.
        limits: What a client may cost.
        tls: For TCP addresses.
        hear: Told of each call's `traceparent`, right before its method is called.
        unheard: Told of each answer that came after its caller's time was over. An answer that
            crosses the word of a caller who leaves is not told: grpcio does not say so.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
        hear: Callable[[str], None] | None = None,
        unheard: Callable[[bytes], None] = lambda _answer: None,
    ) -> None:
        limits = limits or Limits()
        self._tls = tls
        self._bound: list[tuple[Address, tuple[int, int] | None]] = []
        options = [
            ("grpc.max_receive_message_length", limits.message_bytes_max),
            ("grpc.max_concurrent_streams", limits.streams_max),
            ("grpc.max_metadata_size", limits.header_list_bytes_max),
            ("grpc.absolute_max_metadata_size", limits.header_list_bytes_max),
            ("grpc.max_connection_idle_ms", round(limits.idle_s_max * 1000)),
            ("grpc.server_handshake_timeout_ms", round(limits.handshake_s_max * 1000)),
            ("grpc.so_reuseport", 0),  # A port in use must be an error, not a shared one.
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(_handlers(methods, hear, unheard))

    async def start(self, addresses: list[Address]) -> list[Address]:
        """Bind and begin."""
        bound = await self.bind(addresses)
        await self.begin()
        return bound

    async def bind(self, addresses: list[Address]) -> list[Address]:
        for address in addresses:
            # Binding it ourselves first gives the same errors, and clears away a dead socket.
            bound_socket(address).close()
            unlink_socket(address, identity_of(address))
            try:
                with owner_and_group_only():
                    port = self._add_port(address)
            except RuntimeError as error:
                raise AddressError(f"cannot listen on {address}: {error}") from error
            chosen = address if isinstance(address, UnixAddress) else TcpAddress(address.host, port)
            self._bound.append((chosen, identity_of(chosen)))
        return [address for address, _ in self._bound]

    async def begin(self) -> None:
        await self._server.start()

    def _add_port(self, address: Address) -> int:
        if self._tls is None or isinstance(address, UnixAddress):
            return self._server.add_insecure_port(str(address))
        return self._server.add_secure_port(str(address), _credentials(self._tls.files))

    async def drain(self, grace_s: float) -> None:
        await self._server.stop(grace_s)
        for address, identity in self._bound:
            unlink_socket(address, identity)


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that follow their files: grpcio asks again for every handshake."""

    def configuration() -> "grpc.ServerCertificateConfiguration":
        certificate, key, client_ca = files.read()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def refreshed() -> "grpc.ServerCertificateConfiguration | None":
        try:
            return configuration()
        except TlsError as error:
            log.error("new TLS files can't be used; the old ones serve", error=str(error))
            return None

    credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
        configuration(),
        refreshed,  # type: ignore[arg-type] # None is documented: nothing has changed.
        require_client_authentication=files.client_ca is not None,
    )
    return credentials


def _handlers(
    methods: Methods, hear: Callable[[str], None] | None, unheard: Callable[[bytes], None]
) -> "list[grpc.GenericRpcHandler[bytes, bytes]]":
    handlers = []
    for path, method in methods.items():
        _, service, name = path.split("/")
        behaviour = _behaviour(guarded(method), unheard)
        if hear is not None:
            behaviour = _heard(behaviour, hear)
        handler = grpc.unary_unary_rpc_method_handler(behaviour)
        handlers.append(grpc.method_handlers_generic_handler(service, {name: handler}))
    return handlers


def _heard(behaviour: Behaviour, hear: Callable[[str], None]) -> Behaviour:
    async def call(message: bytes, context: "Context") -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        hear(str(metadata.get("traceparent", "")))
        # Without a turn of the loop between: the method hears of its own call.
        return await behaviour(message, context)

    return call


def _behaviour(method: Method, unheard: Callable[[bytes], None]) -> Behaviour:
    async def call(message: bytes, context: "Context") -> bytes:
        try:
            answered = await answer(method, message, context.time_remaining())
        except RpcError as error:
            await context.abort(CODES[error.code], error.message)
            raise AssertionError("abort raises") from error
        left_s = context.time_remaining()
        if left_s is not None and left_s <= 0:
            unheard(answered)
        return answered

    return call
