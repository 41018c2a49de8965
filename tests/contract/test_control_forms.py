"""The forms as a browser meets them, on a real store: what is refused, where, and what is kept."""

import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from aforo_admin import audit, mint, store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control import navigation, words
from aforo_admin.control.models import (
    AuditEntry,
    CostPrice,
    Credential,
    Deal,
    DealQuota,
    Feature,
    MarginOverride,
    PlanChange,
    PlanVersion,
    Tenant,
)
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from aforo_admin.domain import catalog as parts
from aforo_admin.screens import record
from aforo_authz.domain.access import Level
from aforo_meter.domain.rate_card import PerUnit
from lab.servers import ROOT
from tests.contract.control_lab import use
from tests.contract.forms_lab import PASSWORD, as_role, faults, filled, page, sent, taken

pytestmark = [pytest.mark.contract, pytest.mark.slow]

OTHER = "another horse battery"
EXAMPLE = read_file(ROOT / "catalog.example.yaml")


@pytest.fixture(autouse=True)
def example(sqlite_database: str) -> None:  # noqa: ARG001 - Django uses it.
    store.apply_catalog(EXAMPLE, actor="tests")


@pytest.fixture
def finance() -> Client:
    return as_role(Role.FINANCE)


@pytest.fixture
def product() -> Client:
    return as_role(Role.PRODUCT)


@pytest.fixture
def developer() -> Client:
    return as_role(Role.DEVELOPER)


def last_change() -> AuditEntry:
    entry: AuditEntry = AuditEntry.objects.order_by("-seq")[0]
    return entry


def test_a_change_is_somebody_s_with_a_reason(product: Client) -> None:
    answer = sent(product, "feature/chat/change/", title="Chatting", change_reason="clearer")

    assert answer.status_code == 302
    entry = last_change()
    assert (entry.actor, entry.source, entry.reason) == ("product", "ui", "clearer")
    assert (entry.kind, entry.after) == ("feature", {"title": "Chatting"})


def test_a_floor_above_100_percent_is_refused_at_its_field(finance: Client) -> None:
    seq = audit.last_seq()
    answer = sent(
        finance, "tenant/acme/change/", warn_below_bp="150%", name="Typed", change_reason="x"
    )

    told = faults(answer)
    assert "must be from -10000% to 100%, not 150%" in told["warn_below_bp"]
    assert 'value="150%"' in answer.content.decode()
    assert 'value="Typed"' in answer.content.decode()
    assert audit.last_seq() == seq


def test_a_floor_needs_a_reason(finance: Client) -> None:
    answer = sent(finance, "tenant/acme/change/", block_below_bp="-5%")

    assert faults(answer) == {
        "change_reason": "say why Block below changes: floors change for a reason"
    }


def test_a_floor_that_stays_needs_no_reason(finance: Client) -> None:
    deal = Deal.objects.get(deal_id="acme-renewal")

    assert "block_below_bp" in filled(finance, f"deal/{deal.pk}/change/")
    answer = sent(finance, f"deal/{deal.pk}/change/", committed_fee_nanos="40000")

    assert answer.status_code == 302
    assert last_change().after == {"committed_fee_nanos": 40_000 * 10**9}


def test_overlapping_price_dates_are_refused_at_the_date(finance: Client) -> None:
    held = CostPrice.objects.order_by("position")[0]
    answer = sent(
        finance,
        "costprice/add/",
        meter=held.meter,
        provider=held.provider,
        model=held.model,
        price_nanos="1.25",
        per_units=str(held.per_units),
        effective_from_0=str(held.effective_from.date()),
        effective_from_1=str(held.effective_from.time()),
        input_tokens_from=str(held.input_tokens_from),
    )

    told = faults(answer)
    assert "give it another date" in told["effective_from"]
    assert 'value="1.25"' in answer.content.decode()
    assert "overlaps" in told["effective_from"]


