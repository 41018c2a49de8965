"""Scenarios kept in the database. Django must be set up before this is loaded."""

import json
from typing import Final

from aforo_admin import scenario_written, store
from aforo_admin.control.models import Scenario as Saved
from aforo_admin.control.models_scenarios import KIND, NAME_CHARS_MAX
from aforo_admin.control.recording import Change, Note, Source
from aforo_admin.domain.problems import Problem
from aforo_admin.domain.scenario import Scenario
from aforo_admin.domain.simulate import Comparison
from aforo_admin.faults import advice
from aforo_admin.scenario_yaml import refuse, scenario_of
from aforo_admin.simulation_text import summary_written
from aforo_admin.yaml_writing import node_of

SAVED_MAX: Final = 1000


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
    catalog = store.load_catalog(tenants).catalog
    return scenario_of(node_of(saved.changes), catalog, name=f"scenario {name}")


def save(name: str, scenario: Scenario, found: Comparison, *, author: str, source: Source) -> Saved:
    """Keep a scenario, on the record; one of that name is replaced, if it is the author's own.

    Raises:
        CatalogError: The name is none, or somebody else's, or there are too many.
    """
    name = name.strip()
    if not name or len(name) > NAME_CHARS_MAX:
        message = f"write a name of 1 to {NAME_CHARS_MAX} characters"
        refuse([Problem(path=("name",), message=message)])
    # No rule of the catalog speaks of scenarios.
    with store.change(actor=author, source=source, checked=True) as made:
        return _kept(name, scenario, found, made)


def _kept(name: str, scenario: Scenario, found: Comparison, made: Change) -> Saved:
    author = made.actor
    held = Saved.objects.filter(name=name).first()
    if held is not None and held.author != author:
        message = f"it is {held.author}'s: keep yours under another name"
        refuse([Problem(path=("name",), message=message)])
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
        if not of_anybody and held.author != actor:
            message = f"it is {held.author}'s: ask them, or an owner"
            refuse([Problem(path=("saved",), message=message)])
        held.delete()
        _note(made, name, before=held, after=None)
    return True


def _note(made: Change, name: str, *, before: Saved | None, after: Saved | None) -> None:
    told = [
        None
        if each is None
        else {"author": each.author, "month": each.month, "changes": each.changes}
        for each in (before, after)
    ]
    note = Note(kind=KIND, name=name, tenant_id="", before=told[0], after=told[1])
    made.notes.append(note)
