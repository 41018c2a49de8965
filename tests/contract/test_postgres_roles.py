"""ops/postgres on a real server: a role may do what the README there says, and comes by TLS."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from aforo_meter.ledger import LedgerUnavailableError
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.migrate import migrate
from lab.ports import free_port
from lab.postgres import PostgresServer
from lab.servers import ROOT, ServerStartError, ask_tcp, python_module
from lab.stack import wait_until
from tests.certificates import certificate
from tests.contract.test_sync_process import EXAMPLE, aforo_admin
from tests.missing import missing

pytestmark = pytest.mark.contract

SCRIPTS = ROOT / "ops" / "postgres"
PASSWORD = "s3cret"
SIGN_IN = "a-long-one-2026"
PRIVILEGES = {"read": "SELECT", "add": "INSERT", "change": "UPDATE", "remove": "DELETE"}
NEVER = ("TRUNCATE", "REFERENCES", "TRIGGER")


def prepare(server: PostgresServer) -> None:
    """Do what the README says, with a password for each role; the scripts twice."""
    with psycopg.connect(server.url(), autocommit=True) as sql:
        sql.execute("CREATE DATABASE ledger")
        sql.execute("CREATE DATABASE control")
    migrate(server.url("ledger"), dry_run=False)
    subprocess.run(
        [sys.executable, "-m", "aforo_admin", "migrate"],
        env={**os.environ, "AFORO_ADMIN_DATABASE_URL": server.url("control")},
        check=True,
        capture_output=True,
    )
    for _ in range(2):
        for name in ("ledger", "control"):
            with psycopg.connect(server.url(name), autocommit=True) as sql:
                sql.execute((SCRIPTS / f"{name}.sql").read_bytes())
    with psycopg.connect(server.url(), autocommit=True) as sql:
        for (role,) in sql.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'aforo_%'"):
            sql.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'".encode())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(log_dir=tmp_path_factory.mktemp("roles")) as server:
        prepare(server)
        yield server


def tables(database: str) -> list[str]:
    """Return the lines of the README's table of a database."""
    text = (SCRIPTS / "README.md").read_text()
    (found,) = re.findall(rf"^\| {database} \|.*\n(?:\|.*\n)+", text, re.MULTILINE)
    return str(found).splitlines()


def table(database: str) -> dict[tuple[str, str], set[str]]:
    head, _, *rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in tables(database)
    ]
    return {
        (role, row[0]): set(re.findall(r"\w+", cell))
        for row in rows
        for role, cell in zip(head[1:], row[1:], strict=True)
    }


LEDGER, CONTROL = table("ledger"), table("control database")


def may(server: PostgresServer, database: str, role: str, name: str) -> set[str]:
    with psycopg.connect(server.url(database)) as sql:
        asked = {**PRIVILEGES, **{each: each for each in NEVER}}
        return {
            word
            for word, privilege in asked.items()
            if sql.execute(
                "SELECT has_table_privilege(%s, %s, %s)", (role, f"public.{name}", privilege)
            ).fetchone()
            == (True,)
        }


@pytest.mark.parametrize(("role", "name"), LEDGER, ids=" ".join)
def test_a_role_may_do_with_a_table_of_the_ledger_what_the_readme_says(
    server: PostgresServer, role: str, name: str
) -> None:
    assert may(server, "ledger", role, name) == LEDGER[role, name]


@pytest.mark.parametrize(("role", "name"), CONTROL, ids=" ".join)
def test_a_role_may_do_with_a_table_of_the_control_database_what_the_readme_says(
    server: PostgresServer, role: str, name: str
) -> None:
    assert may(server, "control", role, name) == CONTROL[role, name]


def names_in(server: PostgresServer, database: str) -> set[str]:
    with psycopg.connect(server.url(database)) as sql:
        found = sql.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in found}


def test_every_table_of_the_ledger_is_in_the_readme(server: PostgresServer) -> None:
    assert names_in(server, "ledger") == {name for _, name in LEDGER}


def test_the_other_tables_of_the_control_database_are_as_the_readme_says(
    server: PostgresServer,
) -> None:
    for name in names_in(server, "control") - {name for _, name in CONTROL}:
        like = "control_plan" if name.startswith("control_") else "auth_user"
        for role in ("aforo_admin", "aforo_sync"):
            assert may(server, "control", role, name) == CONTROL[role, like], name


