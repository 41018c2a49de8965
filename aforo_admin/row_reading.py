"""The catalog's rows, read: all, or those of some tenants. What they say is `rows`' to know."""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.db import connection, models

from aforo_admin.control import models as tables
from aforo_admin.control.models_plans import State
from aforo_admin.rows import COLUMNS, OF_PLANS, OF_TENANTS, UNORDERED, Key, Rows

# With more, all are read: it costs no more, and no statement grows without bounds.
TENANTS_APART_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Rows, and the database's names for them."""

    rows: Rows
    pks: dict[str, dict[Key, Any]]


@contextlib.contextmanager
def snapshot() -> Iterator[None]:
    """Let all reads see the same instant, without keeping writers waiting."""
    if connection.in_atomic_block:  # Of a change, which is alone anyway.
        yield
        return
    isolation = " ISOLATION LEVEL REPEATABLE READ" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        # Not Django's atomic(), which on SQLite would take the writers' lock.
        cursor.execute(f"BEGIN{isolation}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("COMMIT")


def read_rows(
    tenants: Collection[str] | None,
    draft: tables.PlanVersion | None = None,
    wanted_tables: Collection[str] = tuple(COLUMNS),
) -> Read:
    """Read the rows in force.

    Args:
        tenants: Whose; None: of all.
        draft: What stands in the place of its plan's version in force.
        wanted_tables: The tables to read.
    """
    found = Read(rows={}, pks={})
    if tenants is not None and len(tenants) > TENANTS_APART_MAX:
        tenants = None
    for table in wanted_tables:
        columns, lookups = COLUMNS[table], _key_lookups(table)
        query = _in_force(table, draft)
        if tenants is not None and table in OF_TENANTS:
            query = query.filter(**{f"{lookups[0]}__in": list(tenants)})
        names = list(dict.fromkeys(["pk", *lookups, *_stored(table, columns)]))
        rows, pks = found.rows.setdefault(table, {}), found.pks.setdefault(table, {})
        at = [names.index(lookup) for lookup in lookups]
        wanted = [(name, names.index(name)) for name in _stored(table, columns)]
        for values in query.values_list(*names):
            key = tuple(_hashable(values[index]) for index in at)
            rows[key] = {name: values[index] for name, index in wanted}
            pks[key] = values[0]
    return found


def _in_force(table: str, draft: tables.PlanVersion | None) -> models.QuerySet:
    query = table_of(table).objects.order_by(*([] if table in UNORDERED else ["position", "pk"]))
    if table == "PlanChange":
        query = query.order_by("effective_from")
    if table == "FormerSubscription":
        query = query.order_by("started_at")
    if table not in OF_PLANS:
        return query
    version = "" if table == "PlanVersion" else "version__"
    published = models.Q(**{f"{version}state": State.PUBLISHED})
    if draft is not None:
        others = ~models.Q(**{f"{version}plan_id": draft.plan_id})
        published = (published & others) | models.Q(**{f"{version}pk": draft.pk})
    return query.filter(published)


def _key_lookups(table: str) -> list[str]:
    lookups = table_of(table).key_fields
    # Of a plan's versions, the one in force is the plan.
    return [lookup for lookup in lookups if not (table in OF_PLANS and lookup.endswith("number"))]


def _stored(table: str, columns: Collection[str]) -> list[str]:
    return [*columns, *([] if table in UNORDERED else ["position"])]


def table_of(table: str) -> Any:  # noqa: ANN401 - a class of Django's making.
    """Return the model of a table by its name."""
    return getattr(tables, table)


def _hashable(value: Any) -> Any:  # noqa: ANN401 - a column.
    return tuple(value) if isinstance(value, list) else value
