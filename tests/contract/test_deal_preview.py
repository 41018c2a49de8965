"""A deal is tried from its form: what it would have done is shown, and nothing is saved."""

import re
from dataclasses import replace
from typing import Any

import pytest
from django.test import Client, override_settings

from aforo_admin import audit, store
from aforo_admin.control.models import Deal, DealQuota
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from aforo_admin.domain.catalog import Deal as Agreed
from aforo_admin.places import Places
from aforo_admin.previews import preview_deal
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.rate_card import Component, PerUnit, RateCard
from tests.contract.forms_lab import faults, filled, sent
from tests.contract.test_what_if_pages import World, world  # noqa: F401 - a fixture.
from tests.contract.what_if_lab import NOW

pytestmark = [pytest.mark.contract, pytest.mark.slow]

BEGIN = "2030-01-01"
DEAL = {
    "tenant": "acme",
    "deal_id": "renewal",
    "effective_from_0": BEGIN,
    "effective_from_1": "00:00:00",
    "committed_fee_nanos": "12",
}
QUOTA = {
    "quotas-TOTAL_FORMS": "1",
    "quotas-0-quota_id": "calls",
    "quotas-0-meter": "api.calls",
    "quotas-0-limit_units": "5k",
    "quotas-0-window": "month",
}
TRY = {"_preview": "1"}


def words(answer: Any) -> str:  # noqa: ANN401 - a response.
    return " ".join(re.sub(r"<[^>]*>", " ", answer.content.decode()).split())


def test_a_new_deal_shows_price_level_and_quota_and_is_not_saved(
    world: World,  # noqa: F811 - the fixture.
) -> None:
    """A fee of $12 instead of $20, COGS of $11.10: a margin of 7.5 %, below 15 %."""
    seq = audit.last_seq()
    shown = sent(world.client, "deal/add/", **DEAL, **QUOTA, **TRY)
    held = (audit.last_seq(), Deal.objects.exists(), DealQuota.objects.exists())
    saved = sent(world.client, "deal/add/", **DEAL, **QUOTA)

    assert faults(shown) == {}
    assert "Nothing is saved yet: save it if this is what you want." in words(shown)
    assert "tenants.acme.deals" in words(shown)
    assert "as if renewal had held in all of it, and no other deal" in words(shown)
    assert "acme 20.00 → 12.00 44.50 % → 7.50 % none → throttle L2" in words(shown)
    assert "calls" in words(shown)[words(shown).index("throttle L2") :]
    assert 'value="renewal"' in shown.content.decode()
    assert held == (seq, False, False)
    assert saved.status_code == 302
    assert Deal.objects.get().committed_fee_nanos == 12 * 10**9


def test_an_edit_is_tried_from_its_form_and_then_saved(
    world: World,  # noqa: F811 - the fixture.
) -> None:
    with store.change(actor="tests", source=Source.SHELL):
        deal = Deal.objects.create(tenant_id="acme", deal_id="renewal", effective_from=NOW)
    path = f"deal/{deal.pk}/change/"

    shown = sent(world.client, path, committed_fee_nanos="10", **TRY)
    deal.refresh_from_db()
    unsaved = deal.committed_fee_nanos
    again = {
        **filled(world.client, path),
        "committed_fee_nanos": "10",
        "opened_at_change": shown.context["adminform"].form["opened_at_change"].value(),
    }
    saved = world.client.post(f"/admin/control/{path}", again)

    assert "20.00 → 10.00" in words(shown)
    assert "none → block L3" in words(shown)
    assert 'value="10"' in shown.content.decode()
    assert unsaved is None
    assert saved.status_code == 302


def test_a_first_deal_of_who_has_used_nothing_shows_fee_allowance_and_quota(
    world: World,  # noqa: F811 - the fixture.
) -> None:
    newco = replace(
        world.catalog.tenants["acme"],
        tenant_id="newco",
        subscription=replace(world.catalog.tenants["acme"].subscription, subscription_id="sub-2"),
    )
    catalog = replace(world.catalog, tenants={**world.catalog.tenants, "newco": newco})
    store.apply_catalog(catalog, actor="tests")
    deal = {**DEAL, "tenant": "newco"}
    free = {**deal, "committed_fee_nanos": "0", "allowance_nanos": "3.50"}

    dearer = words(sent(world.client, "deal/add/", **deal, **QUOTA, **TRY))
    freed = words(sent(world.client, "deal/add/", **free, **TRY))
    with override_settings(AFORO_PLACES=Places()):
        blind = words(sent(world.client, "deal/add/", **deal, **TRY))

    assert "Committed fee 20.00 USD → 12.00 USD" in dearer
    assert "Quotas calls: none → 5,000 a month" in dearer
    assert "No usage is recorded in it yet" in dearer
    assert "Nobody would have had" not in dearer
    assert "Committed fee 20.00 USD → none Allowance none → 3.50 USD" in freed
    assert "Committed fee 20.00 USD → 12.00 USD" in blind


def test_what_would_be_refused_is_told_at_its_field(
    world: World,  # noqa: F811 - the fixture.
) -> None:
    until = {"effective_until_0": "2029-01-01", "effective_until_1": "00:00:00"}
    wrong = sent(world.client, "deal/add/", **DEAL, **until, **TRY)
    unsaid = sent(world.client, "deal/add/", **DEAL, block_below_bp="1%", **TRY)
    seq = audit.last_seq()

    assert "effective_until" in faults(wrong)
    assert "change_reason" in faults(unsaid)
    assert "What changes" not in words(wrong) + words(unsaid)
    assert not Deal.objects.exists()
    assert audit.last_seq() == seq


def test_without_a_ledger_it_says_what_is_missing(
    world: World,  # noqa: F811 - the fixture.
) -> None:
    with override_settings(AFORO_PLACES=Places()):
        shown = sent(world.client, "deal/add/", **DEAL, **TRY)

    assert "No preview: " in words(shown)
    assert "set AFORO_ADMIN_LEDGER_URL" in words(shown)
    assert not Deal.objects.exists()


def test_who_may_make_no_deal_tries_none(world: World) -> None:  # noqa: F811 - the fixture.
    viewer: Client = world.as_role(Role.VIEWER)
    with store.change(actor="tests", source=Source.SHELL):
        deal = Deal.objects.create(tenant_id="acme", deal_id="renewal", effective_from=NOW)
    path = f"/admin/control/deal/{deal.pk}/change/"

    assert "Preview: what would it have done?" not in words(viewer.get(path))
    assert viewer.post(path, TRY).status_code == 403
    assert viewer.post("/admin/control/deal/add/", {**DEAL, **TRY}).status_code == 403
    assert "Preview: what would it have done?" in words(world.client.get(path))


def test_a_rate_card_to_come_is_taken_as_begun(world: World) -> None:  # noqa: F811
    """Ten hours of 100 tokens at $0.01: $10 beside the fee."""
    component = Component(
        component_id="tokens",
        meter="llm.input_tokens",
        pricing=PerUnit(price_nanos=10_000_000, per_units=1),
    )
    card = RateCard(effective_from_micros=micros_of(NOW) * 2, components=(component,))
    deal = Agreed(deal_id="renewal", effective_from=NOW, rate_cards=(card,))

    (moved,) = preview_deal("acme", deal, world.ground).moved

    brought_nanos = moved.outcome.replayed.revenue_nanos - moved.outcome.recorded.revenue_nanos
    assert brought_nanos == 10 * 10**9
    assert moved.outcome.replayed.level is Level.NONE
