"""The ledger's schema: made and upgraded by Alembic, on demand and never in passing."""

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError

from aforo_meter.ledger import LedgerError

SCRIPTS = Path(__file__).parent / "migrations"


def migrate(ledger_url: str, *, dry_run: bool) -> str:
    """Create the ledger, or bring it to this version's schema; return what was done.

    Args:
        ledger_url: sqlite:////absolute/path/ledger.db
        dry_run: Change nothing; say what would be done.

    Raises:
        LedgerError: The database can't be opened or changed.
    """
    script = ScriptDirectory.from_config(_config(ledger_url))
    head = script.get_current_head()
    current = schema_version(ledger_url)
    if current == head:
        return f"the ledger is at schema {head} already"
    steps = [
        f"  {revision.revision}: {revision.doc}"
        for revision in reversed(list(script.iterate_revisions("head", current or "base")))
    ]
    if dry_run:
        return "\n".join([f"would bring the ledger from {current or 'nothing'} to {head}:", *steps])
    try:
        sqlite_path(ledger_url).parent.mkdir(parents=True, exist_ok=True)
        command.upgrade(_config(ledger_url), "head")
    except (SQLAlchemyError, OSError) as error:
        raise LedgerError(f"cannot migrate {ledger_url}: {error}") from error
    return "\n".join([f"brought the ledger from {current or 'nothing'} to {head}:", *steps])


def check_schema(ledger_url: str) -> None:
    """Refuse a ledger of another version.

    Raises:
        LedgerError: It says which command to run.
    """
    head = ScriptDirectory.from_config(_config(ledger_url)).get_current_head()
    current = schema_version(ledger_url)
    if current == head:
        return
    raise LedgerError(
        f"the ledger {ledger_url} has schema {current or 'none'}, this version needs {head}:"
        f" run aforo-meter migrate --ledger-url {ledger_url}"
        + ("" if current is None else ", or update this process if the ledger is the newer one")
    )


def schema_version(ledger_url: str) -> str | None:
    """Return the schema's version, None where there is no ledger yet."""
    if not sqlite_path(ledger_url).exists():
        return None
    engine = _engine(ledger_url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise LedgerError(f"cannot open the ledger {ledger_url}: {error}") from error
    finally:
        engine.dispose()


def sqlite_path(ledger_url: str) -> Path:
    """Return the file of a ledger's URL; its form was checked with the settings."""
    return Path(ledger_url.removeprefix("sqlite:///"))


def _config(ledger_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["engine"] = _engine(ledger_url)
    return config


def _engine(ledger_url: str) -> Engine:
    return create_engine(ledger_url)
