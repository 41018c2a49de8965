"""`make bench-consume`: Kafka → ledger → Redis, with what each figure must be."""

import argparse
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import redis
from rich.console import Console
from rich.table import Table

from aforo_meter.database import database_of
from aforo_meter.migrate import migrate
from aforo_proto import margin_pb2
from bench import consume_load, musts
from bench.__main__ import write
from bench.musts import Must
from bench.programs import cpu_s, rss_mb
from lab.ports import free_port
from lab.postgres import PostgresServer
from lab.servers import (
    ROOT,
    KafkaServer,
    Program,
    RedisServer,
    ask_tcp,
    python_module,
    scratch_dir,
)

FLOOR_RATIO: Final = 0.4
MUSTS: Final = (
    Must("consume_eps_sqlite", "Kafka → SQLite, committed, events a second", 40_000, at_least=True),
    Must("consume_to_floor_sqlite", "the same / the floor", FLOOR_RATIO, at_least=True),
    Must("consume_eps_postgresql", "Kafka → PostgreSQL, the same", 40_000, at_least=True),
    Must("consume_to_floor_postgresql", "the same / the floor", FLOOR_RATIO, at_least=True),
    Must("freshness_p95_ms", "in Kafka → in Redis, at half that rate", 500.0, at_least=False),
    Must("two_consumers_ratio", "events per CPU second, two over one", 0.9, at_least=True),
    Must("rows_per_million", "rows of charge and margin_state", 60_000, at_least=False),
)
FIGURES: Final = {
    "decode_floor_eps": "fetch, decode, read every field, no more: events a second",
    "consume_cpu_us_sqlite": "CPU of consume an event, µs",
    "consume_cpu_us_postgresql": "the same with PostgreSQL",
    "server_cpu_us_postgresql": "CPU of the server an event, µs",
    "wal_bytes_postgresql": "bytes that the server writes ahead an event",
    "consume_rss_mb": "memory of consume in the end, MB",
    "seen_rows_per_million": "rows that tell duplicates",
    "first_contact_s": "a new consumer's first 100,000 events, of 10,000 tenants: seconds",
    "freshness_p50_ms": "half of the margins, at half rate",
    "freshness_rate_eps": "the rate of that",
}
SETTLED_S_MAX: Final = 300.0


class Rig:
    """A broker, a Redis with contracts, and a ledger; fresh."""

    def __init__(self, stack: ExitStack, home: Path, kind: str) -> None:
        self.home = home
        self.kind = kind
        self.kafka = stack.enter_context(KafkaServer(log_dir=home))
        self.redis = stack.enter_context(RedisServer(log_dir=home))
        self.postgres: PostgresServer | None = None
        if kind == "postgresql":
            self.postgres = stack.enter_context(PostgresServer(log_dir=home, sure=True))
            self.ledger_url = self.postgres.url()
        else:
            self.ledger_url = f"sqlite:///{home}/ledger.db"
        migrate(self.ledger_url, dry_run=False)
        # A connection is for one thread.
        self._ledger = database_of(self.ledger_url)
        create_topics(self.kafka.bootstrap)
        consume_load.fill(self.redis.url)

    def consumer(self, name: str) -> Program:
        port = free_port()
        env = {
            "KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "REDIS_URL": self.redis.url,
            "LEDGER_URL": self.ledger_url,
            "METRICS_LISTEN": f"127.0.0.1:{port}",
        }
        return python_module(
            name,
            *("aforo_meter", "consume"),
            env={f"AFORO_METER_CONSUME_{key}": value for key, value in env.items()},
            ready=lambda: b" 200 " in ask_tcp(port, b"GET /readyz HTTP/1.0\r\n\r\n", bytes_max=64),
            log_dir=self.home,
        )

    def ask(self, query: str) -> int:
        """Return one number of the ledger."""
        connection = self._ledger.connect()
        try:
            (found,) = connection.transact(lambda sql: sql.execute(query).fetchone(), writes=False)
        finally:
            connection.close()
        return int(found or 0)

    def settled(self) -> int:
        return self.ask("SELECT SUM(next_offset) FROM position")

    def server_cpu_s(self) -> float:
        if self.postgres is None:
            return 0.0
        server = psutil.Process(self.postgres.pid)
        times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))

    def wal_bytes(self) -> int:
        """Return how much PostgreSQL has written ahead: what its disk has to take at once."""
        if self.postgres is None:
            return 0
        return self.ask("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")


@contextmanager
def rig(kind: str) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack, scratch_dir("bench-consume"), kind)


