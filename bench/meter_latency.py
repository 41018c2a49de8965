"""What the access log adds to a request behind a real Envoy, whose entries two ships receive."""

import asyncio
import os
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.decisions import EXT_AUTHZ
from lab.envoy import EnvoyServer
from lab.load import LoadGenerator
from lab.ports import free_port
from lab.servers import ROOT, KafkaServer, Program, ask_tcp, python_module, scratch_dir
from lab.stack import run_aforo, wait_until

RATE_PER_S = 1000.0
WARM_UP_S = 0.5
REQUEST = b"GET /status/200 HTTP/1.1\r\nhost: bench\r\n\r\n"


def run(*, rounds: int, duration_s: float) -> dict[str, Any]:
    """Load an Envoy with the access log and one without in turns, in alternating order."""
    p99_ms: dict[bool, list[float]] = {True: [], False: []}
    p50_ms: dict[bool, list[float]] = {True: [], False: []}
    with _envoys() as envoys:
        for number in range(rounds + 1):  # The first warms up.
            print(f"  round {number} of {rounds}: with and without the access log", flush=True)
            for logged in (True, False) if number % 2 else (False, True):
                result = asyncio.run(_load(envoys[logged], duration_s))
                if number:
                    p99_ms[logged].append(result[1])
                    p50_ms[logged].append(result[0])
    return {
        "added_latency_ms": _difference(p99_ms),
        "added_latency_p50_ms": _difference(p50_ms),
        "p99_ms_with_log": round(statistics.median(p99_ms[True]), 3),
        "p99_ms_without_log": round(statistics.median(p99_ms[False]), 3),
    }


def _difference(figures: dict[bool, list[float]]) -> float:
    pairs = zip(figures[True], figures[False], strict=True)
    return round(statistics.median(own - other for own, other in pairs), 3)


async def _load(envoy: EnvoyServer, duration_s: float) -> tuple[float, float]:
    result = await LoadGenerator(
        port=envoy.port("ingress"),
        rate_per_s=RATE_PER_S,
        duration_s=duration_s,
        request=lambda _: REQUEST,
        warm_up_s=WARM_UP_S,
    ).run()
    assert not result.errors, result.errors
    return result.quantile_ms(0.5), result.quantile_ms(0.99)


@contextmanager
def _envoys() -> Iterator[dict[bool, EnvoyServer]]:
    home = scratch_dir("latency")
    upstream_port = free_port()
    with ExitStack() as stack:
        kafka = stack.enter_context(KafkaServer(log_dir=home))
        _step_aside(kafka)
        run_aforo("aforo_meter", "topics", "--bootstrap", kafka.bootstrap)
        for which in ("a", "b"):
            stack.enter_context(_ship(home, which, kafka.bootstrap))
        stack.enter_context(
            python_module(
                "upstream",
                "lab.upstream",
                *("--port", str(upstream_port), "--name", "premium"),
                env={},
                ready=lambda: bool(
                    ask_tcp(upstream_port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", bytes_max=8)
                ),
                log_dir=home,
            )
        )
        envoys = {
            logged: stack.enter_context(_envoy(home, upstream_port, logged=logged))
            for logged in (True, False)
        }
        wait_until(lambda: envoys[True].sees_healthy("aforo_als"), "Envoy's checks")
        yield envoys


def _step_aside(broker: Program) -> None:
    """Let a broker have only what CPU nobody else wants.

    It stands on other machines than the gateway. Here it shares two cores with it, and took most of
    what this measures.
    """
    for thread in Path(f"/proc/{broker.pid}/task").iterdir():
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


def _ship(home: Path, which: str, bootstrap: str) -> Program:
    port = free_port()
    env = {
        "LISTEN": f"unix:{home}/als-{which}.sock",
        "KAFKA_BOOTSTRAP": bootstrap,
        "KAFKA_IDEMPOTENCE": "false",
        "SPOOL_DIR": str(home / f"spool-{which}"),
        "METRICS_LISTEN": f"127.0.0.1:{port}",
    }
    return python_module(
        f"ship-{which}",
        *("aforo_meter", "ship"),
        env={f"AFORO_METER_SHIP_{name}": value for name, value in env.items()},
        ready=lambda: b" 200 " in ask_tcp(port, b"GET /readyz HTTP/1.0\r\n\r\n", bytes_max=64),
        log_dir=home,
    )


def _envoy(home: Path, upstream_port: int, *, logged: bool) -> EnvoyServer:
    def edit(document: dict[str, Any]) -> None:
        (listener,) = document["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        if not logged:
            del manager["access_log"]
        # Metering alone is measured here.
        manager["http_filters"] = [
            item for item in manager["http_filters"] if item["name"] != EXT_AUTHZ
        ]
        for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
            route.get("typed_per_filter_config", {}).pop(EXT_AUTHZ, None)

    return EnvoyServer(
        ROOT / "envoy" / "aforo.yaml",
        listeners={"ingress": free_port()},
        clusters={
            "api": [upstream_port],
            "llm": [upstream_port],
            "llm_economy": [upstream_port],
            "aforo_authz": [home / "nobody.sock"],
            "aforo_als": [home / "als-a.sock", home / "als-b.sock"],
        },
        edit=edit,
        log_dir=home,
    )
