"""Another subscription, or another start: what the one before bills stays, and floors hold."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aforo_admin import store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control.models import Subscription as Row
from aforo_admin.control.roles import Role
from aforo_admin.domain.catalog import Subscription
from aforo_admin.faults import CatalogError
from lab.servers import ROOT
from tests.contract.forms_lab import as_role, faults, sent
from tests.contract.rest_lab import ANY, Api, api_of, applied, forget_failures

pytestmark = [pytest.mark.contract, pytest.mark.slow]

EXAMPLE = read_file(ROOT / "catalog.example.yaml")
PATH = "/tenants/globex/subscription"
FORM = "tenant/globex/change/"
WHY = {"X-Aforo-Reason": "they renewed"}
NOW = datetime.now(UTC).replace(microsecond=0)
ANEW = "the margin is measured anew, from "


@pytest.fixture(autouse=True)
def example(database: str) -> None:  # noqa: ARG001 - Django uses it.
    forget_failures()
    applied()


def held() -> Subscription:
    return store.load_catalog().catalog.tenants["globex"].subscription


def refused(api: Api, body: Any, **why: str) -> tuple[int, list[str], str]:  # noqa: ANN401 - JSON.
    before = held()
    said = api.put(PATH, body, {**ANY, **why})
    assert held() == before
    fields = [each["field"] for each in said.body.get("errors", [])]
    return said.status, fields, str(said.body)


@pytest.mark.parametrize(
    "other",
    [
        {"id": "sub-new", "started_at": f"{NOW:%Y-%m-%dT%H:%M:%SZ}"},
        {"started_at": f"{NOW:%Y-%m-%dT%H:%M:%SZ}"},
        {"started_at": "2027-03-31"},
    ],
)
def test_a_margin_is_measured_anew_by_who_may_set_floors_and_for_a_reason(
    other: dict[str, str],
) -> None:
    owner, product = api_of(Role.OWNER), api_of(Role.PRODUCT)
    body = {**owner.get(PATH).body, **other}

    status, _, text = refused(product, body, **WHY)
    assert status == 403
    assert "margin floors are for finance and owners" in text
    status, fields, text = refused(owner, body)
    assert (status, fields) == (422, ["X-Aforo-Reason"])
    assert ANEW in text


def test_a_start_that_leaves_the_period_as_it_is_is_the_product_s() -> None:
    product = api_of(Role.PRODUCT)
    body = product.get(PATH).body

    assert product.put(PATH, {**body, "started_at": "2026-01-31"}).status == 200


def test_a_subscription_that_bills_is_not_lost_with_its_id() -> None:
    finance = api_of(Role.FINANCE)
    body = {**finance.get(PATH).body, "id": "sub-new"}

    status, fields, text = refused(finance, body, **WHY)

    assert (status, fields) == (422, ["id"])
    assert '"globex-1" would be gone, and with it what it bills' in text


def test_one_that_ended_is_kept_beside_the_next() -> None:
    finance = api_of(Role.FINANCE)
    tenant = finance.get("/tenants/globex").body
    ended = {**tenant["subscription"], "ended_at": f"{NOW:%Y-%m-%dT%H:%M:%SZ}"}
    following = {"id": "globex-2", "plan": "pro", "started_at": ended["ended_at"]}
    moved = {**tenant, "former_subscriptions": [ended], "subscription": following}

    said = finance.put("/tenants/globex", moved, {**ANY, **WHY})

    assert said.status == 200, said.body
    assert said.body["former_subscriptions"][0]["id"] == "globex-1"


def test_one_that_is_over_has_no_margin_to_be_measured_anew() -> None:
    """It is served no more, so another one lets nothing pass that its margin would stop."""
    product = api_of(Role.PRODUCT)
    yesterday = f"{NOW - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
    tenant = product.get("/tenants/globex").body
    ended = {**tenant["subscription"], "ended_at": yesterday}
    assert product.put(PATH, ended).status == 200
    following = {"id": "globex-2", "plan": "pro", "started_at": f"{NOW:%Y-%m-%dT%H:%M:%SZ}"}
    moved = {**tenant, "former_subscriptions": [ended], "subscription": following}

    assert product.put("/tenants/globex", moved).status == 200


def test_one_that_is_to_come_has_billed_nothing() -> None:
    product = api_of(Role.PRODUCT)
    coming = {"id": "hooli-1", "plan": "pro", "started_at": "2099-01-01"}
    assert product.post("/tenants", {"id": "hooli", "name": "H", "subscription": coming}).status

    said = product.put("/tenants/hooli/subscription", {**coming, "id": "hooli-2099"})

    assert said.status == 200


def test_forms_refuse_the_same_at_their_fields() -> None:
    product, finance = as_role(Role.PRODUCT), as_role(Role.FINANCE)
    start = {
        "subscription-0-started_at_0": f"{NOW:%Y-%m-%d}",
        "subscription-0-started_at_1": f"{NOW:%H:%M:%S}",
    }
    other = {"subscription-0-subscription_id": "sub-new"}
    before = Row.objects.get(pk="globex").as_row()

    assert "finance and owners" in str(faults(sent(product, FORM, **start, change_reason="x")))
    assert ANEW in faults(sent(finance, FORM, **start))["change_reason"]
    told = faults(sent(finance, FORM, **other, change_reason="x"))
    assert '"globex-1" would be gone' in told["subscription-0-subscription_id"]
    assert Row.objects.get(pk="globex").as_row() == before


def test_a_catalog_that_is_applied_keeps_what_bills() -> None:
    globex = EXAMPLE.tenants["globex"]
    following = replace(globex.subscription, subscription_id="globex-2", started_at=NOW)
    lost = replace(globex, subscription=following)
    kept = replace(lost, former=(replace(globex.subscription, ended_at=NOW),))

    with pytest.raises(CatalogError, match=r'tenants.globex.subscription.id: "globex-1" would be'):
        applied(replace(EXAMPLE, tenants={**EXAMPLE.tenants, "globex": lost}))
    applied(replace(EXAMPLE, tenants={**EXAMPLE.tenants, "globex": kept}))

    assert held() == following