def test_prices_of_overlapping_hours_are_refused_too(finance: Client) -> None:
    price = {
        "meter": "api.calls",
        "provider": "p",
        "price_nanos": "1",
        "per_units": "1",
        "effective_from_0": "2027-01-01",
        "effective_from_1": "00:00:00",
    }
    first = sent(finance, "costprice/add/", **price, day_from_s="00:00", day_to_s="01:00")
    second = sent(finance, "costprice/add/", **price, day_from_s="00:30", day_to_s="02:00")

    assert first.status_code == 302
    assert "overlaps costs[" in faults(second)["effective_from"]
    assert "was added successfully" not in second.content.decode()


def test_hours_of_a_price_are_typed_and_shown_as_a_clock_has_them(finance: Client) -> None:
    price = {
        "meter": "api.calls",
        "price_nanos": "1",
        "per_units": "1",
        "effective_from_0": "2027-01-01",
        "effective_from_1": "00:00:00",
    }
    new = page(finance, "costprice/add/").content.decode()
    wrong = sent(finance, "costprice/add/", **price, day_from_s="22", day_to_s="06:30")
    made = sent(finance, "costprice/add/", **price, day_from_s="22:00", day_to_s="06:30")

    assert new.count('value="00:00"') == 2
    assert "Day from (UTC)" in new
    assert '"22" is no time of the day: write 09:30' in faults(wrong)["day_from_s"]
    assert made.status_code == 302, faults(made)
    row = CostPrice.objects.get(meter="api.calls", day_from_s=22 * 3600)
    assert row.day_to_s == 6 * 3600 + 30 * 60
    shown = page(finance, f"costprice/{row.pk}/change/").content.decode()
    assert "22:00" in shown
    assert "79200" not in shown[shown.index('id="costprice_form"') :]


def test_floors_out_of_order_are_told_where_they_were_changed_in_the_form_s_words(
    finance: Client,
) -> None:
    held = PlanVersion.objects.get(plan_id="pro", state="published")
    finance.post(f"/admin/control/planversion/{held.pk}/copy/")
    draft = PlanVersion.objects.get(plan_id="pro", state="draft")
    path = f"planversion/{draft.pk}/change/"

    floors = sent(finance, path, block_below_bp="15%", change_reason="x")
    guard = sent(finance, path, **{"guards-0-throttle_below_bp": "90%", "change_reason": "x"})

    assert faults(floors) == {
        "block_below_bp": "Block below is 15%, and Throttle below only 10% (Throttle below is not "
        "said here, but inherited): lower Block below to 10% or less, or raise Throttle below to "
        "15% or more"
    }
    told = faults(guard)
    assert "warn_below" not in str(told)
    assert told["guards-0-throttle_below_bp"].startswith("Throttle below is 90%, and Warn below")


def test_shares_of_an_allowance_out_of_order_are_told_where_they_were_changed(
    finance: Client,
) -> None:
    shares = {
        "allowance_warn_at_bp": "80%",
        "allowance_throttle_at_bp": "70%",
        "allowance_block_at_bp": "100%",
    }
    answer = sent(finance, "tenant/acme/change/", **shares, change_reason="x")

    lower = "lower Allowance warn at to 70% or less, or raise Allowance throttle at to 80% or more"
    assert lower in faults(answer)["allowance_throttle_at_bp"]
    assert "allowance_block_at_bp" not in faults(answer)


def test_who_only_looks_has_the_hints_of_who_edits(finance: Client) -> None:
    viewer = as_role(Role.VIEWER)
    for path, hint in (
        ("tenant/acme/change/", "Calls are refused."),
        ("planversion/1/change/", "Per billing period, in the currency below."),
    ):
        assert hint in page(viewer, path).content.decode()
    assert "Calls are refused." in page(finance, "tenant/acme/change/").content.decode()


