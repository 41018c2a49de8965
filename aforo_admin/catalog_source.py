"""Where sync gets the catalog from: a file or the database."""

from collections.abc import Sequence
from typing import Protocol

from aforo_admin.domain.catalog import Catalog
from aforo_proto.contract_pb2 import PriceList


class CatalogSource(Protocol):
    """The last good catalog, and whether there is another by now."""

    name: str  # For people: "the catalog's file".
    catalog: Catalog
    fault_count: int  # What is wrong with what is there now; 0: `catalog` is what it says.
    imported: Sequence[PriceList] | None  # The prices of the file that the catalog names.
    touched: frozenset[str]  # Whose terms the last change concerned, few enough to write at once.
    goes_beyond: bool  # It concerned more than that: only a pass writes the rest.

    async def poll(self) -> bool:
        """Look for a change; say whether there is a new catalog.

        Raises:
            CatalogError: What is there now is wrong. `catalog` stays, until the next change.
        """
