"""A round: requests through Envoy while ships, consumer and broker are killed and frozen.

Then everything comes to rest, and what the upstream served is compared with the ledger. Run as a
module (`make kills`) it prints a line for each seed, and ends with 1 if a promise was broken.

Killed (SIGKILL, then started again) and frozen (SIGSTOP, SIGCONT): both ships, which are receiver
and shipper in one process, and the consumer. The broker too, where it is a real Kafka, which keeps
what it acknowledged; the lab's own has it in memory only, so that one is frozen and not killed.
Envoy, authz, Redis and the upstream are left alone: nothing is said here about their ends. The
machine itself stays up: power cuts are not played.
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from demo.observe import World
from demo.tenants import TENANTS, catalog
from lab.faults import Fault, Faults, Kind, schedule
from lab.http_client import HttpClient
from lab.kafka_java import JavaKafka
from lab.load import LoadGenerator, LoadResult
from lab.patience import PATIENT_AUTHZ, patient
from lab.servers import HANG_S, KafkaProgram, ServerStartError, scratch_dir
from lab.stack import Options, Stack, StackCommandError
from tests.e2e.kills_witness import (
    KafkaContent,
    LedgerContent,
    ShipWitness,
    Told,
    key_of,
    read_completeness,
    read_envoy,
    read_kafka,
    read_ledger,
)

CALLERS = ("umbrella", "hooli", "acme")
CONNECTIONS = 32
REST_S = 1.5  # Between two looks that must be alike: Envoy's flush, authz' total of a second.
REST_S_MAX = 180.0
SHIP, CONSUME, BROKER = "ship-{}", "consume", "broker"
CONSUME_ENV = {
    "AFORO_METER_CONSUME_DECISIONS_POLL_MS": "500",
    "AFORO_METER_CONSUME_SESSION_TIMEOUT_MS": "2000",
}


@dataclass(kw_only=True)
class Round:
    """What came of one seed."""

    seed: int
    broker: str
    requests: int
    served: int = 0
    in_ledger: int = 0
    named_missing: int = 0
    read_by_ships: int = 0
    said_by_ships: int = 0
    envoy_wrote: int = 0
    envoy_dropped: int = 0
    repeats_in_kafka: int = 0
    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def missing(self) -> int:
        return self.served - self.in_ledger

    def expect(self, condition: bool, problem: str) -> None:  # noqa: FBT001 - as `assert` has it
        if not condition:
            self.problems.append(problem)

    def __str__(self) -> str:
        counts = Counter(f"{one.target} {one.kind}" for one in self.faults)
        summary = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        when = "; ".join(map(str, sorted(self.faults, key=lambda one: one.at_s)))
        return (
            f"seed {self.seed}: {self.served} served, {self.in_ledger} in the ledger, "
            f"{self.missing} missing, {self.named_missing} named missing; "
            f"read by ships {self.read_by_ships} (said before kills: {self.said_by_ships}), "
            f"Envoy wrote {self.envoy_wrote}, dropped {self.envoy_dropped}; "
            f"repeats in Kafka {self.repeats_in_kafka}; {self.broker}; {self.seconds:.0f} s; "
            f"{summary} [{when}] "
            + ("good" if not self.problems else "BROKEN: " + " | ".join(self.problems))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """All that is looked at in the end; two looks that are alike are a rest."""

    served: dict[str, int]
    ledger: LedgerContent
    told: dict[str, Told]
    kafka: KafkaContent


def request_of(number: int) -> bytes:
    """Return a request whose path says whose it is: what is read must be charged to them."""
    tenant_id = CALLERS[number % len(CALLERS)]
    return (
        f"GET /of/{tenant_id} HTTP/1.1\r\nhost: a\r\nx-api-key: {TENANTS[tenant_id].key}\r\n\r\n"
    ).encode()


def catalog_with_paths() -> str:
    """Return the demo's catalog with a route for each caller: events then have the path."""
    routes = "".join(f"  - {{path: /of/{tenant_id}, features: [api]}}\n" for tenant_id in CALLERS)
    before, rest = catalog().split("routes:\n", 1)
    return f"{before}routes:\n{routes}{rest}"


