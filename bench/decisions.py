"""What a decision costs behind a real Envoy, beside no authorization and a constant answer."""

import asyncio
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.read_model import LIMITED, PLAIN, api_key, fill
from lab.load import LoadGenerator, LoadResult
from lab.servers import (
    ROOT,
    EnvoyServer,
    Program,
    RedisServer,
    ask_tcp,
    free_port,
    python_module,
    scratch_dir,
)

REFERENCE = "constant answer"
TENANTS = 1000
WARM_UP_S = 1.0
CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table: an Envoy, and what answers its checks."""

    name: str
    envoy: EnvoyServer
    authz: Program | None
    tenant_kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one round of one variant showed."""

    p50_ms: float
    p99_ms: float
    authz_cpu_micros: float  # CPU time of the authorization server per request.
    envoy_cpu_micros: float
    late_ms_max: float  # How late the generator itself was at worst.
    failed: int


def run(*, rate_per_s: float, duration_s: float, rounds: int) -> dict[str, Any]:
    """Measure every variant in turns; return the medians of the rounds, by variant."""
    with _variants() as variants:
        measured: dict[str, list[Figures]] = {variant.name: [] for variant in variants}
        for number in range(rounds):
            for variant in variants:
                print(f"  round {number + 1} of {rounds}: {variant.name}", flush=True)
                figures = _measure(variant, rate_per_s=rate_per_s, duration_s=duration_s)
                measured[variant.name].append(figures)
    return {
        "rate_per_s": rate_per_s,
        "duration_s": duration_s,
        "rounds": rounds,
        "variants": {
            name: _medians(figures) | {"p99_ratio": _p99_ratio(figures, measured[REFERENCE])}
            for name, figures in measured.items()
        },
    }


def _p99_ratio(rounds: list[Figures], reference: list[Figures]) -> float:
    """Return the median of the ratios within each round: what disturbs a round, disturbs both."""
    ratios = [own.p99_ms / other.p99_ms for own, other in zip(rounds, reference, strict=True)]
    return round(statistics.median(ratios), 3)


def _measure(variant: Variant, *, rate_per_s: float, duration_s: float) -> Figures:
    requests = [_request(api_key(variant.tenant_kind, number)) for number in range(TENANTS)]
    # Every tenant once, so that what is measured is the steady state.
    asyncio.run(_load(variant, requests, rate_per_s=rate_per_s, duration_s=TENANTS / rate_per_s))
    before = _cpu_s(variant)
    result = asyncio.run(_load(variant, requests, rate_per_s=rate_per_s, duration_s=duration_s))
    authz_s, envoy_s = (
        after - earlier for after, earlier in zip(_cpu_s(variant), before, strict=True)
    )
    sent = rate_per_s * duration_s
    return Figures(
        p50_ms=result.quantile_ms(0.50),
        p99_ms=result.quantile_ms(0.99),
        authz_cpu_micros=authz_s / sent * 1e6,
        envoy_cpu_micros=envoy_s / sent * 1e6,
        late_ms_max=result.late_s_max * 1000,
        failed=result.errors.total() + result.statuses.total() - result.statuses[200],
    )


async def _load(
    variant: Variant, requests: list[bytes], *, rate_per_s: float, duration_s: float
) -> LoadResult:
    generator = LoadGenerator(
        port=variant.envoy.port("ingress"),
        rate_per_s=rate_per_s,
        duration_s=duration_s,
        request=lambda number: requests[number % len(requests)],
        connections=CONNECTIONS,
        warm_up_s=min(WARM_UP_S, duration_s / 4),
    )
    return await generator.run()


def _request(key: str) -> bytes:
    return f"GET /status/200 HTTP/1.1\r\nhost: bench\r\nx-api-key: {key}\r\n\r\n".encode()


def _cpu_s(variant: Variant) -> tuple[float, float]:
    return (
        _process_cpu_s(variant.authz) if variant.authz is not None else 0.0,
        _process_cpu_s(variant.envoy),
    )


def _process_cpu_s(program: Program) -> float:
    times = psutil.Process(program.pid).cpu_times()
    return float(times.user + times.system)


def _medians(rounds: list[Figures]) -> dict[str, float]:
    return {
        name: round(statistics.median(getattr(figures, name) for figures in rounds), 3)
        for name in Figures.__slots__
    }


@contextmanager
def _variants() -> Iterator[list[Variant]]:
    home = scratch_dir("bench")
    upstream_port = free_port()
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(log_dir=home))
        fill(redis.url, tenants=TENANTS)
        stack.enter_context(_upstream(upstream_port, home))
        constant = stack.enter_context(_constant(home))
        ngh2 = stack.enter_context(_aforo("ngh2", redis.url, home))
        grpcio = stack.enter_context(_aforo("grpcio", redis.url, home))
        rows: list[tuple[str, Program | None, str]] = [
            ("no authorization", None, PLAIN),
            (REFERENCE, constant, PLAIN),
            ("Aforo on ngh2", ngh2, PLAIN),
            ("Aforo on ngh2, hard quota", ngh2, LIMITED),
            ("Aforo on grpcio", grpcio, PLAIN),
        ]
        yield [
            Variant(name, stack.enter_context(_envoy(authz, upstream_port, home)), authz, kind)
            for name, authz, kind in rows
        ]


def _upstream(port: int, home: Path) -> Program:
    return python_module(
        "upstream",
        "lab.upstream",
        *("--port", str(port), "--name", "premium"),
        env={},
        ready=lambda: bool(ask_tcp(port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", bytes_max=8)),
        log_dir=home,
    )


def _constant(home: Path) -> Program:
    socket = home / "constant.sock"
    return python_module(
        "constant",
        "bench.constant_authz",
        *("--listen", f"unix:{socket}"),
        env={},
        ready=socket.exists,
        log_dir=home,
    )


def _aforo(transport: str, redis_url: str, home: Path) -> Program:
    port = free_port()
    return python_module(
        transport,
        "aforo_authz",
        *("serve", "--transport", transport),
        env={
            "AFORO_AUTHZ_LISTEN": f"unix:{home / transport}.sock",
            "AFORO_AUTHZ_REDIS_URL": redis_url,
            "AFORO_AUTHZ_METRICS_LISTEN": f"127.0.0.1:{port}",
        },
        ready=lambda: b" 200 " in ask_tcp(port, b"GET /readyz HTTP/1.0\r\n\r\n", bytes_max=64),
        log_dir=home,
    )


def _envoy(authz: Program | None, upstream_port: int, home: Path) -> EnvoyServer:
    def edit(document: dict[str, Any]) -> None:
        (listener,) = document["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        # Decisions alone are measured here: no metering, and no check where there is none.
        del manager["access_log"]
        if authz is None:
            manager["http_filters"] = [
                item for item in manager["http_filters"] if item["name"] != EXT_AUTHZ
            ]
            for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
                route.get("typed_per_filter_config", {}).pop(EXT_AUTHZ, None)

    socket = home / f"{authz.name if authz is not None else 'nobody'}.sock"
    return EnvoyServer(
        ROOT / "envoy" / "aforo.yaml",
        listeners={"ingress": free_port()},
        clusters={
            "api": [upstream_port],
            "llm": [upstream_port],
            "llm_economy": [upstream_port],
            "aforo_authz": [socket],
            "aforo_als": [home / "nobody-a.sock", home / "nobody-b.sock"],
        },
        edit=edit,
        log_dir=home,
    )


EXT_AUTHZ = "envoy.filters.http.ext_authz"
