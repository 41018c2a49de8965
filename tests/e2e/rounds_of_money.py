"""Kills of consumer, stores, broker and courier while usage flows; then every nano is reckoned.

Each kill is a SIGKILL at a random point, and a start some time later. Run as a module (`make
money-kills`) it plays many, and ends with 1 if a promise was broken:

- what the ledger says each tenant's usage of each period costs equals a reckoning of what was sent,
  to the nano, although some was sent twice and some late;
- each change of a level left exactly one message, and each message arrived, at least once and
  always the same;
- Redis says the same as the ledger.
"""

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import redis
from confluent_kafka import Producer

from aforo_meter.domain.margin import Level
from aforo_proto import margin_pb2
from lab.faults import SLOT_S, Faults, Kind, schedule
from lab.http_client import HttpClient
from lab.postgres import PostgresServer
from lab.servers import KafkaProgram, ServerStartError, scratch_dir
from lab.stack import Options, Stack
from tests.e2e.kills_witness import USAGE
from tests.e2e.money_ledger import LedgerView, read_ledger
from tests.e2e.money_traffic import NANOS, TENANTS, Traffic, catalog, month_start_micros
from tests.e2e.rounds_of_kills import broker_for_kills

RATE_PER_S = 120
# The fees of the first third, the second, and the last, in parts of what all usage will cost.
PHASES = (Fraction(1, 3), Fraction(1), Fraction(4, 5))
TICK_S = 0.05
EVENT_COSTS = Fraction(11, 100)  # Dollars, about: fees are made so that levels change.
REST_S_MAX = 120.0
FLUSH_S_MAX = 120.0
SYNC_ENV = {"AFORO_ADMIN_SYNC_INTERVAL_S": "5"}
CONSUME_ENV = {"AFORO_METER_CONSUME_SESSION_TIMEOUT_MS": "2000"}
DELIVER_ENV = {"AFORO_METER_DELIVER_RETRY_FIRST_MS": "100"}


@dataclass(kw_only=True)
class Played:
    """What came of it."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    events: int = 0
    repeats: int = 0
    transitions: int = 0
    received: int = 0
    cogs_nanos: int = 0
    database: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def expect(self, condition: bool, problem: str) -> None:  # noqa: FBT001 - as `assert` has it
        if not condition:
            self.problems.append(problem)

    def __str__(self) -> str:
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"seed {self.seed}: {self.kills.total()} kills ({kills}) on {self.database};"
            f" {self.events} events, {self.repeats} of them sent again; COGS"
            f" ${self.cogs_nanos // NANOS}.{self.cogs_nanos % NANOS:09d} to the nano;"
            f" {self.transitions} changes of level, {self.received} messages received;"
            f" {self.seconds:.0f} s; "
            + ("good" if not self.problems else "BROKEN: " + " | ".join(self.problems))
        )


async def play(
    seed: int, *, kills: int, kafka: KafkaProgram | None, database: PostgresServer | None
) -> Played:
    """Play on an installation of its own, without a gateway: usage is written to Kafka.

    Args:
        seed: Says what is used, and who is killed when.
        kills: How many, of all processes together.
        kafka: One that outlives a kill; None: the lab's own, which is left alone.
        database: For the ledger; None: it is a file.
    """
    started_s = time.monotonic()
    home = kafka.log_path.parent if kafka else scratch_dir("money")
    path = home / "catalog.yaml"
    targets = 4 + (kafka is not None) + (database is not None)
    span_s = kills / targets * SLOT_S
    path.write_text(catalog(fees(span_s, times=PHASES[0])))
    options = Options(
        catalog=path,
        home=home,
        sync_env=SYNC_ENV,
        consume_env=CONSUME_ENV,
        deliver_env=DELIVER_ENV,
        kafka=kafka,
        database=database,
        gateway=False,
    )
    stack = await asyncio.to_thread(Stack(options).start)
    found = Played(seed=seed, database=stack.ledger_url.partition(":")[0])
    try:
        await _play(stack, found, span_s)
    except (TimeoutError, ServerStartError) as error:
        found.problems.append(str(error))
    finally:
        await asyncio.to_thread(stack.stop)
    found.seconds = time.monotonic() - started_s
    if found.problems:
        found.problems.append(f"logs in {home}")
    else:
        shutil.rmtree(home)
    return found


def fees(span_s: float, *, times: Fraction) -> dict[str, Fraction]:
    """Return fees that usage of so many times the span's brings close to, or under, each floor."""
    whole = Fraction(round(span_s)) * RATE_PER_S * EVENT_COSTS / len(TENANTS)
    return {
        tenant_id: whole * times * Fraction(50 + 10 * number, 100)
        for number, tenant_id in enumerate(TENANTS)
    }


