"""The catalog's database as operators meet it: commands, sync from it, its pages."""

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from django.db import connections

from aforo_admin import store
from aforo_admin.catalog_yaml import read_file
from aforo_proto.policy_pb2 import SUBSCRIPTION_STATE_PAUSED, Policy, SyncState
from lab.ports import free_port
from lab.postgres import PostgresServer
from lab.servers import Program, ServerStartError, ask_tcp, eventually, python_module
from tests.certificates import certificate
from tests.contract.test_sync_process import EXAMPLE, aforo_admin, get
from tests.missing import missing

pytestmark = [pytest.mark.contract, pytest.mark.slow]

# What both databases do alike is tested on one: processes take long to start.
sqlite_only = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

ACME_KEY = "aforo:v1:{acme}:policy"
GLOBEX_KEY = "aforo:v1:{globex}:policy"
MAIN = "aforo:v1:cred:77de38e4b50e618a0ebb95db61e2f42697391659d82c064a5f81b9f48d85ccd5"

INITECH = """\
    subscription: {id: initech-trial, plan: free, state: trialing, started_at: 2026-11-02}
    credentials:
      - id: main
        sha256: 77de38e4b50e618a0ebb95db61e2f42697391659d82c064a5f81b9f48d85ccd5
"""
INITECH_PAUSED = """\
    subscription: {id: initech-trial, plan: free, state: paused, started_at: 2026-11-02}
"""


@pytest.fixture
def control(database: str, redis_url: str) -> Mapping[str, str]:
    """Settings of a database and a Redis, both empty."""
    return {"AFORO_ADMIN_DATABASE_URL": database, "AFORO_ADMIN_REDIS_URL": redis_url}


@pytest.fixture
def filled(control: Mapping[str, str]) -> Mapping[str, str]:
    """The same, with the example applied: by this process, since another takes long to start."""
    store.apply_catalog(read_file(EXAMPLE), actor="tests")
    connections.close_all()
    return control


def edited(tmp_path: Path, old: str, new: str) -> str:
    """Return the path of the example's copy with a change."""
    text = EXAMPLE.read_text()
    assert old in text
    path = tmp_path / "edited.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


