"""aforo-admin doctor at real ledgers and catalogs' databases, each fault really made."""

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from django.db import connection

from aforo_admin import store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control.models import AuditEntry
from aforo_admin.doctor import control, ledger
from aforo_admin.domain.diagnosis import Severity
from lab.postgres import NOBODY, PostgresServer
from lab.servers import ROOT, scratch_dir
from tests.conftest import PostgresAt
from tests.contract.control_lab import use
from tests.contract.doctor_lab import assert_told, faults, found
from tests.contract.ledgers import AuditedLedger, Ledgers

pytestmark = pytest.mark.contract

USAGE = "aforo.usage.v1"
STEP_S = 3.0
_numbers = itertools.count()


def limited_user(url: str, grants: str) -> str:
    """Make a user that may do some things alone, and return the URL for it."""
    name = f"limited_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute(f"CREATE ROLE {name} LOGIN PASSWORD 's3cr3t'".encode())
        for grant in filter(None, grants.split(";")):
            sql.execute(f"{grant} TO {name}".encode())
    return f"postgresql://{name}:s3cr3t@{url.rpartition('@')[2]}"


def test_a_ledger_as_it_should_be_has_no_fault_and_tells_how_far_it_is(file: AuditedLedger) -> None:
    file.execute("INSERT INTO position (topic, partition, next_offset) VALUES (?, 3, 17)", USAGE)
    seen = ledger.look(file.url, usage=USAGE, timeout_s=STEP_S)

    assert faults(seen) == []
    assert seen.positions == {3: 17}
    assert len(seen.clocks) == (0 if file.url.startswith("sqlite") else 1)


def test_a_ledger_of_another_schema_is_a_fault(file: AuditedLedger) -> None:
    file.execute("UPDATE alembic_version SET version_num = '0001'")
    seen = ledger.look(file.url, usage=USAGE, timeout_s=STEP_S)

    finding = found(seen, "it has schema 0001")
    assert_told(finding, Severity.FAULT)
    assert "aforo-meter migrate" in finding.do

    file.execute("UPDATE alembic_version SET version_num = '9999'")
    newer = found(ledger.look(file.url, usage=USAGE, timeout_s=STEP_S), "it has schema 9999")
    assert "upgrade Aforo" in newer.do


def test_a_database_without_a_ledger_is_a_fault(ledgers: Ledgers) -> None:
    seen = ledger.look(ledgers.blank().url, usage=USAGE, timeout_s=STEP_S)

    finding = found(seen, "it can't be read")
    assert_told(finding, Severity.FAULT)
    assert "aforo-meter migrate" in finding.do


def test_what_a_user_may_not_read_of_a_ledger_is_named(file: AuditedLedger) -> None:
    if file.url.startswith("sqlite"):
        pytest.skip("a file has no users")
    url = limited_user(file.url, "GRANT SELECT ON alembic_version, margin_state, position")
    seen = ledger.look(url, usage=USAGE, timeout_s=STEP_S)

    finding = found(seen, "this user may not read")
    assert_told(finding, Severity.FAULT)
    assert "charge" in finding.what
    assert "margin_state" not in finding.what


def test_a_user_that_may_only_read_a_ledger_is_enough(file: AuditedLedger) -> None:
    if file.url.startswith("sqlite"):
        pytest.skip("a file has no users")
    url = limited_user(file.url, "GRANT SELECT ON ALL TABLES IN SCHEMA public")

    assert faults(ledger.look(url, usage=USAGE, timeout_s=STEP_S)) == []


@pytest.mark.parametrize("look", ["ledger", "control"])
@pytest.mark.parametrize("password", ["wr0ng-one", "wr0ng%3Aone"])
def test_a_wrong_password_is_a_fault_that_does_not_tell_it(
    postgres_server: PostgresServer | PostgresAt, look: str, password: str
) -> None:
    url = f"postgresql://aforo:{password}@{postgres_server.url().rpartition('@')[2]}"
    seen = (
        ledger.look(url, usage=USAGE, timeout_s=STEP_S)
        if look == "ledger"
        else control.look(url, timeout_s=STEP_S)
    )

    assert_told(found(seen, "it can't be read"), Severity.FAULT)
    assert "wr0ng" not in str(seen.findings)