@pytest.mark.parametrize(
    ("role", "database", "statement"),
    [
        ("aforo_admin", "control", "UPDATE control_auditentry SET actor = 'nobody'"),
        ("aforo_admin", "control", "ALTER TABLE control_auditentry DISABLE TRIGGER ALL"),
        ("aforo_admin", "control", "DROP TABLE control_auditentry"),
        ("aforo_admin", "control", "CREATE TABLE mine (x int)"),
        ("aforo_sync", "control", "UPDATE control_subscription SET state = 'active'"),
        ("aforo_sync", "control", "SELECT password FROM auth_user"),
        ("aforo_reader", "ledger", "UPDATE margin_state SET level = 0"),
        ("aforo_ingest", "ledger", "SELECT * FROM charge"),
        ("aforo_deliver", "ledger", "SELECT * FROM charge"),
        ("aforo_consume", "ledger", "DELETE FROM adjustment"),
        ("aforo_consume", "ledger", "CREATE TABLE mine (x int)"),
    ],
)
def test_what_a_role_may_not_do_the_server_refuses(
    server: PostgresServer, role: str, database: str, statement: str
) -> None:
    with (
        psycopg.connect(server.url(database, login=f"{role}:{PASSWORD}")) as sql,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        sql.execute(statement.encode())


@pytest.mark.parametrize(
    ("role", "database"),
    [
        *((role, "control") for role in ("aforo_consume", "aforo_deliver", "aforo_reader")),
        *((role, "ledger") for role in ("aforo_admin", "aforo_sync")),
    ],
)
def test_who_has_one_database_has_nothing_of_the_other(
    server: PostgresServer, role: str, database: str
) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(server.url(database, login=f"{role}:{PASSWORD}"))


def test_the_roles_of_aforo_admin_can_do_their_work(
    server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    admin, sync = (
        {
            "AFORO_ADMIN_DATABASE_URL": server.url("control", login=f"{role}:{PASSWORD}"),
            "AFORO_ADMIN_REDIS_URL": redis_url,
        }
        for role in ("aforo_admin", "aforo_sync")
    )
    for env, command in (
        (admin, ("apply", str(EXAMPLE), "--reason", "first")),
        (admin, ("audit", "verify")),
        (admin, ("user", "add", "a", "--role", "owner")),
        (sync, ("export", str(tmp_path / "out.yaml"))),
        (sync, ("sync", "--once")),
    ):
        done = aforo_admin(*command, env=env, stdin=f"{SIGN_IN}\n")
        assert done.returncode == 0, (command, done.stderr)

    port = free_port()
    program = python_module(
        "sync",
        *("aforo_admin", "sync"),
        env={**sync, "AFORO_ADMIN_METRICS_LISTEN": f"127.0.0.1:{port}"},
        ready=lambda: b" 200 " in ask_tcp(port, b"GET /readyz HTTP/1.0\r\n\r\n", bytes_max=64),
        log_dir=tmp_path,
    )
    with program:
        wait_until(lambda: '"leading"' in program.log_text(), "sync leads")
    assert "permission denied" not in program.log_text()
    assert PASSWORD not in program.log_text()


async def test_a_ledger_is_opened_by_tls_with_a_known_certificate_and_no_other_way(
    tmp_path: Path,
) -> None:
    tls = certificate(tmp_path, "postgres", "IP:127.0.0.1")
    stranger, _ = certificate(tmp_path, "stranger", "IP:127.0.0.1")
    try:
        guarded = PostgresServer(log_dir=tmp_path, tls=tls)
    except ServerStartError as error:
        missing(error)
    with guarded as server:
        prepare(server)
        url = server.url("ledger", login=f"aforo_consume:{PASSWORD}")
        passfile = tmp_path / "pgpass"
        passfile.write_text(f"127.0.0.1:{server.port}:ledger:aforo_consume:{PASSWORD}\n")
        passfile.chmod(0o600)
        nowhere = url.replace(f":{PASSWORD}@", "@") + f"&passfile={passfile}"
        for good in (url, nowhere):
            async with SqlLedger(good) as ledger:
                assert await ledger.currency() == ""

        in_clear = url.replace("verify-full", "disable")
        unknown = url.replace(str(tls[0]), str(stranger))
        wrong = url.replace(PASSWORD, "not-the-s3cret")
        for bad, cause in (
            (in_clear, "no encryption"),
            (unknown, "certificate verify failed"),
            (wrong, "password authentication failed"),
        ):
            assert cause in (told := await complaint(bad))
            assert PASSWORD not in told


async def complaint(url: str) -> str:
    with pytest.raises(LedgerUnavailableError) as caught:
        await opened(url)
    return str(caught.value)


async def opened(url: str) -> Any:  # noqa: ANN401
    async with SqlLedger(url) as ledger:
        return ledger
