"""May somebody make this change? Asked of what has changed, whichever way it came.

Forms show as editable what a role may edit; here is the last word, before the commit.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from django.apps import apps

from aforo_admin.columns import ALLOWANCE_COLUMNS, FLOOR_COLUMNS
from aforo_admin.control.models_base import Recorded
from aforo_admin.control.models_plans import PlanVersion, State
from aforo_admin.control.models_tenants import Deal
from aforo_admin.control.plan_moves import loosening_moves, restarts
from aforo_admin.control.recording import Change, Note
from aforo_admin.control.roles import PUBLISH, SET_FLOORS, WRITES

Has = Callable[[str], bool]  # Is this permission theirs? As Django names it.

# Whoever can set these can let calls pass that the margin would stop.
FLOORS: Final = frozenset(
    {*FLOOR_COLUMNS, *ALLOWANCE_COLUMNS.values(), "shadow", "stale_margin_blocks"}
)
# Who looks at these in a year wants to know why: without a reason they don't change.
_WITH_REASON: Final = frozenset(
    {SET_FLOORS, *(f"{act}_{table}" for act in WRITES for table in ("marginoverride", "dealguard"))}
)
_GUARD: Final = "guard "
_NO_VERSION: Final[Mapping[str, Any]] = {}
_OF_DATABASE: Final = frozenset({"id", "version_id", "position"})


class NotPermittedError(Exception):
    """Somebody may not change this; the message says what, and who may.

    Args:
        note: What they tried.
        permission: What they lack, as Django names it.
        column: Where; empty: the row as such.
    """

    def __init__(self, note: Note, permission: str, column: str = "") -> None:
        self.permission = permission
        self.column = column
        where = f"{note.kind} {note.name}" + (f": {column}" if column else "")
        who = (
            "margin floors are for finance and owners: ask one of them"
            if permission == f"control.{SET_FLOORS}"
            else f"it takes {permission}: docs/roles.md says who has it"
        )
        super().__init__(f"{where}: your role may not change this; {who}")


class ReasonMissingError(Exception):
    """What changes only for a reason was to change without one; the message says what it is.

    Args:
        note: What changes.
        column: Where; empty: the row as such.
        what: What comes of it, where that does not show.
    """

    def __init__(self, note: Note, column: str = "", what: str = "") -> None:
        where = f"{note.kind} {note.name}" + (f": {column}" if column else "")
        told = f" ({what})" if what else ""
        super().__init__(f"say why {where} changes{told}: floors and overrides change for a reason")


def check(change: Change, has: Has) -> None:
    """Refuse a change that takes more than somebody has, or a reason that they did not give.

    Raises:
        NotPermittedError: At the first row that does.
        ReasonMissingError: They may make it, and say why.
    """
    unsaid: tuple[Note, str, str] | None = None
    for note, permission, column, what in _asked(change):
        if not has(f"control.{permission}"):
            raise NotPermittedError(note, f"control.{permission}", column)
        if permission in _WITH_REASON and unsaid is None and not _has_own_reason(note):
            unsaid = note, column, what
    if change.reason.strip():
        return
    if unsaid is not None:
        raise ReasonMissingError(*unsaid)
    for moved, what in loosening_moves(change):
        raise ReasonMissingError(moved, what=what)


def _asked(change: Change) -> Iterator[tuple[Note, str, str, str]]:
    """Yield what a change takes: for which row, column, and what comes of it."""
    gone = {each.tenant_id for each in change.notes if _is_removal_of_tenant(each)}
    for note in change.notes:
        if note.tenant_id in gone and note.after is None and not _is_removal_of_tenant(note):
            continue  # It goes with its tenant.
        for permission, column in _needed(note, change):
            yield note, permission, column, ""
    for note, column, what in restarts(change):
        yield note, SET_FLOORS, column, what


def _has_own_reason(note: Note) -> bool:
    """Whether it is an override that says why it is there."""
    return _tables().get(note.kind) == "marginoverride" and bool((note.after or {}).get("reason"))


def _is_removal_of_tenant(note: Note) -> bool:
    return note.after is None and _tables().get(note.kind) == "tenant"


def _needed(note: Note, change: Change) -> Iterator[tuple[str, str]]:
    table = _tables().get(note.kind)
    if table is None:
        return  # Not of the catalog, like users: who changes those has asked before.
    if table in {"planversion", "planguard"}:
        yield from _needed_of_version(table, note, change)
        return
    act = "add" if note.before is None else "delete" if note.after is None else "change"
    yield f"{act}_{table}", ""
    if column := _changed_floor(note):
        yield SET_FLOORS, column
    if table == "deal" and _moves_floors(note):
        yield SET_FLOORS, "effective_until"


def _needed_of_version(table: str, note: Note, change: Change) -> Iterator[tuple[str, str]]:
    """A version may repeat the floors in force; others are set by who may set floors."""
    if table == "planversion":
        moved = (note.after or {}).get("state") if note.before else None
        act = "add" if note.before is None else "delete" if note.after is None else "change"
        yield (PUBLISH if moved else f"{act}_planversion"), ""
    plan_id, number = note.name.split("/")[:2]
    version = PlanVersion.objects.filter(plan_id=plan_id, number=number).first()
    if version is None or version.state == State.RETIRED:
        return  # A draft that is gone takes no floor away.
    said, held = _floors_of(version), _in_force_before(version, change)
    for name in sorted(said.keys() | held.keys()):
        if _differ(said.get(name), held.get(name)) and (
            version.state == State.PUBLISHED or _touches(note, name)
        ):
            yield SET_FLOORS, name


def _touches(note: Note, name: str) -> bool:
    if name.startswith(_GUARD):
        return note.name.endswith(f"/{name.removeprefix(_GUARD)}")
    return name in (note.after or {})


def _differ(one: Any, other: Any) -> bool:
    # Zero is a floor; nothing and no are the same.
    return (None if one is False else one) != (None if other is False else other)


def _in_force_before(version: PlanVersion, change: Change) -> Mapping[str, Any]:
    """Return the floors of a plan's version that was in force as the change began."""
    begun = {
        (note.name, (note.after or {}).get("state"))
        for note in change.notes
        if _tables().get(note.kind) == "planversion" and note.before
    }
    for other in version.plan.versions.exclude(pk=version.pk):
        ends = (str(other), str(State.RETIRED)) in begun
        starts = (str(other), str(State.PUBLISHED)) in begun
        if ends or (other.state == State.PUBLISHED and not starts):
            return _floors_of(other)
    return _NO_VERSION


