"""Two people at one form: the second save tells of the first, and keeps what was typed."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from aforo_admin import audit, store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control import users
from aforo_admin.control.models import (
    Credential,
    Deal,
    DealQuota,
    Feature,
    MarginOverride,
    PlanVersion,
    Route,
    Tenant,
    WebhookEndpoint,
)
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from lab.servers import ROOT
from tests.contract.forms_lab import PASSWORD, as_role, faults, filled, page, sent, step

pytestmark = [pytest.mark.contract, pytest.mark.slow]

EXAMPLE = read_file(ROOT / "catalog.example.yaml")
QUOTA = "quotas-0"


@pytest.fixture
def owner(sqlite_database: str) -> Client:  # noqa: ARG001 - Django uses it.
    store.apply_catalog(EXAMPLE, actor="tests")
    with store.change(actor="tests", source=Source.SHELL):
        WebhookEndpoint.objects.create(endpoint_id="books", url_kept_in="env:BOOKS")
    return as_role(Role.OWNER)


@pytest.fixture
def finance(owner: Client) -> Client:  # noqa: ARG001 - the catalog is there before.
    return as_role(Role.FINANCE)


def save(client: Client, path: str, form: dict[str, Any], **typed: object) -> Any:  # noqa: ANN401
    return client.post(f"/admin/control/{path}", {**form, **typed})


def told(answer: Any) -> str:  # noqa: ANN401
    return faults(answer)["__all__"]


def made_user(name: str, role: Role = Role.VIEWER) -> User:
    return users.add(name, role, PASSWORD, actor="tests", source=Source.SHELL, reason="")


def client_of_owner(name: str) -> Client:
    client = Client()
    client.force_login(made_user(name, Role.OWNER))
    return client


def draft_of_pro() -> PlanVersion:
    with store.change(actor="tests", source=Source.SHELL):
        draft: PlanVersion = store.new_draft("pro")
    return draft


def of_form(name: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return where a form is, what one person types there, and what another does."""
    deal, route = Deal.objects.get(deal_id="acme-renewal"), Route.objects.order_by("position")[0]
    override = MarginOverride.objects.get()
    return {
        "draft": (
            f"planversion/{draft_of_pro().pk}/change/",
            {"committed_fee_nanos": "600"},
            {"title": "Typed"},
        ),
        "tenant": ("tenant/acme/change/", {"name": "Acme Inc."}, {"name": "Typed"}),
        "subscription": (
            "tenant/globex/change/",
            {"subscription-0-state": "past_due"},
            {"name": "Typed"},
        ),
        "deal": (
            f"deal/{deal.pk}/change/",
            {"committed_fee_nanos": "40000"},
            {"prepaid_nanos": "5"},
        ),
        "quota": (
            f"deal/{deal.pk}/change/",
            {f"{QUOTA}-limit_units": "3M"},
            {f"{QUOTA}-limit_units": "4M"},
        ),
        "feature": ("feature/chat/change/", {"title": "Chatting"}, {"title": "Typed"}),
        "route": (f"route/{route.pk}/change/", {"weight_units": "7"}, {"weight_units": "8"}),
        "webhook": ("webhookendpoint/books/change/", {"format": "slack"}, {"tenants": "acme"}),
        "override": (
            f"marginoverride/{override.pk}/change/",
            {"reason": "a first reason"},
            {"reason": "Typed"},
        ),
        "general": ("general/1/change/", {"warn_below_bp": "21%"}, {"warn_below_bp": "22%"}),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        *("draft", "tenant", "subscription", "deal", "quota", "feature", "route", "webhook"),
        *("override", "general"),
    ],
)
def test_a_save_over_a_newer_state_is_refused_and_keeps_what_was_typed(
    owner: Client, name: str
) -> None:
    path, theirs, typed = of_form(name)
    opened = filled(owner, path)
    first = sent(owner, path, **theirs, change_reason="first")
    seq = audit.last_seq()

    answer = save(owner, path, opened, **typed, change_reason="second")

    assert first.status_code == 302
    assert told(answer).startswith("owner changed ")
    assert "UTC, after this form was opened (" in told(answer)
    assert "take over here what should stay, and save again" in told(answer)
    assert audit.last_seq() == seq
    text = answer.content.decode()
    assert all(f'value="{value}"' in text or f">{value}<" in text for value in typed.values())


def test_the_message_says_who_changed_what_and_when(owner: Client, finance: Client) -> None:
    path = "tenant/globex/change/"
    opened = filled(owner, path)
    sent(finance, path, name="Globex Inc.", change_reason="renamed")
    changed_at = audit.entries_of(tenant_id="globex", limit=1)
    sent(finance, path, **{"subscription-0-state": "past_due"})

    answer = save(owner, path, opened, name="Typed")

    (first,) = changed_at
    assert f"finance changed globex on {first.at:%Y-%m-%d}" in told(answer)
    assert "(name; subscription: state)" in told(answer).replace("subscription globex: ", "")


