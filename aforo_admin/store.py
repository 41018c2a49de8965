"""The catalog in the database: read whole or for some tenants, changed in one recorded transaction.

Whatever changes, the catalog that results obeys the rules of `domain/checking`, or nothing changes.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from django.db import models

from aforo_admin import audit
from aforo_admin.control import models as tables
from aforo_admin.control import subscription_moves
from aforo_admin.control.models_plans import State
from aforo_admin.control.recording import OF_NOBODY, Change, Source, recorded
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.checking import find_problems
from aforo_admin.domain.checking_tenants import override_end_problem
from aforo_admin.domain.problems import Problem
from aforo_admin.domain.reach import reaches_rules, to_check
from aforo_admin.faults import CatalogError, ChangedMeanwhileError, NoCatalogError, fault_of
from aforo_admin.row_reading import Read, read_rows, snapshot, table_of
from aforo_admin.rows import (
    COLUMNS,
    OF_CONTRACTS,
    OF_PLANS,
    OF_TENANTS,
    Key,
    Rows,
    catalog_of,
    rows_of,
)
from aforo_admin.unchanged_rows import as_written, leave_alone

NAME: Final = "catalog"  # What faults are told of.
OVERRIDE: Final = str(tables.MarginOverride._meta.verbose_name)  # noqa: SLF001 - as below.
ROWS_PER_STATEMENT: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The catalog, and the last change that it reflects."""

    catalog: Catalog
    seq: int


@contextlib.contextmanager
def change(
    *,
    actor: str,
    source: Source,
    reason: str = "",
    checked: bool = False,
    permit: Callable[[Change], None] | None = None,
) -> Iterator[Change]:
    """Change rows of the catalog, all or none: within it, save and delete them.

    Args:
        actor: Who answers for it.
        source: From where.
        reason: Why, in their words.
        checked: What results is known to obey the catalog's rules.
        permit: Raises what it likes as the change ends, if the actor may not make it: like
            `control.permitting.check`.

    Raises:
        CatalogError: As it ends: what results breaks a rule. Nothing has changed.
    """
    before: Catalog | None = None

    def lock() -> None:
        nonlocal before
        audit.lock_head()
        before = None if checked else _without_tenants()

    def finish(made: Change) -> None:
        if permit is not None:
            permit(made)
        _refuse(subscription_moves.lost(made))
        if not checked:
            _refuse_ended_overrides(made)
            _check(made.tenants, before)
        audit.append(made)

    with recorded(actor=actor, source=source, reason=reason, lock=lock, finish=finish) as made:
        yield made


def load_catalog(tenants: Collection[str] | None = None) -> Held:
    """Read the catalog as it is at one instant: whole, or with some of its tenants only.

    Raises:
        NoCatalogError: There is none.
        CatalogError: A rate card can't be read.
    """
    with snapshot():
        seq = audit.last_seq()
        rows = read_rows(tenants).rows
    if not rows["General"]:
        raise NoCatalogError
    return Held(catalog=catalog_of(rows), seq=seq)


def load_checked(tenants: Collection[str] | None = None) -> Held:
    """Read the catalog and check its rules, as far as they concern the tenants that are read.

    What two tenants can't both have, like a credential, the database's constraints refuse.

    Raises:
        NoCatalogError: There is none.
        CatalogError: It breaks a rule: with every breach.
    """
    held = load_catalog(tenants)
    refuse_problems(held.catalog, others=named_by_keys(held.catalog))
    return held


def load_with_draft(draft: tables.PlanVersion, tenants: Collection[str] | None = None) -> Catalog:
    """Return the catalog as it would be with a draft in force: whole, or with some tenants."""
    return catalog_of(read_rows(tenants, draft).rows)


def load_plans(draft: tables.PlanVersion | None = None, tenants: Collection[str] = ()) -> Catalog:
    """Return the plans, as they are or with a draft in force, and what contracts depend on."""
    rows: Rows = {table: {} for table in COLUMNS}
    wanted = OF_CONTRACTS if tenants else ("General", *OF_PLANS)
    return catalog_of(rows | read_rows(tenants, draft, wanted).rows)


def check_draft(draft: tables.PlanVersion) -> None:
    """Check a draft as if it were published, but not what that does to its tenants.

    Raises:
        CatalogError: It could not be published, with every reason.
    """
    problems = find_problems(load_with_draft(draft, ()))
    _refuse(each for each in problems if each.path[:2] == ("plans", draft.plan_id))


def refuse_problems(catalog: Catalog, others: Collection[str] = ()) -> None:
    """Raise CatalogError with every breach of the catalog's rules, if there is one.

    Args:
        catalog: Whole, or with some of its tenants.
        others: Tenants that there are, and that it is without.
    """
    _refuse(find_problems(catalog, others))


