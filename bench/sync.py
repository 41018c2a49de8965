"""`make bench-sync`: what keeping Redis equal to a catalog of many tenants takes, and disturbs.

The catalog is in a database, `aforo-admin sync` and `aforo-authz` are processes of their own, as in
production. A pass is timed by sync itself; CPU time is the process's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis
from rich.console import Console

from aforo_admin import django_setup
from aforo_proto.policy_pb2 import SyncState
from bench import musts, programs
from bench.__main__ import write
from bench.musts import Must
from bench.sync_asking import Answers, Asking
from bench.sync_load import catalog, tenant_id
from lab.ports import free_port
from lab.postgres import PostgresServer
from lab.servers import RedisServer, ask_tcp, python_module, scratch_dir

PASS_S_MAX: Final = 20.0
PUBLISHED_S_MAX: Final = 1.0
P99_MS_MAX: Final = 5.0  # What a decision promises, whatever else is going on.
MUSTS: Final = (
    Must("first_pass_s", "a pass into an empty Redis, s", PASS_S_MAX, at_least=False),
    Must("idle_pass_s", "a pass that finds nothing to do, s", PASS_S_MAX, at_least=False),
    Must("drift_pass_s", "a pass that repairs 1 %, s", PASS_S_MAX, at_least=False),
    Must("plan_pass_s", "the pass after a plan's new version, s", PASS_S_MAX, at_least=False),
    Must("publish_s_max", "commit → a tenant's terms in Redis, s", PUBLISHED_S_MAX, at_least=False),
    Must("publish_in_pass_s_max", "the same in a pass, s", PUBLISHED_S_MAX, at_least=False),
    Must("passes_p99_ms", "p99 of decisions amid idle passes, ms", P99_MS_MAX, at_least=False),
    Must("plan_pass_p99_ms", "p99 amid one that writes, ms", P99_MS_MAX, at_least=False),
    Must("decisions_failed", "decisions that were no answer", 0.0, at_least=False),
)
TOLD: Final = {
    "start_s": "the catalog read and checked, s",
    "start_cpu_s": "the same, CPU",
    "first_pass_cpu_s": "a pass into an empty Redis, CPU",
    "idle_pass_cpu_s": "a pass that finds nothing to do, CPU",
    "drift_pass_cpu_s": "a pass that repairs 1 %, CPU",
    "plan_pass_cpu_s": "the pass after a plan's new version, CPU",
    "feature_change_cpu_s": "what a feature's new title costs, CPU",
    "draft_cpu_s": "what a plan's draft costs, CPU",
    "publish_s_median": "commit → a tenant's terms in Redis, s",
    "quiet_p99_ms": "p99 of decisions while sync is stopped, ms",
    "passes_p99_ratio": "p99 amid idle passes / while it is stopped",
    "plan_pass_p99_ratio": "p99 amid one that writes / while it is stopped",
    "rss_mb": "memory of sync, MB",
}
INTERVAL_S: Final = 1.0  # Between passes: as often as sync may have to, not every 30 s.
PUBLISHED: Final = 10  # Tenants, one after another.
CHANGE_S: Final = 3.0  # After it, sync has noticed a change.
WARM_S: Final = 5.0
SLOT_S: Final = 2.5  # Sync that stands for longer has lost its lease, and begins from nothing.
SLOTS: Final = 4  # With and without sync by turns; of each, the best is told.
HANG_S: Final = 600.0
LOOK_S: Final = 0.005  # Between two looks at Redis.
ASK_S: Final = 0.1  # Between two questions to sync, which each take some of its time.


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sync",
        description=__doc__,
        epilog='example: make bench-sync BENCH_ARGS="--database postgresql --rounds 2"',
    )
    parser.add_argument("--tenants", type=int, default=100_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=2, help="turns; the best of each is told")
    parser.add_argument("--rate", type=float, default=200.0, help="decisions a second")
    options = parser.parse_args()
    with ExitStack() as stack:
        home = scratch_dir("sync")
        url = f"sqlite:///{home}/control.db"
        if options.database == "postgresql":
            url = stack.enter_context(PostgresServer(log_dir=home)).url()
        filled = fill(url, options.tenants)
        store = stack.enter_context(RedisServer(log_dir=home))
        rounds = [Round(home, url, store, options).run() for _ in range(options.rounds)]
    result = {"tenants": options.tenants, "database": options.database, **filled, **best(rounds)}
    write(f"sync-{options.database}" if options.database != "sqlite" else "sync", result)
    Console(width=120).print(_table(result))
    return 0 if musts.all_hold(MUSTS, result) else 1


def fill(url: str, tenants: int) -> dict[str, float]:
    """Apply a catalog to a new database."""
    django_setup.configure(url)
    from django.core.management import call_command  # noqa: PLC0415 - Django is set up only now.

    from aforo_admin import store  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    store.apply_catalog(catalog(tenants), actor="bench")
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    _say(f"{tenants:,} tenants applied after {took_s:.0f} s ({cpu_s:.0f} s CPU)")
    return {"apply_s": round(took_s, 1), "apply_cpu_s": round(cpu_s, 1)}


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the least of each figure: what is more is others' work on these cores."""
    return {name: min(each[name] for each in rounds) for name in rounds[0]}


