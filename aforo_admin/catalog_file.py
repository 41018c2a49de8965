"""The catalog's file, watched: has it changed, has the change settled, what does it say now."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.catalog import Catalog
from aforo_admin.faults import CatalogError
from aforo_admin.prices_file import imported_prices, prices_path
from aforo_proto.contract_pb2 import PriceList

POLL_S: Final = 0.2

# What a change of the file changes: replaced by another, written to, or grown.
Fingerprint = tuple[int, int, int]
Fingerprints = tuple[Fingerprint | None, Fingerprint | None]  # Of the catalog, and of its prices.


@dataclass(slots=True, kw_only=True)
class CatalogFile:
    """The last good catalog of a file, and whether the file still says it."""

    path: Path
    catalog: Catalog
    imported: Sequence[PriceList] | None  # The prices of the file that the catalog names.
    name: str = "the catalog's file"
    # A file does not say whose terms its change concerns.
    touched: frozenset[str] = frozenset()
    goes_beyond: bool = True
    fault_count: int = 0  # What is wrong with the file as it is now; 0: `catalog` is what it says.
    _read: Fingerprints | None = None
    _seen: Fingerprints | None = None

    async def poll(self) -> bool:
        """Read the file again if it has changed; say whether there is a new catalog.

        A change counts once two looks in a row see the same file: one that is being written is
        left alone.

        Raises:
            CatalogError: What it says now is wrong. `catalog` stays, until the next change.
        """
        now = self._fingerprint()
        settled = now == self._seen
        self._seen = now
        if not settled or now == self._read:
            return False
        try:
            catalog, imported = await asyncio.to_thread(read_with_prices, self.path)
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
        self.catalog, self.imported = catalog, imported
        return True

    def _changed_meanwhile(self, before: Fingerprints) -> bool:
        self._seen = self._fingerprint()
        return self._seen != before

    def _fingerprint(self) -> Fingerprints:
        return fingerprint(self.path), fingerprint(prices_path(self.catalog, self.path))


async def open_file(path: Path) -> CatalogFile:
    """Read the catalog for the first time.

    Raises:
        CatalogError: It is wrong, or can't be read.
    """
    before = fingerprint(path)
    catalog = await asyncio.to_thread(read_file, path)
    both = before, fingerprint(prices_path(catalog, path))
    imported = await asyncio.to_thread(imported_prices, catalog, path)
    return CatalogFile(path=path, catalog=catalog, imported=imported, _read=both, _seen=both)


def read_with_prices(path: Path) -> tuple[Catalog, Sequence[PriceList] | None]:
    """Read a catalog, and the prices of the file that it names.

    Raises:
        CatalogError: One of them is wrong, or can't be read.
    """
    catalog = read_file(path)
    return catalog, imported_prices(catalog, path)


def fingerprint(path: Path | None) -> Fingerprint | None:
    """Return what tells one content of the file from the next; None if there is no file."""
    if path is None:
        return None
    try:
        found = os.stat(path)  # noqa: PTH116 - follows links, as a mounted ConfigMap is one.
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
