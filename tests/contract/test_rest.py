"""The catalog over REST: read and written in its own words, checked, recorded, and by whom."""

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import InterfaceError, connections
from django.test import Client, RequestFactory, override_settings

from aforo_admin import audit, store
from aforo_admin.control.models import AuditEntry, Credential, IdempotentAnswer
from aforo_admin.control.models_api import ApiToken
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from aforo_admin.control.urls import handler500
from aforo_admin.mint import sha256_of_key
from aforo_admin.rest import tokens
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.writes import KEPT_FOR
from lab.servers import ROOT
from tests.contract.rest_lab import (
    ANY,
    COMING,
    EXAMPLE,
    LATER,
    Api,
    api_of,
    applied,
    forget_failures,
)

pytestmark = [pytest.mark.contract, pytest.mark.slow]

WHY = {"X-Aforo-Reason": "Q3"}
NEW_TENANT = {
    "id": "hooli",
    "name": "Hooli",
    "subscription": {"id": "hooli-1", "plan": "pro", "started_at": "2026-11-01"},
}


@pytest.fixture(autouse=True)
def example(database: str) -> None:  # noqa: ARG001 - Django uses it.
    forget_failures()
    applied()


@pytest.fixture
def owner() -> Api:
    return api_of(Role.OWNER)


def test_what_is_read_can_be_written_and_changes_nothing(owner: Api) -> None:
    before = audit.last_seq()
    for path in (
        *("/tenants/acme", "/tenants/globex/subscription", "/thresholds", "/routes", "/metering"),
        *("/general", "/features/chat", "/tenants/acme/deals/acme-renewal"),
    ):
        held = owner.get(path)
        assert held.status == 200, path
        body = held.body.get("items", held.body)

        again = owner.put(path, body, held.etag)

        assert (again.status, again.body) == (200, held.body), path
        assert again.headers["ETag"] == held.headers["ETag"]
    assert audit.last_seq() == before
    assert store.load_catalog().catalog == EXAMPLE


def test_a_member_is_added_edited_and_removed(owner: Api) -> None:
    added = owner.post("/features", {"id": "vision", "title": "Vision"}, X_Aforo_Reason="Q3")
    twice = owner.post("/features", {"id": "vision"})
    edited = owner.put("/features/vision", {"title": "Seeing"}, added.etag)
    stale = owner.put("/features/vision", {"title": "Sight"}, added.etag)
    blind = owner.put("/features/vision", {"title": "Sight"}, {})
    removed = owner.delete("/features/vision", edited.etag)

    assert added.status == 201
    assert added.headers["Location"] == "/api/v1/features/vision"
    assert (twice.status, twice.body["type"]) == (409, "urn:aforo:problem:exists")
    assert edited.body == {"id": "vision", "title": "Seeing"}
    assert (stale.status, blind.status) == (412, 428)
    assert removed.status == 204
    assert owner.get("/features/vision").status == 404
    entries = AuditEntry.objects.filter(kind="feature").order_by("-seq")[:3]
    assert [(each.source, each.reason) for each in entries] == [
        ("rest", ""),
        ("rest", ""),
        ("rest", "Q3"),
    ]


def test_a_reason_may_have_any_letters(owner: Api) -> None:
    owner.post("/features", {"id": "x"}, X_Aforo_Reason="größer".encode().decode("latin-1"))

    assert AuditEntry.objects.latest("seq").reason == "größer"


def test_a_tenant_is_added_whole_and_removed(owner: Api) -> None:
    added = owner.post("/tenants", NEW_TENANT)
    paused = {**NEW_TENANT["subscription"], "state": "paused"}  # type: ignore[dict-item]
    owner.put("/tenants/hooli/subscription", paused)

    assert added.status == 201
    assert store.load_catalog().catalog.tenants["hooli"].subscription.state == "paused"
    assert owner.delete("/tenants/hooli").status == 204
    assert store.load_catalog().catalog == EXAMPLE


