"""What a deal would do to its tenant, by recorded usage: for who is about to save it."""

from typing import Any

from django.utils import timezone

from aforo_admin import store
from aforo_admin.catalog_differences import differences
from aforo_admin.control.models import Deal
from aforo_admin.control.plan_preview import UNKNOWN
from aforo_admin.control.recorded_admin import TriedError
from aforo_admin.domain.catalog import Catalog
from aforo_admin.previews import preview_deal, terms_of_deal
from aforo_admin.simulating import ground_of


def tried(row: Deal) -> TriedError:
    """Return what undoes a deal that was just saved, within a change, and shows what it would do.

    Raises:
        CatalogError: It breaks a rule.
    """
    changed = store.load_checked((row.tenant_id,)).catalog
    tenant_id, deal_id = row.tenant_id, row.deal_id
    return TriedError(lambda: _shown(changed, tenant_id, deal_id))


def _shown(changed: Catalog, tenant_id: str, deal_id: str) -> dict[str, Any]:
    held = store.load_catalog((tenant_id,)).catalog
    shown: dict[str, Any] = {"differences": list(differences(held, changed)), "tried_deal": deal_id}
    deals = changed.tenants[tenant_id].deals
    (deal,) = (each for each in deals if each.deal_id == deal_id)
    shown["terms"] = terms_of_deal(tenant_id, deal, held, timezone.now())
    try:
        return {**shown, "preview": preview_deal(tenant_id, deal, ground_of(held))}
    except UNKNOWN as error:
        return {**shown, "preview_missing": str(error)}