def create_topics(bootstrap: str) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "aforo_meter", "topics", "--bootstrap", bootstrap),
            *("--partitions", str(consume_load.PARTITIONS)),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )


def floor(made: Rig, count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.consume_floor", made.kafka.bootstrap, str(count)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    return {"eps": found["events"] / found["seconds"], "cpu_us": 1e6 * found["cpu_s"] / count}


def consumed(made: Rig, count: int, *, processes: int = 1) -> dict[str, float]:
    """Let consumers read what is in Kafka; return rates from their first commit to the last."""
    programs = [made.consumer(f"consume-{number}") for number in range(processes)]
    with ExitStack() as stack:
        for program in programs:
            stack.callback(program.stop)
            program.start(wait=False)
        first = wait_for(made.settled)
        wal_before = made.wal_bytes()
        started_s, cpu_before, server_before = now(programs, made)
        wait_for(lambda: made.settled() >= count)
        ended_s, cpu_after, server_after = now(programs, made)
        wal_after = made.wal_bytes()
        memory_mb = max(rss_mb(program) for program in programs)
    events = count - first
    return {
        "eps": events / (ended_s - started_s),
        "cpu_us": 1e6 * (cpu_after - cpu_before) / events,
        "server_cpu_us": 1e6 * (server_after - server_before) / events,
        "wal_bytes": (wal_after - wal_before) / events,
        "rss_mb": memory_mb,
    }


def now(programs: list[Program], made: Rig) -> tuple[float, float, float]:
    cpu = sum(cpu_s(program) for program in programs)
    return time.perf_counter(), cpu, made.server_cpu_s()


def wait_for(probe: Any) -> Any:  # noqa: ANN401
    deadline = time.monotonic() + SETTLED_S_MAX
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError("the consumer does not come to an end")
        time.sleep(0.02)
    return found


def rates(count: int, rounds: int) -> dict[str, Any]:
    """Measure floor and consumers in turns; return medians."""
    found: dict[str, list[float]] = {}

    def note(key: str, value: float) -> None:
        found.setdefault(key, []).append(value)

    for number in range(rounds):
        for kind in ("sqlite", "postgresql"):
            print(f"  round {number + 1} of {rounds}: {kind}", flush=True)
            with rig(kind) as made:
                consume_load.produce(made.kafka.bootstrap, consume_load.events(count, seed=number))
                least = floor(made, count)
                one = consumed(made, count)
                note("decode_floor_eps", least["eps"])
                note("decode_floor_cpu_us", least["cpu_us"])
                note(f"consume_eps_{kind}", one["eps"])
                note(f"consume_to_floor_{kind}", one["eps"] / least["eps"])
                note(f"consume_cpu_us_{kind}", one["cpu_us"])
                note("consume_rss_mb", one["rss_mb"])
                if kind == "postgresql":
                    note("server_cpu_us_postgresql", one["server_cpu_us"])
                    note("wal_bytes_postgresql", one["wal_bytes"])
                else:
                    note("rows_per_million", rows(made, count))
                    seen = made.ask("SELECT COUNT(*) FROM seen_event")
                    note("seen_rows_per_million", seen * 1e6 / count)
    return {key: round(statistics.median(values), 3) for key, values in found.items()}


def rows(made: Rig, count: int) -> float:
    """Return rows of sums. They don't grow with events once each tenant has had one."""
    found = made.ask("SELECT COUNT(*) FROM charge") + made.ask("SELECT COUNT(*) FROM margin_state")
    assert count >= 10 * consume_load.TENANTS, "not every tenant has had an event"
    return float(found)


def two_over_one(count: int) -> dict[str, Any]:
    """Return how many events a CPU second is good for with two processes, over one."""
    print("  one and two processes", flush=True)
    cpu_us = []
    for processes in (1, 2):
        with rig("postgresql") as made:
            consume_load.produce(made.kafka.bootstrap, consume_load.events(count, seed=7))
            cpu_us.append(consumed(made, count, processes=processes)["cpu_us"])
    return {"two_consumers_ratio": round(cpu_us[0] / cpu_us[1], 3)}


class Probes:
    """Single calls of tenants that have no other, among the load: each is waited for in Redis."""

    def __init__(self, made: Rig) -> None:
        self._made = made
        self._redis = redis.Redis.from_url(made.redis.url)

    def run(self, count: int, every_s: float) -> list[float]:
        """Return milliseconds from the broker's word to the margin in Redis."""
        chance = random.Random(1)  # noqa: S311 - no secret.
        producer = consume_load.producer(self._made.kafka.bootstrap, linger_ms=0)
        arrived: dict[str, float] = {}  # And not yet seen in Redis.
        took_ms: list[float] = []

        def confirmed(error: Any, message: Any) -> None:  # noqa: ANN401 - confluent_kafka's.
            assert error is None, error
            arrived[message.key().decode()] = time.perf_counter()

        next_s, number = time.perf_counter(), 0
        while len(took_ms) < count:
            if number < count and time.perf_counter() >= next_s:
                at_micros, at = time.time_ns() // 1000, consume_load.TENANTS + number
                key, value = consume_load.event(at, chance, at_micros=at_micros, hour_s=0)
                producer.produce(consume_load.TOPIC, value, key, on_delivery=confirmed)
                number, next_s = number + 1, next_s + every_s
            producer.poll(0)
            took_ms += [
                1000 * (time.perf_counter() - arrived.pop(tenant_id))
                for tenant_id in self._published(list(arrived))
            ]
            time.sleep(0.005)
        return took_ms

    def _published(self, tenant_ids: list[str]) -> list[str]:
        if not tenant_ids:
            return []
        values: Any = self._redis.mget([f"aforo:v1:{{{one}}}:margin" for one in tenant_ids])
        return [
            tenant_id
            for tenant_id, value in zip(tenant_ids, values, strict=True)
            if value is not None and margin_pb2.Margin.FromString(value).cogs_nanos
        ]


def freshness(rate_eps: float, seconds: float) -> dict[str, Any]:
    """Return how old usage is when Redis knows of it, under a steady load of known tenants."""
    print(f"  freshness at {rate_eps:,.0f} events a second", flush=True)
    with rig("sqlite") as made, made.consumer("consume"):
        first_s = first_contact(made)
        load = list(consume_load.events(int(rate_eps * (seconds + 2)), seed=3))
        writer = threading.Thread(
            target=consume_load.produce, args=(made.kafka.bootstrap, paced(load, rate_eps))
        )
        writer.start()
        time.sleep(2)  # The load is there before what is measured.
        took_ms = sorted(Probes(made).run(int(seconds * 5), 0.2))
        writer.join()
    return {
        "first_contact_s": round(first_s, 2),
        "freshness_rate_eps": round(rate_eps),
        "freshness_p50_ms": round(statistics.median(took_ms), 1),
        "freshness_p95_ms": round(took_ms[int(len(took_ms) * 0.95)], 1),
    }


def first_contact(made: Rig) -> float:
    """Let the consumer meet all tenants; return the seconds that it took."""
    some, count = 100, 10 * consume_load.TENANTS
    load = list(consume_load.events(count, seed=4))
    consume_load.produce(made.kafka.bootstrap, consume_load.events(some, seed=5))
    wait_for(lambda: made.settled() >= some)  # It has its partitions.
    started_s = time.perf_counter()
    consume_load.produce(made.kafka.bootstrap, iter(load))
    wait_for(lambda: made.settled() >= some + count)
    return time.perf_counter() - started_s


def paced(load: list[tuple[bytes, bytes]], rate_eps: float) -> Iterator[tuple[bytes, bytes]]:
    started_s = time.perf_counter()
    for number, one in enumerate(load):
        if number % 200 == 0:
            time.sleep(max(0.0, started_s + number / rate_eps - time.perf_counter()))
        yield one


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.consume",
        description=__doc__,
        epilog='example: make bench-consume BENCH_ARGS="--only rates --rounds 1"',
    )
    parser.add_argument("--only", choices=["rates", "two", "freshness"], help="one part")
    parser.add_argument("--events", type=int, default=1_000_000, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the databases")
    parser.add_argument("--rate", type=float, default=20_000, help="of freshness, without rates")
    parser.add_argument("--seconds", type=float, default=20.0, help="of freshness")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if options.only in (None, "rates"):
        result |= rates(options.events, options.rounds)
    if options.only in (None, "two"):
        result |= two_over_one(options.events)
    if options.only in (None, "freshness"):
        rate = result["consume_eps_sqlite"] / 2 if result else options.rate
        result |= freshness(rate, options.seconds)
    write("consume", result)
    Console(width=120).print(_table(result))
    print("written to build/bench/consume.json")
    return 0 if musts.all_hold(MUSTS, result) else 1


def _table(result: dict[str, Any]) -> Table:
    made = musts.table("consume: 10,000 tenants with equal chances, medians of rounds in turns")
    for key, what in FIGURES.items():
        if key in result:
            made.add_row(key, what, f"{result[key]:,}")
    musts.add_musts(made, MUSTS, result)
    return made


if __name__ == "__main__":
    sys.exit(main())