def test_what_breaks_a_rule_is_told_at_its_field_with_its_remedy(owner: Api) -> None:
    wrong = owner.post("/tenants", {"id": "hooli", "subscription": {"plan": "pr0"}, "nme": "H"})
    floor = owner.put("/tenants/acme/thresholds", {"warn_below": "120%"})
    exact = owner.put("/tenants/acme/thresholds", {"warn_below": 0.2, "block_below": None})
    used = owner.delete("/features/chat")
    malformed = owner.post("/features", "{")

    assert wrong.status == 422
    assert wrong.headers["Content-Type"] == "application/problem+json"
    assert set(wrong.fields) == {
        "nme",
        *("subscription.id", "subscription.plan", "subscription.started_at"),
    }
    assert {each["what"] for each in wrong.body["errors"]} >= {"is missing", 'no plan "pr0"'}
    assert any('did you mean "pro"?' in each["remedy"] for each in wrong.body["errors"])
    assert (floor.status, floor.fields) == (422, ["warn_below"])
    assert (exact.status, exact.fields) == (422, ["warn_below", "block_below"])
    assert (used.status, "routes[0].features[0]" in used.fields) == (422, True)
    assert malformed.status == 400
    assert store.load_catalog().catalog == EXAMPLE


def test_a_price_is_added_and_never_edited(owner: Api) -> None:
    price = {"meter": "report.pages", "price": "0.01", "per": 1, "from": COMING}
    added = owner.post("/costs", price)
    again = owner.post("/costs", price)
    edited = owner.put(f"/costs/{added.body['id']}", {**price, "price": "0.02"})

    assert added.status == 201
    assert again.status == 409
    assert edited.status == 405
    assert owner.get(f"/costs/{added.body['id']}").body["price"] == "0.01"


def test_a_plan_goes_from_draft_to_published_to_retired(owner: Api) -> None:
    said = owner.get("/plans/pro/versions/1").body["plan"]
    draft = owner.post("/plans/pro/versions", {**said, "committed_fee": "501"})
    edited = owner.put("/plans/pro/versions/2", {**said, "committed_fee": "502"}, draft.etag)
    held = store.load_catalog().catalog
    published = owner.post("/plans/pro/versions/2/publish", **edited.match)
    frozen = owner.put("/plans/pro/versions/2", said)
    again = owner.post("/plans/pro/versions/2/publish", **edited.match)

    assert (draft.status, draft.body["state"]) == (201, "draft")
    assert edited.body["plan"]["committed_fee"] == "502"
    assert held == EXAMPLE  # A draft is not in force.
    assert published.body["state"] == "published"
    assert (frozen.status, again.status) == (409, 409)
    assert store.load_catalog().catalog.plans["pro"].committed_fee_nanos == 502 * 10**9
    states = [each["state"] for each in owner.get("/plans/pro").body["versions"]]
    assert sorted(states) == ["published", "retired"]


def test_a_plan_that_tenants_have_is_not_retired(owner: Api) -> None:
    refused = owner.post("/plans/pro/versions/1/retire", If_Match="*")
    unused = owner.post("/plans/trial-of-tests/versions", {"committed_fee": 0, "features": []})
    published = owner.post("/plans/trial-of-tests/versions/1/publish", **unused.match)
    retired = owner.post("/plans/trial-of-tests/versions/1/retire", **published.match)

    assert refused.status == 422
    assert unused.status == 201
    assert retired.body["state"] == "retired"


def test_what_is_published_or_retired_is_what_was_read(owner: Api) -> None:
    said = owner.get("/plans/pro/versions/1").body["plan"]
    draft = owner.post("/plans/pro/versions", {**said, "committed_fee": "501"})
    read = owner.get("/plans/pro/versions/2")
    unsaid = owner.post("/plans/pro/versions/2/publish")
    owner.put("/plans/pro/versions/2", {**said, "committed_fee": "1"}, draft.etag)
    stale = owner.post("/plans/pro/versions/2/publish", **read.match)
    stale_retiring = owner.post("/plans/pro/versions/1/retire", **read.match)

    assert (unsaid.status, unsaid.body["type"]) == (428, "urn:aforo:problem:precondition-required")
    assert (stale.status, stale.body["type"]) == (412, "urn:aforo:problem:changed-meanwhile")
    assert stale_retiring.status == 412
    assert store.load_catalog().catalog == EXAMPLE