def _floors_of(version: PlanVersion) -> dict[str, Any]:
    said: dict[str, Any] = {
        name: getattr(version, name) for name in FLOORS if hasattr(version, name)
    }
    for guard in version.guards.all():
        row = guard.as_row()
        said[f"{_GUARD}{guard.guard_id}"] = {
            name: value for name, value in row.items() if name not in _OF_DATABASE
        }
    return said


def _changed_floor(note: Note) -> str:
    """Return a floor that is set, changed, or gone with its row; empty: none is."""
    before, after = note.before or {}, note.after or {}
    for name in sorted(FLOORS & (before.keys() | after.keys())):
        if _differ(before.get(name), after.get(name)):
            return name
    return ""


def _moves_floors(note: Note) -> bool:
    """Whether a deal that says floors begins or ends at another time."""
    if note.before is None or not note.before.keys() & {"effective_from", "effective_until"}:
        return False
    tenant_id, deal_id = note.name.split("/")
    deal = Deal.objects.filter(tenant_id=tenant_id, deal_id=deal_id).first()
    return deal is not None and (
        any(getattr(deal, name, None) is not None for name in FLOORS) or deal.guards.exists()
    )


def _tables() -> dict[str, str]:
    models = apps.get_app_config("control").get_models()
    return {
        str(model._meta.verbose_name): str(model._meta.model_name)
        for model in models
        if issubclass(model, Recorded)
    }
