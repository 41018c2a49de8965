"""Creating and upgrading the ledger, and refusing one of another version."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from aforo_meter.__main__ import main
from aforo_meter.ledger import LedgerError
from aforo_meter.ledger_sql import SCHEMA_VERSION, SqlLedger
from aforo_meter.migrate import migrate
from aforo_meter.migrations.versions import v0001_ledger
from lab.servers import free_port

pytestmark = pytest.mark.contract


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as sql:
        return {name for (name,) in sql.execute("SELECT name FROM sqlite_master")}


def set_version(path: Path, version: str) -> None:
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("UPDATE alembic_version SET version_num = ?", (version,))


def test_a_ledger_is_made_and_the_second_time_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    assert migrate(url(path), dry_run=False).endswith(f"schema (none) → {SCHEMA_VERSION}")
    assert {"charge", "price", "position", "margin_state", "outbox"} <= tables(path)
    assert migrate(url(path), dry_run=False).endswith("nothing to do")


def test_the_version_that_the_code_needs_is_the_last_migrations(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    migrate(url(path), dry_run=False)

    with closing(sqlite3.connect(path)) as sql:
        assert sql.execute("SELECT version_num FROM alembic_version").fetchall() == [
            (SCHEMA_VERSION,)
        ]
        assert sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_dry_run_shows_the_statements_and_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    shown = migrate(url(path), dry_run=True)

    assert "CREATE TABLE charge" in shown
    assert not path.exists()


def test_what_a_dry_run_shows_is_what_is_done(tmp_path: Path) -> None:
    by_hand, by_us = tmp_path / "by_hand.db", tmp_path / "by_us.db"
    with closing(sqlite3.connect(by_hand)) as sql:
        sql.executescript(migrate(url(by_hand), dry_run=True))
    migrate(url(by_us), dry_run=False)

    assert tables(by_hand) == tables(by_us)
    assert migrate(url(by_hand), dry_run=True).endswith("nothing to do")


def test_a_newer_ledger_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    migrate(url(path), dry_run=False)
    set_version(path, "9999")

    with pytest.raises(LedgerError, match=r"9999.*newer aforo-meter"):
        migrate(url(path), dry_run=False)


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


async def test_a_consumer_without_a_ledger_says_what_to_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    with pytest.raises(
        LedgerError, match=f"run: aforo-meter migrate --ledger-url sqlite:///{path}"
    ):
        async with SqlLedger(url(path)):
            pass
    assert not path.exists()


@pytest.mark.parametrize("version", ["0000", "9999"])
async def test_a_consumer_refuses_another_schema(tmp_path: Path, version: str) -> None:
    path = tmp_path / "ledger.db"
    migrate(url(path), dry_run=False)
    set_version(path, version)

    with pytest.raises(LedgerError, match=f"schema {version}, and this version needs"):
        async with SqlLedger(url(path)):
            pass


async def test_an_empty_database_has_no_schema(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()

    with pytest.raises(LedgerError, match=r"schema \(none\)"):
        async with SqlLedger(url(path)):
            pass


def test_the_command_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "--ledger-url", url(tmp_path / "no" / "l.db")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["migrate", "--ledger-url", url(tmp_path / "l.db")]) == 0


def test_consume_ends_with_2_without_a_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFORO_METER_CONSUME_KAFKA_BOOTSTRAP", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("AFORO_METER_CONSUME_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("AFORO_METER_CONSUME_LEDGER_URL", url(tmp_path / "l.db"))

    assert main(["consume"]) == 2
    assert "aforo-meter migrate" in capsys.readouterr().err


def test_a_ledger_of_the_first_version_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as sql, sql:
        for statement in v0001_ledger.TABLES:
            sql.execute(statement)
        sql.execute(v0001_ledger.OUTBOX.format(identity=v0001_ledger.IDENTITY["sqlite"]))
        sql.execute(v0001_ledger.OPEN_MESSAGES)
        sql.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        sql.execute("INSERT INTO alembic_version VALUES ('0001')")
        sql.execute(
            "INSERT INTO charge VALUES ('acme', 's', 1, 2, 'f', 'm', 'openai', 'gpt', '', 7, 42)"
        )
        sql.execute("INSERT INTO seen_event VALUES ('acme', 'e1', 3600000000)")
        sql.execute(
            "INSERT INTO outbox VALUES"
            " (3, 'm-1', 'acme', 'k', '{}', 5, 2, 9, NULL, NULL, 'HTTP 500')"
        )

    assert "ALTER TABLE charge RENAME" in migrate(url(path), dry_run=True)
    assert migrate(url(path), dry_run=False).endswith(f"schema 0001 → {SCHEMA_VERSION}")

    with closing(sqlite3.connect(path)) as sql:
        assert sql.execute("SELECT * FROM charge").fetchall() == [
            ("acme", "s", 1, 2, "f", "m", "openai", "gpt", "", 7, "", "", 42, 0)
        ]
        # Ids are kept for as long as they were before: 35 days.
        assert sql.execute("SELECT * FROM seen_event").fetchall() == [
            ("acme", "e1", 3_600_000_000 + 35 * 86_400_000_000)
        ]
        # A message that waits for its retry goes on waiting, for the endpoint that there was.
        assert sql.execute("SELECT * FROM outbox").fetchall() == [
            (3, "m-1", "acme", "k", "{}", 5, 5)
        ]
        assert sql.execute("SELECT * FROM delivery").fetchall() == [
            (3, "default", "acme", 1, 2, 2, 9, 0, None, None, "HTTP 500")
        ]
    assert {"call", "call_part", "decided", "logged", "session", "charge_unpriced"} <= tables(path)
