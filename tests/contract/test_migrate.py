"""Creating and upgrading the ledger, and refusing one of another version."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from aforo_meter.__main__ import main
from aforo_meter.database import without_password
from aforo_meter.domain.seen import event_key
from aforo_meter.ledger import LedgerError
from aforo_meter.ledger_sql import SCHEMA_VERSION, SqlLedger
from aforo_meter.migrate import migrate
from aforo_meter.migrations.versions import v0001_ledger
from lab.ports import free_port
from tests.contract.ledgers import AuditedLedger, LedgerFile, Ledgers

pytestmark = pytest.mark.contract


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def run_script(ledger: AuditedLedger, script: str) -> None:
    """Do by hand what a dry run shows."""
    if isinstance(ledger, LedgerFile):
        with closing(sqlite3.connect(ledger.path)) as sql:
            sql.executescript(script)
    else:
        with psycopg.connect(ledger.url) as connection:
            connection.execute(script.encode())


def test_a_ledger_is_made_and_the_second_time_left_alone(ledgers: Ledgers) -> None:
    ledger = ledgers.blank()

    assert migrate(ledger.url, dry_run=False).endswith(f"schema (none) → {SCHEMA_VERSION}")
    assert {"charge", "price", "position", "margin_state", "outbox"} <= ledger.tables()
    assert migrate(ledger.url, dry_run=False).endswith("nothing to do")


def test_the_version_that_the_code_needs_is_the_last_migrations(ledgers: Ledgers) -> None:
    ledger = ledgers.blank()
    migrate(ledger.url, dry_run=False)

    assert ledger.rows("SELECT version_num FROM alembic_version") == [(SCHEMA_VERSION,)]


def test_readers_of_a_file_and_its_writer_do_not_wait_for_each_other(tmp_path: Path) -> None:
    ledger = LedgerFile.create(tmp_path / "ledger.db")

    assert ledger.rows("PRAGMA journal_mode") == [("wal",)]


def test_a_dry_run_shows_the_statements_and_changes_nothing(ledgers: Ledgers) -> None:
    ledger = ledgers.blank()

    shown = migrate(ledger.url, dry_run=True)

    assert "CREATE TABLE charge" in shown
    if isinstance(ledger, LedgerFile):
        assert not ledger.path.exists()
    else:
        assert not ledger.tables()


def test_what_a_dry_run_shows_is_what_is_done(ledgers: Ledgers) -> None:
    by_hand, by_us = ledgers.blank(), ledgers.blank()
    run_script(by_hand, migrate(by_hand.url, dry_run=True))
    migrate(by_us.url, dry_run=False)

    assert by_hand.tables() == by_us.tables()
    assert [by_hand.columns(name) for name in sorted(by_hand.tables())] == [
        by_us.columns(name) for name in sorted(by_us.tables())
    ]
    assert migrate(by_hand.url, dry_run=True).endswith("nothing to do")


def set_version(ledger: AuditedLedger, version: str) -> None:
    assert ledger.execute("UPDATE alembic_version SET version_num = ?", version) == 1


def test_a_newer_ledger_is_left_alone(ledgers: Ledgers) -> None:
    ledger = ledgers.new()
    set_version(ledger, "9999")

    with pytest.raises(LedgerError, match=r"9999.*newer aforo-meter"):
        migrate(ledger.url, dry_run=False)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path, *, dry_run: bool) -> None:
    path = tmp_path / "ledger.db"
    path.write_text("this is no database, but a text that is long enough to be looked at")

    with pytest.raises(LedgerError, match="not a database"):
        migrate(url(path), dry_run=dry_run)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "ledger.db"

    with pytest.raises(LedgerError, match="nowhere is no directory"):
        migrate(url(path), dry_run=False)


def test_a_server_that_does_not_answer_is_named_without_the_password() -> None:
    port = free_port()

    with pytest.raises(LedgerError, match=f"postgresql://me@127.0.0.1:{port}/aforo") as caught:
        migrate(f"postgresql://me:hunter2@127.0.0.1:{port}/aforo", dry_run=False)

    assert "hunter2" not in str(caught.value)


async def test_a_consumer_without_a_ledger_says_what_to_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    with pytest.raises(
        LedgerError, match=f"run: aforo-meter migrate --ledger-url sqlite:///{path}"
    ):
        async with SqlLedger(url(path)):
            pass
    assert not path.exists()


@pytest.mark.parametrize("version", ["0000", "9999"])
async def test_a_consumer_refuses_another_schema(ledgers: Ledgers, version: str) -> None:
    ledger = ledgers.new()
    set_version(ledger, version)

    with pytest.raises(LedgerError, match=f"schema {version}, and this version needs") as caught:
        async with SqlLedger(ledger.url):
            pass
    advice = f"run: aforo-meter migrate --ledger-url {without_password(ledger.url)}"
    assert str(caught.value).endswith(advice)


async def test_an_empty_database_has_no_schema(ledgers: Ledgers) -> None:
    ledger = ledgers.blank()
    if isinstance(ledger, LedgerFile):
        ledger.path.touch()

    with pytest.raises(LedgerError, match=r"schema \(none\)"):
        async with SqlLedger(ledger.url):
            pass


def test_the_command_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = f"postgresql://127.0.0.1:{free_port()}/aforo"
    for refused in (url(tmp_path / "no" / "l.db"), nowhere):
        assert main(["migrate", "--ledger-url", refused]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["migrate", "--ledger-url", url(tmp_path / "l.db")]) == 0


def test_consume_ends_with_2_without_a_ledger(
    ledgers: Ledgers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFORO_METER_CONSUME_KAFKA_BOOTSTRAP", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("AFORO_METER_CONSUME_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("AFORO_METER_CONSUME_LEDGER_URL", ledgers.blank().url)

    assert main(["consume"]) == 2
    assert "aforo-meter migrate" in capsys.readouterr().err


def test_a_ledger_of_the_first_version_keeps_its_rows(ledgers: Ledgers) -> None:
    ledger = ledgers.blank()
    outbox = v0001_ledger.OUTBOX.format(identity=v0001_ledger.IDENTITY[ledgers.kind])
    statements = [*v0001_ledger.TABLES, outbox, v0001_ledger.OPEN_MESSAGES]
    statements += [
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('0001')",
        "INSERT INTO charge VALUES ('acme', 's', 1, 2, 'f', 'm', 'openai', 'gpt', '', 7, 42)",
        "INSERT INTO seen_event VALUES ('acme', 'e1', 3600000000)",
        "INSERT INTO seen_event VALUES ('acme', 'ik:e2', 3600000000)",
        (
            "INSERT INTO outbox (message_id, tenant_id, kind, payload, created_at_micros, attempts,"
            " next_attempt_at_micros, last_error)"
            " VALUES ('m-1', 'acme', 'k', '{}', 5, 2, 9, 'HTTP 500')"
        ),
    ]
    run_script(ledger, ";".join(statements))

    assert "ALTER TABLE charge RENAME" in migrate(ledger.url, dry_run=True)
    assert migrate(ledger.url, dry_run=False).endswith(f"schema 0001 → {SCHEMA_VERSION}")

    assert ledger.rows("SELECT * FROM charge") == [
        (1, "acme", "s", 1, 2, "f", "m", "openai", "gpt", "", 7, "", "", 42, 0, 0)
    ]
    # Ids are kept for as long as they were before: 35 days.
    assert sorted(ledger.rows("SELECT event_key, keep_until_hour FROM seen_event")) == sorted(
        [(event_key("acme", "e1"), 1 + 35 * 24), (event_key("acme", "ik:e2"), 1 + 35 * 24)]
    )
    assert ledger.rows("SELECT * FROM reporting_tenant") == [("acme",)]
    # A message that waits for its retry goes on waiting, for the endpoint that there was.
    assert ledger.rows("SELECT * FROM outbox") == [(1, "m-1", "acme", "k", "{}", 5, 5)]
    assert ledger.rows("SELECT * FROM delivery") == [
        (1, "default", "acme", 1, 2, 2, 9, 0, None, None, "HTTP 500")
    ]
    assert {"call", "call_part", "decided", "logged", "session"} <= ledger.tables()


def test_what_is_estimated_is_added_up_where_it_was_not(ledgers: Ledgers) -> None:
    """Twice a third of a nano is nothing: rows are rounded each by itself; 2^60 at 8 is 2^63."""
    ledger = ledgers.blank()
    migrate(ledger.url, dry_run=False)
    charge = (
        "INSERT INTO charge (tenant_id, subscription_id, period_start_micros, hour_start_micros,"
        " feature, meter, provider, model, price_id, input_tokens, tool, execution_status,"
        " quantity_micros, extra_micros, estimated_micros) VALUES"
        " ('{tenant}', 's', 1, {hour}, '', 'm', '', '', '{price}', 0, '', '', {units}, 0, {units})"
    )
    statements = [
        "DROP INDEX intervention_hour",
        "ALTER TABLE margin_state DROP COLUMN estimated_cogs_nanos",
        "UPDATE alembic_version SET version_num = '0008'",
        "INSERT INTO price VALUES ('third', 'm', 1, 3, 'USD', 0, 0, 'test', 0)",
        "INSERT INTO price VALUES ('eight', 'm', 8, 1, 'USD', 0, 0, 'test', 0)",
        *(
            "INSERT INTO margin_state (tenant_id, subscription_id, period_start_micros,"  # noqa: S608
            f" period_end_micros, cogs_nanos, unpriced_rows) VALUES ('{tenant}', 's', 1, 2, 0, 0)"
            for tenant in ("small", "large", "none")
        ),
        charge.format(tenant="small", hour=1, price="third", units=1_000_000),
        charge.format(tenant="small", hour=2, price="third", units=1_000_000),
        charge.format(tenant="large", hour=1, price="eight", units=2**60),
        charge.format(tenant="none", hour=1, price="", units=2**60),
    ]
    run_script(ledger, ";".join(statements))

    migrate(ledger.url, dry_run=False)

    query = "SELECT tenant_id, estimated_cogs_nanos FROM margin_state ORDER BY tenant_id"
    assert ledger.rows(query) == [("large", round(2**63 / 10**6)), ("none", 0), ("small", 0)]
