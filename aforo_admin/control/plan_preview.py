"""What publishing a draft would do to its tenants, by recorded usage: for who is about to."""

from typing import Any

from aforo_admin import scenario_drafts, store
from aforo_admin.control.models import PlanVersion
from aforo_admin.domain.scenario import DraftChoice, Scenario
from aforo_admin.faults import CatalogError, NoCatalogError
from aforo_admin.ledger_periods import TooMuchUsageError
from aforo_admin.ledger_reading import LedgerUnreadableError
from aforo_admin.places import NotSetError
from aforo_admin.previews import Preview, preview_version
from aforo_admin.simulating import ground_of

UNKNOWN = (LedgerUnreadableError, NoCatalogError, NotSetError, TooMuchUsageError)


def of_draft(draft: PlanVersion) -> dict[str, Any]:
    """Return what the page shows: a preview, or why there is none."""
    try:
        return {"preview": _preview(draft)}
    except CatalogError as error:
        return {"preview_missing": f"it could not be published: {error}"}
    except UNKNOWN as error:
        return {"preview_missing": str(error)}


def _preview(draft: PlanVersion) -> Preview:
    choice = DraftChoice(plan_id=draft.plan_id, number=draft.number)
    drafts = scenario_drafts.drafts_of(Scenario(drafts=(choice,)))
    return preview_version(choice, drafts, ground_of(store.load_catalog().catalog))