def test_publishing_sent_twice_with_a_key_is_answered_as_it_was(owner: Api) -> None:
    said = owner.get("/plans/pro/versions/1").body["plan"]
    draft = owner.post("/plans/pro/versions", {**said, "committed_fee": "501"})
    asked = {**draft.match, "Idempotency_Key": "once"}
    first = owner.post("/plans/pro/versions/2/publish", **asked)
    again = owner.post("/plans/pro/versions/2/publish", **asked)

    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body


def test_a_secret_is_told_once_and_only_its_hash_is_kept(owner: Api) -> None:
    minted = owner.post("/tenants/acme/credentials", {"id": "fresh"}, Idempotency_Key="k")
    repeated = owner.post("/tenants/acme/credentials", {"id": "fresh"}, Idempotency_Key="k")
    read = owner.get("/tenants/acme/credentials/fresh")
    revoked = owner.post("/tenants/acme/credentials/fresh/revoke")

    secret = minted.body["secret"]
    assert minted.headers["Cache-Control"] == "no-store"
    assert minted.body["sha256"] == sha256_of_key(secret)
    assert "secret" not in repeated.body
    assert repeated.headers["Idempotent-Replayed"] == "true"
    assert "secret" not in read.body
    assert revoked.body["status"] == "revoked"
    row = Credential.objects.get(credential_id="fresh")
    assert (row.revoked, secret.startswith(row.prefix), len(row.prefix)) == (True, True, 12)
    kept = [*AuditEntry.objects.values_list("after", flat=True)]
    kept += IdempotentAnswer.objects.values_list("body", flat=True)
    assert secret not in str(kept)


def test_a_credential_of_another_tenant_is_refused_without_naming_it(owner: Api) -> None:
    (held,) = EXAMPLE.tenants["initech"].credentials

    refused = owner.post("/tenants/acme/credentials", {"id": "taken", "sha256": held.identity})

    whole = {**owner.get("/tenants/acme").body}
    whole["credentials"] = [*whole["credentials"], {"id": "taken", "sha256": held.identity}]
    edited = owner.put("/tenants/acme", whole)

    assert (refused.status, refused.fields) == (409, ["sha256"])
    assert refused.body["errors"][0]["remedy"].startswith("leave the hash out to have another key")
    last = len(whole["credentials"]) - 1
    assert (edited.status, edited.fields) == (409, [f"credentials[{last}].sha256"])
    assert "initech" not in f"{refused.body} {edited.body}"


def test_an_override_names_its_author_and_its_reason_is_the_record_s(owner: Api) -> None:
    override = {"level_max": "warn", "until": COMING, "reason": "they pay on Friday"}

    granted = owner.put("/tenants/globex/margin_override", override)

    assert granted.body["author"].startswith("token owner")
    assert AuditEntry.objects.latest("seq").reason == "they pay on Friday"
    assert owner.delete("/tenants/globex/margin_override").fields == ["X-Aforo-Reason"]
    assert owner.delete("/tenants/globex/margin_override", {**ANY, **WHY}).status == 204


def test_an_override_whose_end_is_past_is_refused_at_its_end(owner: Api) -> None:
    override = {"level_max": "warn", "until": "2020-01-01", "reason": "they pay", "author": "a"}
    tenant = {**owner.get("/tenants/globex").body, "margin_override": override}
    seq = audit.last_seq()

    alone = owner.put("/tenants/globex/margin_override", override)
    within = owner.put("/tenants/globex", tenant)

    for said in (alone, within):
        assert said.status == 422
        (wrong,) = said.body["errors"]
        assert wrong["field"].endswith("until")
        assert wrong["remedy"].startswith("give a moment to come")
    assert audit.last_seq() == seq


