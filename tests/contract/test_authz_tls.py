"""TLS and mutual TLS of both gRPC servers: who gets in, and what a new certificate changes."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from aforo_authz.limits import Limits
from aforo_authz.server import Server, TcpAddress, UnixAddress
from aforo_authz.server_grpcio import GrpcioServer
from aforo_authz.server_ngh2 import Ngh2Server
from aforo_authz.tls import Tls, TlsError, TlsFiles
from lab.servers import scratch_dir
from tests.certificates import certificate

pytestmark = pytest.mark.contract

ECHO = "/test.Echo/Echo"
LIMITS = Limits(handshake_s_max=5.0)


@dataclass(frozen=True)
class Secured:
    files: TlsFiles
    tls: Tls
    port: int
    socket: Path


def echo(message: bytes, _budget_s: float | None) -> bytes:
    return message


@pytest.fixture
def client_identity(tmp_path: Path) -> tuple[Path, Path]:
    return certificate(tmp_path, "client", "URI:spiffe://lab/ns/default/sa/envoy")


@pytest.fixture(params=["ngh2", "grpcio"])
async def serve(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[Path | None], "asyncio.Future[Secured]"]]:
    servers: list[Server] = []

    async def start(client_ca: Path | None) -> Secured:
        chain, key = certificate(tmp_path, "server", "DNS:localhost,IP:127.0.0.1")
        files = TlsFiles(certificate=chain, key=key, client_ca=client_ca)
        tls = Tls(files)
        kind = Ngh2Server if request.param == "ngh2" else GrpcioServer
        server: Server = kind({ECHO: echo}, limits=LIMITS, tls=tls)
        servers.append(server)
        path = scratch_dir("tls") / "a.sock"
        tcp, _ = await server.start([TcpAddress("127.0.0.1", 0), UnixAddress(path)])
        assert isinstance(tcp, TcpAddress)
        return Secured(files, tls, tcp.port, path)

    yield lambda client_ca: asyncio.ensure_future(start(client_ca))
    for server in servers:
        await server.drain(1.0)


Serve = Callable[[Path | None], "asyncio.Future[Secured]"]


def contents(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None


async def answer(
    address: str, trusted: Path | None, identity: tuple[Path, Path] | None = None
) -> bytes | str:
    """Call once; return the answer, or the name of the error."""
    if trusted is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        chain, key = map(contents, identity or (None, None))
        credentials = grpc.ssl_channel_credentials(contents(trusted), key, chain)
        channel = grpc.aio.secure_channel(address, credentials)
    async with channel:
        try:
            reply: bytes = await channel.unary_unary(ECHO, None, None)(b"hello", timeout=5.0)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return reply


async def test_tcp_speaks_tls_and_a_unix_socket_does_not(serve: Serve) -> None:
    served = await serve(None)

    assert await answer(f"localhost:{served.port}", served.files.certificate) == b"hello"
    assert await answer(f"localhost:{served.port}", None) == "UNAVAILABLE"
    assert await answer(f"unix:{served.socket}", None) == b"hello"


async def test_mutual_tls_asks_for_a_certificate_that_its_authority_signed(
    serve: Serve, client_identity: tuple[Path, Path], tmp_path: Path
) -> None:
    served = await serve(client_identity[0])
    stranger = certificate(tmp_path, "stranger", "URI:spiffe://elsewhere/x")
    address, trusted = f"localhost:{served.port}", served.files.certificate

    assert await answer(address, trusted, client_identity) == b"hello"
    assert await answer(address, trusted) == "UNAVAILABLE"
    assert await answer(address, trusted, stranger) == "UNAVAILABLE"
    assert await answer(address, trusted, client_identity) == b"hello"


async def test_new_files_serve_new_connections_and_bad_ones_change_nothing(
    serve: Serve, tmp_path: Path
) -> None:
    served = await serve(None)
    address, old = f"localhost:{served.port}", served.files.certificate
    first = old.read_bytes()
    (tmp_path / "new").mkdir()
    chain, key = certificate(tmp_path / "new", "server", "DNS:localhost")

    served.files.key.write_bytes(key.read_bytes())
    served.files.certificate.write_bytes(chain.read_bytes())
    served.tls.refresh()
    trusted_before = tmp_path / "before.pem"
    trusted_before.write_bytes(first)
    assert await answer(address, chain) == b"hello"
    assert await answer(address, trusted_before) == "UNAVAILABLE"

    served.files.certificate.write_text("no certificate")
    served.tls.refresh()
    assert await answer(address, chain) == b"hello"


async def test_who_never_finishes_the_handshake_is_let_go(serve: Serve) -> None:
    served = await serve(None)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    async with asyncio.timeout(20.0):
        assert await reader.read() == b""
    writer.close()
    assert await answer(f"localhost:{served.port}", served.files.certificate) == b"hello"


def test_old_protocols_and_other_applications_are_refused(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "server", "DNS:localhost")
    context = Tls(TlsFiles(certificate=chain, key=key)).context

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    client = ssl.create_default_context(cafile=str(chain))
    client.set_alpn_protocols(["h2"])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(incoming, outgoing, server_side=True)
        back, forth = ssl.MemoryBIO(), ssl.MemoryBIO()
        asking = client.wrap_bio(back, forth, server_hostname="localhost")
        for _ in range(4):
            for side, source, sink in ((asking, forth, incoming), (server, outgoing, back)):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
                sink.write(source.read())
        assert server.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize(
    ("broken", "named"),
    [("certificate", "AFORO_AUTHZ_TLS_CERTIFICATE"), ("client_ca", "AFORO_AUTHZ_TLS_CLIENT_CA")],
)
def test_an_unusable_file_is_named_with_its_setting(
    tmp_path: Path, broken: str, named: str
) -> None:
    chain, key = certificate(tmp_path, "server", "DNS:localhost")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    chosen = {"certificate": chain, "key": key, "client_ca": chain, broken: garbage}

    with pytest.raises(TlsError, match=named):
        Tls(TlsFiles(**chosen))
    with pytest.raises(TlsError, match=r"cannot read .*missing\.pem: No such file"):
        Tls(TlsFiles(**{**chosen, broken: tmp_path / "missing.pem"}))
