"""Drafts of plans, from what the catalog says of a plan. store.py publishes them."""

from typing import Any

from django.db import models

from aforo_admin.control import models as tables
from aforo_admin.domain.catalog import Plan
from aforo_admin.rows import OF_PLANS, rows_of_plan
from aforo_admin.store import add_parts


def write_draft(plan: Plan, number: int | None = None) -> tables.PlanVersion:
    """Keep what a plan could be as a draft, within a change.

    Args:
        plan: What it says.
        number: Of the draft whose place it takes; None: it is a further version.
    """
    rows = rows_of_plan(plan)
    held, _ = tables.Plan.objects.get_or_create(pk=plan.plan_id)
    if number is None:
        number = (held.versions.aggregate(last=models.Max("number"))["last"] or 0) + 1
        version = tables.PlanVersion(plan=held, number=number)
    else:
        version = held.versions.get(number=number)
    for name, value in rows["PlanVersion"][(plan.plan_id,)].items():
        setattr(version, name, value)
    version.save()
    for table in OF_PLANS[1:]:
        _table(table).objects.filter(version=version).delete()
    add_parts(version, rows)
    return version


def _table(name: str) -> Any:  # noqa: ANN401 - a class of Django's making.
    return getattr(tables, name)
