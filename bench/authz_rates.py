"""How many decisions a second one process makes, beside servers that decide nothing."""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import h2load, programs
from bench.check_requests import CheckRequests, framed
from bench.programs import cpu_s
from bench.read_model import LIMITED, PLAIN, fill
from lab.ports import free_port
from lab.servers import Program, RedisServer, scratch_dir

TENANTS = 1000
FLOOR, GRPCIO, NEAR_CACHE, HARD_QUOTA = (
    "floor_rps",
    "grpcio_constant_rps",
    "near_cache_rps",
    "hard_quota_rps",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A server, the body of the check that it is sent, and how many times in a round."""

    name: str
    program: Program
    port: int
    body: Path
    requests: int


def run(*, rounds: int) -> dict[str, Any]:
    """Measure all variants in turns; return medians, and ratios taken within a round."""
    rates: dict[str, list[float]] = {}
    cpu_micros: dict[str, list[float]] = {}
    with _variants() as variants:
        for variant in variants:  # So that every round is a steady state.
            h2load.checks(variant.port, variant.body, requests=5000)
        for number in range(rounds):
            for variant in variants:
                print(f"  round {number + 1} of {rounds}: {variant.name}", flush=True)
                before_s = cpu_s(variant.program)
                rate = h2load.checks(variant.port, variant.body, requests=variant.requests)
                if rate.failed:
                    raise h2load.H2loadError(f"{variant.name}: {rate.failed} requests failed")
                used_s = cpu_s(variant.program) - before_s
                rates.setdefault(variant.name, []).append(rate.requests_per_s)
                cpu_micros.setdefault(variant.name, []).append(used_s / variant.requests * 1e6)
    return {
        **{name: round(statistics.median(each)) for name, each in rates.items()},
        "cpu_micros": {name: round(statistics.median(e), 1) for name, e in cpu_micros.items()},
        "near_cache_to_floor": _ratio(rates[NEAR_CACHE], rates[FLOOR]),
        "near_cache_to_grpcio": _ratio(rates[NEAR_CACHE], rates[GRPCIO]),
        "hard_quota_to_floor": _ratio(rates[HARD_QUOTA], rates[FLOOR]),
    }


def _ratio(ours: list[float], reference: list[float]) -> float:
    ratios = [own / other for own, other in zip(ours, reference, strict=True)]
    return round(statistics.median(ratios), 3)


@contextmanager
def _variants() -> Iterator[list[Variant]]:
    home = scratch_dir("rates")
    bodies = {}
    for kind in (PLAIN, LIMITED):
        bodies[kind] = home / f"{kind}.bin"
        bodies[kind].write_bytes(framed(CheckRequests(kind).of(1)))
    ports = [free_port() for _ in range(3)]
    listen = [f"127.0.0.1:{port}" for port in ports]
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(log_dir=home))
        fill(redis.url, tenants=TENANTS)
        floor = stack.enter_context(programs.constant(home, listen[0]))
        grpcio = stack.enter_context(programs.constant(home, listen[1], transport="grpcio"))
        aforo = stack.enter_context(programs.aforo(home, listen[2], redis.url))
        yield [
            Variant(FLOOR, floor, ports[0], bodies[PLAIN], 200_000),
            Variant(GRPCIO, grpcio, ports[1], bodies[PLAIN], 15_000),
            Variant(NEAR_CACHE, aforo, ports[2], bodies[PLAIN], 100_000),
            Variant(HARD_QUOTA, aforo, ports[2], bodies[LIMITED], 60_000),
        ]