def test_a_part_that_has_nothing_for_whoever_asks_is_not_in_the_form(
    product: Client, finance: Client
) -> None:
    free = PlanVersion.objects.get(plan_id="free", state="published")
    for path in ("planversion/add/", f"planversion/{free.pk}/change/"):
        assert "Plan guards" not in page(product, path).content.decode()
    assert "Plan guards" in page(finance, "planversion/add/").content.decode()
    guarded = PlanVersion.objects.get(plan_id="pro", state="published")
    assert "Plan guards" in page(product, f"planversion/{guarded.pk}/change/").content.decode()


def test_both_inputs_of_a_time_say_what_they_are_of(finance: Client) -> None:
    shown = page(finance, "costprice/add/").content.decode()

    assert 'aria-label="Effective from (UTC), date"' in shown
    assert 'aria-label="Effective from (UTC), time"' in shown


def test_lists_are_called_as_the_sidebar_calls_them() -> None:
    owner = as_role(Role.OWNER)
    for table in navigation.tables():
        text = owner.get(reverse(table.url_name)).content.decode()
        heading = text[text.index("<h1") : text.index("</h1>")]
        assert re.search(rf">\s*{table.title}\s*</a>", heading), table.title


def test_a_plan_without_a_period_is_refused_at_the_period(product: Client) -> None:
    answer = sent(product, "planversion/add/", plan_id="new", title="New", cadence="")

    assert faults(answer)["cadence"] == (
        "choose month or year: the period that its fee and its quotas are for"
    )


def test_a_quota_without_a_window_is_refused_at_the_window(product: Client) -> None:
    answer = sent(
        product,
        "planversion/add/",
        plan_id="new",
        title="New",
        committed_fee_nanos="5",
        **{"quotas-TOTAL_FORMS": "1", "quotas-0-quota_id": "q", "quotas-0-meter": "api.calls"},
        **{"quotas-0-limit_units": "5"},
    )

    assert "quotas-0-window" in faults(answer)


def test_a_fault_of_a_part_stands_in_its_row(product: Client) -> None:
    answer = sent(
        product,
        "planversion/add/",
        plan_id="new",
        title="New",
        committed_fee_nanos="5",
        features="chatt",
        **{"quotas-TOTAL_FORMS": "2", "quotas-0-quota_id": "q", "quotas-0-meter": "api.calls"},
        **{"quotas-0-limit_units": "5", "quotas-0-window": "day"},
        **{"quotas-1-quota_id": "r", "quotas-1-meter": "api.call", "quotas-1-limit_units": "7"},
        **{"quotas-1-window": "day"},
    )

    told = faults(answer)
    assert set(told) == {"features", "quotas-1-meter"}
    assert 'did you mean "api.calls"' in told["quotas-1-meter"]
    assert not PlanVersion.objects.filter(plan_id="new").exists()


def test_a_credential_that_another_tenant_has_is_refused_at_its_field(developer: Client) -> None:
    held = Credential.objects.filter(kind="api_key", tenant_id="acme")[0]
    answer = sent(
        developer,
        "credential/add/",
        tenant="globex",
        credential_id="again",
        kind="api_key",
        identity=held.identity,
    )

    told = faults(answer)
    assert f"is the credential acme/{held.credential_id} already" in told["identity"]
    assert held.identity not in answer.content.decode()


def test_a_key_that_is_typed_is_neither_taken_nor_shown_again(developer: Client) -> None:
    key = mint.mint_key()
    answer = sent(
        developer,
        "credential/add/",
        tenant="globex",
        credential_id="typed",
        kind="api_key",
        identity=key,
    )

    assert "is no SHA-256" in faults(answer)["identity"]
    assert key not in answer.content.decode()


