"""The catalog's database: its tables, what its user may do, and the head of the record."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from aforo_admin import settings
from aforo_admin.doctor.databases import SQLITE, Ask, UnreadableError, reading
from aforo_admin.doctor.ledger import look_at_disk
from aforo_admin.domain.diagnosis import Seen

PART: Final = "catalog"
MIGRATE: Final = "aforo-admin migrate, with the environment that sync and serve have"
FORBIDDEN: Final = (
    "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    " AND tablename LIKE 'control\\_%%' AND NOT (has_table_privilege(quote_ident(schemaname)"
    " || '.' || quote_ident(tablename), 'SELECT') AND has_table_privilege(quote_ident(schemaname)"
    " || '.' || quote_ident(tablename), 'INSERT')) ORDER BY tablename"
)


def look(database_url: str, *, timeout_s: float) -> Seen:
    """Look at the database in which the catalog is kept. Django must be set up with it."""
    seen = Seen(PART)
    place = settings.without_password(database_url)
    in_file = database_url.startswith(SQLITE)
    try:
        with reading(database_url, seen, timeout_s=timeout_s) as ask:
            usable = in_file or _is_allowed(seen, ask)
        if usable:
            _look_within(seen, place)
    except UnreadableError as error:
        seen.fault(
            f"it can't be read at {place}: {error}",
            "decisions go on; nobody can change the catalog",
            f"is it up, are user and password right? a new one needs: {MIGRATE}",
        )
    if in_file:
        look_at_disk(seen, Path(database_url.removeprefix(SQLITE)))
    return seen


def _is_allowed(seen: Seen, ask: Ask) -> bool:
    tables = ask(FORBIDDEN, ())
    if tables:
        seen.fault(
            f"this user may not read and add to {', '.join(row[0] for row in tables)}",
            "the catalog can't be read, or not be changed",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO the user",
        )
    return not tables


def _look_within(seen: Seen, place: str) -> None:
    # Usable only where Django is set up.
    from django.db import Error, connection  # noqa: PLC0415

    try:
        if _has_tables(seen, place):
            _follow_head(seen)
    except Error as error:
        raise UnreadableError(str(error).strip().partition("\n")[0]) from error
    finally:
        connection.close()


def _has_tables(seen: Seen, place: str) -> bool:
    from django.db import connection  # noqa: PLC0415 - as above.
    from django.db.migrations.executor import MigrationExecutor  # noqa: PLC0415

    executor = MigrationExecutor(connection)
    loader = executor.loader
    pending = [step for step, _ in executor.migration_plan(loader.graph.leaf_nodes())]
    ours = {app for app, _ in loader.disk_migrations}
    strange = [
        f"{app}.{name}"
        for app, name in sorted(set(loader.applied_migrations) - set(loader.disk_migrations))
        if app in ours
    ]
    if strange:
        seen.fault(
            f"it is newer than this version of Aforo: {', '.join(strange)}",
            "this version may not understand what is in it",
            "upgrade Aforo to the version that migrated it",
        )
    elif pending:
        seen.fault(
            f"its tables lack {_some(f'{step.app_label}.{step.name}' for step in pending)}",
            "sync and serve of this version can't use it",
            MIGRATE,
        )
    else:
        seen.ok(f"all tables are there at {place}")
        return True
    return False


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""  # noqa: PLR2004 - a line.
    return ", ".join(listed[:3]) + more


def _follow_head(seen: Seen) -> None:
    """Compare the last entry with itself and with the head; `audit verify` follows the rest."""
    from aforo_admin import audit  # noqa: PLC0415 - as above.
    from aforo_admin.control.models import AuditEntry, Head  # noqa: PLC0415

    head = Head.objects.get()
    last = AuditEntry.objects.order_by("-seq").first()
    seq, written = (last.seq, last.hash) if last else (0, "")
    if (seq, written) == (head.last_seq, head.last_hash) and (
        last is None or audit.hash_of(last) == written
    ):
        seen.ok(
            f"the record of changes ends at {seq}, as its head says ({written[:12] or 'empty'})"
        )
        return
    seen.fault(
        f"the record of changes ends at {seq}, and its head names {head.last_seq}, or another hash",
        "somebody changed the record behind Aforo's back, or a backup was brought back in part",
        "aforo-admin audit verify names the first entry that does not follow",
    )
