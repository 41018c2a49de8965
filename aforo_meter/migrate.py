"""`aforo-meter migrate`: create or upgrade the ledger's database. Downgrades don't exist."""

import io
from pathlib import Path
from typing import Final

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from aforo_meter.ledger import LedgerError

SCRIPTS: Final = Path(__file__).parent / "migrations"
SQLITE: Final = "sqlite:///"


def migrate(ledger_url: str, *, dry_run: bool) -> str:
    """Bring the ledger to this version's schema; return what was done, or would be, as text.

    Raises:
        LedgerError: It can't be opened, or a newer version has been there.
    """
    path = Path(ledger_url.removeprefix(SQLITE))
    if not path.parent.is_dir():
        raise LedgerError(f"{path.parent} is no directory; create it first: the ledger goes there")
    try:
        return _dry_run(path) if dry_run else _upgrade(path)
    except sqlalchemy.exc.DatabaseError as error:
        raise LedgerError(f"the ledger at {path} can't be migrated: {error.orig}") from error


def _upgrade(path: Path) -> str:
    engine = _engine(path, mode="rwc")
    try:
        with engine.connect() as connection:
            # Readers go on during a write, and a write during reads. It stays with the file.
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            # Locks out a second migration before either looks at the version.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            before = _version(connection)
            config = _config()
            head = _head(config, before, path)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.exec_driver_sql("COMMIT")
    finally:
        engine.dispose()
    if before == head:
        return f"{path}: schema {head}, nothing to do"
    return f"{path}: schema {before or '(none)'} → {head}"


def _dry_run(path: Path) -> str:
    before = None
    if path.exists():
        engine = _engine(path, mode="ro")
        try:
            with engine.connect() as connection:
                before = _version(connection)
        finally:
            engine.dispose()
    config = _config()
    head = _head(config, before, path)
    if before == head:
        return f"-- {path}: schema {head}, nothing to do"
    text = io.StringIO()
    config.attributes |= {"dialect_name": "sqlite", "starting_rev": before, "output_buffer": text}
    command.upgrade(config, f"{before}:head" if before else "head", sql=True)
    return f"-- {path}: schema {before or '(none)'} → {head}\n{text.getvalue().strip()}"


def _engine(path: Path, *, mode: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        f"sqlite:///file:{path}?mode={mode}&uri=true",
        # Transactions are ours: the driver would commit before each change of the schema.
        isolation_level="AUTOCOMMIT",
    )


def _config() -> Config:
    config = Config(output_buffer=io.StringIO())
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _version(connection: sqlalchemy.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _head(config: Config, before: str | None, path: Path) -> str:
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    assert head is not None, "there is at least one migration"
    if before is not None:
        try:
            scripts.get_revision(before)
        except CommandError as error:
            raise LedgerError(
                f"the ledger at {path} has schema {before}, which this version does not know; "
                "a newer aforo-meter has been there: use that"
            ) from error
    return head