async def _play(stack: Stack, found: Played, span_s: float) -> None:
    programs = {
        "consume": stack.consume,
        "deliver": stack.deliver,
        "redis": stack.redis,
        "sync": stack.sync,
    }
    if stack.kafka.outlives_kill:
        programs["broker"] = stack.kafka
    if stack.database is not None:
        programs["database"] = stack.database
    planned = schedule(found.seed, dict.fromkeys(programs, (Kind.KILL,)), span_s=span_s)
    faults = Faults(programs=programs)
    traffic = Traffic(seed=found.seed, now_micros=time.time_ns() // 1000)
    sending = Sending(stack.kafka.bootstrap)
    await asyncio.gather(
        sending.send(traffic, span_s),
        faults.inflict(planned),
        _change_fees(stack, span_s),
    )
    await faults.recover()
    await asyncio.to_thread(sending.close)
    found.kills = Counter(one.target for one in faults.done)
    found.problems += [f"ended by itself: {one}" for one in faults.ended]
    found.problems += sending.problems
    found.events, found.repeats = traffic.events, traffic.repeats
    await judge(stack, found, traffic)


async def _change_fees(stack: Stack, span_s: float) -> None:
    """Let every tenant recover in the middle, and fall again: each level is armed again."""
    for times in PHASES[1:]:
        await asyncio.sleep(span_s / 3)
        fresh = stack.catalog.with_suffix(".new")
        fresh.write_text(catalog(fees(span_s, times=times)))
        fresh.replace(stack.catalog)


class Sending:
    """Writes events to Kafka, each once, however often the broker ends meanwhile."""

    def __init__(self, bootstrap: str) -> None:
        self.problems: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 300_000,
                "reconnect.backoff.max.ms": 500,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "log_level": 0,
            }
        )

    async def send(self, traffic: Traffic, span_s: float) -> None:
        started_s = time.monotonic()
        while (now_s := time.monotonic() - started_s) < span_s:
            while traffic.events < now_s * RATE_PER_S:
                for tenant_id, value in traffic.next(time.time_ns() // 1000):
                    self._producer.produce(
                        USAGE, value, key=tenant_id.encode(), on_delivery=self._came
                    )
            self._producer.poll(0)
            await asyncio.sleep(TICK_S)

    def close(self) -> None:
        left = self._producer.flush(FLUSH_S_MAX)
        if left:
            self.problems.append(f"{left} events never reached Kafka: the round says nothing")

    def _came(self, error: Any, _: Any) -> None:  # noqa: ANN401 - it ships no types.
        if error is not None:
            self.problems.append(f"an event did not reach Kafka: {error}")


async def judge(stack: Stack, found: Played, traffic: Traffic) -> None:
    """Wait until all is settled, and note every promise that was broken."""
    expected = traffic.cogs_nanos()
    found.cogs_nanos = sum(expected.values())
    view, messages = await _at_rest(stack, expected)
    for key in sorted(expected.keys() | view.cogs_nanos.keys()):
        found.expect(
            view.cogs_nanos.get(key, 0) == expected.get(key, 0) == view.audited_nanos.get(key, 0),
            f"{key}: {view.cogs_nanos.get(key)} kept, {view.audited_nanos.get(key)} by its rows,"
            f" {expected.get(key)} sent",
        )
    judge_alerts(found, view, messages)
    judge_redis(found, view, stack.redis.url)


async def _at_rest(
    stack: Stack, expected: Mapping[tuple[str, int], int]
) -> tuple[LedgerView, list[dict[str, Any]]]:
    """Wait until ledger, outbox and receiver are still, and hold what they should."""
    deadline_s = time.monotonic() + REST_S_MAX
    url = f"http://127.0.0.1:{stack.ports['webhooks']}"
    before: Any = None
    async with HttpClient(url) as client:
        while True:
            view = await asyncio.to_thread(read_ledger, stack.ledger_url)
            messages = json.loads((await client.get("/lab/messages")).body)
            now = (view, len(messages))
            settled = view.cogs_nanos == expected and not view.waiting
            # Redis may hold margins of before the last commits for a moment, or none.
            settled = settled and not list(_unlike_the_ledger(view, stack.redis.url))
            if (settled and now == before) or time.monotonic() > deadline_s:
                return view, messages
            before = now
            await asyncio.sleep(1)


def judge_alerts(found: Played, view: LedgerView, messages: Sequence[Mapping[str, Any]]) -> None:
    """Each change of level has one message, in an unbroken chain, and each arrived unchanged."""
    found.transitions = len(view.alerts)
    found.received = len(messages)
    chains: dict[str, str] = dict.fromkeys(TENANTS, "none")
    for message_id, payload in view.alerts:
        data = json.loads(payload)["data"]
        tenant_id = data["tenant"]
        found.expect(
            data["from"] == chains[tenant_id] != data["to"],
            f"{message_id} of {tenant_id} goes from {data['from']}, after {chains[tenant_id]}",
        )
        chains[tenant_id] = data["to"]
    for tenant_id, level in view.levels.items():
        found.expect(
            chains[tenant_id] == Level(level).name.lower(),
            f"{tenant_id} is at {level}, and its last message says {chains[tenant_id]}",
        )
    found.expect(
        view.transitions == len(view.alerts),
        f"{view.transitions} changes of level, {len(view.alerts)} messages",
    )
    bodies: dict[str, set[str]] = {}
    for message in messages:
        bodies.setdefault(message["headers"]["webhook-id"], set()).add(message["body"])
    for message_id, payload in view.alerts:
        found.expect(
            bodies.get(message_id) == {payload},
            f"{message_id}: received as {bodies.get(message_id)}",
        )
    unknown = bodies.keys() - {message_id for message_id, _ in view.messages}
    found.expect(not unknown, f"messages that nobody wrote: {unknown}")


def judge_redis(found: Played, view: LedgerView, url: str) -> None:
    found.problems += _unlike_the_ledger(view, url)


def _unlike_the_ledger(view: LedgerView, url: str) -> Iterator[str]:
    month_micros = month_start_micros(time.time_ns() // 1000)
    for tenant_id, margin in _margins(url).items():
        kept = view.levels.get(tenant_id), view.cogs_nanos.get((tenant_id, month_micros))
        if margin != kept:
            yield f"Redis has {margin} of {tenant_id}, the ledger {kept}"


def _margins(url: str) -> dict[str, tuple[int, int]]:
    with redis.Redis.from_url(url) as client:
        values: Any = client.mget([f"aforo:v1:{{{one}}}:margin" for one in TENANTS])
    margins = [margin_pb2.Margin.FromString(value or b"") for value in values]
    return {
        tenant_id: (int(margin.level), margin.cogs_nanos)
        for tenant_id, margin in zip(TENANTS, margins, strict=True)
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.rounds_of_money")
    parser.add_argument("--kills", type=int, default=200, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument(
        "--database", choices=["postgresql", "sqlite"], help="of the ledger (default: each in turn)"
    )
    options = parser.parse_args(arguments)
    broken = 0
    for kind in (options.database,) if options.database else ("postgresql", "sqlite"):
        kafka, why = broker_for_kills()
        if why:
            sys.stdout.write(f"the broker is not killed: {why}\n")
        database = PostgresServer() if kind == "postgresql" else None
        came = asyncio.run(play(options.seed, kills=options.kills, kafka=kafka, database=database))
        sys.stdout.write(f"{came}\n")
        sys.stdout.flush()
        broken += bool(came.problems)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
