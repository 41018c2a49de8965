"""What many tenants cost: p99 of decisions drawn by Zipf's law, and the memory of one process."""

import itertools
import random
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import uvloop

from bench import programs
from bench.check_client import CheckClient
from bench.check_requests import CheckRequests
from bench.read_model import PLAIN, fill
from lab.load import LoadResult
from lab.ports import free_port
from lab.servers import Program, RedisServer, scratch_dir

FEW, MANY = 1000, 1_000_000
RATE_PER_S = 2000.0
WARM_UP_RATE_PER_S, WARM_UP_CALLS = 4000.0, 100_000
MEMORY_TENANTS = 100_000
# Short turns: what disturbs the machine for some seconds then disturbs both worlds, and a ratio of
# two p99 of 40 calls each needs many of them.
TURNS_PER_ROUND = 2
FAILED_RATIO_MAX = 0.001


@dataclass(frozen=True, slots=True)
class World:
    """A Redis with so many tenants, and a server of its own."""

    tenants: int
    program: Program
    port: int


def run(*, rounds: int, duration_s: float, tenants_max: int = MANY) -> dict[str, Any]:
    """Measure both worlds in turns; return p99 of each, their ratio, and the memory."""
    requests = CheckRequests(PLAIN)
    home = scratch_dir("tenants")
    with ExitStack() as stack:
        worlds = []
        for tenants in (FEW, tenants_max):
            redis = stack.enter_context(RedisServer(log_dir=home))
            began_s = time.monotonic()
            fill(redis.url, tenants=tenants, kinds=(PLAIN,))
            print(f"  {tenants:,} tenants in Redis after {time.monotonic() - began_s:.0f} s")
            port = free_port()
            program = stack.enter_context(programs.aforo(home, f"127.0.0.1:{port}", redis.url))
            worlds.append(World(tenants, program, port))
        memory_mb = _memory_mb(worlds[1], requests)
        p99_ms: dict[int, list[float]] = {world.tenants: [] for world in worlds}
        draws = {world.tenants: _zipf(world.tenants) for world in worlds}
        for world in worlds:
            print(f"  {world.tenants:,} tenants: {WARM_UP_CALLS:,} calls to warm up", flush=True)
            _ask(world, requests, draws, rate_per_s=WARM_UP_RATE_PER_S, count=WARM_UP_CALLS)
        turns = rounds * TURNS_PER_ROUND
        for number in range(turns):
            for world in worlds:
                count = round(RATE_PER_S * duration_s / TURNS_PER_ROUND)
                result = _ask(world, requests, draws, rate_per_s=RATE_PER_S, count=count)
                p99_ms[world.tenants].append(result.quantile_ms(0.99))
                # The generator's own delay is part of both figures: it brings their ratio to 1.
                print(
                    f"  turn {number + 1} of {turns}: {world.tenants:,} tenants:"
                    f" p99 {p99_ms[world.tenants][-1]:.3f} ms,"
                    f" generator late by {result.late_s_max * 1000:.1f} ms at most",
                    flush=True,
                )
    ratios = [many / few for few, many in zip(*p99_ms.values(), strict=True)]
    return {
        "tenants_p99_ms": {str(n): round(statistics.median(e), 3) for n, e in p99_ms.items()},
        "tenants_p99_ratio": round(statistics.median(ratios), 3),
        "rss_mb": round(memory_mb, 1),
    }


def _memory_mb(world: World, requests: CheckRequests) -> float:
    """Ask once for each of 100,000 tenants; return what the process takes then."""
    count = min(MEMORY_TENANTS, world.tenants)
    client = CheckClient(
        port=world.port, rate_per_s=WARM_UP_RATE_PER_S, count=count, message=requests.of
    )
    _checked(uvloop.run(client.run()))
    memory_mb = programs.rss_mb(world.program)
    print(f"  {memory_mb:.0f} MB after {count:,} distinct tenants", flush=True)
    return memory_mb


def _ask(
    world: World,
    requests: CheckRequests,
    draws: dict[int, list[float]],
    *,
    rate_per_s: float,
    count: int,
) -> LoadResult:
    weights = draws[world.tenants]
    chosen = random.choices(range(world.tenants), cum_weights=weights, k=count)  # noqa: S311
    client = CheckClient(
        port=world.port,
        rate_per_s=rate_per_s,
        count=count,
        message=lambda number: requests.of(chosen[number]),
    )
    return _checked(uvloop.run(client.run()))


def _checked(result: LoadResult) -> LoadResult:
    # A machine that stands still for a moment makes Redis late: that is not what is measured.
    if result.errors.total() > len(result.latencies_s) * FAILED_RATIO_MAX:
        slowest_ms = max(result.latencies_s, default=0.0) * 1000
        raise AssertionError(
            f"some checks were not answered: {dict(result.errors)}; slowest {slowest_ms:.1f} ms,"
            f" generator late by {result.late_s_max * 1000:.1f} ms"
        )
    return result


def _zipf(tenants: int) -> list[float]:
    """Return cumulative weights by Zipf's law with exponent 1: the n-th is asked for 1/n."""
    return list(itertools.accumulate(1 / rank for rank in range(1, tenants + 1)))
