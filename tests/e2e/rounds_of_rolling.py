"""Rounds in which every process is replaced, in an order of its own, under a steady load.

Requests go through Envoy, usage to ingest, and people to the admin, all the while; each round a
tenant is made in the catalog, whose margin then falls, so that sync and deliver have work too. No
request may fail, no process may end otherwise than with 0 within the time that Kubernetes gives
it, and in the end the ledger has exactly what was served and accepted. Run as a module
(`make rolling`) it prints a line for each round, and ends with 1 if a promise was broken.

Not replaced: Envoy, whose end is not Aforo's to arrange, and Redis, Kafka and the database. Kafka
is a real one: the lab's own leaves a group without members where one leaves as another joins.
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from aforo_admin.mint import mint_key
from demo.checks import StepFailedError, until
from demo.observe import World
from demo.story import CHAT, completion
from demo.tenants import INGEST_KEY
from lab.http_client import HttpClient
from lab.kafka_java import JavaKafka
from lab.load import LoadGenerator, LoadResult
from lab.postgres import PostgresServer
from lab.servers import HANG_S, ServerStartError, eventually, scratch_dir
from lab.stack import Options, Stack, StackCommandError, run_aforo
from tests.contract.tcp_proxy import TcpProxy
from tests.e2e.kills_witness import read_completeness
from tests.e2e.rolling_lab import Caller, Ends, Workload, manifest_of
from tests.e2e.rolling_tenants import CALLERS, MADE, calls_and_tokens, catalog_with, request_of

WORKLOADS = ("authz", "ship", "ingest", "consume", "sync", "deliver", "admin")
REPORTED = "initech"  # Whose usage comes over HTTP, and only so.
DRAWN = 500  # Orders to choose the next one of.
TOGETHER_EVERY = 4  # Rounds; then all are replaced at once, as `kubectl rollout restart` does.
USAGE_EVERY_S, PAGE_EVERY_S = 0.1, 0.5
TO_WARN = 85_000  # Output tokens of gpt-4o: $0.85 of the $1 that a tenant of a round pays.


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    names: tuple[str, ...]
    together: bool

    def __str__(self) -> str:
        return "all at once" if self.together else " ".join(self.names)


def orders_of(seed: int, rounds: int) -> list[Order]:
    """Return orders in which neighbours soon have followed each other in every way.

    Of some orders by chance that is taken whose neighbours came least often: eight have all 42.
    """
    chance = Random(seed)  # noqa: S311 - the same seed says the same.
    came: Counter[tuple[str, str]] = Counter()
    found = []
    for number in range(1, rounds + 1):
        if number % TOGETHER_EVERY == 0:
            found.append(Order(names=WORKLOADS, together=True))
            continue
        drawn = [chance.sample(WORKLOADS, len(WORKLOADS)) for _ in range(DRAWN)]
        names = min(drawn, key=lambda each: sum(came[pair] for pair in pairwise(each)))
        came.update(pairwise(names))
        found.append(Order(names=tuple(names), together=False))
    return found


@dataclass(kw_only=True)
class Rolled:
    """What came of all rounds."""

    seed: int
    orders: list[Order] = field(default_factory=list)
    answers: LoadResult = field(default_factory=LoadResult)
    reported: int = 0
    pages: int = 0
    ends: Ends = field(default_factory=Ends)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def expect(self, condition: bool, problem: str) -> None:  # noqa: FBT001 - as `assert` has it
        if not condition:
            self.problems.append(problem)

    def __str__(self) -> str:
        ends = ", ".join(
            f"{name} {len(took)} in at most {max(took):.1f} s"
            for name, took in sorted(self.ends.seconds.items())
        )
        neighbours = {
            pair for one in self.orders if not one.together for pair in pairwise(one.names)
        }
        longest = f"{self.answers.quantile_ms(1.0):.0f} ms" if self.answers.latencies_s else "-"
        return (
            f"seed {self.seed}: {len(self.orders)} rounds, {len(neighbours)} of"
            f" {len(WORKLOADS) * (len(WORKLOADS) - 1)} neighbours;"
            f" {self.answers.statuses.total()} requests (longest {longest},"
            f" begun at most {self.answers.late_s_max * 1000:.0f} ms late),"
            f" {self.reported} reports of usage, {self.pages} pages;"
            f" ended: {ends}; {self.seconds:.0f} s; "
            + ("good" if not self.problems else "BROKEN: " + " | ".join(self.problems))
        )


def installation(authz_service: int | None = None) -> Stack:
    """Return all of it, its ledger in PostgreSQL, with the drains of the manifests.

    Args:
        authz_service: The port of what leads to authz, as in overlay `istio`. None: it is at a UNIX
            socket beside Envoy, and the next one takes that over.

    Raises:
        ServerStartError: There is no Kafka: it needs java.
    """
    home = scratch_dir("rolling")
    path = home / "catalog.yaml"
    path.write_text(catalog_with([]))
    takes_over = {} if authz_service else {"AFORO_AUTHZ_TAKE_OVER": "true"}
    return Stack(
        Options(
            catalog=path,
            home=home,
            control=True,
            database=PostgresServer(log_dir=home),
            kafka=JavaKafka(log_dir=home),
            tcp=("authz",) if authz_service else (),
            authz_service=authz_service,
            authz_env={**takes_over, **manifest_of("authz").drains},
            ship_env=manifest_of("ship").drains,
            ingest_env=manifest_of("ingest").drains,
            patient=True,
        )
    )


class Rounds:
    """A running installation whose processes are replaced."""

    def __init__(self, stack: Stack, found: Rolled, services: Mapping[str, TcpProxy]) -> None:
        self.stack = stack
        self.world = World(stack)
        self.found = found
        self.keys: list[str] = []
        ends, envoy = found.ends, stack.envoy
        pods = {name: [getattr(stack, name)] for name in WORKLOADS if name != "ship"}

        async def decided() -> None:
            await eventually(lambda: envoy.sees_healthy("aforo_authz"))

        async def received() -> None:
            await eventually(lambda: envoy.sees_healthy("aforo_als"))

        self.workloads = {
            name: Workload(name=name, pods=pods[name], ends=ends, service=services.get(name))
            for name in pods
        }
        self.workloads["authz"].settled = decided
        self.workloads["ship"] = Workload(
            name="ship", pods=list(stack.ships), ends=ends, settled=received
        )

    async def play(self, order: Order) -> None:
        """Replace everything once, while a tenant is made and uses what he pays for."""
        self.found.orders.append(order)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._make_tenant())
            if order.together:
                for name in order.names:
                    group.create_task(self.workloads[name].roll())
            else:
                group.create_task(self._in_turn(order.names))

    async def _in_turn(self, names: Sequence[str]) -> None:
        for name in names:
            await self.workloads[name].roll()

    async def _make_tenant(self) -> None:
        self.keys.append(mint_key())
        path = self.stack.catalog
        path.write_text(catalog_with(self.keys))
        env = {"AFORO_ADMIN_DATABASE_URL": self.stack.control_url}
        await asyncio.to_thread(run_aforo, "aforo_admin", "apply", str(path), env=env)
        async with HttpClient(self.stack.url, api_key=self.keys[-1]) as client:
            await until(
                lambda: client.get("/echo"),
                lambda answer: answer.status == 200,
                "a tenant who was just made is let through",
                within_s=HANG_S,
            )
            answer = await client.post(CHAT, completion(TO_WARN))
            self.found.expect(answer.status == 200, f"the made tenant got {answer.status}")

    async def stop(self) -> None:
        for workload in self.workloads.values():
            await workload.stop()

    async def judge(self) -> None:
        """Wait until all has arrived; note every promise that was broken."""
        found, world = self.found, self.world
        total = found.answers.statuses.total()
        found.expect(
            found.answers.statuses == {200: total} and not found.answers.errors,
            f"requests failed: {found.answers.statuses} {found.answers.errors}",
        )
        undecided = await world.served_calls("")
        found.expect(undecided == 0, f"{undecided} requests were let through undecided")
        made = [MADE.format(number) for number in range(len(self.keys))]
        expected = {REPORTED: (found.reported, 0)}
        for tenant_id in (*CALLERS, *made):
            tokens = (await world.served(tenant_id)).total()
            expected[tenant_id] = (await world.served_calls(tenant_id), tokens)
        try:
            await until(self._ledger, lambda seen: seen == expected, f"{expected}", within_s=HANG_S)
            for tenant_id in made:
                await until(
                    lambda tenant_id=tenant_id: world.alerts(tenant_id),  # type: ignore[misc]
                    lambda seen: {each["data"]["to"] for each in seen} == {"warn"},
                    f"an alert about {tenant_id}",
                    within_s=HANG_S,
                )
        except StepFailedError as error:
            found.problems.append(str(error))
        told = await asyncio.to_thread(read_completeness, self.stack)
        missing = {tenant_id: one.missing for tenant_id, one in told.items() if one.missing}
        found.expect(not missing, f"missing: {missing}")

    async def _ledger(self) -> dict[str, tuple[int, int]]:
        """Return each tenant's calls and tokens."""
        return await asyncio.to_thread(calls_and_tokens, self.stack.ledger_url)


