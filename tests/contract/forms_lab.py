"""Forms of the control plane as a browser fills and sends them, with Django's own client."""

import re
from collections.abc import Mapping
from typing import Any

from django.db import connection
from django.forms import BoundField
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext

from aforo_admin.control import users
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role

PASSWORD = "correct horse battery"
QUERIES_MAX = 30


def as_role(role: Role, name: str = "") -> Client:
    """Return the browser of a new user, who is called like their role if not otherwise."""
    user = users.add(
        name or role.value, role, PASSWORD, actor="tests", source=Source.SHELL, reason=""
    )
    client = Client()
    client.force_login(user)
    return client


def page(client: Client, path: str) -> HttpResponse:
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(f"/admin/control/{path}")
    assert len(queries) < QUERIES_MAX
    return answer


def filled(client: Client, path: str) -> dict[str, Any]:
    """Return what a browser would send if nothing was edited."""
    answer = page(client, path)
    assert answer.status_code == 200, answer.status_code
    context = answer.context
    forms = [context["adminform"].form]
    for each in context["inline_admin_formsets"]:
        forms += [each.formset.management_form, *each.formset.forms]
    found: dict[str, Any] = {}
    for form in forms:
        for bound in form:
            found |= values(bound)
    return found


def values(bound: BoundField) -> dict[str, Any]:
    value = bound.value()
    widgets = getattr(bound.field.widget, "widgets", None)
    if widgets is not None:
        parts = bound.field.widget.decompress(value) if value else [""] * len(widgets)
        return {f"{bound.html_name}_{n}": str(part or "") for n, part in enumerate(parts)}
    if isinstance(value, bool):
        return {bound.html_name: "on"} if value else {}
    return {bound.html_name: "" if value is None else value}


def sent(client: Client, path: str, **changes: object) -> HttpResponse:
    data = {**filled(client, path), **changes}
    return client.post(
        f"/admin/control/{path}", {name: each for name, each in data.items() if each is not None}
    )


def step(client: Client, path: str) -> dict[str, str]:
    """Return what a page that asks before it does something would send, but for the reason."""
    text = page(client, path).content.decode()
    return dict(re.findall(r'<input type="hidden" name="(opened_\w+)" value="(\w*)">', text))


def taken(client: Client, path: str, *, follow: bool = False, **said: str) -> HttpResponse:
    """Do what a page asks about."""
    return client.post(f"/admin/control/{path}", {**step(client, path), **said}, follow=follow)


def faults(answer: HttpResponse) -> Mapping[str, str]:
    """Return what stands at which field of a form that was refused."""
    assert answer.status_code == 200, answer.headers
    form = answer.context["adminform"].form
    found = {name: " ".join(told) for name, told in form.errors.items()}
    for each in answer.context["inline_admin_formsets"]:
        for inline in each.formset.forms:
            found |= {inline.add_prefix(n): " ".join(t) for n, t in inline.errors.items()}
    return found