def named_by_keys(catalog: Catalog) -> frozenset[str]:
    """Return the tenants that ingest keys are confined to, as far as they are there.

    If one is not, they are all that there are: so that it is told what could have been meant.
    """
    names = {name for key in catalog.ingest_keys for name in key.tenants}
    ids = tables.Tenant.objects.values_list("pk", flat=True)
    found = frozenset(ids.filter(pk__in=names))
    return found if names <= found | catalog.tenants.keys() else frozenset(ids)


def apply_catalog(
    catalog: Catalog,
    *,
    actor: str,
    source: Source = Source.YAML,
    reason: str = "",
    expected_seq: int | None = None,
    permit: Callable[[Change], None] | None = None,
) -> Change:
    """Make the database equal to a catalog; what is equal already is not touched.

    Args:
        catalog: What should be there.
        actor: Who answers for it.
        source: From where.
        reason: Why, in their words.
        expected_seq: The change that the database must still be at; None: any.
        permit: As in `change`.

    Raises:
        CatalogError: The catalog breaks a rule.
        ChangedMeanwhileError: The database is at another change.
    """
    refuse_problems(catalog)
    with change(actor=actor, source=source, reason=reason, checked=True, permit=permit) as made:
        seq = audit.last_seq()
        if expected_seq is not None and seq != expected_seq:
            raise ChangedMeanwhileError(seq=seq, expected=expected_seq)
        make_equal(catalog, made)
    return made


def make_equal(
    catalog: Catalog,
    made: Change,
    *,
    before: Catalog | None = None,
    tenants: Collection[str] | None = None,
) -> None:
    """Make the database equal to a catalog, within a change; both read with these tenants.

    What it held `before` is known to some who call; else it is made of what is read.
    """
    wanted, held = rows_of(catalog), read_rows(tenants)
    if before is None and held.rows["General"]:
        before = catalog_of(held.rows)
    if before is not None:
        said = as_written(before, unlike=catalog)
        leave_alone(wanted, held.rows, before=rows_of(said))
    _make_equal(wanted, held, made)


def publish(version: tables.PlanVersion, made: Change) -> None:
    """Put a draft of a plan in force, in place of the version before it."""
    retire(version.plan_id, made)
    version.state = State.PUBLISHED
    version.published_at = made.at
    version.save()


def new_draft(plan_id: str) -> tables.PlanVersion:
    """Make a draft of what a plan says in force, or said last, within a change."""
    versions = list(tables.PlanVersion.objects.filter(plan_id=plan_id).order_by("number"))
    held = next((each for each in versions if each.state == State.PUBLISHED), versions[-1])
    draft: tables.PlanVersion = tables.PlanVersion.objects.create(
        **_copied(held, "id", "number", *held.lifecycle), number=versions[-1].number + 1
    )
    for table in OF_PLANS[1:]:
        model = table_of(table)
        parts = model.objects.filter(version=held).order_by("position", "pk")
        model.objects.bulk_create(
            [model(**_copied(part, "id", "version_id"), version=draft) for part in parts]
        )
    return draft


def _copied(row: Any, *besides: str) -> dict[str, Any]:  # noqa: ANN401 - any row.
    names = (each.attname for each in row._meta.concrete_fields)  # noqa: SLF001 - as everywhere.
    return {name: getattr(row, name) for name in names if name not in besides}


def retire(plan_id: str, made: Change) -> None:
    """End the version of a plan that is in force, if there is one."""
    for held in tables.PlanVersion.objects.filter(plan_id=plan_id, state=State.PUBLISHED):
        held.state = State.RETIRED
        held.retired_at = made.at
        held.save()


def _without_tenants() -> Catalog | None:
    """Return what is of no tenant, if it can be read."""
    with contextlib.suppress(NoCatalogError, CatalogError):
        return load_catalog(()).catalog
    return None


def _refuse_ended_overrides(made: Change) -> None:
    """Refuse an override that is given an end in the past: it would look granted, and do nothing.

    One that is over meanwhile is left alone, and a catalog that is applied may hold it.

    Raises:
        CatalogError: There is one.
    """
    ends = [
        override_end_problem(note.tenant_id, datetime.fromisoformat(note.after["until"]), made.at)
        for note in made.notes
        if note.kind == OVERRIDE and note.after is not None and "until" in note.after
    ]
    _refuse(each for each in ends if each is not None)


def _refuse(found: Iterable[Problem]) -> None:
    problems = [fault_of(each) for each in found]
    if problems:
        raise CatalogError(NAME, problems)


