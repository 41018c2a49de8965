"""Lists are asked for what their filters ask for, whatever stands in the address."""

import re
from html import unescape

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from aforo_admin import store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control.roles import Role
from lab.servers import ROOT
from tests.contract.forms_lab import as_role

pytestmark = [pytest.mark.contract, pytest.mark.slow]


@pytest.fixture
def owner(sqlite_database: str) -> Client:  # noqa: ARG001 - Django uses it.
    store.apply_catalog(read_file(ROOT / "catalog.example.yaml"), actor="tests")
    return as_role(Role.OWNER)


def lists() -> list[tuple[str, str]]:
    """Return each list's address, and the column that names its rows."""
    return [
        (
            reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist"),
            model._meta.pk.name,
        )
        for model in admin.site._registry
    ]


def test_no_list_compares_by_what_an_address_brings(owner: Client) -> None:
    """A regular expression may take a process's whole time, and hold its interpreter meanwhile."""
    assert len(lists()) > 10
    for address, column in lists():
        for lookup in (f"{column}__regex", f"{column}__iregex", f"{column}__startswith", "hash"):
            said = owner.get(address, {lookup: "("})

            assert said.status_code == 400, (address, lookup)


def test_the_filters_of_a_list_lead_somewhere(owner: Client) -> None:
    links = set()
    for address, _ in lists():
        page = owner.get(address).content.decode()
        found = re.findall(r'href="(\?[^"]*)"', page)
        links |= {address + unescape(link) for link in found if "=" in link}
    filters = {link for link in links if "__" in link}

    assert len(filters) > 10
    assert {link: code for link in links if (code := owner.get(link).status_code) != 200} == {}
