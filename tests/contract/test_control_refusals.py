"""Links lead where whoever sees them may go; who goes elsewhere is told why, within the frame."""

import re
from collections.abc import Iterator
from html import unescape
from urllib.parse import urljoin, urlsplit

import pytest
from django.test import Client

from aforo_admin import store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control.roles import Role
from lab.servers import ROOT
from tests.contract.forms_lab import as_role

pytestmark = [pytest.mark.contract, pytest.mark.slow]

BEGIN = ("/admin/overview/", "/admin/margins/initech/", "/admin/margins/acme/")
SORTED = re.compile(r"[?&](o|p|e)=|/logout/|/jsi18n/")


@pytest.fixture(autouse=True)
def example(sqlite_database: str) -> None:  # noqa: ARG001 - Django uses it.
    store.apply_catalog(read_file(ROOT / "catalog.example.yaml"), actor="tests")


def links(client: Client, begin: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
    """Follow all links of the admin; yield each with the page that has it, and its status."""
    found: dict[str, str] = dict.fromkeys(begin, "")
    waiting = list(begin)
    while waiting:
        link = waiting.pop()
        answer = client.get(link)
        yield found[link], link, answer.status_code
        if answer.status_code != 200 or "html" not in answer.headers["content-type"]:
            continue
        for href in re.findall(r'<a[^>]*\shref="([^"#]+)"', answer.content.decode()):
            there = urljoin(link, unescape(href))
            kind = re.sub(r"=[^&]*", "=", there)
            is_page = urlsplit(there).path.startswith("/admin/") and not SORTED.search(there)
            if is_page and kind not in found and there not in found:
                found[kind] = found[there] = link
                waiting.append(there)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.PRODUCT, Role.DEVELOPER])
def test_no_link_leads_to_what_a_role_may_not_see(role: Role) -> None:
    followed = list(links(as_role(role), BEGIN))

    assert len(followed) > 40
    assert [each for each in followed if each[2] >= 400] == []


def test_who_may_not_is_told_why_within_the_frame() -> None:
    answer = as_role(Role.VIEWER).get("/admin/control/deal/add/?tenant=acme")
    text = answer.content.decode()

    assert answer.status_code == 403
    assert "You are viewer, and this is for other roles" in text
    assert "docs/roles.md" in text
    assert 'href="/admin/overview/"' in text
    assert 'href="/admin/control/tenant/"' in text  # The menu.
    assert_clean(text)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/admin/margins/nobody/", "There is no tenant nobody."),
        ("/admin/nowhere/", "Nothing is at this address"),
        ("/nowhere/", "Nothing is at this address"),
    ],
)
def test_what_is_not_there_is_told_within_the_frame(path: str, told: str) -> None:
    answer = as_role(Role.VIEWER).get(path)
    text = answer.content.decode()

    assert answer.status_code == 404
    assert told in text
    assert 'href="/admin/control/tenant/"' in text
    assert_clean(text)


def test_who_has_not_signed_in_is_told_no_more_than_where_to() -> None:
    answer = Client().get("/nowhere/")
    text = answer.content.decode()

    assert answer.status_code == 404
    assert 'href="/admin/login/"' in text
    assert 'href="/admin/control/tenant/"' not in text
    assert_clean(text)


def test_a_form_of_another_site_is_refused_within_the_frame() -> None:
    known = as_role(Role.OWNER)
    careful = Client(enforce_csrf_checks=True)
    careful.cookies = known.cookies

    answer = careful.post("/admin/control/feature/add/", {"feature_id": "x"})

    assert answer.status_code == 403
    assert "Open the page again, and send it from there." in answer.content.decode()
    assert 'href="/admin/control/tenant/"' in answer.content.decode()
    assert_clean(answer.content.decode())


def test_an_address_of_the_api_is_answered_as_a_problem() -> None:
    answer = Client().get("/api/v2/nowhere")

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def assert_clean(text: str) -> None:
    """Nothing that the content security policy refuses."""
    assert not re.findall(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=", text)