@asynccontextmanager
async def under_load(
    stack: Stack, found: Rolled, services: Mapping[str, TcpProxy], rate_per_s: float
) -> AsyncIterator[None]:
    """Call, report and look, steadily, while the body runs, and to their end."""
    load = LoadGenerator(
        port=stack.envoy.port("ingress"),
        rate_per_s=rate_per_s,
        duration_s=24 * 3600,
        request=request_of,
    )
    ingest_url = f"http://127.0.0.1:{services['ingest'].port}"
    admin_url = f"http://127.0.0.1:{services['admin'].port}"
    async with (
        HttpClient(ingest_url, api_key=INGEST_KEY) as ingest,
        HttpClient(admin_url) as admin,
    ):

        async def report(number: int) -> int:
            event = {"customerId": REPORTED, "metricName": "api_calls", "quantity": 1}
            event |= {"occurredAt": int(time.time()), "idempotencyKey": f"report-{number}"}
            return (await ingest.post("/v1/ingest/batch", {"events": [event]})).status

        async def look(_: int) -> int:
            return (await admin.get("/admin/login/")).status

        stop = asyncio.Event()
        reports = Caller(send=report, every_s=USAGE_EVERY_S)
        pages = Caller(send=look, every_s=PAGE_EVERY_S)
        tasks = [
            asyncio.create_task(reports.run(stop, good=(202,))),
            asyncio.create_task(pages.run(stop, good=(200,))),
            asyncio.create_task(load.run()),
        ]
        try:
            yield
        finally:
            stop.set()
            load.stop()
            await asyncio.gather(*tasks)
    found.answers = load.result
    found.reported, found.pages = reports.sent, pages.sent
    found.problems += [f"a report failed: {one}" for one in reports.failures]
    found.problems += [f"a page failed: {one}" for one in pages.failures]


