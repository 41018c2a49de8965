"""`make bench-pages`: how long the admin's pages and REST's lists take, and how much they ask."""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from aforo_admin import django_setup
from aforo_admin.places import Places
from aforo_meter.migrate import migrate
from bench.__main__ import OUT, write
from lab.postgres import PostgresServer
from lab.servers import ROOT, RedisServer, scratch_dir

TOOK_MS_MAX = 500
QUERIES_MAX = 29  # Fewer than 30.

PAGES = (
    *("overview/", "margins/", "margins/?level=block", "margins/t00000/", "margins/t00007/"),
    *("interventions/", "interventions/?span=7d", "interventions/?span=30d&tenant=t00000"),
    *("prices/", "prices/?q=gpt", "tester/"),
    *("sessions/", "deliveries/", "deliveries/?state=delivered", "audit/"),
    *("what-if/", "what-if/prices/"),
)
TABLES = (
    *("tenant", "deal", "planversion", "feature", "costprice", "exchangerate", "marginoverride"),
    *("route", "meter", "meteringrule", "credential", "ingestkey", "webhookendpoint"),
)
FORMS = (
    *(f"control/{table}/{part}" for table in TABLES for part in ("", "add/")),
    *("control/tenant/?q=t001", "control/tenant/t00007/change/", "control/credential/?q=t001"),
)
LISTS = (
    *("tenants", "tenants?limit=200", "tenants/t00007", "tenants/t00007/credentials", "plans"),
    *("margins", "margins?level=block", "charges", "charges/t00000", "interventions"),
    *("sessions", "sessions?state=open", "alerts", "alerts?state=delivered", "completeness"),
    *("audit", "general", "entitlements/t00007/chat"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    address: str
    median_ms: float
    worst_ms: float
    cpu_ms: float
    queries: int
    kib: int

    @property
    def holds(self) -> bool:
        return self.median_ms <= TOOK_MS_MAX and self.queries <= QUERIES_MAX


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pages",
        description=__doc__,
        epilog="example: make bench-pages BENCH_ARGS='--database postgresql'",
    )
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=9, help="requests for each page")
    options = parser.parse_args()
    with ExitStack() as stack:
        home = scratch_dir("pages")
        redis_url = stack.enter_context(RedisServer(log_dir=home)).url
        control_url, ledger_url = f"sqlite:///{home}/control.db", f"sqlite:///{home}/ledger.db"
        if options.database == "postgresql":
            server = stack.enter_context(PostgresServer(log_dir=home))
            control_url, ledger_url = _databases(server)
        places = Places(ledger_url=ledger_url, redis_url=redis_url)
        django_setup.configure(control_url, hosts=("testserver",), places=places)
        found = _run(options, places)
    _console(found, options)
    write("pages", {one.address: asdict(one) for one in found})
    print(f"written to {OUT.relative_to(ROOT)}/")
    return 0 if all(one.holds for one in found) else 1


def _databases(server: PostgresServer) -> tuple[str, str]:
    import psycopg  # noqa: PLC0415 - for this database alone.

    with psycopg.connect(server.url(), autocommit=True) as sql:
        for name in ("control", "ledger"):
            sql.execute(f"CREATE DATABASE {name}".encode())
    return server.url("control"), server.url("ledger")


