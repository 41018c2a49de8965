"""Scenarios over REST: kept, listed, removed and turned into drafts as on the page, by whom."""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from django.test import override_settings

from aforo_admin import audit, scenario_store, store
from aforo_admin.control.models import AuditEntry, CostPrice, PlanVersion, Scenario
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from aforo_admin.domain.scenario import FeeChange
from aforo_admin.domain.scenario import Scenario as Asked
from aforo_admin.places import Places
from aforo_admin.rest import writes
from aforo_admin.rest.scopes import Scope
from aforo_admin.simulating import ground_of, simulate
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.answers_lab import fill
from tests.contract.forms_lab import as_role
from tests.contract.ledgers import AuditedLedger
from tests.contract.rest_lab import ANY, COMING, LATER, Api, Said, api_of, applied, forget_failures

pytestmark = [pytest.mark.contract, pytest.mark.slow]

TWICE = {"month": "2026-11", "growth": [{"percent": "+100%"}]}
PAST = "2020-01-01"
BOTH = (Scope.MONEY_READ, Scope.MONEY_WRITE)


@pytest.fixture(autouse=True)
def places(
    sqlite_database: str,  # noqa: ARG001 - Django uses it.
    file: AuditedLedger,
) -> Iterator[None]:
    forget_failures()
    applied()
    asyncio.run(_fill(file.url))
    with override_settings(AFORO_PLACES=Places(ledger_url=file.url)):
        yield


async def _fill(url: str) -> None:
    async with SqlLedger(url) as ledger:
        await fill(ledger)


@pytest.fixture
def product() -> Api:
    return api_of(Role.PRODUCT)


def path_of(said: Said) -> str:
    return f"/scenarios/{said.body['id']}"


def turned(api: Api, said: Said, begins: str = COMING, **headers: str) -> Said:
    return api.post(f"{path_of(said)}/drafts", {"begins": begins}, **(said.match | headers))


def test_a_scenario_is_kept_with_its_sums_and_read_as_it_was_written(product: Api) -> None:
    kept = product.post("/scenarios", {"name": " twice ", **TWICE})

    assert kept.status == 201
    assert kept.headers["Location"] == f"/api/v1{path_of(kept)}"
    read = api_of(Role.VIEWER).get(path_of(kept))
    assert (read.status, read.body, read.etag) == (200, kept.body, kept.etag)
    author = Scenario.objects.get().author
    assert author.startswith("token product-")
    said = {name: read.body[name] for name in ("name", "author", "month", "scenario")}
    assert said == {"name": "twice", "author": author, "month": "2026-11", "scenario": TWICE}
    sums = read.body["summary"]["totals"]
    assert (sums["recorded"]["cogs"], sums["replayed"]["cogs"]) == ("9.25", "18.5")
    # The very same that the command and the page load.
    assert scenario_store.load("twice").growths[0].percent_bp == 10_000


def test_what_the_page_keeps_rest_has_and_the_other_way_round(product: Api) -> None:
    client = as_role(Role.FINANCE, "dana")
    client.post("/admin/what-if/", {"fee": "pro=+10%", "step": "save", "name": "of a page"})
    product.post("/scenarios", {"name": "of rest", **TWICE})

    items = product.get("/scenarios").body["items"]
    page = client.get("/admin/what-if/", {"saved": "of rest"}).content.decode()

    assert [(each["name"], each["author"]) for each in items] == [
        ("of a page", "dana"),
        ("of rest", Scenario.objects.get(name="of rest").author),
    ]
    assert "scenario" not in items[0]
    assert "+100%" in page
    assert ">Remove of rest</button>" not in page  # It is the token's.