def test_a_repeat_with_the_same_key_is_answered_as_the_first(owner: Api) -> None:
    first = owner.post("/features", {"id": "x"}, Idempotency_Key="one")
    again = owner.post("/features", {"id": "x"}, Idempotency_Key="one")
    other = owner.post("/features", {"id": "y"}, Idempotency_Key="one")
    somebody = api_of(Role.OWNER).post("/features", {"id": "x"}, Idempotency_Key="one")

    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["ETag"] == first.headers["ETag"]
    assert (other.status, other.body["type"]) == (422, "urn:aforo:problem:key-reused")
    assert somebody.status == 409  # Keys are each token's own.


def test_a_key_is_forgotten_after_a_day(owner: Api) -> None:
    owner.post("/features", {"id": "x"}, Idempotency_Key="one")
    IdempotentAnswer.objects.update(made_at=datetime.now(UTC) - KEPT_FOR - timedelta(seconds=1))

    assert owner.post("/features", {"id": "x"}, Idempotency_Key="one").status == 409


def test_repeats_at_the_same_time_make_one_change(owner: Api) -> None:
    """Eight threads send one request: it is done once, and all of them hear the same."""
    statuses: list[tuple[int, str]] = []

    def send() -> None:
        try:
            said = Api(token=owner.token).post("/features", {"id": "x"}, Idempotency_Key="one")
            statuses.append((said.status, str(said.body)))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [(201, "{'id': 'x'}")] * 8
    assert AuditEntry.objects.filter(kind="feature", name="x").count() == 1


def test_lists_come_in_pages(owner: Api) -> None:
    for path, names in (
        ("/tenants", sorted(EXAMPLE.tenants)),
        ("/features", sorted(each.feature_id for each in EXAMPLE.features)),
        ("/plans", sorted(EXAMPLE.plans)),
    ):
        found, following = [], ""
        while True:
            page = owner.get(f"{path}?limit=2&cursor={following}")
            assert page.status == 200
            assert len(page.body["items"]) <= 2
            found += page.ids
            following = page.body.get("next", "")
            if not following:
                break
        assert found == names
    assert owner.get("/tenants?limit=201").status == 422
    assert owner.get("/tenants?cursor=zzz").status == 422
    assert len(owner.get("/costs").ids) == len(EXAMPLE.costs)


def test_apply_takes_the_digest_of_what_was_shown(owner: Api) -> None:
    text = owner.get("/catalog").body.replace("Acme GmbH", "Acme Inc.")
    shown = owner.post("/catalog/diff", text)
    unseen = owner.post("/catalog/apply", text)
    other = owner.post(f"/catalog/apply?digest={shown.body['digest']}", text + "# x\nx: 1\n")
    done = owner.post(f"/catalog/apply?digest={shown.body['digest']}", text)
    late = owner.post(f"/catalog/apply?digest={shown.body['digest']}", text)

    assert shown.body["differences"] == [
        {"place": "tenants.acme.name", "before": "Acme GmbH", "after": "Acme Inc."}
    ]
    assert (unseen.status, other.status, done.status, late.status) == (409, 422, 200, 409)
    assert store.load_catalog().catalog.tenants["acme"].name == "Acme Inc."


def test_a_webhook_endpoint_says_where_its_secrets_are_and_never_what(owner: Api) -> None:
    endpoint = {"id": "ops", "url": "env:OPS_URL", "kinds": ["margin.level_changed"]}
    told = owner.post("/webhook_endpoints", {**endpoint, "url": "https://secret.example/x"})
    unknown = owner.post("/webhook_endpoints", {**endpoint, "kinds": ["no.such"], "format": "xml"})

    assert (told.status, told.fields) == (422, ["url"])
    assert "secret.example" not in str(told.body)
    assert set(unknown.fields) == {"kinds", "format"}