def test_a_key_is_made_once_shown_once_and_revoked_at_once(developer: Client) -> None:
    made = {"tenant": "globex", "credential_id": "new", "kind": "api_key", "identity": ""}
    answer = sent(developer, "credential/add/", **made)

    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    (key,) = re.findall(r"aforo_[\w-]{32}", answer.content.decode())
    row = Credential.objects.get(tenant_id="globex", credential_id="new")
    assert row.identity == mint.sha256_of_key(key)
    assert row.prefix == key[:12]
    again = sent(developer, "credential/add/", **made)
    assert "already" in str(faults(again))
    assert not re.findall(r"aforo_[\w-]{32}", again.content.decode())
    shown = page(developer, f"credential/{row.pk}/change/").content.decode()
    assert row.prefix in shown
    assert key not in shown
    assert row.identity not in shown
    assert key not in str(list(AuditEntry.objects.values_list("after", "before", "reason")))

    asked = page(developer, f"credential/{row.pk}/revoke/")
    assert "refused within a second" in asked.content.decode()
    developer.post(f"/admin/control/credential/{row.pk}/revoke/", {"change_reason": "lost"})
    row.refresh_from_db()
    assert row.revoked
    assert last_change().reason == "lost"


def test_an_ingest_key_is_made_too(developer: Client) -> None:
    answer = sent(developer, "ingestkey/add/", key_id="bridge", scopes="usage:ingest")

    assert re.findall(r"aforo_[\w-]{32}", answer.content.decode())


def test_a_draft_is_edited_published_and_then_immutable(product: Client) -> None:
    held = PlanVersion.objects.get(plan_id="pro", state="published")
    product.post(f"/admin/control/planversion/{held.pk}/copy/")
    draft = PlanVersion.objects.get(plan_id="pro", state="draft")
    path = f"planversion/{draft.pk}/change/"
    assert sent(product, path, committed_fee_nanos="750.50").status_code == 302

    asked = page(product, f"planversion/{draft.pk}/publish/").content.decode()
    assert "plans.pro.committed_fee: 500 → 750.5" in asked
    done = taken(product, f"planversion/{draft.pk}/publish/", change_reason="Q1")

    assert done.status_code == 302
    assert store.load_catalog().catalog.plans["pro"].committed_fee_nanos == 750_500_000_000
    assert store.load_catalog().catalog.plans["pro"].guards == EXAMPLE.plans["pro"].guards
    assert last_change().reason == "Q1"
    shown = page(product, path).content.decode()
    assert "what it says can&#x27;t change" in shown or "can't change" in shown
    assert "committed_fee_nanos" not in filled(product, path)
    assert product.post(f"/admin/control/{path}", {}).status_code == 403


def test_a_plan_that_tenants_have_is_not_retired(product: Client) -> None:
    held = PlanVersion.objects.get(plan_id="pro", state="published")
    answer = taken(product, f"planversion/{held.pk}/retire/", follow=True)

    assert "Nothing was changed: tenants.globex.subscription.plan" in answer.content.decode()
    assert "pro" in store.load_catalog().catalog.plans


def test_product_sees_floors_and_can_not_set_them(product: Client) -> None:
    path = "tenant/acme/change/"

    assert "Margin floors" in page(product, path).content.decode()
    assert "block_below_bp" not in filled(product, path)
    sent(product, path, name="Acme Inc.", block_below_bp="-50%", shadow="true")
    tenant = Tenant.objects.get(pk="acme")
    assert tenant.name == "Acme Inc."
    assert (tenant.block_below_bp, tenant.shadow) == (None, None)


def test_product_publishes_no_other_floors(finance: Client, product: Client) -> None:
    held = PlanVersion.objects.get(plan_id="pro", state="published")
    finance.post(f"/admin/control/planversion/{held.pk}/copy/")
    draft = PlanVersion.objects.get(plan_id="pro", state="draft")
    sent(finance, f"planversion/{draft.pk}/change/", block_below_bp="-1%", change_reason="a test")

    path = f"planversion/{draft.pk}/publish/"
    refused = taken(product, path, follow=True)
    assert "margin floors are for finance and owners" in refused.content.decode()
    unsaid = taken(finance, path, follow=True)
    assert "say why plan version pro/2: block_below_bp changes" in unsaid.content.decode()
    assert taken(finance, path, change_reason="a test").status_code == 302


