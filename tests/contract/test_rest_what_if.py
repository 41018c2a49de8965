"""What if, and why, over REST: exact, by who may see money, and without a trace."""

import asyncio
from collections.abc import Iterator

import pytest
import redis
from django.test import override_settings

from aforo_admin import audit
from aforo_admin.control.roles import Role
from aforo_admin.places import Places
from aforo_admin.rest.scopes import Scope
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.answers_lab import fill
from tests.contract.ledgers import AuditedLedger
from tests.contract.rest_lab import Api, api_of, applied, fill_redis, forget_failures

pytestmark = [pytest.mark.contract, pytest.mark.slow]

CALL = {"method": "POST", "path": "/v1/chat/completions"}


@pytest.fixture(autouse=True)
def places(
    sqlite_database: str,  # noqa: ARG001 - Django uses it.
    file: AuditedLedger,
    redis_url: str,
) -> Iterator[redis.Redis]:
    """A filled ledger, and Redis as sync leaves it."""
    forget_failures()
    applied()
    asyncio.run(_fill(file.url))
    found = Places(ledger_url=file.url, redis_url=redis_url)
    with redis.Redis.from_url(redis_url) as client, override_settings(AFORO_PLACES=found):
        fill_redis(client)
        yield client


async def _fill(url: str) -> None:
    async with SqlLedger(url) as ledger:
        await fill(ledger)


@pytest.fixture
def viewer() -> Api:
    return api_of(Role.VIEWER)


def test_a_what_if_stands_beside_the_record_in_exact_amounts(viewer: Api) -> None:
    seq = audit.last_seq()

    same = viewer.post("/what-if", {"month": "2026-11"})
    more = viewer.post("/what-if", {"month": "2026-11", "growth": [{"percent": "+100%"}]})

    assert (same.status, more.status) == (200, 200)
    assert same.body["totals"]["recorded"]["cogs"] == "9.25"
    assert same.body["totals"]["replayed"] == same.body["totals"]["recorded"]
    assert more.body["totals"]["replayed"]["cogs"] == "18.5"
    assert "_nanos" not in str(more.body)
    assert audit.last_seq() == seq


@pytest.mark.parametrize(
    ("scenario", "fields"),
    [
        ({"costs": [{"percent": "much"}]}, ["costs[0].percent"]),
        ({"tenants": ["nobody"]}, ["tenants[0]"]),
        ({"drafts": [{"plan": "pro", "version": 9}]}, ["drafts[0].version"]),
        ({"costs": [{"provider": "opnai", "percent": "+20%"}]}, ["costs[0].provider"]),
        ({"costs": [{"model": "gpt-5000", "percent": "+20%"}]}, ["costs[0].model"]),
        ({"month": "2999-05"}, ["month"]),
        ({"odd": 1}, ["odd"]),
    ],
)
def test_a_wrong_scenario_is_told_at_its_fields(
    viewer: Api, scenario: dict[str, object], fields: list[str]
) -> None:
    said = viewer.post("/what-if", scenario)

    assert (said.status, said.fields) == (422, fields)


def test_a_what_if_is_of_all_tenants_and_of_money(viewer: Api) -> None:
    of_one = api_of(Role.OWNER, tenant="acme").post("/what-if", {})
    narrow = api_of(Role.OWNER, scopes=(Scope.CATALOG_READ,)).post("/what-if", {})

    assert (of_one.status, narrow.status) == (404, 403)
    with override_settings(AFORO_PLACES=Places()):
        assert viewer.post("/what-if", {}).status == 503


