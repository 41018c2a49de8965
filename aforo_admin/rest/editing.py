"""One edit of the written catalog: a value is put at a place, and the whole is read and checked."""

import copy
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Final

from aforo_admin import store, written
from aforo_admin.catalog_yaml import read_node
from aforo_admin.control.models import Credential
from aforo_admin.control.recording import Change
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.checking_tenants import IDENTITY_FIELDS
from aforo_admin.domain.problems import Path, place_of
from aforo_admin.faults import CatalogError
from aforo_admin.rest.places import Document
from aforo_admin.rest.problems import ApiError, Wrong, below, of_catalog
from aforo_admin.yaml_writing import node_of

REMEDIES: Final = {
    "sha256": "leave the hash out to have another key made, or remove that credential first"
}
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
    within = change(edited)
    made.within = place_of(within)
    after = read(edited, within=within, tenants=tenants)
    _refuse_taken(before, after, within=within)
    store.make_equal(after, made, before=before, tenants=tenants)
    return written.catalog(after)


def _refuse_taken(before: Catalog, after: Catalog, *, within: Path) -> None:
    """Refuse a credential that another tenant has: who that is, and where, is not told.

    Raises:
        ApiError: There is one.
    """
    known = {each.sha256_hex for tenant in before.tenants.values() for each in tenant.credentials}
    new = {
        (each.kind.value, each.identity): ("tenants", name, "credentials", index, field)
        for name, tenant in after.tenants.items()
        for index, each in enumerate(tenant.credentials)
        if each.sha256_hex not in known
        for field in [IDENTITY_FIELDS[each.kind]]
    }
    held = Credential.objects.filter(identity__in={identity for _, identity in new})
    taken = [new[key] for key in held.values_list("kind", "identity") if key in new]
    if taken:
        raise ApiError(
            HTTPStatus.CONFLICT,
            "exists",
            "nothing was changed: a credential belongs to one tenant, and stands once",
            errors=[
                Wrong(
                    field=below(place_of(path), place_of(within)),
                    what="is a credential that another tenant has",
                    remedy=REMEDIES.get(str(path[-1]), "give another, or remove that one first"),
                )
                for path in taken
            ],
        )


def read(edited: Document, *, within: Path, tenants: Collection[str] = ALL) -> Catalog:
    """Return the catalog that a document says.

    Args:
        edited: The document, with some tenants.
        within: Where it was edited.
        tenants: Which; there are others.

    Raises:
        InvalidError: It breaks a rule.
    """

    def others_of(catalog: Catalog) -> Collection[str]:
        return store.named_by_keys(catalog).difference(tenants)

    try:
        return read_node(node_of(edited), name="catalog", others_of=others_of)
    except CatalogError as error:
        raise of_catalog(error, within=place_of(within)) from None