def test_an_override_is_finance_s_and_has_a_reason(finance: Client, product: Client) -> None:
    data = {
        "tenant": "initech",
        "level_max": "warn",
        "reason": "a credit note is under way",
        "until_0": "2030-01-01",
        "until_1": "00:00:00",
    }

    assert product.get("/admin/control/marginoverride/add/").status_code == 403
    assert "reason" in faults(sent(finance, "marginoverride/add/", **{**data, "reason": ""}))
    assert sent(finance, "marginoverride/add/", **data).status_code == 302
    assert MarginOverride.objects.get(pk="initech").author == "finance"
    assert last_change().reason == "a credit note is under way"


def test_a_bad_id_of_a_plan_is_told_at_its_field(finance: Client) -> None:
    answer = sent(finance, "planversion/add/", plan_id="Big Plan", title="Big")

    assert '"Big Plan" is no id: use 1 to 64 of' in faults(answer)["plan_id"]


def test_an_exchange_rate_is_called_what_it_is(finance: Client) -> None:
    form = page(finance, "exchangerate/add/").content.decode()
    sent(
        finance,
        "exchangerate/add/",
        currency="CHF",
        rate_nanos="1.12",
        change_reason="x",
        effective_from_0="2030-01-01",
        effective_from_1="00:00:00",
    )

    assert "Rate nanos" not in form
    assert "Worth" in form
    told = {each.name: each.after for each in record.differences(last_change())}
    assert (told["Currency"], told["Worth"]) == ("CHF", "1.12")


def test_an_empty_list_says_what_to_know(finance: Client) -> None:
    empty = page(finance, "webhookendpoint/").content.decode()
    searched = page(finance, "tenant/?q=nobody").content.decode()

    assert "is called default in Alerts" in empty
    assert "Nothing is like that." in searched
    assert "yielded" not in empty + searched


def test_an_override_whose_end_is_past_is_refused_at_its_end(finance: Client) -> None:
    data = {"tenant": "initech", "level_max": "warn", "reason": "x", "until_1": "00:00:00"}
    seq = audit.last_seq()

    answer = sent(finance, "marginoverride/add/", **data, until_0="2020-01-01")

    assert faults(answer) == {
        "until": "2020-01-01 00:00 UTC is past, so the override would do nothing: give a moment "
        "to come; to end one that is in force, remove it"
    }
    assert audit.last_seq() == seq


def test_an_override_that_is_over_is_told_edited_and_removed(finance: Client) -> None:
    over_since(datetime(2020, 1, 1, tzinfo=UTC))
    path = "marginoverride/globex/change/"

    listed = page(finance, "marginoverride/").content.decode()
    edited = sent(finance, path, reason="it was for a week")
    moved = sent(finance, path, until_0="2020-01-02")
    longer = sent(finance, path, until_0="2099-01-01")
    listed_then = page(finance, "marginoverride/").content.decode()

    assert re.findall(r">\s*(over|in force)\s*<", listed) == ["over"]
    assert (edited.status_code, longer.status_code) == (302, 302)
    assert "is past" in faults(moved)["until"]
    assert re.findall(r">\s*(over|in force)\s*<", listed_then) == ["in force"]
    asked = page(finance, "marginoverride/globex/delete/").content.decode()
    assert "<h2>Remove the margin override of globex?</h2>" in asked
    assert ">Remove the margin override of globex</button>" in asked
    removed = taken(finance, "marginoverride/globex/delete/", post="yes", change_reason="tidy")
    assert removed.status_code == 302
    assert not MarginOverride.objects.exists()