def test_a_server_that_is_frozen_is_a_fault_within_its_time() -> None:
    with PostgresServer() as server:
        server.freeze()
        seen = ledger.look(server.url(), usage=USAGE, timeout_s=2.0)
        server.thaw()

    assert_told(found(seen, "it can't be read"), Severity.FAULT)


def test_a_file_that_this_user_may_not_write_is_a_warning(empty_ledger: Path) -> None:
    folder = scratch_dir("doctor")
    path = Path(shutil.copy(empty_ledger, folder / "ledger.db"))
    with as_nobody():
        unreadable = ledger.look(f"sqlite:///{path}", usage=USAGE, timeout_s=STEP_S)
    folder.chmod(0o555)
    path.chmod(0o444)
    with as_nobody():
        unwritable = ledger.look(f"sqlite:///{path}", usage=USAGE, timeout_s=STEP_S)

    assert_told(found(unreadable, "it can't be read"), Severity.FAULT)
    assert_told(found(unwritable, "may not write"), Severity.WARNING)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user without rights, where we are root: root may write everything."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_catalog_as_it_should_be_has_no_fault(database: str) -> None:
    seen = control.look(database, timeout_s=STEP_S)

    assert faults(seen) == []
    assert found(seen, "ends at 0").severity is Severity.OK


def test_the_heads_entry_is_held_against_its_hash(database: str) -> None:
    change(database)
    assert faults(control.look(database, timeout_s=STEP_S)) == []

    use(database)
    drop_triggers()
    with connection.cursor() as sql:
        sql.execute("UPDATE control_auditentry SET actor = 'somebody else'")
    connection.close()

    finding = found(control.look(database, timeout_s=STEP_S), "or another hash")
    assert_told(finding, Severity.FAULT)
    assert "audit verify" in finding.do


def test_a_record_that_ends_before_its_head_is_a_fault(database: str) -> None:
    change(database)
    use(database)
    drop_triggers()
    with connection.cursor() as sql:
        sql.execute("DELETE FROM control_auditentry")
    connection.close()

    assert_told(
        found(control.look(database, timeout_s=STEP_S), "ends at 0, and its head names"),
        Severity.FAULT,
    )


def test_tables_that_are_not_there_are_told_with_the_command(ledgers: Ledgers) -> None:
    blank = ledgers.blank().url
    if blank.startswith("sqlite"):
        Path(blank.removeprefix("sqlite:///")).touch()
    use(blank)
    seen = control.look(blank, timeout_s=STEP_S)

    finding = found(seen, "its tables lack")
    assert_told(finding, Severity.FAULT)
    assert "aforo-admin migrate" in finding.do


def test_a_catalog_of_a_newer_version_is_a_fault(database: str) -> None:
    with connection.cursor() as sql:
        sql.execute(
            "INSERT INTO django_migrations (app, name, applied)"
            " VALUES ('control', '9999_of_tomorrow', CURRENT_TIMESTAMP)"
        )
    connection.close()

    assert_told(
        found(control.look(database, timeout_s=STEP_S), "control.9999_of_tomorrow"), Severity.FAULT
    )


def test_what_a_user_may_not_do_in_a_catalog_is_named(database: str) -> None:
    if database.startswith("sqlite"):
        pytest.skip("a file has no users")
    url = limited_user(database, "GRANT SELECT ON ALL TABLES IN SCHEMA public")

    finding = found(control.look(url, timeout_s=STEP_S), "may not read and add to")
    assert_told(finding, Severity.FAULT)
    assert "control_tenant" in finding.what


def change(database: str) -> None:
    use(database)
    store.apply_catalog(
        read_file(ROOT / "catalog.example.yaml"), actor="dana", reason="a test", expected_seq=0
    )
    assert AuditEntry.objects.count() > 0
    connection.close()


def drop_triggers() -> None:
    """As whoever owns the database can."""
    with connection.cursor() as sql:
        if connection.vendor == "sqlite":
            sql.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            for (name,) in sql.fetchall():
                sql.execute(f'DROP TRIGGER "{name}"')
        else:
            sql.execute("ALTER TABLE control_auditentry DISABLE TRIGGER USER")
