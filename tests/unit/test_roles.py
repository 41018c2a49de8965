"""The table of roles: complete, and what docs/roles.md shows."""

import re

import pytest
from django.apps import apps

from aforo_admin.control import roles
from aforo_admin.control.roles import Role
from lab.servers import ROOT
from tests.contract import control_lab  # noqa: F401 - it sets Django up.


def test_the_document_shows_the_table() -> None:
    page = (ROOT / "docs" / "roles.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| (.*) \|$", page, re.MULTILINE)

    shown = {what: [cell.strip() == "yes" for cell in cells.split("|")] for what, cells in rows}

    assert shown == {area.what: [roles.may(role, area) for role in Role] for area in roles.AREAS}


def test_every_table_of_the_catalog_is_in_one_area() -> None:
    from aforo_admin.control.models_base import Recorded  # noqa: PLC0415 - once it is set up.

    listed = [table for area in roles.AREAS for table in area.tables]
    there = {
        model._meta.model_name
        for model in apps.get_app_config("control").get_models()
        if issubclass(model, Recorded)
    }

    assert len(listed) == len(set(listed))
    # Scenarios are kept beside the catalog; tokens are owners' alone, by command.
    assert set(listed) == (there - {"apitoken"}) | {"scenario"}


@pytest.mark.parametrize("role", Role)
def test_only_finance_and_owners_touch_floors_and_overrides(role: Role) -> None:
    floors = {"control.set_floors", "control.add_marginoverride", "control.change_dealguard"}

    assert bool(roles.permissions(role) & floors) == (role in {Role.FINANCE, Role.OWNER})
    assert floors <= roles.permissions(role) or role not in {Role.FINANCE, Role.OWNER}


def test_a_viewer_changes_nothing() -> None:
    assert all(name.startswith("control.view_") for name in roles.permissions(Role.VIEWER))


def test_an_owner_may_do_all_that_others_may() -> None:
    everything = frozenset().union(*(roles.permissions(role) for role in Role))

    assert roles.permissions(Role.OWNER) == everything
