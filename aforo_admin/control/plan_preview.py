"""What publishing a draft would do to its tenants, by recorded usage: for who is about to."""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from django.utils import timezone

from aforo_admin import store
from aforo_admin.catalog_differences import differences
from aforo_admin.control.models import PlanChange, PlanVersion, Subscription
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.scenario import DraftChoice
from aforo_admin.ledger_periods import TooMuchUsageError
from aforo_admin.ledger_reading import LedgerUnreadableError, costliest
from aforo_admin.places import NotSetError, places
from aforo_admin.previews import TENANTS_MAX, preview_version, terms_of_version
from aforo_admin.simulating import ground_of

COSTLIEST_MAX: Final = 10_000  # Of all plans; others come after them, by id.
UNKNOWN = (LedgerUnreadableError, NotSetError, TooMuchUsageError)


def of_draft(draft: PlanVersion) -> dict[str, Any]:
    """Return what the page shows: how the plan differs, and a preview, or why there is none.

    Whoever has no usage, or the same figures by it, has their terms told alone.
    """
    having = _having(draft.plan_id)
    with contextlib.suppress(*UNKNOWN):  # The preview tells of it.
        having = _by_cost(having)
    held = store.load_plans(tenants=having[:TENANTS_MAX])
    changed = store.load_plans(draft)
    choice = DraftChoice(plan_id=draft.plan_id, number=draft.number)
    drafts = {choice: changed.plans[draft.plan_id]}
    terms = terms_of_version(choice, drafts, held, having, timezone.now())
    shown: dict[str, Any] = {"differences": list(differences(_plans_of(held), _plans_of(changed)))}
    try:
        preview = preview_version(choice, drafts, ground_of(held), having=having)
    except UNKNOWN as error:
        return {**shown, "terms_only": terms, "preview_missing": str(error)}
    told = {each.outcome.tenant_id for each in preview.moved}
    others = {name: move for name, move in terms.items() if name not in told}
    return {**shown, "terms_only": others, "preview": preview}


def _by_cost(having: Sequence[str]) -> list[str]:
    """Return those first of whom most is at stake: not all of many are looked at."""
    if len(having) <= TENANTS_MAX:
        return list(having)
    costly = costliest(places().ledger(), count_max=COSTLIEST_MAX)
    rank = {name: number for number, name in enumerate(costly)}
    return sorted(having, key=lambda name: (rank.get(name, len(rank)), name))


def _plans_of(catalog: Catalog) -> Catalog:
    return Catalog(currency=catalog.currency, plans=catalog.plans)


def _having(plan_id: str) -> list[str]:
    """Return who has a plan, or has changed to it or from it: by their ids."""
    begun, changed = (
        set(table.objects.filter(plan_id=plan_id).values_list("tenant_id", flat=True))
        for table in (Subscription, PlanChange)
    )
    return sorted(begun | changed)