def test_scenarios_come_in_pages(product: Api) -> None:
    found = simulate(Asked(), ground_of(store.load_catalog().catalog))
    for number in range(5):
        name = f"{9 - number}"
        scenario_store.save(name, Asked(), found, author="tests", source=Source.SHELL)

    names, following = [], ""
    while True:
        page = product.get(f"/scenarios?limit=2&cursor={following}").body
        assert len(page["items"]) <= 2
        names += [each["name"] for each in page["items"]]
        following = page.get("next", "")
        if not following:
            break

    assert names == ["9", "8", "7", "6", "5"]
    assert product.get("/scenarios?cursor=zzz").status == 422


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (TWICE, ["name"]),
        ({"name": 1}, ["name"]),
        ({"name": " "}, ["name"]),
        ({"name": "x" * 101}, ["name"]),
        ({"name": "x", "odd": 1}, ["odd"]),
        ({"name": "x", "fees": [{"plan": "none", "percent": "+1%"}]}, ["fees[0].plan"]),
        ({"name": "x", "tenants": ["nobody"]}, ["tenants[0]"]),
    ],
)
def test_what_is_wrong_is_told_at_its_field_and_nothing_is_kept(
    product: Api, body: dict[str, Any], fields: list[str]
) -> None:
    said = product.post("/scenarios", body)

    assert (said.status, said.fields) == (422, fields)
    assert all(each["remedy"] for each in said.body["errors"])
    assert not Scenario.objects.exists()


def test_without_a_ledger_nothing_is_kept(product: Api) -> None:
    with override_settings(AFORO_PLACES=Places()):
        assert product.post("/scenarios", {"name": "x"}).status == 503
    assert not Scenario.objects.exists()


def test_a_name_stands_once_and_its_author_alone_replaces_it(product: Api) -> None:
    kept = product.post("/scenarios", {"name": "twice", **TWICE})
    taken = product.post("/scenarios", {"name": "twice"})
    others = api_of(Role.OWNER).put(path_of(kept), {}, kept.etag)
    blind = product.put(path_of(kept), {}, {})
    renamed = product.put(path_of(kept), {"name": "once"}, kept.etag)
    edited = product.put(path_of(kept), {"name": "twice", "month": "2026-11"}, kept.etag)
    stale = product.put(path_of(kept), TWICE, kept.etag)

    assert (taken.status, taken.body["type"]) == (409, "urn:aforo:problem:exists")
    assert (others.status, others.body["type"]) == (403, "urn:aforo:problem:forbidden")
    assert others.body["detail"] == f"it is {kept.body['author']}'s: keep yours under another name"
    assert (blind.status, stale.status) == (428, 412)
    assert (renamed.status, renamed.fields) == (422, ["name"])
    assert (edited.status, edited.body["scenario"]) == (200, {"month": "2026-11"})
    assert edited.body["summary"]["totals"]["replayed"]["cogs"] == "9.25"


def test_a_scenario_has_another_name_and_is_otherwise_as_it_was(product: Api) -> None:
    kept = product.post("/scenarios", {"name": "twice", **TWICE})
    seq = audit.last_seq()
    with override_settings(AFORO_PLACES=Places()):  # Nothing is played.
        renamed = renaming(product, kept, {"name": " once "}, kept.etag, Idempotency_Key="one")
        again = renaming(product, kept, {"name": " once "}, kept.etag, Idempotency_Key="one")
        same = renaming(product, kept, {"name": "once"}, renamed.etag)

    assert (renamed.status, again.status, same.status) == (200, 200, 200)
    assert renamed.body == {**kept.body, "name": "once"} == again.body == same.body
    assert renamed.headers["ETag"] != kept.headers["ETag"]
    assert product.get(path_of(kept)).body == renamed.body
    assert "once" in str(as_role(Role.PRODUCT).get("/admin/what-if/").content)
    (entry,) = AuditEntry.objects.filter(seq__gt=seq, kind="scenario")
    assert (entry.name, entry.source) == ("twice", "rest")
    assert (entry.before, entry.after) == ({"name": "twice"}, {"name": "once"})
    assert entry.actor == kept.body["author"]
    audit_page = as_role(Role.OWNER).get("/admin/audit/").content.decode()
    assert "twice" in audit_page
    assert "once" in audit_page
    assert product.post("/scenarios", {"name": "twice"}).status == 201


