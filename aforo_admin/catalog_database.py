"""The catalog's database, followed: what has changed since the last look, and for whom."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog
from django.db import Error as DatabaseError
from django.db import connection

from aforo_admin import audit, store
from aforo_admin.control.recording import OF_NOBODY
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.reach import terms_reached, to_check
from aforo_admin.faults import CatalogError
from aforo_admin.prices_file import imported_prices
from aforo_admin.row_reading import TENANTS_APART_MAX
from aforo_proto.contract_pb2 import PriceList

log = structlog.get_logger("aforo_admin")

# From where a catalog of the database names a file of prices: the process's working directory.
PLACE: Final = Path("catalog")
RETRY_S: Final = 1.0  # After a look that failed.


@dataclass(slots=True, kw_only=True)
class CatalogDatabase:
    """The last good catalog of the database, and the change that it reflects."""

    catalog: Catalog
    imported: Sequence[PriceList] | None  # The prices of the file that the catalog names.
    seq: int
    name: str = "the catalog's database"
    fault_count: int = 0
    touched: frozenset[str] = frozenset()
    goes_beyond: bool = False
    # Django's connections belong to threads.
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _seen: int = 0
    _next_look_s: float = 0.0

    async def poll(self) -> bool:
        """Read what has changed, if anything has; say whether there is a new catalog.

        Raises:
            CatalogError: What is there now is wrong. `catalog` stays, until the next change.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._poll)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, _disconnect)
        self._thread.shutdown()

    def _poll(self) -> bool:
        if time.monotonic() < self._next_look_s:
            return False
        try:
            seq = audit.last_seq()
            return seq != self._seen and self._take(seq)
        except DatabaseError as error:
            connection.close()  # The next look makes another.
            self._next_look_s = time.monotonic() + RETRY_S
            log.warning(
                "the catalog's database can't be read: the last catalog stays in force",
                error=str(error).strip(),
                retry_in_s=RETRY_S,
            )
            return False

    def _take(self, seq: int) -> bool:
        named = audit.tenants_since(self.seq)
        if not named:  # It is no matter of the catalog.
            self.seq = self._seen = seq
            return False
        try:
            catalog, imported = self._read(named)
        except CatalogError as error:
            self._seen = seq
            self.fault_count = len(error.faults)
            raise
        self.touched, is_whole = _apart(self.catalog, catalog, named)
        self.goes_beyond = (
            not is_whole
            or imported is not self.imported
            or _of_no_terms(catalog) != _of_no_terms(self.catalog)
        )
        self.catalog, self.imported = catalog, imported
        is_mended, self.fault_count = self.fault_count > 0, 0
        # Not the change that was read: it may concern others than those who were asked about.
        self.seq = self._seen = seq
        return self.goes_beyond or bool(self.touched) or is_mended

    def _read(self, named: frozenset[str]) -> tuple[Catalog, Sequence[PriceList] | None]:
        """Read what entries name; all other tenants are as they were.

        Raises:
            CatalogError: What is there now is wrong.
        """
        part = store.load_checked(named - {OF_NOBODY}).catalog
        catalog = _merged(self.catalog, part, named)
        if OF_NOBODY not in named:
            return catalog, self.imported
        concerned = to_check(self.catalog, catalog)
        if concerned:  # They have not changed, and may miss what is gone.
            part = replace(catalog, tenants=concerned)
            store.refuse_problems(part, others=catalog.tenants.keys())
        imported = imported_prices(catalog, PLACE)
        return catalog, self.imported if imported == self.imported else imported


async def open_database() -> CatalogDatabase:
    """Read the catalog for the first time.

    Raises:
        CatalogError: It is wrong.
        NoCatalogError: There is none yet.
        DatabaseError: The database can't be read.
    """
    thread = ThreadPoolExecutor(1)
    try:
        held = await asyncio.get_running_loop().run_in_executor(thread, store.load_checked)
        imported = await asyncio.to_thread(imported_prices, held.catalog, PLACE)
    except BaseException:
        thread.submit(_disconnect)
        thread.shutdown(wait=False)
        raise
    return CatalogDatabase(
        catalog=held.catalog, imported=imported, seq=held.seq, _seen=held.seq, _thread=thread
    )


def _disconnect() -> None:
    connection.close()  # Of this thread: the name stands for each thread's own.


def _merged(before: Catalog, part: Catalog, named: frozenset[str]) -> Catalog:
    """Take some tenants, and what is of no tenant, from a catalog that holds no others."""
    kept = {name: tenant for name, tenant in before.tenants.items() if name not in named}
    return replace(part, tenants=kept | dict(part.tenants))


def _apart(before: Catalog, after: Catalog, named: frozenset[str]) -> tuple[frozenset[str], bool]:
    """Return the tenants to write at once, and whether those are all whose terms are others.

    Who was changed by name does not wait for the many who are reached by a plan.
    """
    reached = terms_reached(before, after, named)
    if reached is None:
        return frozenset(), False
    if len(reached) <= TENANTS_APART_MAX:
        return reached, True
    changed = reached & named
    return changed if len(changed) <= TENANTS_APART_MAX else frozenset(), False


def _of_no_terms(catalog: Catalog) -> Catalog:
    return replace(catalog, tenants={}, plans={})
