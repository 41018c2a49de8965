"""How many entries a second ship carries to Kafka, or to its spool, and in how much memory."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from bench import meter_parts
from bench.programs import cpu_s, rss_mb
from lab.ports import free_port
from lab.servers import (
    ROOT,
    KafkaServer,
    Program,
    ask_tcp,
    python_module,
    scratch_dir,
)
from lab.stack import run_aforo

TOPIC = "aforo.usage.v1"
PARTITIONS = 8
STREAMS = 8
WARM_UP_S = 2.0
SAMPLE_S = 1.0


class Rig:
    """A broker and a ship, fresh."""

    def __init__(self, home: Path) -> None:
        self.kafka = KafkaServer(log_dir=home)
        self.socket = home / "als.sock"
        self.metrics_port = free_port()
        env = {
            "LISTEN": f"unix:{self.socket}",
            "KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "KAFKA_IDEMPOTENCE": "false",  # The lab's broker has none.
            "SPOOL_DIR": str(home / "spool"),
            "METRICS_LISTEN": f"127.0.0.1:{self.metrics_port}",
        }
        self.ship = python_module(
            "ship",
            *("aforo_meter", "ship"),
            env={f"AFORO_METER_SHIP_{name}": value for name, value in env.items()},
            ready=lambda: b" 200 " in self._ask("/readyz"),
            log_dir=home,
        )

    def held(self) -> float:
        """Return how many records ship holds."""
        lines = self._ask("/metrics").decode().splitlines()
        (line,) = [one for one in lines if one.startswith("aforo_ship_buffer_records ")]
        return float(line.split()[1])

    def in_kafka(self) -> int:
        """Return how many records the broker has acknowledged: those it would give a consumer."""
        return asyncio.run(self._end())

    async def _end(self) -> int:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.bootstrap)
        await consumer.start()
        try:
            places = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
            return sum((await consumer.end_offsets(places)).values())
        finally:
            await consumer.stop()

    def _ask(self, path: str) -> bytes:
        return ask_tcp(
            self.metrics_port, f"GET {path} HTTP/1.0\r\n\r\n".encode(), bytes_max=1 << 20
        )


@contextmanager
def rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        made = Rig(scratch_dir("meter"))
        stack.enter_context(made.kafka)
        run_aforo(
            *("aforo_meter", "topics", "--bootstrap", made.kafka.bootstrap),
            *("--partitions", str(PARTITIONS)),
        )
        stack.enter_context(made.ship)
        yield made


@contextmanager
def load(socket: Path, *, seconds: float) -> Iterator[None]:
    """Keep streams full while the body runs, for so long at most."""
    command = [sys.executable, "-m", "bench.ship_load", "--socket", str(socket)]
    command += ["--streams", str(STREAMS), "--seconds", str(seconds)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        try:
            yield
        finally:
            process.terminate()


def rate(count: Callable[[], float], ship: Program, *, duration_s: float) -> tuple[float, float]:
    """Return entries a second and ship's CPU microseconds for each, after a warm-up."""
    time.sleep(WARM_UP_S)
    begin, begin_s, begin_cpu_s = count(), time.monotonic(), cpu_s(ship)
    time.sleep(duration_s)
    end, end_s, end_cpu_s = count(), time.monotonic(), cpu_s(ship)
    return (end - begin) / (end_s - begin_s), (end_cpu_s - begin_cpu_s) / (end - begin) * 1e6


def run(*, rounds: int, duration_s: float) -> dict[str, Any]:
    """Measure the floor, ship with its broker, and ship without, in turns."""
    parts: list[dict[str, Any]] = []
    ship: list[tuple[float, float]] = []
    spool: list[tuple[float, float]] = []
    for number in range(rounds):
        print(f"  round {number + 1} of {rounds}: parts, ship, spool", flush=True)
        with rig() as made:
            parts.append(measure_parts(made.kafka.bootstrap))
            with load(made.socket, seconds=60):
                ship.append(rate(made.in_kafka, made.ship, duration_s=duration_s))
            made.kafka.kill()
            with load(made.socket, seconds=60):
                spool.append(rate(made.held, made.ship, duration_s=duration_s))
    floor = [one["parse_floor_eps"] for one in parts]
    return {
        "parse_floor_eps": round(statistics.median(floor)),
        "ship_eps": round(statistics.median(eps for eps, _ in ship)),
        "spool_eps": round(statistics.median(eps for eps, _ in spool)),
        "ship_to_floor": ratio([eps for eps, _ in ship], floor),
        "spool_to_ship": ratio([eps for eps, _ in spool], [eps for eps, _ in ship]),
        "micros": {
            **{
                name: round(statistics.median(one["micros"][name] for one in parts), 2)
                for name in parts[0]["micros"]
            },
            "ship_whole": round(statistics.median(micros for _, micros in ship), 2),
            "spool_whole": round(statistics.median(micros for _, micros in spool), 2),
        },
        "event_bytes": parts[0]["event_bytes"],
        "message_bytes": parts[0]["message_bytes"],
    }


def measure_parts(bootstrap: str) -> dict[str, Any]:
    run_aforo("aforo_meter", "topics", "--bootstrap", bootstrap, "--topic", meter_parts.TOPIC)
    done = subprocess.run(
        [sys.executable, "-m", "bench.meter_parts", bootstrap],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ratio(ours: list[float], reference: list[float]) -> float:
    ratios = [own / other for own, other in zip(ours, reference, strict=True)]
    return round(statistics.median(ratios), 3)


def run_memory(*, duration_s: float) -> dict[str, Any]:
    """Sample ship's memory at full rate, with its broker and with a frozen one."""
    with rig() as made, load(made.socket, seconds=4 * duration_s):
        print(f"  memory at full rate, {duration_s:.0f} s", flush=True)
        steady = samples(made.ship, duration_s=duration_s)
        made.kafka.freeze()
        print(f"  memory with the broker frozen, {duration_s:.0f} s", flush=True)
        frozen = samples(made.ship, duration_s=duration_s)
        made.kafka.thaw()
    return {
        "rss_mb": round(max(*steady, *frozen), 1),
        "rss_steady_mb": round(max(steady), 1),
        "rss_frozen_mb": round(max(frozen), 1),
        "rss_growth_mb": round(max(growth(steady), growth(frozen)), 1),
    }


def samples(program: Program, *, duration_s: float) -> list[float]:
    found = []
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        time.sleep(SAMPLE_S)
        found.append(rss_mb(program))
    return found


def growth(found: list[float]) -> float:
    """Return how much higher the last eighth is than the one before."""
    part = len(found) // 8
    return statistics.median(found[-part:]) - statistics.median(found[-2 * part : -part])
