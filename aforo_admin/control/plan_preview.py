"""What publishing a draft would do to its tenants, by recorded usage: for who is about to."""

from collections.abc import Mapping, Sequence
from typing import Any

from aforo_admin import store
from aforo_admin.catalog_differences import differences
from aforo_admin.control.models import PlanChange, PlanVersion, Subscription
from aforo_admin.domain.catalog import Catalog, Plan
from aforo_admin.domain.scenario import DraftChoice
from aforo_admin.ledger_periods import TooMuchUsageError
from aforo_admin.ledger_reading import LedgerUnreadableError
from aforo_admin.places import NotSetError
from aforo_admin.previews import TENANTS_MAX, Preview, preview_version
from aforo_admin.simulating import ground_of

UNKNOWN = (LedgerUnreadableError, NotSetError, TooMuchUsageError)


def of_draft(draft: PlanVersion) -> dict[str, Any]:
    """Return what the page shows: how the plan differs, and a preview, or why there is none."""
    having = _having(draft.plan_id)
    held = store.load_plans(tenants=having[:TENANTS_MAX])
    changed = store.load_plans(draft)
    shown: dict[str, Any] = {"differences": list(differences(_plans_of(held), _plans_of(changed)))}
    try:
        return {**shown, "preview": _preview(draft, held, changed.plans, having)}
    except UNKNOWN as error:
        return {**shown, "preview_missing": str(error)}


def _plans_of(catalog: Catalog) -> Catalog:
    return Catalog(currency=catalog.currency, plans=catalog.plans)


def _preview(
    draft: PlanVersion, held: Catalog, plans: Mapping[str, Plan], having: Sequence[str]
) -> Preview:
    choice = DraftChoice(plan_id=draft.plan_id, number=draft.number)
    drafts = {choice: plans[draft.plan_id]}
    return preview_version(choice, drafts, ground_of(held), having=having)


def _having(plan_id: str) -> list[str]:
    """Return who has a plan, or has changed to it or from it: by their ids."""
    begun, changed = (
        set(table.objects.filter(plan_id=plan_id).values_list("tenant_id", flat=True))
        for table in (Subscription, PlanChange)
    )
    return sorted(begun | changed)