@pytest.mark.parametrize(
    ("role", "status"),
    [(Role.VIEWER, 403), (Role.PRODUCT, 201), (Role.DEVELOPER, 403), (Role.FINANCE, 201)],
)
def test_a_role_may_do_over_rest_what_it_may_do_elsewhere(role: Role, status: int) -> None:
    said = api_of(role).post("/features", {"id": "x"})

    assert said.status == status
    assert status == 201 or said.body["type"] == "urn:aforo:problem:forbidden"


def test_floors_are_for_finance_and_owners_wherever_they_stand() -> None:
    product, finance = api_of(Role.PRODUCT), api_of(Role.FINANCE)
    floors = {"warn_below": "30%"}
    tenant = {**product.get("/tenants/globex").body, "thresholds": floors}
    plan = {**product.get("/plans/pro/versions/1").body["plan"], "thresholds": floors}

    assert product.put("/tenants/globex", tenant).status == 403
    assert product.put("/tenants/globex/thresholds", floors).status == 403
    assert product.post("/plans/pro/versions", plan).status == 403
    assert finance.put("/tenants/globex/thresholds", floors, {**ANY, **WHY}).status == 200
    assert finance.post("/plans/pro/versions", plan, X_Aforo_Reason="Q3").status == 201


def test_floors_and_overrides_do_not_change_without_a_reason(owner: Api) -> None:
    floors = {"warn_below": "30%"}
    tenant = {**owner.get("/tenants/globex").body, "thresholds": floors}
    shadow = {**owner.get("/tenants/globex").body, "shadow": True}
    override = {"level_max": "warn", "until": COMING, "author": "a", "reason": "they pay"}
    overridden = {**owner.get("/tenants/globex").body, "margin_override": override}
    plan = {**owner.get("/plans/pro/versions/1").body["plan"], "thresholds": floors}
    seq = audit.last_seq()

    for said in (
        owner.put("/tenants/globex", tenant),
        owner.put("/tenants/globex", shadow),
        owner.put("/tenants/globex/thresholds", floors),
        owner.put("/tenants/globex/thresholds", floors, {**ANY, "X-Aforo-Reason": " "}),
        owner.post("/plans/pro/versions", plan),
        owner.put("/thresholds", floors),
    ):
        assert (said.status, said.fields) == (422, ["X-Aforo-Reason"])
        assert "floors and overrides change for a reason" in said.body["errors"][0]["remedy"]
    assert audit.last_seq() == seq
    assert owner.put("/tenants/globex", tenant, {**ANY, **WHY}).status == 200
    assert AuditEntry.objects.latest("seq").reason == "Q3"
    assert owner.put("/tenants/globex", {**overridden, "thresholds": floors}).status == 200


def test_a_plan_that_lets_more_pass_takes_a_reason_now_or_from_a_date(owner: Api) -> None:
    path = "/tenants/globex/subscription"
    held = owner.get(path).body
    in_shadow = {**held, "plan": "pilot"}
    from_a_date = {**held, "changes": [{"plan": "pilot", "from": COMING}]}
    seq = audit.last_seq()

    for api in (api_of(Role.PRODUCT), owner):
        for body in (in_shadow, from_a_date):
            said = api.put(path, body)
            assert (said.status, said.fields) == (422, ["X-Aforo-Reason"])
            assert "with the plan pilot, it is in shadow mode" in str(said.body)
    assert not AuditEntry.objects.filter(seq__gt=seq, tenant_id="globex").exists()
    product = api_of(Role.PRODUCT)
    assert product.put(path, from_a_date, {**ANY, **WHY}).status == 200
    # Back to what blocks more: nobody needs to say why.
    assert product.put(path, held).status == 200