def test_a_name_is_its_author_s_to_change_and_stands_once(product: Api) -> None:
    kept = product.post("/scenarios", {"name": "twice", **TWICE})
    product.post("/scenarios", {"name": "once"})
    owner, seq = api_of(Role.OWNER), audit.last_seq()
    taken = renaming(product, kept, {"name": "once"}, kept.etag)
    others = renaming(owner, kept, {"name": "once"}, kept.etag)
    blind = renaming(product, kept, {"name": "new"}, {})
    stale = renaming(product, kept, {"name": "new"}, {"If-Match": '"x"'})
    more = renaming(product, kept, {"name": "new", "month": ""})

    assert (taken.status, taken.body["type"]) == (409, "urn:aforo:problem:exists")
    assert (others.status, others.body["type"]) == (403, "urn:aforo:problem:forbidden")
    assert (blind.status, stale.status) == (428, 412)
    assert (more.status, more.fields) == (422, ["month"])
    for wrong in ({}, {"name": None}, {"name": 1}, {"name": " "}, {"name": "x" * 101}):
        said = renaming(product, kept, wrong)
        assert (said.status, said.fields) == (422, ["name"]), wrong
    assert product("PATCH", "/scenarios/0", {"name": "new"}, ANY).status == 404
    assert audit.last_seq() == seq


def renaming(
    api: Api, said: Said, body: object, match: Mapping[str, str] = ANY, **headers: str
) -> Said:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api("PATCH", path_of(said), body, {**match, **named})


def test_a_scenario_is_removed_by_its_author_or_an_owner(product: Api) -> None:
    first, second = (product.post("/scenarios", {"name": name}) for name in ("one", "two"))
    others = api_of(Role.FINANCE).delete(path_of(first))
    blind = product.delete(path_of(first), {})
    removed = product.delete(path_of(first), first.etag)
    by_owner = api_of(Role.OWNER).delete(path_of(second), second.etag)

    assert (others.status, blind.status) == (403, 428)
    assert others.body["detail"] == f"it is {first.body['author']}'s: ask them, or an owner"
    assert (removed.status, by_owner.status) == (204, 204)
    assert not Scenario.objects.exists()
    for path in (path_of(first), "/scenarios/x", "/scenarios/0", f"/scenarios/{'9' * 30}"):
        assert product.get(path).status == 404, path
    assert product.delete(path_of(first)).status == 404
    assert product.put(path_of(first), {}).status == 404
    assert product.post(f"{path_of(first)}/drafts", {"begins": COMING}, If_Match="*").status == 404


def test_the_record_tells_of_it_as_it_does_of_the_page_s(product: Api) -> None:
    seq = audit.last_seq()
    kept = product.post("/scenarios", {"name": "twice", **TWICE}, X_Aforo_Reason="for the board")
    product.put(path_of(kept), {})
    product.delete(path_of(kept))

    entries = list(AuditEntry.objects.filter(seq__gt=seq))
    author = kept.body["author"]
    whole = {"author": author, "month": "2026-11", "changes": TWICE}
    empty = {"author": author, "month": "", "changes": {}}
    assert [(each.before, each.after) for each in entries] == [
        (None, whole),
        (whole, empty),
        (empty, None),
    ]
    assert {(each.actor, each.source, each.kind, each.name) for each in entries} == {
        (author, "rest", "scenario", "twice")
    }
    assert entries[0].reason == "for the board"
    assert audit.verify().broken_at is None


def test_keeping_sent_twice_with_a_key_is_played_and_kept_once(
    product: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"name": "twice", **TWICE}
    first = product.post("/scenarios", body, Idempotency_Key="one")
    other = product.post("/scenarios", {"name": "once"}, Idempotency_Key="one")
    edit = product.put(path_of(first), {}, first.etag, Idempotency_Key="two")
    # A repeat needs no ledger: nothing is played again.
    with override_settings(AFORO_PLACES=Places()):
        again = product.post("/scenarios", body, Idempotency_Key="one")
        edit_again = product.put(path_of(first), {}, first.etag, Idempotency_Key="two")
    monkeypatch.setattr(writes, "KEPT_FOR", timedelta(0))
    late = product.post("/scenarios", body, Idempotency_Key="one")

    assert (again.status, again.body, again.etag) == (201, first.body, first.etag)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (other.status, other.body["type"]) == (422, "urn:aforo:problem:key-reused")
    assert (edit.status, edit_again.status, edit_again.body) == (200, 200, edit.body)
    assert late.status == 409
    assert Scenario.objects.count() == 1