async def play(seed: int, *, requests: int, rate_per_s: float, kafka: KafkaProgram | None) -> Round:
    """Play one round on a stack of its own and judge it."""
    started_s = time.monotonic()
    home = kafka.log_path.parent if kafka else scratch_dir("kills")
    path = home / "catalog.yaml"
    path.write_text(catalog_with_paths())
    options = Options(
        catalog=path,
        home=home,
        consume_env=CONSUME_ENV,
        kafka=kafka,
        authz_env=PATIENT_AUTHZ,
        envoy_edit=patient,
    )
    stack = await asyncio.to_thread(Stack(options).start)
    try:
        found = await _played(stack, seed, requests, rate_per_s)
    # The other seeds are played all the same.
    except (TimeoutError, ServerStartError, StackCommandError) as error:
        found = Round(seed=seed, broker=stack.kafka.name, requests=requests, problems=[str(error)])
    finally:
        await asyncio.to_thread(stack.stop)
    found.seconds = time.monotonic() - started_s
    if found.problems:
        found.problems.append(f"logs in {home}")
    else:
        shutil.rmtree(home)
    return found


async def _played(stack: Stack, seed: int, requests: int, rate_per_s: float) -> Round:
    durable = stack.kafka.outlives_kill
    found = Round(seed=seed, broker="Kafka" if durable else "memory broker", requests=requests)
    witnesses = {
        SHIP.format(which): ShipWitness(spool=spool, metrics_port=stack.ports[f"ship-{which}"])
        for which, spool in stack.spools.items()
    }
    programs = {
        **dict(zip(witnesses, stack.ships, strict=True)),
        CONSUME: stack.consume,
        BROKER: stack.kafka,
    }
    both = (Kind.KILL, Kind.FREEZE)
    kinds = dict.fromkeys(programs, both) | {BROKER: both if durable else (Kind.FREEZE,)}

    async def ask(target: str) -> None:
        if target in witnesses:
            await asyncio.to_thread(witnesses[target].ask)

    async def look(target: str) -> None:
        if target in witnesses:
            await asyncio.to_thread(witnesses[target].look)

    for url in (World(stack).upstream, World(stack).economy):
        async with HttpClient(url) as client:  # Whether they are there was asked by requests, too.
            await client.post("/lab/reset", {})
    faults = Faults(programs=programs, before_kill=ask, after_kill=look)
    span_s = requests / rate_per_s
    load = LoadGenerator(
        port=stack.envoy.port("ingress"),
        rate_per_s=rate_per_s,
        duration_s=span_s,
        request=request_of,
        connections=CONNECTIONS,
        drain_s=HANG_S,
    )
    answers, _ = await asyncio.gather(
        load.run(), faults.inflict(schedule(seed, kinds, span_s=span_s))
    )
    await faults.recover()
    rest = await come_to_rest(stack, witnesses)
    for name in witnesses:
        await ask(name)
        await look(name)
    found.envoy_wrote, found.envoy_dropped = await asyncio.to_thread(
        read_envoy, stack.envoy.admin_port
    )
    found.faults = faults.done
    found.problems += [f"ended by itself: {one}" for one in faults.ended]
    judge(found, answers, rest, list(witnesses.values()))
    return found


async def come_to_rest(stack: Stack, witnesses: dict[str, ShipWitness]) -> Rest:
    """Wait until nothing waits anywhere, and nothing changes any more.

    Raises:
        TimeoutError: It did not happen; the message says what was seen last.
    """
    world = World(stack)
    before: Rest | None = None
    deadline_s = time.monotonic() + REST_S_MAX
    while True:
        await asyncio.sleep(REST_S)
        held = [await asyncio.to_thread(one.held) for one in witnesses.values()]
        now = Rest(
            served={tenant_id: await world.served_calls(tenant_id) for tenant_id in ("", *CALLERS)},
            kafka=await read_kafka(stack.kafka.bootstrap),
            ledger=await asyncio.to_thread(read_ledger, stack.ledger_path),
            told=await asyncio.to_thread(read_completeness, stack),
        )
        positions = {place: end for place, end in now.ledger.positions.items() if end}
        known = all(
            now.told.get(tenant_id, Told(0, 0)).decided >= now.served[tenant_id]
            for tenant_id in CALLERS
        )
        if held == [0] * len(held) and positions == now.kafka.ends and known and now == before:
            return now
        if time.monotonic() > deadline_s:
            raise TimeoutError(
                f"no rest after {REST_S_MAX:.0f} s: ships hold {held}, "
                f"Kafka ends at {now.kafka.ends}, the ledger is at "
                f"{now.ledger.positions}, told {now.told}, served {now.served}"
            )
        before = now


