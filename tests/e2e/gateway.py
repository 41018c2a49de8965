"""The shipped Envoy configuration in front of a real aforo-authz and a real Redis."""

from __future__ import annotations  # grpc-stubs has generics that grpc has not.

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aforo_authz.domain.access import Level
from aforo_authz.domain.features import Rule
from aforo_authz.domain.quotas import WindowKind
from lab.envoy import EnvoyServer
from lab.ports import free_port
from lab.servers import ROOT, Program, ask_tcp, eventually, python_module, scratch_dir
from lab.upstream import FakeLlm
from tests.authz_redis import ReadModel
from tests.authz_samples import make_credential, make_margin, make_policy, make_quota
from tests.contract.envoy_lab import SHIPPED, LogLab, cluster

ALLOWED_KEY, BLOCKED_KEY = "key-of-acme-0123456789abcdef", "key-of-globex-0123456789abcde"


def fill(url: str) -> ReadModel:
    """Write two tenants: acme may call, under a hard quota; globex is below its margin."""
    model = ReadModel(url)
    quota = make_quota(limit_units=10**9, window=WindowKind.MONTH)
    for key, tenant_id in ((ALLOWED_KEY, "acme"), (BLOCKED_KEY, "globex")):
        model.put_credential(key, make_credential(tenant_id=tenant_id))
        model.put_policy(make_policy(quota, tenant_id=tenant_id))
    model.put_margin("globex", make_margin(Level.BLOCK, period_end_micros=None))
    model.put_rules([Rule(methods=frozenset(), path_template="/**", features=("chat",))])
    model.complete_sync()
    return model


class Authz(Program):
    """One aforo-authz on an address, with metrics on a port of its own."""

    def __init__(self, listen: str, redis_url: str, home: Path, **settings: str) -> None:
        self.metrics_port = free_port()
        env = {
            "AFORO_AUTHZ_LISTEN": listen,
            "AFORO_AUTHZ_METRICS_LISTEN": f"127.0.0.1:{self.metrics_port}",
            "AFORO_AUTHZ_REDIS_URL": redis_url,
            "AFORO_AUTHZ_REDIS_TIMEOUT_MS": "10000",
            # Nobody confirms the margins here, and they shall block.
            "AFORO_AUTHZ_STALE_MAX_S": "1000000000",
            **settings,
        }
        program = python_module("authz", "aforo_authz", "serve", env=env)
        super().__init__(
            f"authz-{self.metrics_port}",
            program.command,
            env=env,
            ready=self._is_ready,
            log_dir=home,
            cwd=ROOT,
        )

    def _is_ready(self) -> bool:
        return b" 200 " in self.page("/readyz")

    def page(self, path: str) -> bytes:
        request = f"GET {path} HTTP/1.0\r\n\r\n".encode()
        return ask_tcp(self.metrics_port, request, bytes_max=1 << 18)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    envoy: EnvoyServer
    api: FakeLlm
    log: LogLab | None

    @property
    def port(self) -> int:
        return self.envoy.port("ingress")

    def checks(self) -> dict[str, int]:
        """Return what Envoy counted of its checks: ok, denied, error, failure_mode_allowed."""
        prefix = "http.ingress.ext_authz.aforo."
        lines = self.admin(f"/stats?filter={prefix}").splitlines()
        pairs = [line.removeprefix(prefix).split(": ") for line in lines if line.startswith(prefix)]
        return {name: int(value) for name, value in pairs}

    def timeouts(self) -> int:
        """Return how many checks took longer than Envoy waits."""
        name = "cluster.aforo_authz.upstream_rq_timeout"
        lines = self.admin(f"/stats?filter=^{name}$").splitlines()
        return sum(int(line.split(": ")[1]) for line in lines if line.startswith(name))

    def admin(self, path: str) -> str:
        """Return a page of Envoy's own."""
        request = f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        return ask_tcp(self.envoy.admin_port, request.encode(), bytes_max=1 << 20).decode()

    async def finds_authz_healthy(self) -> None:
        await eventually(lambda: self.envoy.sees_healthy("aforo_authz"))


@contextlib.asynccontextmanager
async def gateway(
    home: Path,
    sockets: Sequence[Path],
    *,
    edit: Callable[[dict[str, Any]], None] = lambda _: None,
    concurrency: int = 1,
    logged: bool = False,
) -> AsyncIterator[Gateway]:
    """Run Envoy and its upstream.

    Args:
        home: For logs and sockets; a short path.
        sockets: Where authz is; more than one makes more endpoints of the cluster.
        edit: Changes to the parsed configuration, in place.
        concurrency: Envoy's threads.
        logged: Receive the access log, too.
    """

    def prepare(document: dict[str, Any]) -> None:
        (locality,) = cluster(document, "aforo_authz")["load_assignment"]["endpoints"]
        for path in sockets[1:]:
            place = {"endpoint": {"address": {"pipe": {"path": str(path)}}}}
            locality["lb_endpoints"].append(place)
        edit(document)

    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(FakeLlm())
        log = await stack.enter_async_context(LogLab(home / "als-a.sock")) if logged else None
        envoy = EnvoyServer(
            SHIPPED,
            listeners={"ingress": free_port()},
            clusters={
                "api": [api.port],
                "llm": [api.port],
                "llm_economy": [api.port],
                "aforo_authz": [sockets[0]],
                "aforo_als": [home / "als-a.sock", home / "als-b.sock"],
            },
            edit=prepare,
            concurrency=concurrency,
            log_dir=home,
        )
        stack.callback(envoy.stop)
        await asyncio.to_thread(envoy.start)
        yield Gateway(envoy=envoy, api=api, log=log)


def home() -> Path:
    return scratch_dir("gateway")
