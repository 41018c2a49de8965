"""`aforo-meter migrate`: create or upgrade the ledger's tables. Downgrades don't exist."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from aforo_meter.database import without_password
from aforo_meter.database_sqlite import PREFIX as SQLITE
from aforo_meter.database_sqlite import path_of
from aforo_meter.ledger import LedgerError

SCRIPTS: Final = Path(__file__).parent / "migrations"
POSTGRES_LOCK: Final = 0x61_66_6F_72_6F  # "aforo": nobody else's advisory locks have this number.


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The database that is to hold the ledger."""

    name: str  # For people.
    engine: sqlalchemy.Engine
    exists: bool
    # What begins the transaction. It locks out a second migration before either looks at the
    # version.
    begin: Sequence[str]


def migrate(ledger_url: str, *, dry_run: bool) -> str:
    """Bring the ledger to this version's schema; return what was done, or would be, as text.

    Raises:
        LedgerError: It can't be opened, or a newer version has been there.
    """
    in_file = ledger_url.startswith(SQLITE)
    target = _in_file(ledger_url, dry_run=dry_run) if in_file else _on_server(ledger_url)
    try:
        return _dry_run(target) if dry_run else _upgrade(target)
    except sqlalchemy.exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise LedgerError(f"the ledger at {target.name} can't be migrated: {reason}") from error
    finally:
        target.engine.dispose()


def _in_file(ledger_url: str, *, dry_run: bool) -> Target:
    path = path_of(ledger_url)
    if not path.parent.is_dir():
        raise LedgerError(f"{path.parent} is no directory; create it first: the ledger goes there")
    return Target(
        name=str(path),
        engine=sqlalchemy.create_engine(
            f"sqlite:///file:{path}?mode={'ro' if dry_run else 'rwc'}&uri=true",
            # Transactions are ours: the driver would commit before each change of the schema.
            isolation_level="AUTOCOMMIT",
        ),
        exists=path.exists(),
        # WAL: readers go on during a write, and a write during reads. It stays with the file.
        begin=("PRAGMA journal_mode = WAL", "BEGIN IMMEDIATE"),
    )


def _on_server(ledger_url: str) -> Target:
    import psycopg  # noqa: PLC0415 - only for a ledger that needs it.

    from aforo_meter.database_postgres import parameters_of  # noqa: PLC0415

    parameters = parameters_of(ledger_url)
    return Target(
        name=without_password(ledger_url),
        engine=sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(**parameters),
            isolation_level="AUTOCOMMIT",
        ),
        exists=True,
        begin=("BEGIN", f"SELECT pg_advisory_xact_lock({POSTGRES_LOCK})"),
    )


def _upgrade(target: Target) -> str:
    with target.engine.connect() as connection:
        for statement in target.begin:
            connection.exec_driver_sql(statement)
        before = _version(connection)
        config = _config()
        head = _head(config, before, target)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.exec_driver_sql("COMMIT")
    if before == head:
        return f"{target.name}: schema {head}, nothing to do"
    return f"{target.name}: schema {before or '(none)'} → {head}"


def _dry_run(target: Target) -> str:
    before = None
    if target.exists:
        with target.engine.connect() as connection:
            before = _version(connection)
    config = _config()
    head = _head(config, before, target)
    if before == head:
        return f"-- {target.name}: schema {head}, nothing to do"
    text = io.StringIO()
    dialect_name = target.engine.dialect.name
    config.attributes |= {
        "dialect_name": dialect_name,
        "starting_rev": before,
        "output_buffer": text,
    }
    command.upgrade(config, f"{before}:head" if before else "head", sql=True)
    return f"-- {target.name}: schema {before or '(none)'} → {head}\n{text.getvalue().strip()}"


def _config() -> Config:
    config = Config(output_buffer=io.StringIO())
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _version(connection: sqlalchemy.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _head(config: Config, before: str | None, target: Target) -> str:
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    assert head is not None, "there is at least one migration"
    if before is not None:
        try:
            scripts.get_revision(before)
        except CommandError as error:
            raise LedgerError(
                f"the ledger at {target.name} has schema {before}, which this version does not"
                " know; a newer aforo-meter has been there: use that"
            ) from error
    return head