def test_a_coming_plan_that_blocks_more_is_not_taken_back_without_a_reason() -> None:
    product = api_of(Role.PRODUCT)
    path = "/tenants/globex/subscription"
    held = product.get(path).body
    coming = {**held, "changes": [{"plan": "free", "from": COMING}]}
    moved = {**held, "changes": [{"plan": "free", "from": LATER}]}

    assert product.put(path, coming, {**ANY, **WHY}).status == 200
    for body in (held, moved):
        said = product.put(path, body)
        assert (said.status, said.fields) == (422, ["X-Aforo-Reason"])


def test_a_tenant_that_is_added_again_is_new_and_the_record_has_both() -> None:
    """docs/roles.md says so: under another id nobody could tell either."""
    product = api_of(Role.PRODUCT)
    held = product.get("/tenants/globex").body
    again = {name: held[name] for name in ("id", "name", "subscription")}
    looser = {**again, "subscription": {**held["subscription"], "plan": "pilot"}}

    moved = product.put("/tenants/globex/subscription", looser["subscription"])
    removed = product.delete("/tenants/globex")
    added = product.post("/tenants", looser)

    assert (moved.status, moved.fields) == (422, ["X-Aforo-Reason"])
    assert (removed.status, added.status) == (204, 201)
    told = AuditEntry.objects.filter(kind="subscription", name="globex").order_by("-seq")[:2]
    assert [(each.before or {}).get("plan_id") for each in told] == [None, "pro"]
    assert told[0].after["plan_id"] == "pilot"


def test_only_an_owner_applies_a_whole_catalog(owner: Api) -> None:
    finance = api_of(Role.FINANCE)
    text = owner.get("/catalog").body
    digest = finance.post("/catalog/diff", text).body["digest"]

    assert finance.post(f"/catalog/apply?digest={digest}", text).status == 403
    assert owner.post(f"/catalog/apply?digest={digest}", text).status == 200


def test_a_token_of_one_tenant_sees_nothing_of_others() -> None:
    acme = api_of(Role.OWNER, tenant="acme")

    assert acme.get("/tenants").ids == ["acme"]
    assert acme.get("/tenants/acme/deals").status == 200
    assert acme.get("/audit").status == 200
    for path in (
        *("/tenants/globex", "/tenants/nobody", "/tenants/globex/credentials", "/features"),
        *("/plans/pro", "/catalog", "/costs", "/general", "/audit?tenant=globex"),
        *("/margins?tenant=globex", "/charges/globex", "/entitlements/globex/chat"),
        "/webhook_endpoints",
    ):
        assert acme.get(path).status == 404, path
    assert acme.post("/tenants", NEW_TENANT).status == 404
    assert acme.put("/tenants/globex/thresholds", {"warn_below": "30%"}).status == 404
    own = acme.put("/tenants/acme/thresholds", {"warn_below": "30%"}, {**ANY, **WHY})
    assert own.status == 200


def test_a_scope_narrows_what_a_role_may() -> None:
    narrow = api_of(Role.OWNER, scopes=(Scope.TENANTS_READ,))

    assert narrow.get("/tenants/acme").status == 200
    assert narrow.get("/features").body["type"] == "urn:aforo:problem:scope"
    assert narrow.delete("/tenants/acme").status == 403


def test_a_token_of_one_tenant_is_for_what_the_tenant_may_see() -> None:
    portal = Api(token=tokens.add("portal", Role.OWNER, tenant_id="acme", actor="tests"))

    for path in (
        *("/tenants/acme", "/tenants/acme/deals", "/tenants/acme/thresholds"),
        *("/tenants/acme/negotiated_costs", "/margins", "/charges", "/charges/acme"),
        *("/alerts", "/audit", "/sessions", "/interventions", "/completeness"),
    ):
        said = portal.get(path)
        assert (said.status, said.body["type"]) == (403, "urn:aforo:problem:scope"), path
    assert portal.get("/entitlements/acme/chat").status == 503  # Nothing but Redis is missing.


