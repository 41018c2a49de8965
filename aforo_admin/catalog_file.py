"""The catalog's file, watched: has it changed, has the change settled, what does it say now."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.catalog import Catalog
from aforo_admin.faults import CatalogError

POLL_S: Final = 0.2

# What a change of the file changes: replaced by another, written to, or grown.
Fingerprint = tuple[int, int, int]


@dataclass(slots=True, kw_only=True)
class CatalogFile:
    """The last good catalog of a file, and whether the file still says it."""

    path: Path
    catalog: Catalog
    name: str = "the catalog's file"
    touched: frozenset[str] | None = None  # A file does not say whose terms its change concerns.
    fault_count: int = 0  # What is wrong with the file as it is now; 0: `catalog` is what it says.
    _read: Fingerprint | None = None
    _seen: Fingerprint | None = None

    async def poll(self) -> bool:
        """Read the file again if it has changed; say whether there is a new catalog.

        A change counts once two looks in a row see the same file: one that is being written is
        left alone.

        Raises:
            CatalogError: What it says now is wrong. `catalog` stays, until the next change.
        """
        now = fingerprint(self.path)
        settled = now == self._seen
        self._seen = now
        if not settled or now == self._read:
            return False
        try:
            catalog = await asyncio.to_thread(read_file, self.path)
        except CatalogError as error:
            if self._changed_meanwhile(now):
                return False
            self._read = now
            self.fault_count = len(error.faults)
            raise
        if self._changed_meanwhile(now):
            return False
        self._read = now
        self.fault_count = 0
        self.catalog = catalog
        return True

    def _changed_meanwhile(self, before: Fingerprint | None) -> bool:
        self._seen = fingerprint(self.path)
        return self._seen != before


async def open_file(path: Path) -> CatalogFile:
    """Read the catalog for the first time.

    Raises:
        CatalogError: It is wrong, or can't be read.
    """
    before = fingerprint(path)
    catalog = await asyncio.to_thread(read_file, path)
    return CatalogFile(path=path, catalog=catalog, _read=before, _seen=before)


def fingerprint(path: Path) -> Fingerprint | None:
    """Return what tells one content of the file from the next; None if there is no file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - follows links, as a mounted ConfigMap is one.
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