def _check(touched: frozenset[str], before: Catalog | None) -> None:
    """Check what has changed, and the tenants whose rules that reaches: seldom all of them.

    Args:
        touched: Whose rows have changed; OF_NOBODY among them: what is of no tenant has.
        before: What was of no tenant; None: it is not known.
    """
    held = load_catalog(touched - {OF_NOBODY}).catalog
    if OF_NOBODY in touched and (before is None or reaches_rules(before, held)):
        held = load_catalog().catalog
        if before is not None:
            names = to_check(before, held).keys() | touched
            tenants = {name: one for name, one in held.tenants.items() if name in names}
            held = replace(held, tenants=tenants)
    refuse_problems(held, others=named_by_keys(held))


def _make_equal(wanted: Rows, held: Read, made: Change) -> None:
    plans = sorted(
        {
            key[0]
            for table in OF_PLANS
            for key in wanted[table].keys() | held.rows[table].keys()
            if wanted[table].get(key) != held.rows[table].get(key)
        }
    )
    others = [table for table in COLUMNS if table not in OF_PLANS]
    for plan_id in plans:
        _new_version(plan_id, wanted, made)
    for table in reversed(others):
        _remove(table, wanted[table], held)
    deals: dict[Key, Any] = {}
    for table in others:
        _add(table, wanted[table], held, deals)
        _edit(table, wanted[table], held)


def _new_version(plan_id: str, wanted: Rows, made: Change) -> None:
    """Publish what a plan should be as a further version; retire one that should not be."""
    row = wanted["PlanVersion"].get((plan_id,))
    if row is None:
        retire(plan_id, made)
        return
    plan, _ = tables.Plan.objects.get_or_create(pk=plan_id)
    number = plan.versions.aggregate(last=models.Max("number"))["last"] or 0
    version = tables.PlanVersion.objects.create(**row, number=number + 1)
    add_parts(version, wanted)
    publish(version, made)


def add_parts(version: tables.PlanVersion, rows: Rows) -> None:
    """Add what belongs to a version that has just been made, or emptied."""
    for table in OF_PLANS[1:]:
        model = table_of(table)
        of_plan = [row for key, row in rows[table].items() if key[0] == version.plan_id]
        model.objects.bulk_create([model(**row, version=version) for row in of_plan])


def _remove(table: str, wanted: dict[Key, Any], held: Read) -> None:
    """Remove what is gone, and what is to be replaced since it is never edited."""
    rows = held.rows[table]
    gone = [key for key, row in rows.items() if _is_gone(table, row, wanted.get(key))]
    model = table_of(table)
    parents = {lookup.rpartition("__")[0] for lookup in model.key_fields} - {""}
    for start in range(0, len(gone), ROWS_PER_STATEMENT):
        chunk = gone[start : start + ROWS_PER_STATEMENT]
        query = model.objects.filter(pk__in=[held.pks[table][key] for key in chunk])
        query.select_related(*parents).delete()
    for key in gone:
        del rows[key]


def _is_gone(table: str, row: Any, wanted: Any) -> bool:  # noqa: ANN401 - rows.
    return wanted is None or any(row[name] != wanted[name] for name in table_of(table).never_edited)


def _add(table: str, wanted: dict[Key, Any], held: Read, deals: dict[Key, Any]) -> None:
    model = table_of(table)
    missing = [key for key in wanted if key not in held.rows[table]]
    if table in {"DealQuota", "DealGuard", "DealRateCard"}:
        known = {key[:2] for key in missing} - deals.keys()
        found = tables.Deal.objects.in_bulk([held.pks["Deal"][key] for key in known])
        deals |= {each.key: each for each in found.values()}
    made = [model(**wanted[key], **_parent(table, key, deals)) for key in missing]
    model.objects.bulk_create(made, batch_size=ROWS_PER_STATEMENT)
    if table == "Deal":
        deals |= dict(zip(missing, made, strict=True))


def _parent(table: str, key: Key, deals: dict[Key, Any]) -> dict[str, Any]:
    if table.startswith("Deal") and table != "Deal":
        return {"deal": deals[key[:2]]}
    return {"tenant_id": key[0]} if table in OF_TENANTS and table != "Tenant" else {}


def _edit(table: str, wanted: dict[Key, Any], held: Read) -> None:
    rows = held.rows[table]
    changed = [key for key, row in rows.items() if key in wanted and row != wanted[key]]
    for start in range(0, len(changed), ROWS_PER_STATEMENT):
        chunk = changed[start : start + ROWS_PER_STATEMENT]
        found = table_of(table).objects.in_bulk([held.pks[table][key] for key in chunk])
        for key in chunk:
            row = found[held.pks[table][key]]
            for name, value in wanted[key].items():
                setattr(row, name, value)
            row.save()