def test_migrate_apply_export_is_the_same_catalog(tmp_path: Path) -> None:
    env = {"AFORO_ADMIN_DATABASE_URL": f"sqlite:///{tmp_path / 'new.db'}"}

    before = aforo_admin("export", env=env)
    migrated = aforo_admin("migrate", env=env)
    empty = aforo_admin("export", env=env)
    applied = aforo_admin("apply", str(EXAMPLE), "--reason", "first", env=env)
    exported = aforo_admin("export", str(tmp_path / "out.yaml"), env=env)

    assert (before.returncode, before.stdout) == (1, "")
    assert before.stderr.rstrip().endswith("aforo-admin migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert empty.returncode == 1
    assert "holds no catalog yet" in empty.stderr
    assert applied.returncode == 0, applied.stderr
    assert "+ tenants.acme.subscription.plan: enterprise" in applied.stdout
    assert exported.returncode == 0
    assert read_file(tmp_path / "out.yaml") == read_file(EXAMPLE)


@sqlite_only
def test_a_dry_run_says_what_apply_then_does_and_nothing_else(
    filled: Mapping[str, str], tmp_path: Path
) -> None:
    path = edited(tmp_path, "committed_fee: 500 USD", "committed_fee: 501 USD")

    dry = aforo_admin("apply", path, "--dry-run", env=filled)
    compared = aforo_admin("diff", path, "--exit-code", env=filled)
    done = aforo_admin(*dry.stdout.rpartition("aforo-admin ")[2].split(), env=filled)
    again = aforo_admin("apply", path, env=filled)
    late = aforo_admin(*dry.stdout.rpartition("aforo-admin ")[2].split(), env=filled)

    assert dry.stdout.startswith("~ plans.pro.committed_fee: 500 → 501\n1 difference; ")
    assert (compared.returncode, compared.stdout) == (
        1,
        "~ plans.pro.committed_fee: 500 → 501\n",
    )
    assert done.returncode == 0
    assert done.stdout.startswith("~ plans.pro.committed_fee: 500 → 501\n1 difference, ")
    assert (again.returncode, again.stdout) == (0, "nothing to do\n")
    assert late.returncode == 1
    assert "look at the differences again" in late.stderr


@sqlite_only
def test_apply_makes_what_was_shown_or_nothing(filled: Mapping[str, str], tmp_path: Path) -> None:
    path = edited(tmp_path, "committed_fee: 500 USD", "committed_fee: 501 USD")
    dry = aforo_admin("apply", path, "--dry-run", env=filled)
    at = dry.stdout.split()[-1]
    Path(path).write_text(Path(path).read_text().replace("name: Acme GmbH", "name: Acme Inc."))

    done = aforo_admin("apply", path, "--at", at, env=filled)
    number = aforo_admin("apply", path, "--at", at.partition(":")[0], env=filled)
    shown = aforo_admin("apply", path, "--dry-run", env=filled)

    assert (done.returncode, done.stdout) == (1, "")
    assert "no longer says what it said" in done.stderr
    assert (number.returncode, number.stdout) == (2, "")
    assert "give what apply --dry-run prints, like 1204:" in number.stderr
    assert "2 differences; to make just these" in shown.stdout  # Neither has been made.


@sqlite_only
def test_a_token_that_shows_costs_of_a_tenant_is_warned_of(filled: Mapping[str, str]) -> None:
    add = ("token", "add", "--role", "viewer", "--tenant", "acme")

    portal = aforo_admin(*add, "portal", env=filled)
    books = aforo_admin(*add, "books", "--scope", "money:read", env=filled)
    listed = aforo_admin("token", "list", env=filled).stdout.splitlines()

    assert (portal.returncode, books.returncode) == (0, 0)
    assert "warning" not in portal.stderr
    assert "warning: money:read: this token shows what acme costs us" in books.stderr
    assert books.stdout.startswith("aforo_admin_")
    assert [line.partition(": ")[2] for line in listed] == [
        "viewer, money:read, tenant acme, never used",
        "viewer, entitlements:read, tenant acme, never used",
    ]


@sqlite_only
def test_apply_refuses_a_wrong_file_with_its_faults(
    filled: Mapping[str, str], tmp_path: Path
) -> None:
    path = edited(tmp_path, "plan: pro,", "plan: pr0,")

    done = aforo_admin("apply", path, env=filled)

    assert (done.returncode, done.stdout) == (2, "")
    assert 'tenants.globex.subscription.plan: no plan "pr0"; did you mean "pro"?' in done.stderr


@sqlite_only
def test_the_record_is_listed_in_the_words_of_the_pages(
    filled: Mapping[str, str], tmp_path: Path
) -> None:
    dearer = edited(tmp_path, "committed_fee: 36_000 USD", "committed_fee: 36_000.70 USD")
    Path(dearer).write_text(Path(dearer).read_text().replace("warn_below: 20%", "warn_below: 21%"))
    aforo_admin("apply", dearer, "--reason", "x", env=filled)

    listed = aforo_admin("audit", "list", "--limit", "2", env=filled).stdout

    assert "    Committed fee: 36000 → 36000.7\n" in listed
    assert "    Warn below: 20% → 21%\n" in listed


@sqlite_only
def test_the_record_is_listed_and_verified(filled: Mapping[str, str], tmp_path: Path) -> None:
    path = edited(tmp_path, "name: Acme GmbH", "name: Acme Inc.")
    aforo_admin("apply", path, "--reason", "renamed", env=filled)

    listed = aforo_admin("audit", "list", "--tenant", "acme", "--limit", "1", env=filled)
    verified = aforo_admin("audit", "verify", env=filled)

    assert re.search(r"via catalog file: changed tenant acme \(renamed\)", listed.stdout)
    assert "    Name: Acme GmbH → Acme Inc." in listed.stdout
    assert verified.returncode == 0
    assert "each follows from the one before" in verified.stdout
    head = verified.stdout.rpartition("head: ")[2].strip()
    again = aforo_admin("audit", "verify", "--head", head, env=filled)
    other = aforo_admin("audit", "verify", "--head", f"{head[:-64]}{'0' * 64}", env=filled)
    wrong = aforo_admin("audit", "verify", "--head", "latest", env=filled)
    assert (again.returncode, other.returncode, wrong.returncode) == (0, 1, 2)
    assert "is the one that was kept elsewhere" in again.stdout
    assert "was rewritten" in other.stdout
    assert "expected SEQ:HASH" in wrong.stderr


def test_a_database_that_is_not_there_is_one_line_without_its_password() -> None:
    url = "postgresql://aforo:s3cr3t@127.0.0.1:1/control"
    env = {"AFORO_ADMIN_DATABASE_URL": url, "AFORO_ADMIN_REDIS_URL": "redis://127.0.0.1:1/0"}

    for arguments in (["export"], ["migrate"], ["sync", "--once"], ["audit", "verify"]):
        done = aforo_admin(*arguments, env=env)

        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "postgresql://(masked)@127.0.0.1:1/control (AFORO_ADMIN_DATABASE_URL)" in line
        assert "s3cr3t" not in done.stderr


@sqlite_only
def test_sync_check_tells_how_redis_differs(filled: Mapping[str, str], redis_url: str) -> None:
    before = aforo_admin("sync", "--check", env=filled)
    aforo_admin("sync", "--once", env=filled)
    equal = aforo_admin("sync", "--check", env=filled)
    with redis.Redis.from_url(redis_url) as client:
        client.delete(ACME_KEY)
    drifted = aforo_admin("sync", "--check", env=filled)

    assert before.returncode == 1
    assert "+ tenant acme: plan enterprise" in before.stdout
    assert (equal.returncode, equal.stderr) == (0, "")
    assert drifted.returncode == 1
    assert "~ tenant acme" in drifted.stdout


def syncing(env: Mapping[str, str], log_dir: Path, name: str = "sync") -> tuple[Program, int]:
    port = free_port()
    program = python_module(
        name,
        "aforo_admin",
        "sync",
        # The full pass is far away: what is published meanwhile was published for its own sake.
        env={
            "AFORO_ADMIN_SYNC_INTERVAL_S": "3600",
            **env,
            "AFORO_ADMIN_METRICS_LISTEN": f"127.0.0.1:{port}",
        },
        ready=lambda: b" 200 OK" in get(port, "/readyz"),
        log_dir=log_dir,
    )
    return program, port


def events(program: Program) -> list[str]:
    return [json.loads(line)["event"] for line in program.log_lines()]


async def synced(program: Program) -> None:
    """Wait until all of the catalog is published: a tenant's policy comes before its keys."""
    await eventually(lambda: "synced" in events(program))


async def test_a_change_of_a_tenant_is_published_alone_and_at_once(
    filled: Mapping[str, str], redis_url: str, tmp_path: Path
) -> None:
    program, _ = syncing(filled, tmp_path)
    with program, redis.Redis.from_url(redis_url) as client:
        await synced(program)
        globex = client.get(GLOBEX_KEY)
        assert client.exists(MAIN)
        path = edited(tmp_path, INITECH, INITECH_PAUSED)

        aforo_admin("apply", path, env=filled)
        await eventually(lambda: not client.exists(MAIN))
        policy = Policy.FromString(client.get("aforo:v1:{initech}:policy"))

        def told() -> dict[str, str]:
            return dict(SyncState.FromString(client.get("aforo:v1:sync")).written_since)

        assert client.get(GLOBEX_KEY) == globex
        assert policy.state == SUBSCRIPTION_STATE_PAUSED
        await eventually(lambda: told() == {"initech": policy.catalog_version})
        assert program.stop() == 0
    assert events(program) == [
        "following",
        "leading",
        "synced",
        "the catalog has changed",
        "published",
        "stopped",
    ]


async def test_a_change_that_concerns_all_reaches_all(
    filled: Mapping[str, str], redis_url: str, tmp_path: Path
) -> None:
    program, _ = syncing(filled, tmp_path)
    with program, redis.Redis.from_url(redis_url) as client:
        await synced(program)
        globex = client.get(GLOBEX_KEY)

        aforo_admin("apply", edited(tmp_path, "limit: 600,", "limit: 601,"), env=filled)

        await eventually(lambda: client.get(GLOBEX_KEY) != globex)


async def test_another_process_takes_over_when_the_leader_is_killed(
    filled: Mapping[str, str], redis_url: str, tmp_path: Path
) -> None:
    first, _ = syncing(filled, tmp_path, "first")
    second, _ = syncing(filled, tmp_path, "second")
    with first, redis.Redis.from_url(redis_url) as client:
        await synced(first)
        with second:
            await asyncio.sleep(1.5)  # The second has looked, and the first has renewed.
            assert "synced" not in events(second)
            client.delete(ACME_KEY)
            first.kill()

            await eventually(lambda: client.exists(ACME_KEY))
            assert "leading" in events(second)


async def test_a_leader_that_stops_makes_way_at_once(
    filled: Mapping[str, str], redis_url: str, tmp_path: Path
) -> None:
    first, _ = syncing(filled, tmp_path, "first")
    second, _ = syncing(filled, tmp_path, "second")
    with first, second, redis.Redis.from_url(redis_url) as client:
        await eventually(lambda: "leading" in [*events(first), *events(second)])
        leader = first if "leading" in events(first) else second
        other = second if leader is first else first
        await synced(leader)
        client.delete(ACME_KEY)  # It is not written again before the next leader's first pass.
        assert leader.stop() == 0

        await eventually(lambda: client.exists(ACME_KEY))
        assert "leading" in events(other)


async def test_sync_outlives_its_database(redis_url: str, tmp_path: Path) -> None:
    with PostgresServer(log_dir=tmp_path) as server, redis.Redis.from_url(redis_url) as client:
        env = {"AFORO_ADMIN_DATABASE_URL": server.url(), "AFORO_ADMIN_REDIS_URL": redis_url}
        for arguments in (["migrate"], ["apply", str(EXAMPLE)]):
            assert aforo_admin(*arguments, env=env).returncode == 0
        program, _ = syncing(env, tmp_path)
        with program:
            await synced(program)

            server.kill()
            await eventually(
                lambda: any("the catalog's database can't be read" in e for e in events(program))
            )
            assert client.exists(ACME_KEY)
            server.start()
            aforo_admin("apply", edited(tmp_path, INITECH, INITECH_PAUSED), env=env)

            await eventually(lambda: not client.exists(MAIN))
            assert program.stop() == 0


async def test_sync_waits_for_its_database_at_the_start_and_then_goes_on(
    redis_url: str, tmp_path: Path
) -> None:
    with PostgresServer(log_dir=tmp_path) as server, redis.Redis.from_url(redis_url) as client:
        env = {"AFORO_ADMIN_DATABASE_URL": server.url(), "AFORO_ADMIN_REDIS_URL": redis_url}
        for arguments in (["migrate"], ["apply", str(EXAMPLE)]):
            assert aforo_admin(*arguments, env=env).returncode == 0
        server.kill()
        program, port = syncing(env, tmp_path)
        program.start(wait=False)
        try:
            await eventually(lambda: "waiting for the catalog's database" in events(program))
            assert b"the catalog was not read yet: see the log" in get(port, "/readyz")
            assert b"aforo_sync_waiting 1.0" in get(port, "/metrics")
            server.start()

            await synced(program)
            assert client.exists(ACME_KEY)
            await eventually(lambda: b" 200 OK" in get(port, "/readyz"))
            await eventually(lambda: b"aforo_sync_waiting 0.0" in get(port, "/metrics"))
        finally:
            assert program.stop() == 0


@pytest.mark.parametrize("arguments", [["--once"], ["--check"]], ids=lambda value: value[0])
def test_a_sync_that_is_not_to_stay_does_not_wait_for_its_database(
    arguments: list[str], redis_url: str
) -> None:
    env = {
        "AFORO_ADMIN_DATABASE_URL": "postgresql://aforo:s3cr3t@127.0.0.1:1/aforo",
        "AFORO_ADMIN_REDIS_URL": redis_url,
    }

    done = aforo_admin("sync", *arguments, env=env)

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "aforo-admin: the database at postgresql://(masked)@127.0.0.1:1/aforo "
        "(AFORO_ADMIN_DATABASE_URL) can't be used: "
    )
    assert "s3cr3t" not in line
    assert "migrate" not in line  # That would not help.


