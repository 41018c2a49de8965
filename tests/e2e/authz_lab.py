"""aforo-authz as a process of its own, who asks it, and what it knows."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from aforo_authz.authorize import PATH
from aforo_authz.domain.features import Rule
from aforo_authz.health import NOT_SERVING, SERVING
from aforo_authz.health import PATH as HEALTH
from lab.patience import PATIENT_AUTHZ
from lab.ports import free_port
from lab.servers import (
    HANG_S,
    ROOT,
    Program,
    ask_tcp,
    eventually,
    python_module,
    scratch_dir,
)
from tests.authz_redis import ReadModel
from tests.authz_requests import Request, by_xds_protos
from tests.authz_samples import make_credential, make_policy, make_quota

KEY = "key-of-acme-0123456789abcdef"
TENANT_HEADERS = {"x-api-key": KEY}
REDIS_TIMEOUT_MS = 50  # As without a word; most tests wait longer.


class Authz(Program):
    """One process, on a UNIX socket, a TCP port and a port for metrics."""

    def __init__(self, redis_url: str, *, transport: str = "ngh2", **settings: str) -> None:
        home = scratch_dir("authz")
        self.socket = home / "authz.sock"
        self.port = free_port()
        self.metrics_port = free_port()
        env = {
            "AFORO_AUTHZ_LISTEN": f"unix:{self.socket}, 127.0.0.1:{self.port}",
            "AFORO_AUTHZ_METRICS_LISTEN": f"127.0.0.1:{self.metrics_port}",
            "AFORO_AUTHZ_REDIS_URL": redis_url,
            **PATIENT_AUTHZ,
            **settings,
        }
        program = python_module(
            "authz", "aforo_authz", "serve", "--transport", transport, env=env, log_dir=home
        )
        super().__init__(
            "authz", program.command, env=env, ready=self._listens, log_dir=home, cwd=ROOT
        )

    def _listens(self) -> bool:
        return "serving" in {line.get("event") for line in self.logged()}

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_lines() if line[:1] == "{"]

    def page(self, path: str) -> bytes:
        request = f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode()
        return ask_tcp(self.metrics_port, request, bytes_max=1 << 16)


class Client:
    """Asks one process, as Envoy does."""

    def __init__(self, address: str, options: Sequence[tuple[str, int]] = ()) -> None:
        self.channel = grpc.insecure_channel(address, options=options)
        self._check = self.channel.unary_unary(PATH, None, None)
        self._health = self.channel.unary_unary(HEALTH, None, None)

    def check(
        self, headers: Mapping[str, str] = TENANT_HEADERS, *, path: str = "/v1/chat"
    ) -> CheckResponse:
        return self.ask(by_xds_protos(Request(headers=headers, path=path)))

    def ask(self, message: bytes) -> CheckResponse:
        return CheckResponse.FromString(self._check(message, timeout=HANG_S))

    def reason(self, headers: Mapping[str, str] = TENANT_HEADERS) -> str:
        """Return the reason of the decision, or the name of the gRPC error."""
        try:
            return metadata_of(self.check(headers))["reason"]
        except grpc.RpcError as error:
            return str(error.code().name)

    @property
    def serving(self) -> bool:
        answer: bytes = self._health(b"", timeout=HANG_S)
        assert answer in {SERVING, NOT_SERVING}
        return answer == SERVING


def metadata_of(response: CheckResponse) -> dict[str, str]:
    return {n: v.string_value for n, v in response.dynamic_metadata.fields.items()}


def fill(url: str, *, quota_limit: int = 100) -> ReadModel:
    model = ReadModel(url)
    model.put_credential(KEY, make_credential())
    model.put_policy(make_policy(make_quota(limit_units=quota_limit)))
    model.put_rules([Rule(methods=frozenset(), path_template="/v1/**", features=("chat",))])
    model.complete_sync()
    return model


@contextlib.contextmanager
def running(
    redis_url: str, *, transport: str = "ngh2", **settings: str
) -> Iterator[tuple[Authz, Client]]:
    with Authz(redis_url, transport=transport, **settings) as authz:
        client = Client(f"127.0.0.1:{authz.port}")
        with client.channel:
            yield authz, client


async def ready(client: Client) -> None:
    await eventually(lambda: client.serving)