def over_since(until: datetime) -> None:
    """Let the example's catalog hold one override, which ended then."""
    override = parts.MarginOverride(level_max=Level.WARN, until=until, reason="x", author="a")
    globex = replace(EXAMPLE.tenants["globex"], margin_override=override)
    others = {name: replace(each, margin_override=None) for name, each in EXAMPLE.tenants.items()}
    store.apply_catalog(replace(EXAMPLE, tenants={**others, "globex": globex}), actor="tests")


def test_a_tenant_and_a_deal_are_made(product: Client) -> None:
    made = sent(
        product,
        "tenant/add/",
        tenant_id="hooli",
        name="Hooli",
        **{"subscription-0-subscription_id": "hooli-1", "subscription-0-plan": "pro"},
        **{"subscription-0-started_at_0": "2026-11-01", "subscription-0-started_at_1": "00:00"},
    )
    assert made.status_code == 302, faults(made)
    deal = {
        "tenant": "hooli",
        "deal_id": "first",
        "committed_fee_nanos": "400",
        "effective_from_0": "2026-12-01",
        "effective_from_1": "00:00",
    }
    wrong = sent(product, "deal/add/", **deal, add_features="chatt")
    right = sent(product, "deal/add/", **deal)
    late = sent(product, "deal/add/", **{**deal, "deal_id": "second"})

    assert 'no feature "chatt"' in faults(wrong)["add_features"]
    assert right.status_code == 302
    assert 'overlaps the deal "first"' in faults(late)["effective_from"]
    assert Deal.objects.filter(tenant_id="hooli").count() == 1


def test_a_rate_card_is_read_and_refused_line_by_line(product: Client) -> None:
    held = PlanVersion.objects.get(plan_id="metered", state="published")
    product.post(f"/admin/control/planversion/{held.pk}/copy/")
    path = f"planversion/{PlanVersion.objects.get(plan_id='metered', state='draft').pk}/change/"
    lines = filled(product, path)["rate_cards-0-components"]
    same = sent(product, path)
    no_json = sent(product, path, **{"rate_cards-0-components": "[{"})
    wrong = sent(product, path, **{"rate_cards-0-components": lines.replace('"per"', '"pro"', 1)})

    assert lines.startswith('[\n  {\n    "id": ')
    assert same.status_code == 302
    told = faults(no_json)["rate_cards-0-components"]
    assert "can't be read (line 1: " in told
    assert f"write a line for each, like {words.EXAMPLES['components']}" in told
    assert "components[0].graduated[1].pro: no field" in faults(wrong)["rate_cards-0-components"]


def test_lines_are_read_as_the_help_beside_them_writes_them(product: Client) -> None:
    held = PlanVersion.objects.get(plan_id="metered", state="published")
    product.post(f"/admin/control/planversion/{held.pk}/copy/")
    draft = PlanVersion.objects.get(plan_id="metered", state="draft")
    path = f"planversion/{draft.pk}/change/"
    lines, tiers = words.EXAMPLES["components"], words.TIERS
    shown = unescape(page(product, path).content.decode())

    saved = sent(
        product,
        path,
        **{"rate_cards-0-components": f"{lines}\n{tiers}"},
        **{"rate_cards-0-discounts": words.EXAMPLES["discounts"]},
        **{"rate_cards-1-components": '{"id": "one", "meter": "api.calls", "price": 0.125}'},
    )
    again = filled(product, path)
    seq = audit.last_seq()
    same = sent(product, path)

    assert lines in shown
    assert tiers in shown
    assert (saved.status_code, same.status_code) == (302, 302)
    assert audit.last_seq() == seq
    assert again["rate_cards-1-discounts"] == ""
    first, second = store.load_with_draft(draft).plans["metered"].rate_cards
    assert [each.component_id for each in first.components] == ["calls", "tokens"]
    assert first.components[0].included_units == 1000
    assert len(first.discounts) == 1
    assert second.components[0].pricing == PerUnit(price_nanos=125_000_000, per_units=1)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("calls", "is no list of lines"),
        ("[1, 2]", "is no list of lines"),
        ("- {id: calls, meter: }", "line 1: a field has no value"),
        ("- {id: a, id: b}", "can't be read (line 1: "),
        ("- {id: calls", "can't be read (line"),
    ],
)
def test_what_is_no_line_is_told_with_one_that_is(product: Client, typed: str, told: str) -> None:
    held = PlanVersion.objects.get(plan_id="metered", state="published")
    product.post(f"/admin/control/planversion/{held.pk}/copy/")
    path = f"planversion/{PlanVersion.objects.get(plan_id='metered', state='draft').pk}/change/"

    answer = sent(product, path, **{"rate_cards-0-components": typed})

    said = faults(answer)["rate_cards-0-components"]
    assert told in said
    assert words.EXAMPLES["components"] in said
    assert typed in unescape(answer.content.decode())