@pytest.mark.parametrize(
    ("commands", "told"),
    [([], "aforo-admin migrate"), ([["migrate"]], "the database holds no catalog yet")],
    ids=["never migrated", "without a catalog"],
)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_no_wait_mends_ends_the_start_at_once(
    kind: str, commands: list[list[str]], told: str, redis_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'new.db'}"
        if kind == "postgresql":
            url = stack.enter_context(PostgresServer(log_dir=tmp_path)).url()
        env = {"AFORO_ADMIN_DATABASE_URL": url, "AFORO_ADMIN_REDIS_URL": redis_url}
        for arguments in commands:
            assert aforo_admin(*arguments, env=env).returncode == 0

        done = aforo_admin("sync", env=env)

    assert done.returncode == 1
    assert told in done.stderr.splitlines()[-1]


async def test_a_database_with_tls_is_believed_by_its_authority_alone(
    redis_url: str, tmp_path: Path
) -> None:
    """Commands, sync and the pages, with the URL that docs/operations.md gives."""
    tls = certificate(tmp_path, "postgres", "IP:127.0.0.1")
    stranger, _ = certificate(tmp_path, "stranger", "IP:127.0.0.1")
    try:
        guarded = PostgresServer(log_dir=tmp_path, tls=tls)
    except ServerStartError as error:
        missing(error)
    with guarded as server:
        url = server.url()
        assert "sslmode=verify-full&sslrootcert=" in url
        env = {"AFORO_ADMIN_DATABASE_URL": url, "AFORO_ADMIN_REDIS_URL": redis_url}
        for arguments in (["migrate"], ["apply", str(EXAMPLE)]):
            done = aforo_admin(*arguments, env=env)
            assert done.returncode == 0, done.stderr
        program, _ = syncing(env, tmp_path)
        with program:
            await synced(program)
        with serving(env, tmp_path):
            pass

        for bad, cause in (
            (url.replace("verify-full", "disable"), "no encryption"),
            (url.replace(str(tls[0]), str(stranger)), "certificate verify failed"),
        ):
            done = aforo_admin("export", env={**env, "AFORO_ADMIN_DATABASE_URL": bad})
            assert done.returncode != 0
            assert cause in done.stderr


def serving(env: Mapping[str, str], log_dir: Path) -> Program:
    """Return the pages, ready once they have looked for an API token in the database."""
    port = free_port()
    request = (
        b"GET /api/v1/catalog HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
        b"authorization: Bearer unknown\r\n\r\n"
    )
    return python_module(
        "serve",
        "aforo_admin",
        "serve",
        env={
            **env,
            "AFORO_ADMIN_LISTEN": f"127.0.0.1:{port}",
            "AFORO_ADMIN_HOSTS": "a",
            "AFORO_ADMIN_SECRET_KEY": "k" * 50,
        },
        ready=lambda: b" 401 " in ask_tcp(port, request, bytes_max=100_000),
        log_dir=log_dir,
    )
