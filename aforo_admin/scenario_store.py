"""Scenarios kept in the database. Django must be set up before this is loaded."""

import json
from typing import Final

from aforo_admin import scenario_written, store
from aforo_admin.control.models import Scenario as Saved
from aforo_admin.control.models_scenarios import KIND, NAME_CHARS_MAX
from aforo_admin.control.recording import Change, Note, Source
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.problems import Problem
from aforo_admin.domain.scenario import Scenario
from aforo_admin.domain.simulate import Comparison
from aforo_admin.faults import CatalogError, Fault, advice
from aforo_admin.scenario_yaml import NAME, refuse, scenario_of
from aforo_admin.simulation_text import summary_written
from aforo_admin.yaml_writing import node_of

SAVED_MAX: Final = 1000
NAMED: Final = "name"


class NotTheirsError(CatalogError):
    """It is somebody else's; the message says whose, and what to do.

    Args:
        held: The scenario.
        place: Where it was named.
        remedy: What to do instead.
    """

    def __init__(self, held: Saved, place: str, remedy: str) -> None:
        message = f"it is {held.author}'s: {remedy}"
        super().__init__(NAME, [Fault(line=0, place=place, message=message)])


def load(name: str) -> Scenario:
    """Read a scenario by its name.

    Raises:
        CatalogError: There is none, or it can't be read any more.
    """
    saved = Saved.objects.filter(name=name).first()
    if saved is None:
        names = Saved.objects.values_list("name", flat=True)[:SAVED_MAX]
        message = f'no scenario "{name}"{advice(name, kind="scenario", choices=names)}'
        refuse([Problem(path=("saved",), message=message)])
        raise AssertionError("refuse raises")
    # Amounts of deals are in the currencies of their tenants.
    tenants = {str(deal.get("tenant", "")) for deal in saved.changes.get("deals", ())}
    return read(saved, store.load_catalog(tenants).catalog)


def read(saved: Saved, catalog: Catalog) -> Scenario:
    """Read what is kept.

    Args:
        saved: What is kept.
        catalog: With the tenants whose deals it names.

    Raises:
        CatalogError: It can't be read any more.
    """
    return scenario_of(node_of(saved.changes), catalog, name=f"scenario {saved.name}")


def save(name: str, scenario: Scenario, found: Comparison, *, author: str, source: Source) -> Saved:
    """Keep a scenario, on the record; one of that name is replaced, if it is the author's own.

    Raises:
        CatalogError: The name is none, or somebody else's, or there are too many.
    """
    # No rule of the catalog speaks of scenarios.
    with store.change(actor=author, source=source, checked=True) as made:
        return keep(name, scenario, found, made)


def checked_name(name: str) -> str:
    """Return a name as it is kept.

    Raises:
        CatalogError: It is none.
    """
    name = name.strip()
    if not name or len(name) > NAME_CHARS_MAX:
        is_empty = "is missing" if not name else f"has {len(name)} characters"
        message = f"{is_empty}: write one of 1 to {NAME_CHARS_MAX}"
        refuse([Problem(path=("name",), message=message)])
    return name


def refuse_others(held: Saved, actor: str) -> None:
    """Refuse to replace what somebody else has kept: that is its author's alone.

    Raises:
        NotTheirsError: It is somebody else's.
    """
    if held.author != actor:
        raise NotTheirsError(held, "name", "keep yours under another name")


def keep(name: str, scenario: Scenario, found: Comparison, made: Change) -> Saved:
    """Keep a scenario within a change, as `save` does."""
    name, author = checked_name(name), made.actor
    held = Saved.objects.filter(name=name).first()
    if held is not None:
        refuse_others(held, author)
    if held is None and Saved.objects.count() >= SAVED_MAX:
        message = f"there are {SAVED_MAX} scenarios already: remove some"
        refuse([Problem(path=("name",), message=message)])
    # Through text: what says how YAML writes a number is no matter of JSON.
    changes = json.loads(json.dumps(scenario_written.scenario(scenario)))
    saved: Saved
    saved, _ = Saved.objects.update_or_create(
        name=name,
        defaults={
            "author": author,
            "month": scenario.month,
            "changes": changes,
            "summary": summary_written(found),
            "created_at": made.at,
        },
    )
    _note(made, name, before=held, after=saved)
    return saved


def rename(held: Saved, name: str, made: Change) -> None:
    """Keep a scenario under another name within a change; what it says and its sums stay.

    Raises:
        CatalogError: The name is none, or the scenario somebody else's.
    """
    before, name = str(held.name), checked_name(name)
    refuse_others(held, made.actor)
    if name == before:
        return
    held.name = name
    held.save(update_fields=["name"])
    # Under the name that it was known by so far.
    told = Note(kind=KIND, name=before, tenant_id="", before={NAMED: before}, after={NAMED: name})
    made.notes.append(told)


def remove(name: str, *, actor: str, source: Source, of_anybody: bool = False) -> bool:
    """Forget a scenario, on the record; say whether there was one.

    Args:
        name: Of the scenario.
        actor: Who asks.
        source: From where.
        of_anybody: They may remove what others have kept.

    Raises:
        CatalogError: It is somebody else's.
    """
    with store.change(actor=actor, source=source, checked=True) as made:
        held = Saved.objects.filter(name=name).first()
        if held is None:
            return False
        discard(held, made, of_anybody=of_anybody)
    return True


def discard(held: Saved, made: Change, *, of_anybody: bool) -> None:
    """Forget a scenario within a change, as `remove` does."""
    if not of_anybody and held.author != made.actor:
        raise NotTheirsError(held, "saved", "ask them, or an owner")
    held.delete()
    _note(made, str(held.name), before=held, after=None)


def _note(made: Change, name: str, *, before: Saved | None, after: Saved | None) -> None:
    told = [
        None
        if each is None
        else {"author": each.author, "month": each.month, "changes": each.changes}
        for each in (before, after)
    ]
    note = Note(kind=KIND, name=name, tenant_id="", before=told[0], after=told[1])
    made.notes.append(note)