MAY_KEEP = {Role.PRODUCT, Role.DEVELOPER, Role.FINANCE, Role.OWNER}
MAY_DRAFT = {Role.PRODUCT, Role.FINANCE, Role.OWNER}
MAY_PRICE = {Role.FINANCE, Role.OWNER}


@pytest.mark.parametrize("role", Role)
def test_a_role_may_do_what_it_may_on_the_page(role: Role) -> None:
    owner, api = api_of(Role.OWNER), api_of(role)
    fee = owner.post("/scenarios", {"name": "fee", "fees": [{"plan": "pro", "percent": "+1%"}]})
    costs = [{"provider": "openai", "meter": "llm.input_tokens", "price": "9", "per": "1M"}]
    dearer = owner.post("/scenarios", {"name": "dearer", "costs": costs})

    listed = api.get("/scenarios")
    kept = api.post("/scenarios", {"name": "own"})
    renamed = renaming(api, kept if role in MAY_KEEP else fee, {"name": "mine"})
    draft = turned(api, fee)
    prices = turned(api, dearer)
    removed = api.delete(path_of(fee))

    assert (listed.status, len(listed.body["items"])) == (200, 2)
    assert kept.status == (201 if role in MAY_KEEP else 403)
    assert renamed.status == (200 if role in MAY_KEEP else 403)
    assert draft.status == (201 if role in MAY_DRAFT else 403)
    assert prices.status == (201 if role in MAY_PRICE else 403)
    assert removed.status == (204 if role is Role.OWNER else 403)
    refused = [said for said in (kept, renamed, draft, prices, removed) if said.status == 403]
    assert {said.body["type"] for said in refused} <= {"urn:aforo:problem:forbidden"}
    assert PlanVersion.objects.filter(state="draft").count() == (role in MAY_DRAFT)
    assert CostPrice.objects.filter(effective_from=f"{COMING}T00:00Z").count() == (
        role in MAY_PRICE
    )


def test_scopes_narrow_it_and_a_token_of_one_tenant_sees_none_of_it(product: Api) -> None:
    kept = product.post("/scenarios", {"name": "twice", **TWICE})
    acme = api_of(Role.OWNER, tenant="acme")
    reader = api_of(Role.OWNER, scopes=(Scope.MONEY_READ, Scope.CATALOG_READ))
    writer = api_of(Role.OWNER, scopes=(Scope.MONEY_WRITE,))
    keeper = api_of(Role.OWNER, scopes=BOTH)
    drafter = api_of(Role.OWNER, scopes=(Scope.CATALOG_WRITE,))

    def asked(api: Api) -> list[int]:
        return [
            api.get("/scenarios").status,
            api.get(path_of(kept)).status,
            api.post("/scenarios", {"name": "x"}).status,
            api.put(path_of(kept), {}).status,
            renaming(api, kept, {"name": "y"}).status,
            turned(api, kept).status,
            api.delete(path_of(kept), {"If-Match": '"x"'}).status,
        ]

    assert asked(acme) == [404] * 7
    assert asked(reader) == [200, 200, 403, 403, 403, 403, 403]
    assert asked(writer) == [403, 403, 403, 403, 403, 403, 412]
    assert asked(drafter) == [403] * 7
    # Who may keep: its own, not another's; drafts take catalog:write.
    assert asked(keeper) == [200, 200, 201, 403, 403, 403, 412]


