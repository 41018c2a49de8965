"""What a decision costs behind a real Envoy, beside no authorization and a constant answer."""

import asyncio
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import h2load, programs
from bench.programs import cpu_s
from bench.read_model import LIMITED, PLAIN, api_key, fill
from lab.envoy import EnvoyServer
from lab.load import LoadGenerator, LoadResult
from lab.ports import free_port
from lab.servers import ROOT, Program, RedisServer, ask_tcp, python_module, scratch_dir

NONE, REFERENCE, AFORO = "no authorization", "constant answer", "Aforo on ngh2"
AFORO_QUOTA, AFORO_GRPCIO = "Aforo on ngh2, hard quota", "Aforo on grpcio"
DIRECT = "/direct"  # A path that Envoy answers itself, after the check.
CLOSED_LOOP_REQUESTS = 20_000
CLOSED_LOOP_CONNECTIONS = 16
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
    closed_loop_rps: float  # Requests a second, as many as 16 connections get answered.
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
    none, constant = measured[NONE], measured[REFERENCE]
    return {
        "rate_per_s": rate_per_s,
        "duration_s": duration_s,
        "rounds": rounds,
        "variants": {
            name: _medians(figures)
            | {
                "p99_ratio": _p99_ratio(figures, constant),
                "added_p99_ratio": _added_p99_ratio(figures, constant, none),
            }
            for name, figures in measured.items()
        },
    }


def _p99_ratio(rounds: list[Figures], reference: list[Figures]) -> float:
    """Return the median of the ratios within each round: what disturbs a round, disturbs both."""
    ratios = [own.p99_ms / other.p99_ms for own, other in zip(rounds, reference, strict=True)]
    return round(statistics.median(ratios), 3)


def _added_p99_ratio(rounds: list[Figures], reference: list[Figures], none: list[Figures]) -> float:
    """Return what a variant adds to p99, in units of what a constant answer adds.

    Of the medians: a difference of two noisy figures would make the ratio of a round meaningless.
    """
    own, other, base = (
        statistics.median(each.p99_ms for each in variant) for variant in (rounds, reference, none)
    )
    return round((own - base) / max(other - base, 0.001), 3)


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
    closed = h2load.http1(
        variant.envoy.port("ingress"),
        DIRECT,
        f"x-api-key: {api_key(variant.tenant_kind, 1)}",
        requests=CLOSED_LOOP_REQUESTS,
        connections=CLOSED_LOOP_CONNECTIONS,
    )
    return Figures(
        p50_ms=result.quantile_ms(0.50),
        p99_ms=result.quantile_ms(0.99),
        authz_cpu_micros=authz_s / sent * 1e6,
        envoy_cpu_micros=envoy_s / sent * 1e6,
        closed_loop_rps=closed.requests_per_s,
        late_ms_max=result.late_s_max * 1000,
        failed=closed.failed
        + result.errors.total()
        + result.statuses.total()
        - result.statuses[200],
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
    return cpu_s(variant.authz), cpu_s(variant.envoy)


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
        constant = stack.enter_context(programs.constant(home, f"unix:{home}/constant.sock"))
        ngh2 = stack.enter_context(programs.aforo(home, f"unix:{home}/ngh2.sock", redis.url))
        grpcio = stack.enter_context(
            programs.aforo(home, f"unix:{home}/grpcio.sock", redis.url, transport="grpcio")
        )
        rows: list[tuple[str, Program | None, str, str]] = [
            (NONE, None, "nobody", PLAIN),
            (REFERENCE, constant, "constant", PLAIN),
            (AFORO, ngh2, "ngh2", PLAIN),
            (AFORO_QUOTA, ngh2, "ngh2", LIMITED),
            (AFORO_GRPCIO, grpcio, "grpcio", PLAIN),
        ]
        envoys = [
            stack.enter_context(
                _envoy(home / f"{socket}.sock", upstream_port, home, checked=authz is not None)
            )
            for _, authz, socket, _ in rows
        ]
        yield [
            Variant(name, envoy, authz, kind)
            for (name, authz, _, kind), envoy in zip(rows, envoys, strict=True)
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


def _envoy(socket: Path, upstream_port: int, home: Path, *, checked: bool) -> EnvoyServer:
    def edit(document: dict[str, Any]) -> None:
        (listener,) = document["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        # Decisions alone are measured here: no metering, and no check where there is none.
        del manager["access_log"]
        routes = manager["route_config"]["virtual_hosts"][0]["routes"]
        # What Envoy answers by itself: in a closed loop an upstream would be what is measured.
        routes.insert(0, {"match": {"path": DIRECT}, "direct_response": {"status": 200}})
        if not checked:
            manager["http_filters"] = [
                item for item in manager["http_filters"] if item["name"] != EXT_AUTHZ
            ]
            for route in routes:
                route.get("typed_per_filter_config", {}).pop(EXT_AUTHZ, None)

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
