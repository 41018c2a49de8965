"""The ledger, which is only read: its schema, what its user may do, how far it is."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aforo_admin import settings
from aforo_admin.doctor.databases import Ask, UnreadableError, reading
from aforo_admin.domain.diagnosis import Seen
from aforo_meter.domain.ledger_schema import SCHEMA_VERSION

PART: Final = "ledger"
SQLITE: Final = "sqlite:///"
FREE_WARNING_PERCENT: Final = 10

VERSION: Final = "SELECT version_num FROM alembic_version"
POSITIONS: Final = "SELECT partition, next_offset FROM position WHERE topic = ?"
UNREADABLE: Final = (
    "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND NOT"
    " has_table_privilege(quote_ident(schemaname) || '.' || quote_ident(tablename), 'SELECT')"
    " ORDER BY tablename"
)


def look(ledger_url: str, *, usage: str, timeout_s: float) -> Seen:
    """Look at the ledger."""
    seen = Seen(PART)
    place = settings.without_password(ledger_url)
    try:
        with reading(ledger_url, seen, timeout_s=timeout_s) as ask:
            if not ledger_url.startswith(SQLITE) and (tables := ask(UNREADABLE, ())):
                _tell_unreadable(seen, tables)
            elif _has_schema(seen, ask, place):
                seen.positions = {int(row[0]): int(row[1]) for row in ask(POSITIONS, (usage,))}
    except UnreadableError as error:
        seen.fault(
            f"it can't be read at {place}: {error}",
            "consume waits, and Kafka keeps the usage for as long as its retention allows",
            "is the database up, are user and password right? a new one needs: aforo-meter migrate"
            " --ledger-url …",
        )
    if ledger_url.startswith(SQLITE):
        look_at_disk(seen, Path(ledger_url.removeprefix(SQLITE)))
    return seen


def _tell_unreadable(seen: Seen, tables: Sequence[Any]) -> None:
    seen.fault(
        f"this user may not read {', '.join(row[0] for row in tables)}",
        "pages show no margins, and prices can't be compared",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO the user",
    )


def _has_schema(seen: Seen, ask: Ask, place: str) -> bool:
    version = str(ask(VERSION, ())[0][0])
    if version == SCHEMA_VERSION:
        seen.ok(f"schema {version} at {place}")
        return True
    newer = version > SCHEMA_VERSION
    seen.fault(
        f"it has schema {version}, and this version of Aforo needs {SCHEMA_VERSION}",
        "consume and deliver don't start",
        "upgrade Aforo to the version that migrated it"
        if newer
        else "stop consume and deliver, then aforo-meter migrate --ledger-url …"
        " (docs/operations.md, “Upgrading the ledger”)",
    )
    return False


def look_at_disk(seen: Seen, path: Path) -> None:
    """Judge a file's permissions and the room on its disk."""
    if not os.access(path, os.F_OK, effective_ids=True):
        return  # That is told already.
    if not all(os.access(each, os.W_OK, effective_ids=True) for each in (path, path.parent)):
        seen.warning(
            f"this user may not write {path}, or its folder",
            "a process that runs as this user can't",
            f"run doctor as the user of the process that writes it, or: chown USER {path}",
        )
    disk = shutil.disk_usage(path.parent)
    percent = disk.free * 100 // disk.total
    if percent < FREE_WARNING_PERCENT:
        seen.warning(
            f"{percent} % of the disk at {path.parent} are free",
            "when it is full nothing is charged, or no change of the catalog saved",
            "make room (docs/operations.md, “Capacity”)",
        )
    else:
        seen.ok(f"{percent} % of the disk at {path.parent} are free")