def test_a_scenario_becomes_drafts_and_coming_prices_and_says_what_does_not(product: Api) -> None:
    finance = api_of(Role.FINANCE)
    kept = product.post(
        "/scenarios",
        {
            "name": "autumn",
            "fees": [{"plan": "pro", "percent": "+10%"}],
            "costs": [{"provider": "openai", "meter": "llm.input_tokens", "price": "9"}],
            "growth": [{"percent": "+5%"}],
        },
    )
    plans = store.load_catalog().catalog.plans
    fee_nanos = plans["pro"].committed_fee_nanos

    stale = turned(finance, kept, If_Match='"x"')
    done = turned(finance, kept, X_Aforo_Reason="OpenAI raises its prices", Idempotency_Key="k")
    again = turned(finance, kept, X_Aforo_Reason="OpenAI raises its prices", Idempotency_Key="k")

    assert (stale.status, done.status) == (412, 201)
    draft = PlanVersion.objects.get(state="draft")
    (remark,) = done.body["remarks"]
    assert "llm.cached_input_tokens, llm.cache_creation_tokens, llm.tool_tokens: where" in remark
    assert done.body == {
        "drafts": [{"plan": "pro", "number": draft.number}],
        "prices": 1,
        "changes": [
            f"openai llm.input_tokens: no price → 9 USD per 1 from {COMING}",
        ],
        "remarks": [remark],
        "left_out": ["growth: usage is not ours to set"],
    }
    assert (again.status, again.body) == (201, done.body)
    assert draft.committed_fee_nanos == round(fee_nanos * 1.1)
    assert store.load_catalog().catalog.plans == plans
    entries = AuditEntry.objects.filter(reason="OpenAI raises its prices")
    assert {each.kind for each in entries} >= {"plan version", "cost price"}
    assert {(each.source, each.actor.partition("-")[0]) for each in entries} == {
        ("rest", "token finance")
    }


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["begins"]),
        ({"begins": 1}, ["begins"]),
        ({"begins": "soon"}, ["begins"]),
        ({"begins": PAST}, ["begins"]),
        ({"begins": COMING, "until": COMING}, ["until"]),
    ],
)
def test_drafts_say_from_when_prices_hold(
    product: Api, body: dict[str, Any], fields: list[str]
) -> None:
    kept = product.post("/scenarios", {"name": "x", "fees": [{"plan": "pro", "percent": "+1%"}]})

    said = product.post(f"{path_of(kept)}/drafts", body, **kept.match)

    assert (said.status, said.fields) == (422, fields)
    assert not PlanVersion.objects.filter(state="draft").exists()


def test_drafts_that_are_sent_twice_are_refused_at_the_date_and_later_ones_tell_both() -> None:
    finance = api_of(Role.FINANCE)
    costs = [{"provider": "openai", "meter": "llm.input_tokens", "price": "9", "per": "1M"}]
    kept = finance.post("/scenarios", {"name": "dearer", "costs": costs})

    first = turned(finance, kept)
    again = turned(finance, kept)
    both = turned(finance, kept, begins=LATER)

    assert (first.status, again.status, again.fields) == (201, 422, ["begins"])
    assert again.body["errors"][0]["remedy"] == "name another date"
    assert both.body["changes"] == [
        f"openai llm.input_tokens: 9 → 9 USD per 1,000,000 from {LATER}"
    ]
    remark, follows = both.body["remarks"]
    assert follows.startswith("llm.cached_input_tokens, llm.cache_creation_tokens, llm.tool_tokens")
    assert remark.startswith(f"1 price had a coming change already, from {COMING} on")


def test_what_became_no_draft_is_told(product: Api) -> None:
    kept = product.post("/scenarios", {"name": "x", **TWICE})
    found = simulate(Asked(), ground_of(store.load_catalog().catalog))
    gone = Asked(fees=(FeeChange(plan_id="gone", percent_bp=100),))
    saved = scenario_store.save("of old", gone, found, author="tests", source=Source.SHELL)

    nothing = turned(product, kept)
    old = product.post(f"/scenarios/{saved.pk}/drafts", {"begins": COMING}, If_Match="*")

    assert (nothing.status, nothing.fields) == (422, [""])
    assert nothing.body["errors"][0]["what"] == "nothing here becomes a draft"
    # The plan that it is about is no longer in the catalog.
    assert (old.status, old.fields) == (422, ["fees[0].plan"])
    assert product.get(f"/scenarios/{saved.pk}").status == 200
    assert product.delete(path_of(kept), ANY).status == 204
