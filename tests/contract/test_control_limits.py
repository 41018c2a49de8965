"""Limits of quotas in the forms: amounts where the meter is money, units elsewhere."""

import pytest
from django.test import Client

from aforo_admin import store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control.models import Deal, DealQuota, PlanQuota, PlanVersion
from aforo_admin.control.roles import Role
from lab.servers import ROOT
from tests.contract.forms_lab import as_role, faults, page, sent, taken

pytestmark = [pytest.mark.contract, pytest.mark.slow]

PLAN = {"plan_id": "new", "title": "New", "committed_fee_nanos": "5", "quotas-TOTAL_FORMS": "1"}
QUOTA = {"quotas-0-quota_id": "q", "quotas-0-window": "day"}


@pytest.fixture
def product(sqlite_database: str) -> Client:  # noqa: ARG001 - Django uses it.
    store.apply_catalog(read_file(ROOT / "catalog.example.yaml"), actor="tests")
    return as_role(Role.PRODUCT)


@pytest.mark.parametrize(
    ("meter", "typed", "limit_units", "shown"),
    [
        ("money.cogs", "50.25", 50_250_000_000, "50.25"),
        ("api.calls", "5k", 5000, "5000"),
        ("api.calls", "0", 0, "0"),
    ],
)
def test_a_limit_is_of_what_its_meter_counts(
    product: Client, meter: str, typed: str, limit_units: int, shown: str
) -> None:
    limit = {"quotas-0-meter": meter, "quotas-0-limit_units": typed}
    answer = sent(product, "planversion/add/", **PLAN, **QUOTA, **limit)

    assert answer.status_code == 302
    draft = PlanVersion.objects.get(plan_id="new")
    assert PlanQuota.objects.get(version=draft).limit_units == limit_units
    path = f"planversion/{draft.pk}/change/"
    assert f'value="{shown}"' in page(product, path).content.decode()
    taken(product, f"planversion/{draft.pk}/publish/")
    read = page(product, path).content.decode()
    assert "This version is published" in read
    assert f">{shown}<" in "".join(read.split())


@pytest.mark.parametrize(
    ("meter", "typed", "told"),
    [
        ("money.cogs", "a lot", "is no amount"),
        ("money.cogs", "-1", "at least 0"),
        ("api.calls", "1.5", "is no whole number"),
        ("api.calls", "", "required"),
    ],
)
def test_a_wrong_limit_is_told_at_its_field_and_kept(
    product: Client, meter: str, typed: str, told: str
) -> None:
    limit = {"quotas-0-meter": meter, "quotas-0-limit_units": typed}
    answer = sent(product, "planversion/add/", **PLAN, **QUOTA, **limit)

    assert told in faults(answer)["quotas-0-limit_units"]
    assert f'value="{typed}"' in answer.content.decode() or not typed


def test_a_deal_s_limit_may_be_left_to_the_plan_or_be_an_amount(product: Client) -> None:
    deal = {
        "tenant": "globex",
        "deal_id": "d",
        "effective_from_0": "2027-01-01",
        "effective_from_1": "00:00:00",
        "quotas-TOTAL_FORMS": "2",
        "quotas-0-quota_id": "calls-per-minute",
        "quotas-0-soft": "true",
        "quotas-1-quota_id": "spend",
        "quotas-1-meter": "money.cogs",
        "quotas-1-limit_units": "0.000000001",
        "quotas-1-window": "day",
    }
    answer = sent(product, "deal/add/", **deal)

    assert answer.status_code == 302
    rows = DealQuota.objects.filter(deal=Deal.objects.get(deal_id="d")).order_by("position")
    assert [(row.limit_units, row.soft) for row in rows] == [(None, True), (1, None)]
    again = page(product, f"deal/{rows[0].deal_id}/change/").content.decode()
    assert "as the plan says" in again
    assert 'value="0.000000001"' in again


def test_a_choice_without_a_default_is_not_made_for_people(product: Client) -> None:
    text = page(product, "planversion/add/").content.decode()
    start = text.index('name="quotas-__prefix__-window"')

    assert text.index('<option value="" selected>', start) < text.index("minute", start)