async def play(
    seed: int, *, orders: Sequence[Order], rate_per_s: float, authz_at_port: bool = False
) -> Rolled:
    """Play a round for each order on one installation, and judge them all.

    Raises:
        ServerStartError: As `installation` says.
    """
    started_s = time.monotonic()
    found = Rolled(seed=seed)
    async with AsyncExitStack() as exits:
        services = {
            name: await exits.enter_async_context(TcpProxy(0).serving())
            for name in ("ingest", "admin", *(("authz",) if authz_at_port else ()))
        }
        stack = installation(services["authz"].port if authz_at_port else None)
        exits.push_async_callback(asyncio.to_thread, stack.stop)
        services["ingest"].lead_to(stack.ports["usage"])
        services["admin"].lead_to(stack.ports["admin"])
        if authz_at_port:
            services["authz"].lead_to(int(str(stack.addresses["authz"])))
        try:
            await asyncio.to_thread(stack.start)
            running = Rounds(stack, found, services)
            exits.push_async_callback(running.stop)
            for url in (running.world.upstream, running.world.economy):
                async with HttpClient(url) as client:  # Whether they are there was asked, too.
                    await client.post("/lab/reset", {})
            async with under_load(stack, found, services, rate_per_s):
                for order in orders:
                    began_s = time.monotonic()
                    await running.play(order)
                    say(f"{len(found.orders)}. {order}: {time.monotonic() - began_s:.1f} s")
            await running.judge()
        except* (TimeoutError, ServerStartError, StepFailedError, StackCommandError) as errors:
            found.problems += [str(one) for one in errors.exceptions]
    found.problems += found.ends.problems
    found.seconds = time.monotonic() - started_s
    if found.problems:
        found.problems.append(f"logs in {stack.home}")
    else:
        shutil.rmtree(stack.home)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.rounds_of_rolling")
    parser.add_argument("--rounds", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="says the orders (%(default)s)")
    parser.add_argument("--rate", type=float, default=80, help="requests a second (%(default)s)")
    parser.add_argument(
        "--authz-at-port",
        action="store_true",
        help="authz behind a Service, as in overlay istio, and not at a UNIX socket",
    )
    options = parser.parse_args(arguments)
    came = asyncio.run(
        play(
            options.seed,
            orders=orders_of(options.seed, options.rounds),
            rate_per_s=options.rate,
            authz_at_port=options.authz_at_port,
        )
    )
    say(str(came))
    return 1 if came.problems else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