def test_saved_again_it_replaces_the_state_that_was_told_of(owner: Client, finance: Client) -> None:
    path = "feature/chat/change/"
    opened = filled(owner, path)
    sent(finance, path, title="Theirs")
    refused = save(owner, path, opened, title="Mine", change_reason="second")
    form = refused.context["adminform"].form
    again = {**opened, "opened_at_change": form["opened_at_change"].value()}

    sent(finance, path, title="Theirs once more")
    third = save(owner, path, again, title="Mine")
    again["opened_at_change"] = third.context["adminform"].form["opened_at_change"].value()
    saved = save(owner, path, again, title="Mine", change_reason="agreed with them")

    assert "finance changed chat" in told(third)
    assert saved.status_code == 302
    assert Feature.objects.get(pk="chat").title == "Mine"


def test_changes_of_others_things_don_t_hold_a_form_up(owner: Client, finance: Client) -> None:
    path = "tenant/acme/change/"
    opened = filled(owner, path)
    sent(finance, "tenant/globex/change/", name="Globex Inc.")
    sent(finance, "feature/chat/change/", title="Chatting")
    deal = Deal.objects.get(deal_id="acme-renewal")
    sent(finance, f"deal/{deal.pk}/change/", committed_fee_nanos="40000")

    assert save(owner, path, opened, name="Typed").status_code == 302


def test_a_row_that_somebody_removed_meanwhile_is_told_in_its_place(
    owner: Client, finance: Client
) -> None:
    deal = Deal.objects.get(deal_id="acme-renewal")
    path = f"deal/{deal.pk}/change/"
    opened = filled(owner, path)
    sent(finance, path, **{f"{QUOTA}-DELETE": "on"}, change_reason="no longer")

    refused = save(owner, path, opened, committed_fee_nanos="40000")
    renewed = refused.context["adminform"].form["opened_at_change"].value()
    again = {**opened, "opened_at_change": renewed, "committed_fee_nanos": "40000"}
    still = save(owner, path, again)
    done = save(owner, path, again, **{f"{QUOTA}-DELETE": "on"})

    assert "quota acme/acme-renewal/batch-calls removed" in told(refused)
    assert "somebody has removed this row meanwhile" in faults(still)[f"{QUOTA}-__all__"]
    assert done.status_code == 302, faults(done)
    assert not DealQuota.objects.filter(deal=deal).exists()
    deal.refresh_from_db()
    assert deal.committed_fee_nanos == 40_000 * 10**9


@pytest.mark.parametrize("given", ["", "x", "-1", "9" * 30, "1²"])
def test_a_form_that_does_not_say_what_it_was_opened_with_is_refused(
    owner: Client, given: str
) -> None:
    opened = {**filled(owner, "feature/chat/change/"), "opened_at_change": given}

    answer = save(owner, "feature/chat/change/", opened, title="Typed")

    assert "does not say which state of chat it was opened with" in told(answer)
    assert Feature.objects.get(pk="chat").title == "Chat completions"


def test_a_draft_is_published_as_it_was_shown(owner: Client, finance: Client) -> None:
    draft = draft_of_pro()
    shown = step(owner, f"planversion/{draft.pk}/publish/")
    sent(finance, f"planversion/{draft.pk}/change/", committed_fee_nanos="1")

    path = f"/admin/control/planversion/{draft.pk}/publish/"
    refused = owner.post(path, shown, follow=True)
    held = store.load_catalog().catalog.plans["pro"]
    done = owner.post(path, step(owner, f"planversion/{draft.pk}/publish/"))

    assert "Nothing was changed: finance changed pro/2 on" in refused.content.decode()
    assert "committed_fee: 500 → 1" in refused.content.decode()
    assert held.committed_fee_nanos == 500 * 10**9
    assert done.status_code == 302
    assert store.load_catalog().catalog.plans["pro"].committed_fee_nanos == 10**9


def test_what_changed_meanwhile_is_not_removed(owner: Client, finance: Client) -> None:
    path = "tenant/initech/delete/"
    shown = step(owner, path)
    sent(finance, "tenant/initech/change/", name="Initech Inc.")

    refused = owner.post(f"/admin/control/{path}", {**shown, "post": "yes"}, follow=True)
    held = Tenant.objects.filter(pk="initech").exists()
    done = owner.post(f"/admin/control/{path}", {**step(owner, path), "post": "yes"})

    assert "Nothing was changed: finance changed initech on" in refused.content.decode()
    assert held
    assert done.status_code == 302
    assert not Tenant.objects.filter(pk="initech").exists()


