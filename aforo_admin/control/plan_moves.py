"""Tenants whose plan or subscription changes: floors go with the plan, so some want a reason."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from aforo_admin import store
from aforo_admin.control.models_tenants import PlanChange
from aforo_admin.control.recording import Change, Note
from aforo_admin.control.subscription_moves import (
    ID,
    START,
    SUBSCRIPTION,
    is_edit,
    measured_anew,
)
from aforo_admin.domain import catalog
from aforo_admin.domain.loosening import loosened

PLAN_CHANGE: Final = str(PlanChange._meta.verbose_name)
RESTARTING: Final = (ID, START)  # Another of these may have another period.
DATES: Final = frozenset({START, "ended_at"})
UNDONE: Final = DATES | {ID, "plan_id"}


def loosening_moves(made: Change) -> Iterator[tuple[Note, str]]:
    """Yield each move to a plan that lets more pass, from now or from a date on, and what it is.

    A tenant that is new has had no floors.
    """
    for move in _moves(made, "plan_id"):
        if what := _loosened(move.held, move.tenant, move.before, now=made.at):
            yield move.notes[0], what


def restarts(made: Change) -> Iterator[tuple[Note, str, str]]:
    """Yield each subscription whose margin is measured anew, with the column, and from when.

    Who is blocked would pass: what the usage so far has cost no longer counts.
    """
    for move in _moves(made, *RESTARTING):
        note = next((each for each in move.notes if is_edit(each, *RESTARTING)), None)
        what = measured_anew(move.held, move.before, move.tenant.subscription, now=made.at)
        if note is not None and what:
            column = next(each for each in RESTARTING if each in (note.after or {}))
            yield note, column, what


class _Move(NamedTuple):
    """A tenant that is not new, its subscription before, and what is noted of it."""

    held: catalog.Catalog
    tenant: catalog.Tenant
    before: catalog.Subscription
    notes: list[Note]


def _moves(made: Change, *columns: str) -> Iterator[_Move]:
    """Yield who has other changes of plan, or a subscription that is other in some columns."""
    touched = {
        note.tenant_id for note in made.notes if note.kind == PLAN_CHANGE or is_edit(note, *columns)
    }
    new = {each.tenant_id for each in made.notes if each.kind == "tenant" and each.before is None}
    names = touched - new
    if not names:
        return
    held = store.load_catalog(names).catalog
    for name in sorted(names & held.tenants.keys()):
        tenant = held.tenants[name]
        notes = [
            note
            for note in made.notes
            if note.tenant_id == name and note.kind in {PLAN_CHANGE, SUBSCRIPTION}
        ]
        before = replace(tenant.subscription, **_before(tenant.subscription, notes))
        yield _Move(held, tenant, before, notes)


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
    """Return how a subscription was before some notes, by undoing them from the last."""
    said: dict[str, Any] = {}
    changes = {each.effective_from: each.plan_id for each in after.changes}
    for note in reversed(list(notes)):
        was, now = note.before or {}, note.after or {}
        if note.kind == SUBSCRIPTION:
            said |= {
                name: (note.before or {})[name] for name in UNDONE & (note.before or {}).keys()
            }
            continue
        was, now = note.before or {}, note.after or {}
        date = _date(now) or _named(note, changes)
        held = changes.pop(date, "") if note.after is not None and date is not None else ""
        if note.before is not None:
            begun = _date(was) or date
            if begun is not None:
                changes[begun] = was.get("plan_id", held)
    dates = {
        name: said[name] and datetime.fromisoformat(said[name]) for name in DATES & said.keys()
    }
    return {
        **said,
        **dates,
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