def _run(options: argparse.Namespace, places: Places) -> list[Measured]:
    from django.core.management import call_command  # noqa: PLC0415 - Django is set up only now.

    from bench.pages_load import Load, fill  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    migrate(places.ledger_url, dry_run=False)
    began_s = time.monotonic()
    load = Load(tenants=options.tenants, now_micros=time.time_ns() // 1000)
    fill(load, ledger_url=places.ledger_url, redis_url=places.redis_url)
    print(f"{load.tenants:,} tenants after {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    return [
        measured(client, address, rounds=options.rounds)
        for client, addresses in clients().items()
        for address in addresses
    ]


def clients() -> dict[Any, list[str]]:
    """Return who asks, with addresses: somebody who is signed in, and somebody with a token."""
    from django.contrib.auth.models import User  # noqa: PLC0415 - Django is set up only now.
    from django.test import Client  # noqa: PLC0415

    from aforo_admin import store  # noqa: PLC0415
    from aforo_admin.control.recording import Source  # noqa: PLC0415
    from aforo_admin.control.roles import Role  # noqa: PLC0415
    from aforo_admin.rest import tokens  # noqa: PLC0415

    person = Client()
    with store.change(actor="bench", source=Source.SHELL, checked=True):
        user = User.objects.create_user("bench", is_staff=True, is_superuser=True)
    person.force_login(user)
    token = tokens.add("bench", Role.OWNER, actor="bench")
    program = Client(headers={"Authorization": f"Bearer {token}"})
    return {
        person: [f"/admin/{address}" for address in (*PAGES, *FORMS)],
        program: [f"/api/v1/{address}" for address in LISTS] + [following(program)],
    }


def following(client: Any) -> str:  # noqa: ANN401 - Django's.
    """Return the address of a long list's second page."""
    first = client.get("/api/v1/interventions").json()
    return f"/api/v1/interventions?cursor={first['next']}"


def measured(client: Any, address: str, *, rounds: int) -> Measured:  # noqa: ANN401 - Django's.
    """Ask for a page several times."""
    client.get(address)  # Templates are compiled once in a process.
    took_ms, cpu_ms = [], []
    queries = kib = 0
    for _ in range(rounds):
        with counted() as asked:
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            response = client.get(address)
            took_ms.append(1000 * (time.perf_counter() - began_s))
            cpu_ms.append(1000 * (time.process_time() - began_cpu_s))
        assert response.status_code == 200, (address, response.status_code)
        assert b'class="missing"' not in response.content, address
        queries, kib = max(queries, len(asked)), len(response.content) // 1024
    return Measured(
        address=address,
        median_ms=statistics.median(took_ms),
        worst_ms=max(took_ms),
        cpu_ms=statistics.median(cpu_ms),
        queries=queries,
        kib=kib,
    )


@contextmanager
def counted() -> Iterator[list[str]]:
    """Note every statement that goes to the control plane's database, or to the ledger."""
    from django.db import connection  # noqa: PLC0415 - Django is set up only now.

    from aforo_meter import database_postgres, database_sqlite  # noqa: PLC0415

    asked: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:  # noqa: ANN401, FBT001
        asked.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note), ExitStack() as stack:
        for kind in (database_sqlite.SqliteConnection, database_postgres.PostgresConnection):
            stack.enter_context(_noting(kind, asked))
        yield asked


@contextmanager
def _noting(kind: Any, asked: list[str]) -> Iterator[None]:  # noqa: ANN401 - one of two classes.
    """Let a kind of connection note what work within its transactions asks."""
    transact = kind.transact

    class Noted:
        def __init__(self, sql: Any) -> None:  # noqa: ANN401 - Sql.
            self._sql = sql

        def execute(self, statement: str, values: Any = ()) -> Any:  # noqa: ANN401
            asked.append(statement)
            return self._sql.execute(statement, values)

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(self._sql, name)

    def noted(self: Any, work: Any, *, writes: bool) -> Any:  # noqa: ANN401
        return transact(self, lambda sql: work(Noted(sql)), writes=writes)

    kind.transact = noted
    try:
        yield
    finally:
        kind.transact = transact


def _console(found: Sequence[Measured], options: argparse.Namespace) -> None:
    table = Table(title=f"pages with {options.tenants:,} tenants, {options.database}")
    for heading in ("page", "median", "worst", "CPU", "queries", "KiB", ""):
        table.add_column(heading, justify="left" if heading in {"page", ""} else "right")
    for one in found:
        figures = (f"{value:.0f} ms" for value in (one.median_ms, one.worst_ms, one.cpu_ms))
        mark = "ok" if one.holds else "NO"
        table.add_row(one.address, *figures, str(one.queries), str(one.kib), mark)
    table.caption = f"musts: {TOOK_MS_MAX} ms, {QUERIES_MAX} queries"
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