def test_a_draft_s_preview_says_how_it_differs_and_whom_it_moves(places: redis.Redis) -> None:
    del places
    product = api_of(Role.PRODUCT)
    plan = product.get("/plans/pro/versions/1").body["plan"]
    quotas = [{**plan["quotas"][0], "limit": 500}, *plan["quotas"][1:]]
    product.post("/plans/pro/versions", {**plan, "quotas": quotas, "committed_fee": "700"})
    path = "/plans/pro/versions/2/preview"
    seq = audit.last_seq()

    found = product.get(path).body

    told = [(each["before"], each["after"]) for each in found["differences"]]
    assert told == [("500", "700"), ("600", "500")]
    assert found["tenants"] == 1
    (moved,) = found["terms_only"]
    assert (moved["tenant"], moved["fee"]) == ("globex", {"before": "500 USD", "after": "700 USD"})
    assert [each["after"]["limit"] for each in moved["quotas"]] == ["500"]
    with override_settings(AFORO_PLACES=Places()):
        blind = product.get(path).body
    assert "moved" not in blind
    assert blind["terms_only"] == [moved]
    assert audit.last_seq() == seq
    assert api_of(Role.VIEWER).get(path).status == 403
    assert api_of(Role.OWNER, tenant="globex").get(path).status == 404
    assert product.get("/plans/pro/versions/1/preview").status == 409


def test_a_decision_is_told_with_its_trace_and_counts_nothing(
    viewer: Api, places: redis.Redis
) -> None:
    keys = sorted(places.keys())

    passes = viewer.post("/decide", {"tenant": "globex", **CALL}).body
    nobody = viewer.post("/decide", CALL).body
    unknown = viewer.post("/decide", {"api_key": "hunter2", **CALL}).body

    assert (passes["decision"], passes["status"]) == ("allow", "passes")
    assert {each["check"] for each in passes["checks"]} >= {"margin_limit_exceeded"}
    assert (nobody["decision"], nobody["reason"]) == ("block", "unauthenticated")
    assert (unknown["reason"], "hunter2" in str(unknown)) == ("unknown_credential", False)
    assert sorted(places.keys()) == keys


def test_the_route_names_features_and_the_call_its_headers(viewer: Api) -> None:
    asked = {"tenant": "globex", "path": "/x", "headers": {"Accept": "text/plain"}}

    has = viewer.post("/decide", {**asked, "features": ["chat"]}).body
    lacks = viewer.post("/decide", {**asked, "features": ["reports"]}).body

    assert (has["decision"], lacks["reason"]) == ("allow", "feature_not_entitled")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "path"),
        ({"path": "x"}, "path"),
        ({"path": "/x", "method": "get"}, "method"),
        ({"path": "/x", "tenant": 1}, "tenant"),
        ({"path": "/x", "tenant": "acme", "api_key": "hunter2"}, "api_key"),
        ({"path": "/x", "headers": {"Authorization": "Bearer hunter2"}}, "headers"),
        ({"path": "/x", "headers": ["a"]}, "headers"),
        ({"path": "/x", "features": "chat"}, "features"),
        ({"path": "/x", "key": "hunter2"}, "key"),
    ],
)
def test_a_question_that_is_none_is_refused_at_its_field(
    viewer: Api, body: dict[str, object], field: str
) -> None:
    said = viewer.post("/decide", body)

    assert (said.status, said.fields) == (422, [field])
    assert "hunter2" not in str(said.body)


def test_a_token_of_one_tenant_asks_for_that_tenant_alone(viewer: Api) -> None:
    acme = api_of(Role.VIEWER, tenant="acme", scopes=(Scope.MONEY_READ,))

    assert acme.post("/decide", {"tenant": "acme", **CALL}).status == 200
    assert acme.post("/decide", {"tenant": "globex", **CALL}).status == 404
    assert acme.post("/decide", {"api_key": "x", **CALL}).status == 404
    assert acme.post("/decide", CALL).status == 404
    assert viewer.post("/decide", {"tenant": "nobody", **CALL}).status == 404
    portal = api_of(Role.VIEWER, tenant="acme", scopes=(Scope.ENTITLEMENTS_READ,))
    assert portal.post("/decide", {"tenant": "acme", **CALL}).status == 403
