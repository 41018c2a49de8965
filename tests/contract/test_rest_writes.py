"""Every write of the catalog over REST, one after the other, on catalogs that are not plain."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection, models
from django.db.migrations.loader import MigrationLoader

from aforo_admin import audit
from aforo_admin.control.models import AuditEntry, MeteringRule
from aforo_admin.control.roles import Role
from aforo_admin.domain.catalog import IngestKey
from tests.contract.rest_lab import (
    ANY,
    COMING,
    EXAMPLE,
    Api,
    Said,
    api_of,
    applied,
    forget_failures,
)

pytestmark = [pytest.mark.contract, pytest.mark.slow]

WHY = {"X-Aforo-Reason": "Q4"}
FLOORS = {"warn_below": "40%"}
LEVELS = {"warn_at": "70%", "throttle_at": "80%", "block_at": "90%"}
SUBSCRIPTION = {"id": "hooli-1", "plan": "pro", "started_at": "2026-11-01"}
# Another id would be another subscription, and lose the one that bills.
OF_GLOBEX = {"id": "globex-1", "plan": "pro", "started_at": "2026-03-31"}
PLAN = {"committed_fee": "7", "features": ["chat"]}
OVERRIDE = {"level_max": "warn", "until": COMING, "reason": "Q4"}
DEAL = {"from": "2026-06-01", "committed_fee": "400"}
PRICE = {"meter": "api.calls", "price": "0.30", "per": "1M", "from": COMING}
# {it}: what the write before it has made.
WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/features", {"id": "vision"}),
    ("PUT", "/features/vision", {"title": "Seeing"}),
    ("DELETE", "/features/vision", None),
    ("POST", "/meters", {"id": "jobs"}),
    ("PUT", "/meters/jobs", {"title": "Jobs"}),
    ("DELETE", "/meters/jobs", None),
    ("PUT", "/metering", [{"id": "all", "meter": "api.calls"}]),
    ("PUT", "/routes", [{"path": "/v1/**", "features": ["chat"]}]),
    ("POST", "/ingest_keys", {"id": "mine", "scopes": ["usage:ingest"], "tenants": ["globex"]}),
    ("PUT", "/ingest_keys/mine", {"sha256": "ab" * 32, "scopes": ["quotas:read"]}),
    ("POST", "/ingest_keys/mine/revoke", None),
    ("DELETE", "/ingest_keys/mine", None),
    ("POST", "/costs", PRICE),
    ("DELETE", "/costs/{it}", None),
    ("POST", "/exchange_rates", {"currency": "CHF", "rate": "1.1", "from": "2026-01-01"}),
    ("DELETE", "/exchange_rates/{it}", None),
    ("PUT", "/thresholds", FLOORS),
    ("PUT", "/allowance_thresholds", LEVELS),
    ("DELETE", "/allowance_thresholds", None),
    ("PUT", "/general", {"currency": "USD", "default_route": "allow"}),
    ("POST", "/tenants", {"id": "hooli", "subscription": SUBSCRIPTION}),
    ("PUT", "/tenants/hooli", {"name": "Hooli", "subscription": SUBSCRIPTION}),
    ("PUT", "/tenants/globex/subscription", {**OF_GLOBEX, "state": "paused"}),
    ("POST", "/tenants/globex/credentials", {"id": "further"}),
    ("PUT", "/tenants/globex/credentials/further", {"jwt_subject": "further@example.com"}),
    ("POST", "/tenants/acme/credentials/production/revoke", None),
    ("DELETE", "/tenants/globex/credentials/further", None),
    ("POST", "/tenants/globex/deals", {"id": "deal", **DEAL}),
    ("PUT", "/tenants/globex/deals/deal", {**DEAL, "committed_fee": "300"}),
    ("DELETE", "/tenants/globex/deals/deal", None),
    ("PUT", "/tenants/globex/margin_override", OVERRIDE),
    ("DELETE", "/tenants/globex/margin_override", None),
    ("POST", "/tenants/globex/negotiated_costs", PRICE),
    ("DELETE", "/tenants/globex/negotiated_costs/{it}", None),
    ("PUT", "/tenants/globex/thresholds", FLOORS),
    ("DELETE", "/tenants/globex/thresholds", None),
    ("PUT", "/tenants/globex/allowance_thresholds", LEVELS),
    ("DELETE", "/tenants/globex/allowance_thresholds", None),
    ("DELETE", "/tenants/hooli", None),
    ("POST", "/plans/lite/versions", PLAN),
    ("PUT", "/plans/lite/versions/1", {**PLAN, "committed_fee": "8"}),
    ("DELETE", "/plans/lite/versions/1", None),
    ("POST", "/plans/lite/versions", PLAN),
    ("POST", "/plans/lite/versions/1/publish", None),
    ("POST", "/plans/lite/versions/1/retire", None),
]


@pytest.fixture(autouse=True)
def database_in_use(sqlite_database: str) -> None:  # noqa: ARG001 - Django uses it.
    forget_failures()


@dataclass(kw_only=True)
class Writer:
    """Makes the writes, and knows what the last one has made."""

    api: Api
    it: str = ""

    def write(self, method: str, path: str, body: object) -> Said:
        edits = method != "POST" or path.endswith(("/publish", "/retire"))
        headers = {**WHY, **ANY} if edits else WHY
        said = self.api(method, path.replace("{it}", self.it), body, headers)
        if said.status == 201:
            self.it = str(said.body.get("id", ""))
        return said


def confined() -> IngestKey:
    """Return a key as the form makes it, for two tenants of all."""
    return replace(
        EXAMPLE.ingest_keys[0], key_id="confined", sha256="cd" * 32, tenants=("umbrella", "acme")
    )


def test_each_write_works_beside_a_key_that_is_confined_to_tenants() -> None:
    applied(replace(EXAMPLE, ingest_keys=(*EXAMPLE.ingest_keys, confined())))
    writer = Writer(api=api_of(Role.OWNER))

    said = [(method, path, writer.write(method, path, body)) for method, path, body in WRITES]

    assert [(*which, each.status, each.body) for *which, each in said if each.status > 204] == []


def odd_rows() -> None:
    """Write what forms once saved, and no document says in this way."""
    state = MigrationLoader(connection).project_state(("control", "0004_scenario"))
    old: Any = state.apps
    for name in ("Feature", "CostPrice", "IngestKey", "Credential"):  # Forms leave gaps.
        model = old.get_model("control", name)
        model.objects.update(position=models.F("position") * 3 + 5)
    rules = old.get_model("control", "MeteringRule").objects
    rules.filter(rule_id="sent").update(quantity_micros=7)
    old.get_model("control", "CostPrice").objects.create(
        meter="llm.input_tokens",
        provider="OpenAI",
        price_nanos=1,
        per_units=1,
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
        position=2,
    )
    deal = old.get_model("control", "Deal").objects.get(deal_id="acme-renewal")
    old.get_model("control", "DealRateCard").objects.create(
        deal=deal, effective_from=datetime(2026, 1, 1, tzinfo=UTC), position=0
    )
    old.get_model("control", "DealGuard").objects.create(
        deal=deal,
        guard_id="chat",
        features=["chat"],
        revenue_share_bp=6000,
        allowance_warn_at_bp=7000,
        allowance_throttle_at_bp=8000,
        allowance_block_at_bp=9000,
        position=0,
    )


def test_no_write_touches_what_it_does_not_say() -> None:
    applied()
    odd_rows()
    writer = Writer(api=api_of(Role.OWNER))
    begun = audit.last_seq()
    metering = WRITES.index(next(each for each in WRITES if each[1] == "/metering"))

    said = [writer.write(*each) for each in WRITES[:metering] + WRITES[metering + 1 :]]

    assert [each.body for each in said if each.status > 204] == []
    entries = AuditEntry.objects.filter(seq__gt=begun).values_list("kind", "name", "after")
    assert [each for each in entries if "acme" in each[1] and each[0] != "credential"] == []
    assert [each for each in entries if each[2] and each[2].keys() == {"position"}] == []
    kinds = [kind for kind, *_ in entries]
    assert kinds.count("cost price") == 2
    assert kinds.count("feature") == 3
    assert kinds.count("metering rule") == 0
    assert MeteringRule.objects.get(pk="sent").quantity_micros == 7


def test_a_write_of_another_part_is_judged_by_itself() -> None:
    applied()
    odd_rows()
    developer = api_of(Role.DEVELOPER)  # Prices and deals are others' to change.
    begun = audit.last_seq()

    said = developer.post("/ingest_keys", {"id": "k", "scopes": ["usage:ingest"]})

    assert said.status == 201, said.body
    entries = AuditEntry.objects.filter(seq__gt=begun).values_list("kind", flat=True)
    assert list(entries) == ["ingest key", "ingest key"]  # It is made, and what it begins with.


def test_a_key_is_confined_to_tenants_that_there_are() -> None:
    applied(replace(EXAMPLE, ingest_keys=(confined(),)))
    owner = api_of(Role.OWNER)

    unknown = owner.post("/ingest_keys", {"id": "k", "scopes": ["usage:ingest"], "tenants": "acne"})
    named = owner.delete("/tenants/acme")

    assert (unknown.status, unknown.fields) == (422, ["tenants[0]"])
    assert unknown.body["errors"][0]["remedy"].startswith('did you mean "acme"? tenants are: acme,')
    assert (named.status, named.fields) == (422, ["ingest_keys[0].tenants[1]"])


@pytest.mark.parametrize(
    ("path", "body", "field", "told"),
    [
        (
            "/costs",
            {**PRICE, "per": "9" * 31},
            "per",
            "is too large: write at most 922337203685477",
        ),
        ("/tenants", {"id": "T1", "subscription": SUBSCRIPTION}, "id", '"T1" is no id'),
        (
            "/ingest_keys",
            {"id": "k", "scopes": ["usage:ingest"], "sha256": EXAMPLE.ingest_keys[0].sha256},
            "sha256",
            "is the key of ingest_keys[0] too",
        ),
        (
            "/ingest_keys",
            {
                "id": "k",
                "scopes": ["usage:ingest"],
                "sha256": EXAMPLE.tenants["initech"].credentials[0].identity,
            },
            "sha256",
            'is the credential "initech/main" too',
        ),
        (
            "/tenants/globex/credentials",
            {"id": "k", "expires_at": "2020-01-01"},
            "expires_at",
            "is past: the key would never hold",
        ),
        (
            "/ingest_keys",
            {"id": "k", "scopes": ["usage:ingest"], "expires_at": "2020-01-01"},
            "expires_at",
            "is past: the key would never hold",
        ),
    ],
)
def test_a_fault_is_told_at_the_field_that_was_sent(
    path: str, body: dict[str, Any], field: str, told: str
) -> None:
    applied()

    said = api_of(Role.OWNER).post(path, body)

    assert (said.status, said.fields) == (422, [field])
    (wrong,) = said.body["errors"]
    assert told in f"{wrong['what']}: {wrong['remedy']}"


def test_every_write_of_the_catalog_is_among_these() -> None:
    applied()
    paths = api_of(Role.OWNER).get("/openapi.json").body["paths"]
    of_catalog = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, said in paths.items()
        for method, operation in said.items()
        if method != "get" and operation["tags"][0] in {"catalog", "tenants", "plans"}
    }
    whole = {("POST", "/catalog/diff"), ("POST", "/catalog/apply")}

    assert {each for each in of_catalog - whole if not _is_written(*each)} == set()


def _is_written(method: str, template: str) -> bool:
    path = re.compile(re.sub(r"\{\w+\}", "[^/]+", template))
    return any(method == of and path.fullmatch(written) for of, written, _ in WRITES)