def test_a_tenant_that_changed_its_plan_often_takes_no_more_queries(product: Client) -> None:
    with store.change(actor="tests", source=Source.SHELL):
        for month in range(1, 13):
            for day in (1, 11, 21):
                PlanChange.objects.create(
                    tenant_id="globex",
                    plan_id="pro",
                    effective_from=datetime(2028, month, day, tzinfo=UTC),
                )

    assert page(product, "tenant/globex/change/").status_code == 200


def test_a_fault_of_what_has_a_form_of_its_own_is_told_with_its_place(product: Client) -> None:
    with store.change(actor="tests", source=Source.SHELL):
        deal = Deal.objects.create(
            tenant_id="globex", deal_id="more", effective_from=datetime(2026, 5, 1, tzinfo=UTC)
        )
        quota_id = EXAMPLE.plans["pro"].quotas[0].quota_id
        DealQuota.objects.create(deal=deal, quota_id=quota_id, unlimited=True)
    answer = sent(
        product, "tenant/globex/change/", **{"subscription-0-plan": "pilot", "change_reason": "x"}
    )

    told = faults(answer)["__all__"]
    assert "tenants.globex.deals[0].quotas[0].id: " in told
    assert Tenant.objects.get(pk="globex").subscription.plan_id == "pro"


def test_another_plan_that_lets_more_pass_takes_a_reason(product: Client) -> None:
    path, pilot = "tenant/globex/change/", {"subscription-0-plan": "pilot"}

    refused = faults(sent(product, path, **pilot))
    unchanged = Tenant.objects.get(pk="globex").subscription.plan_id
    sent(product, path, **pilot, change_reason="they try it out")

    assert "with the plan pilot, it is in shadow mode" in refused["change_reason"]
    assert unchanged == "pro"
    assert Tenant.objects.get(pk="globex").subscription.plan_id == "pilot"


def test_a_fault_of_a_part_alone_is_refused_with_the_form(finance: Client) -> None:
    held = PlanVersion.objects.get(plan_id="pro", state="published")
    finance.post(f"/admin/control/planversion/{held.pk}/copy/")
    draft = PlanVersion.objects.get(plan_id="pro", state="draft")
    answer = sent(
        finance,
        f"planversion/{draft.pk}/change/",
        **{"guards-0-warn_below_bp": "200%", "change_reason": "x"},
    )

    told = faults(answer)
    assert "not 200%" in told["guards-0-warn_below_bp"]
    assert "nothing was saved" in told["__all__"]


def test_a_removal_is_asked_for_recorded_and_refused_where_it_breaks_a_rule(
    product: Client,
) -> None:
    asked = page(product, "feature/chat/delete/").content.decode()
    refused = taken(product, "feature/chat/delete/", post="yes", follow=True)
    sent(product, "feature/add/", feature_id="spare", title="Spare")
    taken(product, "feature/spare/delete/", post="yes", change_reason="unused")

    assert "Reason, for the record" in asked
    assert "no feature &quot;chat&quot;" in refused.content.decode()
    assert Feature.objects.filter(pk="chat").exists()
    assert not Feature.objects.filter(pk="spare").exists()
    assert last_change().reason == "unused"


