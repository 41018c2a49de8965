"""Tenants that come to another plan by a change: floors go with the plan, so some want a reason."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from aforo_admin import store
from aforo_admin.control.models_tenants import PlanChange, Subscription
from aforo_admin.control.recording import Change, Note
from aforo_admin.domain import catalog
from aforo_admin.domain.loosening import loosened

SUBSCRIPTION: Final = str(Subscription._meta.verbose_name)
PLAN_CHANGE: Final = str(PlanChange._meta.verbose_name)


def loosening_moves(made: Change) -> Iterator[tuple[Note, str]]:
    """Yield each move to a plan that lets more pass, from now or from a date on, and what it is.

    A tenant that is new has had no floors.
    """
    notes: dict[str, list[Note]] = {}
    for note in made.notes:
        if note.kind == PLAN_CHANGE or (note.kind == SUBSCRIPTION and _is_edit(note, "plan_id")):
            notes.setdefault(note.tenant_id, []).append(note)
    new = {each.tenant_id for each in made.notes if each.kind == "tenant" and each.before is None}
    names = notes.keys() - new
    if not names:
        return
    held = store.load_catalog(names).catalog
    for name in sorted(names & held.tenants.keys()):
        tenant = held.tenants[name]
        before = replace(tenant.subscription, **_before(tenant.subscription, notes[name]))
        if what := _loosened(held, tenant, before, now=made.at):
            yield notes[name][0], what


def _loosened(
    held: catalog.Catalog,
    tenant: catalog.Tenant,
    before: catalog.Subscription,
    *,
    now: datetime,
) -> str:
    after = tenant.subscription
    dates = {change.effective_from for each in (before, after) for change in each.changes}
    for at in [now, *sorted(date for date in dates if date > now)]:
        # A plan that is not in force is refused by the catalog's rules.
        old, new = (held.plans.get(each.plan_at(at)) for each in (before, after))
        if old is not None and new is not None and (what := loosened(held, tenant, old, new)):
            return f"with the plan {new.plan_id}, {what}"
    return ""


def _before(after: catalog.Subscription, notes: Collection[Note]) -> Mapping[str, Any]:
    """Return which plans a subscription had before some notes, by undoing them from the last."""
    plan_id = after.plan_id
    changes = {each.effective_from: each.plan_id for each in after.changes}
    for note in reversed(list(notes)):
        if note.kind == SUBSCRIPTION:
            plan_id = (note.before or {})["plan_id"]
            continue
        was, now = note.before or {}, note.after or {}
        date = _date(now) or _named(note, changes)
        held = changes.pop(date, "") if note.after is not None and date is not None else ""
        if note.before is not None:
            begun = _date(was) or date
            if begun is not None:
                changes[begun] = was.get("plan_id", held)
    return {
        "plan_id": plan_id,
        "changes": tuple(
            catalog.PlanChange(plan_id=changes[date], effective_from=date)
            for date in sorted(changes)
        ),
    }


def _date(columns: Mapping[str, Any]) -> datetime | None:
    said = columns.get("effective_from")
    return None if said is None else datetime.fromisoformat(said)


def _named(note: Note, dates: Collection[datetime]) -> datetime | None:
    """Return which of some dates a note is about, which does not say that it changed."""
    names = {str(PlanChange(tenant_id=note.tenant_id, effective_from=each)): each for each in dates}
    return names.get(note.name)


def _is_edit(note: Note, column: str) -> bool:
    return note.before is not None and note.after is not None and column in note.after