def of_user(client: Client, pk: int) -> dict[str, str]:
    """Return what a browser would send of a user's form."""
    form = client.get(f"/admin/auth/user/{pk}/change/").context["adminform"].form
    names = ("username", "role", "opened_at_change")
    return {**{name: str(form[name].value()) for name in names}, "is_active": "on"}


def test_a_user_that_another_owner_has_changed_meanwhile_is_told(owner: Client) -> None:
    pk = made_user("dana").pk
    other = client_of_owner("otto")
    path = f"/admin/auth/user/{pk}/change/"
    mine, theirs = of_user(owner, pk), of_user(other, pk)

    first = other.post(path, {**theirs, "role": "finance"})
    refused = owner.post(path, {**mine, "username": "dan"})
    form = refused.context["adminform"].form
    held = User.objects.get(pk=pk)
    kept = (held.username, held.has_perm("control.set_floors"))
    again = {**mine, "username": "dan", "opened_at_change": form["opened_at_change"].value()}
    saved = owner.post(path, again)

    assert first.status_code == 302
    assert "otto changed dana on" in str(form.errors)
    assert "opened (roles): nothing was saved" in str(form.errors)
    assert 'value="dan"' in refused.content.decode()
    assert kept == ("dana", True)
    assert saved.status_code == 302
    assert User.objects.get(pk=pk).username == "dan"
    assert owner.post(path, {**mine, "opened_at_change": ""}).status_code == 200


def test_a_credential_that_is_revoked_twice_is_revoked_once(owner: Client) -> None:
    key = Credential.objects.filter(kind="api_key", tenant_id="acme")[0]
    path = f"/admin/control/credential/{key.pk}/revoke/"
    first = owner.post(path, {"change_reason": "lost"})
    seq = audit.last_seq()

    again = owner.post(path, {"change_reason": "lost, says another"}, follow=True)

    key.refresh_from_db()
    assert first.status_code == 302
    assert "is revoked." in again.content.decode()
    assert key.revoked
    assert audit.last_seq() == seq


@pytest.mark.parametrize("step_of", ["change", "delete"])
def test_a_row_that_is_gone_is_told_with_who_removed_it(
    owner: Client, finance: Client, step_of: str
) -> None:
    deal = Deal.objects.get(deal_id="acme-renewal")
    opened = filled(owner, f"deal/{deal.pk}/change/")
    path = f"/admin/control/deal/{deal.pk}/delete/"
    finance.post(path, {**opened, "post": "yes", "change_reason": "it ended"})
    assert not Deal.objects.filter(pk=deal.pk).exists()

    sent_late = owner.post(
        f"/admin/control/deal/{deal.pk}/{step_of}/", {**opened, "post": "yes"}, follow=True
    )
    said = sent_late.content.decode()

    assert sent_late.redirect_chain == [("/admin/control/deal/", 302)]
    assert "finance removed the deal acme/acme-renewal on " in said
    assert "UTC (“it ended”). Nothing was saved." in said


def test_who_opens_a_form_of_what_is_gone_is_told_so(owner: Client, finance: Client) -> None:
    key = Credential.objects.get(tenant_id="initech")
    finance.post(
        "/admin/control/tenant/initech/delete/",
        {**step(finance, "tenant/initech/delete/"), "post": "yes"},
    )

    of_tenant = owner.get("/admin/control/tenant/initech/change/", follow=True).content.decode()
    of_key = owner.get(f"/admin/control/credential/{key.pk}/revoke/", follow=True)
    strange = owner.get("/admin/control/planversion/4711/change/", follow=True).content.decode()

    assert "finance removed the tenant initech on " in of_tenant
    assert "Nothing was saved" not in of_tenant
    assert "This credential is not there (any more)" in of_key.content.decode()
    assert "This plan version is not there (any more)" in strange


def test_a_draft_that_somebody_has_published_meanwhile_is_told(owner: Client) -> None:
    draft = draft_of_pro()
    shown = step(owner, f"planversion/{draft.pk}/publish/")
    path = f"/admin/control/planversion/{draft.pk}/publish/"
    owner.post(path, shown)

    late = owner.post(path, shown, follow=True).content.decode()

    assert "Nothing was changed: pro/2 is published by now, and no longer a draft." in late


def test_who_only_looks_is_still_sent_away(owner: Client) -> None:
    viewer = as_role(Role.VIEWER)
    opened = filled(owner, "feature/chat/change/")

    assert page(viewer, "feature/chat/change/").status_code == 200
    assert save(viewer, "feature/chat/change/", opened, title="x").status_code == 403
