"""One edit of the written catalog: a value is put at a place, and the whole is read and checked."""

import copy
from collections.abc import Callable, Collection

from aforo_admin import store, written
from aforo_admin.catalog_yaml import read_node
from aforo_admin.control.recording import Change
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.problems import Path, place_of
from aforo_admin.faults import CatalogError
from aforo_admin.rest.places import Document
from aforo_admin.rest.problems import of_catalog
from aforo_admin.yaml_writing import node_of

ALL: Collection[str] = ()  # What concerns no tenant in particular is read without any.


def document(tenants: Collection[str] = ALL) -> Document:
    """Return the written catalog with some tenants.

    Raises:
        NoCatalogError: There is none.
    """
    return written.catalog(store.load_catalog(tenants).catalog)


def edit(
    made: Change,
    change: Callable[[Document], Path],
    *,
    tenants: Collection[str] = ALL,
) -> Document:
    """Change the written catalog, within a recorded change, and return it.

    Args:
        made: The recorded change.
        change: Edits the document in place, and says where: faults are told from there.
        tenants: Whose part is read. What is edited lies in it, or in the catalog's general part.

    Raises:
        InvalidError: What results breaks a rule.
    """
    before = store.load_catalog(tenants).catalog
    edited = copy.deepcopy(written.catalog(before))
    after = read(edited, within=change(edited))
    store.make_equal(after, made, before=before, tenants=tenants)
    return written.catalog(after)


def read(edited: Document, *, within: Path) -> Catalog:
    """Return the catalog that a document says.

    Raises:
        InvalidError: It breaks a rule.
    """
    try:
        return read_node(node_of(edited), name="catalog")
    except CatalogError as error:
        raise of_catalog(error, within=place_of(within)) from None