def test_a_whole_catalog_takes_the_scopes_of_all_that_is_in_it(owner: Api) -> None:
    """Its tenants, with their keys and deals, are in it."""
    text = owner.get("/catalog").body
    catalog = api_of(Role.OWNER, scopes=(Scope.CATALOG_READ, Scope.CATALOG_WRITE))
    reader = api_of(Role.OWNER, scopes=(Scope.CATALOG_READ, Scope.TENANTS_READ))
    both = api_of(
        Role.OWNER,
        scopes=(Scope.CATALOG_READ, Scope.CATALOG_WRITE, Scope.TENANTS_READ, Scope.TENANTS_WRITE),
    )

    for said in (
        catalog.get("/catalog"),
        catalog.post("/catalog/diff", text),
        reader.post("/catalog/apply?digest=x", text),
    ):
        assert (said.status, said.body["type"]) == (403, "urn:aforo:problem:scope")
    digest = reader.post("/catalog/diff", text).body["digest"]
    assert both.post(f"/catalog/apply?digest={digest}", text).status == 200


def expire() -> None:
    with store.change(actor="tests", source=Source.SHELL, checked=True):
        for token in ApiToken.objects.all():
            token.expires_at = datetime.now(UTC)
            token.save()


def revoke() -> None:
    for token in tokens.listed():
        tokens.revoke(token.token_id, actor="tests")


@pytest.mark.parametrize("end", [expire, revoke])
def test_a_token_that_has_ended_is_unknown(owner: Api, end: Callable[[], None]) -> None:
    assert owner.get("/features").status == 200

    end()

    refused = owner.get("/features")
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert owner.token not in str(refused.body)


def test_no_token_is_logged(owner: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    stranger = Api(token="aforo_admin_of-nobody")
    owner.get("/features/none")
    owner.post("/features", "{")
    stranger.get("/features")

    assert "Unauthorized" in caplog.text  # Something was logged.
    assert owner.token not in caplog.text
    assert stranger.token not in caplog.text


def test_who_shows_many_unknown_tokens_waits(owner: Api) -> None:
    stranger = Api(token="aforo_admin_nobody")
    statuses = [stranger.get("/features").status for _ in range(21)]

    refused = owner.get("/features")  # From the same address.

    assert statuses == [401] * 20 + [429]
    assert refused.status == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60


def test_a_token_s_use_is_noted_once_an_hour(owner: Api) -> None:
    owner.get("/features")
    (first,) = ApiToken.objects.values_list("last_used_at", flat=True)
    owner.get("/features")
    (second,) = ApiToken.objects.values_list("last_used_at", flat=True)

    assert first is not None
    assert second == first


def test_a_body_has_bounds(owner: Api) -> None:
    large = owner.post("/features", '{"id": "' + "x" * 1024 * 1024 + '"}')
    deep = owner.post("/features", "[" * 100_000)
    odd = owner.post("/features", '{"id": "x", "title": "\\u0000"}')
    half = owner.post("/features", '{"id": "x", "title": "\\ud800"}')
    twice = owner.post("/features", '{"id": "x", "id": "y"}')

    assert [each.status for each in (large, deep, odd, half, twice)] == [413, 400, 422, 422, 400]


def test_an_address_that_is_none_is_a_problem_too(owner: Api) -> None:
    said = owner.get("/no/such")

    assert (said.status, said.headers["Content-Type"]) == (404, "application/problem+json")
    assert owner("GET", "/tenants/%00").status == 404


def test_the_record_is_listed_and_verified(owner: Api) -> None:
    owner.post("/features", {"id": "x"}, X_Aforo_Reason="Q3")

    last = owner.get("/audit?limit=1&kind=feature").body["items"][0]
    verified = owner.get("/audit/verified").body

    assert (last["name"], last["source"], last["reason"]) == ("x", "rest", "Q3")
    assert verified == {"entries": audit.last_seq(), "whole": True}


def test_every_write_needs_the_state_that_it_edits() -> None:
    """Whatever has an ETag refuses an edit without it."""
    owner = api_of(Role.OWNER)

    for path in ("/general", "/thresholds", "/routes", "/tenants/acme", "/features/chat"):
        body = owner.get(path).body
        assert owner.put(path, body.get("items", body), {}).status == 428
        assert owner.put(path, body.get("items", body), {"If-Match": '"x"'}).status == 412
        assert owner.put(path, body.get("items", body), ANY).status == 200


def test_the_document_has_every_address_and_problem(owner: Api) -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    rows = re.findall(r"^\| `(/[^`]*)` \| ([A-Z ]+) \|", page, re.MULTILINE)
    paths = owner.get("/openapi.json").body["paths"]
    sources = (ROOT / "aforo_admin" / "rest").glob("*.py")
    codes = re.findall(
        r'HTTPStatus\.[A-Z_]+,\s*"([a-z-]+)"', "".join(path.read_text() for path in sources)
    )

    assert {(f"/api/v1{path}", methods) for path, methods in rows} == {
        (path, " ".join(method.upper() for method in said)) for path, said in paths.items()
    }
    assert len(set(codes)) > 10
    assert [code for code in sorted(set(codes)) if f"`{code}`" not in page] == []
    assert [scope for scope in Scope if f"`{scope}`" not in page] == []


def test_pages_of_others_cannot_write_through_a_browser() -> None:
    """A browser sends no token by itself; so no form of another site can write."""
    strict = Client(enforce_csrf_checks=True)
    answer = strict.post("/api/v1/features", data="{}", content_type="application/json")

    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InterfaceError("connection already closed"), 503, "database-away"),
        (RuntimeError("hunter2"), 500, "internal"),
    ],
)
def test_a_failure_is_a_problem_too(
    owner: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    kind: str,
) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(store, "load_catalog", fail)
    said = owner.get("/features")

    assert (said.status, said.headers["Content-Type"]) == (status, "application/problem+json")
    assert said.body["type"] == f"urn:aforo:problem:{kind}"
    assert "hunter2" not in str(said.body)
    assert owner.token not in caplog.text