def test_a_tenant_is_removed_with_all_that_is_its_and_a_floor_only_by_finance(
    product: Client, finance: Client
) -> None:
    deal = Deal.objects.get(tenant_id="acme")
    path = f"deal/{deal.pk}/delete/"
    refused = taken(product, path, post="yes", follow=True)
    assert "margin floors are for finance and owners" in refused.content.decode()
    unsaid = taken(finance, path, post="yes", follow=True)
    assert "floors and overrides change for a reason" in unsaid.content.decode()
    assert taken(finance, path, post="yes", change_reason="it ended").status_code == 302

    assert taken(product, "tenant/acme/delete/", post="yes").status_code == 302
    assert sorted(store.load_catalog().catalog.tenants) == ["globex", "initech", "umbrella"]


def test_a_viewer_sees_everything_and_saves_nothing() -> None:
    viewer = as_role(Role.VIEWER)
    for path in ("tenant/acme/change/", "planversion/1/change/", "general/1/change/"):
        assert page(viewer, path).status_code == 200
        assert viewer.post(f"/admin/control/{path}", {"title": "x"}).status_code == 403
    assert viewer.get("/admin/control/tenant/add/").status_code == 403
    assert viewer.get("/admin/auth/user/").status_code == 403


def test_an_owner_makes_users_and_that_is_recorded() -> None:
    owner = as_role(Role.OWNER)
    answer = owner.post(
        "/admin/auth/user/add/",
        {
            "username": "dana",
            "role": "finance",
            "usable_password": "true",
            "password1": PASSWORD,
            "password2": PASSWORD,
        },
    )

    assert answer.status_code == 302, answer.context["adminform"].form.errors
    dana = User.objects.get(username="dana")
    assert dana.is_staff
    assert dana.has_perm("control.set_floors")
    entry = last_change()
    assert (entry.kind, entry.name, entry.actor) == ("user", "dana", "owner")
    assert entry.after["roles"] == ["finance"]
    other = {"usable_password": "true", "password1": PASSWORD * 2, "password2": PASSWORD * 2}
    assert owner.post(f"/admin/auth/user/{dana.pk}/password/", other).status_code == 302
    assert User.objects.get(username="dana").check_password(PASSWORD * 2)
    assert last_change().after == {"password": "another"}
    opened = {"username": "dana", "role": "viewer", "opened_at_change": str(audit.last_seq())}
    owner.post(f"/admin/auth/user/{dana.pk}/change/", opened)
    dana = User.objects.get(username="dana")
    assert not dana.is_active
    assert not dana.has_perm("control.set_floors")
    assert last_change().before["roles"] == ["finance"]


def test_an_owner_makes_users_before_there_is_a_catalog(empty_control_file: Path) -> None:
    use(f"sqlite:///{shutil.copy(empty_control_file, empty_control_file.with_name('none.db'))}")
    owner = as_role(Role.OWNER)
    passwords = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    answer = owner.post(
        "/admin/auth/user/add/", {"username": "dana", "role": "finance", **passwords}
    )

    assert answer.status_code == 302
    assert last_change().name == "dana"


def test_who_changes_their_own_password_is_on_the_record(developer: Client) -> None:
    seq = audit.last_seq()
    wrong = {"old_password": "x", "new_password1": OTHER, "new_password2": OTHER}
    assert developer.post("/admin/password_change/", wrong).status_code == 200
    assert audit.last_seq() == seq

    answer = developer.post("/admin/password_change/", {**wrong, "old_password": PASSWORD})

    assert answer.status_code == 302
    entry = last_change()
    assert (entry.kind, entry.name, entry.actor) == ("user", "developer", "developer")
    assert entry.after == {"password": "another"}