def judge(found: Round, answers: LoadResult, rest: Rest, witnesses: Sequence[ShipWitness]) -> None:
    """Fill in the figures, and note every promise that was broken."""
    ledger, kafka = rest.ledger, rest.kafka
    found.served = sum(rest.served.values())
    found.in_ledger = sum(ledger.calls.values())
    found.named_missing = sum(told.missing for told in rest.told.values())
    found.read_by_ships = sum(one.read for one in witnesses)
    found.said_by_ships = sum(one.said for one in witnesses)
    found.repeats_in_kafka = kafka.events.total() - len(kafka.events)

    answered = answers.statuses[200]
    found.expect(
        answered == found.requests == found.served and rest.served[""] == 0,
        f"not every request was decided and served: {answers.statuses} {answers.errors}"
        f" {rest.served}",
    )
    # What reached a receiver is in the ledger, exactly once.
    for one in witnesses:
        found.problems += one.problems
        lost = {key_of(identity) for identity in one.found} - ledger.seen
        found.expect(not lost, f"{len(lost)} on disk are lost")
    found.expect(
        found.read_by_ships <= found.envoy_wrote,
        f"ships read {found.read_by_ships}, and Envoy wrote {found.envoy_wrote}",
    )
    found.expect(
        found.read_by_ships == len(kafka.events) == len(ledger.seen) == found.in_ledger,
        f"read {found.read_by_ships}, in Kafka {len(kafka.events)}, seen {len(ledger.seen)},"
        f" charged {found.in_ledger}",
    )
    keys = {key_of(identity) for identity in kafka.events}
    found.expect(keys == ledger.seen, "Kafka's events are not the ledger's")
    found.expect(kafka.dead_letters == 0, f"{kafka.dead_letters} dead letters")
    # What did not is named, tenant by tenant; nobody pays for another.
    found.expect(set(ledger.calls) <= set(CALLERS), f"charged: {sorted(ledger.calls)}")
    by_tenant = Counter(one.tenant_id for one in kafka.events)
    for tenant_id in CALLERS:
        served, charged = rest.served[tenant_id], ledger.calls.get(tenant_id, 0)
        told = rest.told.get(tenant_id, Told(0, 0))
        found.expect(charged == by_tenant[tenant_id], f"{tenant_id}: Kafka {by_tenant[tenant_id]}")
        found.expect(
            0 <= served - charged == told.missing,
            f"{tenant_id}: served {served}, charged {charged}, named missing {told.missing}",
        )
        found.expect(
            kafka.paths.get(tenant_id, set()) <= {f"/of/{tenant_id}"},
            f"{tenant_id} has events of {kafka.paths.get(tenant_id)}",
        )


def broker_for_kills() -> tuple[KafkaProgram | None, str]:
    """Return a Kafka that may be killed, or none and why."""
    try:
        return JavaKafka(log_dir=scratch_dir("kills")), ""
    except ServerStartError as error:
        return None, str(error)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.rounds_of_kills")
    parser.add_argument("--seeds", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, default=20_000, help="in each (%(default)s)")
    parser.add_argument("--rate", type=float, default=400, help="a second (%(default)s)")
    parser.add_argument("--memory-broker", action="store_true", help="the lab's, frozen only")
    options = parser.parse_args(arguments)
    broken = 0
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        kafka, why = (None, "") if options.memory_broker else broker_for_kills()
        if why:
            say(f"the broker is frozen only, not killed: {why}")
        came = asyncio.run(
            play(seed, requests=options.requests, rate_per_s=options.rate, kafka=kafka)
        )
        say(str(came))
        broken += bool(came.problems)
    say(f"{options.seeds} seeds, {broken} broken")
    return 1 if broken else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