@dataclass(slots=True)
class Spent:
    """What a part took."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


class Round:
    """One life of a sync, from an empty Redis on, beside a decision server that is asked."""

    def __init__(
        self, home: Path, url: str, store: RedisServer, options: argparse.Namespace
    ) -> None:
        self._redis = redis.Redis.from_url(store.url)
        self._home, self._tenants, self._rate = home, options.tenants, options.rate
        self._store = store
        self._port = free_port()
        self._sync = python_module(
            "sync",
            *("aforo_admin", "sync"),
            env={
                "AFORO_ADMIN_DATABASE_URL": url,
                "AFORO_ADMIN_REDIS_URL": store.url,
                "AFORO_ADMIN_SYNC_INTERVAL_S": str(INTERVAL_S),
                "AFORO_ADMIN_METRICS_LISTEN": f"127.0.0.1:{self._port}",
            },
            log_dir=home,
        )
        self._found: dict[str, float] = {}

    def run(self) -> dict[str, float]:
        self._redis.flushall()
        with self._sync:
            self._first_pass()
            self._tell_passes("idle_pass", lambda: None)
            self._tell_passes("drift_pass", self._damage)
            assert self._redis.exists(f"aforo:v1:{{{tenant_id(0)}}}:contract"), "it was repaired"
            self._published()
            self._feature_change()
            self._draft()
            port = free_port()
            with programs.aforo(self._home, f"127.0.0.1:{port}", self._store.url):
                self._beside_decisions(partial(Asking, port, self._tenants, self._rate))
            self._found["rss_mb"] = round(programs.rss_mb(self._sync), 0)
        return self._found

    def _first_pass(self) -> None:
        with self._spent() as start:
            self._wait(lambda: "following" in self._sync.log_since_start())
        with self._spent() as written:
            self._wait(lambda: self._passes()[0] >= 1)
        self._tell("start", start)
        self._tell("first_pass", written, self._passes()[1])

    def _damage(self) -> None:
        """Change what sync wrote of every hundredth tenant, while it can't look."""
        self._sync.freeze()
        pipeline = self._redis.pipeline(transaction=False)
        for number in range(0, self._tenants, 100):
            pipeline.set(f"aforo:v1:{{{tenant_id(number)}}}:policy", b"")
            pipeline.delete(f"aforo:v1:{{{tenant_id(number)}}}:contract")
        pipeline.execute()
        self._sync.thaw()

    def _published(self) -> None:
        took_s = [self._publish(number) for number in range(1, PUBLISHED + 1)]
        self._found["publish_s_median"] = round(statistics.median(took_s), 3)
        self._found["publish_s_max"] = round(max(took_s), 3)

    def _publish(self, number: int) -> float:
        """Change a tenant; return how long its commit is ago when Redis has it."""
        from aforo_admin.control.models import Tenant  # noqa: PLC0415 - Django is set up by now.

        key = f"aforo:v1:{{{tenant_id(number)}}}:policy"
        held = self._redis.get(key)
        with change():
            tenant = Tenant.objects.get(pk=tenant_id(number))
            tenant.shadow = not tenant.shadow
            tenant.save()
        committed_s = time.monotonic()
        self._wait(lambda: self._redis.get(key) != held, every_s=LOOK_S)
        return time.monotonic() - committed_s

    def _feature_change(self) -> None:
        """A feature's title, which no value depends on."""
        from aforo_admin.control.models import Feature  # noqa: PLC0415

        self._tell_changed("feature_change", partial(_retitle, Feature, "reports"))

    def _draft(self) -> None:
        """A draft of a plan, which is in force for nobody."""
        from aforo_admin import store  # noqa: PLC0415

        self._tell_changed("draft", lambda: store.new_draft("pilot"))

    def _tell_changed(self, name: str, edit: Callable[[], object]) -> None:
        """Measure what sync does about a change, beyond what it does anyway."""
        idle_cpu_s = self._found["idle_pass_cpu_s"]
        count, _ = self._passes()
        with self._spent() as spent:
            with change():
                edit()
            time.sleep(CHANGE_S)
            self._settle()
        passes = self._passes()[0] - count
        spent.cpu_s = max(0.0, spent.cpu_s - passes * idle_cpu_s)
        self._found[f"{name}_cpu_s"] = round(spent.cpu_s, 2)
        _say(f"  {name}: {spent.cpu_s:.2f} s CPU beside {passes:.0f} passes")

    def _beside_decisions(self, asking: Callable[[], Asking]) -> None:
        self._settle()
        with asking():  # Whoever is asked for often is known then.
            time.sleep(WARM_S)
        quiet: list[Answers] = []
        passes: list[Answers] = []
        for _ in range(SLOTS):
            with asking() as asked:
                self._sync.freeze()
                time.sleep(SLOT_S)
            self._sync.thaw()
            quiet.append(asked.answers)
            self._settle()
            with asking() as asked:
                time.sleep(SLOT_S)
            passes.append(asked.answers)
        with asking() as asked:
            self._plan_change()
        told = {"quiet": quiet, "passes": passes, "plan_pass": [asked.answers]}
        for name, slots in told.items():
            self._found[f"{name}_p99_ms"] = min(each.p99_ms() for each in slots)
            _say(f"  {name}: p99 {', '.join(f'{each.p99_ms()} ms' for each in slots)}")
        failed = [each.failed for slots in told.values() for each in slots]
        self._found["decisions_failed"] = sum(failed)
        if self._found["quiet_p99_ms"] > P99_MS_MAX:
            _say("  decisions are late without sync, too: this machine has too much else to do")
        for name in ("passes", "plan_pass"):
            ratio = self._found[f"{name}_p99_ms"] / self._found["quiet_p99_ms"]
            self._found[f"{name}_p99_ratio"] = round(ratio, 2)

    def _plan_change(self) -> None:
        """Publish a plan's version: every second tenant's terms change. Others change meanwhile."""
        from aforo_admin import store  # noqa: PLC0415 - as above.

        with change() as made:
            draft: Any = store.new_draft("pro")
            draft.committed_fee_nanos += 1
            draft.save()
            store.publish(draft, made)
        held = self._version()
        took_s = []
        with self._spent() as spent:
            number = PUBLISHED
            while self._version() == held:
                number += 1
                took_s.append(self._publish(number))
        self._settle()
        self._tell("plan_pass", spent)
        self._found["publish_in_pass_s_max"] = round(max(took_s), 3)

    def _version(self) -> str:
        """Return the version of the last pass: what is published alone does not change it."""
        held: Any = self._redis.get("aforo:v1:sync")
        return SyncState.FromString(held or b"").catalog_version

    def _tell_passes(self, name: str, begin: Callable[[], None]) -> None:
        """Measure the pass that begins next."""
        self._settle()  # The next begins a second later.
        count, total_s = self._passes()
        with self._spent() as spent:
            begin()
            self._wait(lambda: self._passes()[0] > count)
        self._tell(name, spent, self._passes()[1] - total_s)

    def _tell(self, name: str, spent: Spent, took_s: float | None = None) -> None:
        self._found[f"{name}_s"] = round(spent.wall_s if took_s is None else took_s, 2)
        self._found[f"{name}_cpu_s"] = round(spent.cpu_s, 2)
        _say(f"  {name}: {self._found[f'{name}_s']} s, {spent.cpu_s:.2f} s CPU")

    @contextmanager
    def _spent(self) -> Iterator[Spent]:
        spent = Spent()
        began_s, began_cpu_s = time.monotonic(), programs.cpu_s(self._sync)
        yield spent
        spent.wall_s = time.monotonic() - began_s
        spent.cpu_s = programs.cpu_s(self._sync) - began_cpu_s

    def _passes(self) -> tuple[float, float]:
        """Return how many passes sync has made, and how long all of them took, by its own clock."""
        answer = ask_tcp(self._port, b"GET /metrics HTTP/1.0\r\n\r\n", bytes_max=1 << 20).decode()
        lines = dict(line.rsplit(" ", 1) for line in answer.splitlines() if line[:6] == "aforo_")
        name = "aforo_sync_pass_seconds"
        return float(lines.get(f"{name}_count", 0)), float(lines.get(f"{name}_sum", 0))

    def _settle(self) -> None:
        """Wait for the end of a pass that began after this."""
        count, _ = self._passes()
        self._wait(lambda: self._passes()[0] >= count + 2)

    def _wait(self, reached: Callable[[], object], *, every_s: float = ASK_S) -> None:
        deadline_s = time.monotonic() + HANG_S
        while not reached():
            assert time.monotonic() < deadline_s, self._sync.log_tail()
            time.sleep(every_s)


@contextmanager
def change() -> Iterator[Any]:
    from aforo_admin import store  # noqa: PLC0415 - Django is set up by now.
    from aforo_admin.control.recording import Source  # noqa: PLC0415

    # Checked: what it costs to check all tenants is not sync's.
    with store.change(actor="bench", source=Source.SHELL, checked=True) as made:
        yield made


def _retitle(kind: Any, name: str) -> None:  # noqa: ANN401 - a class of Django's making.
    row = kind.objects.get(pk=name)
    row.title = f"Measured at {time.monotonic()}"
    row.save()


def _table(result: dict[str, Any]) -> Any:  # noqa: ANN401 - rich's.
    title = f"sync with {result['tenants']:,} tenants, {result['database']}: the best of its rounds"
    table = musts.table(title)
    for key, what in TOLD.items():
        table.add_row(key, what, f"{result[key]:,.2f}", "", "")
    musts.add_musts(table, MUSTS, result)
    return table


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