def test_what_django_refuses_is_a_problem_under_api_and_a_page_elsewhere() -> None:
    client = Client(raise_request_exception=False, headers={"Host": "evil.example"})

    with override_settings(ALLOWED_HOSTS=["aforo.example"]):
        api, page = client.get("/api/v1/features"), client.get("/admin/")

    assert (api.status_code, page.status_code) == (400, 400)
    assert api.headers["Content-Type"] == "application/problem+json"
    assert "AFORO_ADMIN_HOSTS" in api.json()["detail"]
    assert page.headers["Content-Type"].startswith("text/html")


def test_what_fails_outside_of_operations_is_a_problem_under_api() -> None:
    asked = RequestFactory()

    api, page = (handler500(asked.get(path)) for path in ("/api/v1/features", "/admin/"))

    assert (api.status_code, page.status_code) == (500, 500)
    assert api.headers["Content-Type"] == "application/problem+json"
    assert page.headers["Content-Type"].startswith("text/html")


def test_a_body_says_that_it_is_json_or_nothing(owner: Api) -> None:
    feature = {"id": "x"}

    xml = owner("POST", "/features", feature, media_type="application/xml")
    typed = owner("POST", "/features", feature, media_type="application/json; charset=utf-8")
    catalog = owner.get("/catalog").body
    yaml = owner("POST", "/catalog/diff", catalog, media_type="application/yaml")
    form = owner("POST", "/catalog/diff", catalog, media_type="text/plain")

    assert (xml.status, xml.headers["Accept"]) == (415, "application/json")
    assert xml.body["type"] == "urn:aforo:problem:unsupported-media-type"
    assert (typed.status, yaml.status) == (201, 200)
    assert (form.status, form.headers["Accept"]) == (415, "application/yaml")


def test_a_method_that_is_not_there_is_a_problem_too(owner: Api) -> None:
    said = owner.delete("/catalog")

    assert (said.status, said.headers["Allow"]) == (405, "GET")
    assert said.headers["Content-Type"] == "application/problem+json"
