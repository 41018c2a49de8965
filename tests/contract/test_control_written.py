"""What forms save reads back from the catalog's written form as it was saved."""

from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module

import pytest
from django.apps.registry import Apps
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.test import Client

from aforo_admin import audit, store, written
from aforo_admin.catalog_yaml import read_text
from aforo_admin.control.models import AuditEntry, CostPrice, MeteringRule, NegotiatedCost
from aforo_admin.control.roles import Role
from aforo_admin.domain.checking import find_problems
from aforo_admin.domain.problems import place_of
from aforo_admin.yaml_writing import yaml_text
from aforo_meter.domain.periods import micros_of
from tests.contract.forms_lab import as_role, faults, page, sent
from tests.contract.rest_lab import EXAMPLE, api_of, applied, forget_failures

pytestmark = [pytest.mark.contract, pytest.mark.slow]

PRICE = {
    "meter": "llm.input_tokens",
    "provider": "OpenAI",
    "model": "GPT-Next",
    "price_nanos": "2.50",
    "per_units": "1000000",
    "effective_from_0": "2027-01-01",
    "effective_from_1": "00:00:00",
}


@pytest.fixture(autouse=True)
def example(sqlite_database: str) -> None:  # noqa: ARG001 - Django uses it.
    forget_failures()
    applied()


@pytest.fixture
def finance() -> Client:
    return as_role(Role.FINANCE)


def assert_reads_back() -> None:
    held = store.load_catalog().catalog
    assert read_text(yaml_text(written.catalog(held)).encode(), name="catalog") == held


@pytest.mark.parametrize(
    ("path", "owner", "table"),
    [
        ("costprice/add/", {}, CostPrice),
        ("negotiatedcost/add/", {"tenant": "globex"}, NegotiatedCost),
    ],
)
def test_a_price_s_provider_and_model_are_kept_in_lower_case(
    finance: Client, path: str, owner: dict[str, str], table: type[CostPrice | NegotiatedCost]
) -> None:
    first = sent(finance, path, **PRICE, **owner)
    second = sent(finance, path, **{**PRICE, "provider": "openai"}, **owner)
    by_developer = api_of(Role.DEVELOPER).put("/routes", [{"path": "/**", "features": ["chat"]}])

    assert first.status_code == 302
    assert "overlaps the price" in faults(second)["effective_from"]
    held = table.objects.filter(provider="OpenAI", model="GPT-Next").latest("pk")
    assert (held.provider, held.model) == ("openai", "gpt-next")
    assert by_developer.status == 200, by_developer.body
    assert_reads_back()


def apps_before() -> Apps:
    """Return the tables as a migration sees them, without what keeps names in lower case."""
    state = MigrationLoader(connection).project_state(("control", "0004_scenario"))
    found: Apps = state.apps
    return found


def test_prices_in_capitals_that_are_there_are_put_in_lower_case() -> None:
    old = apps_before()
    price = {
        "meter": "llm.input_tokens",
        "price_nanos": 1,
        "per_units": 1,
        "effective_from": datetime(2026, 1, 1, tzinfo=UTC),
        "position": 90,
    }
    costs = old.get_model("control", "CostPrice").objects
    costs.create(**price, provider="OpenAI", model="GPT-Next")
    costs.create(**price, provider="InHouse", model="")
    negotiated = old.get_model("control", "NegotiatedCost").objects
    negotiated.create(**price, provider="", model="GPT-Next", tenant_id="globex")
    before = audit.last_seq()

    import_module("aforo_admin.control.migrations.0005_lower_case").lower(old, None)

    named = CostPrice.objects.filter(position=90).values_list("provider", "model")
    assert list(named) == [("openai", "gpt-next")]
    assert NegotiatedCost.objects.get(tenant="globex").model == "gpt-next"
    assert_reads_back()
    entries = AuditEntry.objects.filter(seq__gt=before)
    assert [(each.kind, each.tenant_id, each.after is None) for each in entries] == [
        ("cost price", "", True),
        ("cost price", "", False),
        ("cost price", "", True),
        ("negotiated cost", "globex", True),
        ("negotiated cost", "globex", False),
    ]
    assert audit.verify().broken_at is None
    store.load_checked()


def test_prices_that_differ_in_capitals_alone_overlap() -> None:
    price = next(each for each in EXAMPLE.costs if each.provider == "inhouse")
    loud = replace(price, provider="InHouse", price_nanos=7)

    problems = find_problems(replace(EXAMPLE, costs=(*EXAMPLE.costs, loud)))

    assert ["overlaps" in each.message for each in problems] == [True]


@pytest.mark.parametrize(
    ("path", "typed", "column"),
    [
        ("costprice/add/", PRICE, "effective_from"),
        ("exchangerate/add/", {"currency": "CHF", "rate_nanos": "1.1"}, "effective_from"),
        ("deal/add/", {"tenant": "globex", "deal_id": "d"}, "effective_from"),
        ("credential/add/", {"tenant": "globex", "credential_id": "k"}, "expires_at"),
        ("marginoverride/globex/change/", {}, "until"),
    ],
)
@pytest.mark.parametrize("year", ["3027", "0001", "1969", "9999"])
def test_a_year_that_no_catalog_writes_is_refused_at_its_field(
    path: str, typed: dict[str, str], column: str, year: str
) -> None:
    at = {f"{column}_0": f"{year}-06-01", f"{column}_1": "00:00:00"}
    answer = sent(as_role(Role.OWNER), path, **{**typed, **at})

    told = faults(answer)[column]
    assert f"{year}-06-01 is out of range: write a year from 1970 to 2999" in told


def test_years_that_no_catalog_writes_are_those_of_no_catalog() -> None:
    far = datetime(3027, 1, 1, tzinfo=UTC)
    globex = EXAMPLE.tenants["globex"]
    assert globex.margin_override is not None
    override = replace(globex.margin_override, until=far)
    deal = replace(EXAMPLE.tenants["acme"].deals[0], effective_until=None, currency="EUR")
    long_ago = replace(deal, effective_from=datetime(1, 1, 1, tzinfo=UTC), effective_until=far)
    wrong = replace(
        EXAMPLE,
        costs=(replace(EXAMPLE.costs[0], effective_from=far),),
        exchange_rates=(
            replace(EXAMPLE.exchange_rates[0], effective_from_micros=micros_of(far)),
            *EXAMPLE.exchange_rates,
        ),
        tenants={"globex": replace(globex, margin_override=override, deals=(long_ago,))},
    )

    told = {place_of(each.path) for each in find_problems(wrong) if "range" in each.message}

    assert told == {
        "costs[0].from",
        "exchange_rates[0].from",
        "tenants.globex.deals[0].from",
        "tenants.globex.deals[0].until",
        "tenants.globex.margin_override.until",
    }


def test_years_that_are_there_become_the_nearest_that_can_be_written() -> None:
    old = apps_before()
    far, long_ago = datetime(3027, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)
    price = {"meter": "api.calls", "price_nanos": 1, "per_units": 1, "position": 90}
    old.get_model("control", "CostPrice").objects.create(**price, effective_from=far)
    old.get_model("control", "MarginOverride").objects.filter(tenant="globex").update(until=far)
    deals = old.get_model("control", "Deal").objects
    deals.create(
        tenant_id="globex", deal_id="d", position=9, effective_from=far, effective_until=far
    )
    deals.create(
        tenant_id="initech", deal_id="d", position=9, effective_from=long_ago, effective_until=far
    )

    import_module("aforo_admin.control.migrations.0006_years").clamp(old, None)

    assert CostPrice.objects.get(position=90).effective_from == datetime(2999, 1, 1, tzinfo=UTC)
    told = AuditEntry.objects.order_by("seq").values_list("kind", "name")
    assert list(told)[-4:] == [
        ("cost price", "api.calls"),
        ("deal", "globex/d"),
        ("deal", "initech/d"),
        ("margin override", "globex"),
    ]
    assert audit.verify().broken_at is None
    assert_reads_back()
    store.load_checked()


RULE = {"rule_id": "rule", "path_template": "/v1/**", "meter": "report.pages"}
DEAL = {"tenant": "globex", "deal_id": "d", "effective_from_0": "2027-01-01"}
DEAL |= {"effective_from_1": "00:00:00"}
QUOTA = {"quotas-TOTAL_FORMS": "1", "quotas-0-quota_id": "calls-per-minute"}
CARD = {
    "rate_cards-TOTAL_FORMS": "1",
    "rate_cards-0-effective_from_0": "2027-01-01",
    "rate_cards-0-effective_from_1": "00:00:00",
    "rate_cards-0-minimum_nanos": "0",
    "rate_cards-0-components": "- {id: calls, meter: api.calls, price: 0.50, per: 1k}",
}
GUARD = {"guards-TOTAL_FORMS": "1", "guards-0-guard_id": "g", "guards-0-features": "chat"}
GUARD |= {"guards-0-revenue_share_bp": "60%"}
LEVELS = {
    "guards-0-allowance_warn_at_bp": "70%",
    "guards-0-allowance_throttle_at_bp": "80%",
    "guards-0-allowance_block_at_bp": "90%",
}


@pytest.mark.parametrize(
    ("path", "typed"),
    [
        ("meteringrule/add/", {**RULE, "quantity": "request_bytes", "quantity_micros": "7"}),
        ("meteringrule/add/", {**RULE, "quantity": "one", "quantity_micros": "7"}),
        ("meteringrule/add/", {**RULE, "meter": "", "exclude": "on", "quantity_micros": "7"}),
        ("general/1/change/", {"built_in_costs": None, "prices_file": "/data/prices.jsonl"}),
        ("general/1/change/", {"prices_file": "/data/prices.jsonl"}),
        ("general/1/change/", {"warn_below_bp": "", "act_from_calls": "0"}),
        ("deal/add/", {**DEAL, **QUOTA, "quotas-0-unlimited": "on"}),
        ("deal/add/", {**DEAL, **CARD, "replaces_rate_cards": "on"}),
        ("deal/add/", {**DEAL, "replaces_rate_cards": "on"}),
        ("deal/add/", {**DEAL, **GUARD, **LEVELS}),
        ("costprice/add/", {**PRICE, "day_from_s": "22:00", "day_to_s": "24:00"}),
        ("feature/add/", {"feature_id": "f", "title": "null"}),
        ("feature/add/", {"feature_id": "f", "title": "- {a: b} # \u2028\x85\x07"}),
        ("meter/add/", {"meter": "jobs", "title": "1e3", "aliases": "a, b"}),
        ("route/add/", {"path_template": "/x", "features": "", "weight_units": "7"}),
    ],
)
def test_what_a_form_saves_reads_back_and_stays_as_it_is(path: str, typed: dict[str, str]) -> None:
    saved = sent(as_role(Role.OWNER), path, **typed, change_reason="Q4")
    assert saved.status_code == 302, faults(saved)
    held, before = store.load_catalog().catalog, audit.last_seq()

    assert read_text(yaml_text(written.catalog(held)).encode(), name="catalog") == held
    added = api_of(Role.PRODUCT).post("/features", {"id": "unrelated"})
    assert added.status == 201, added.body
    assert audit.last_seq() == before + 2  # The token, and the feature.
    assert replace(store.load_catalog().catalog, features=held.features) == held


@pytest.mark.parametrize(
    ("path", "typed", "told"),
    [
        ("general/1/change/", {"prices_file": "prices.csv"}, "its name ends with .jsonl"),
        ("tenant/globex/change/", {"allowance_warn_at_bp": "70%"}, "say all three, or none"),
        ("deal/add/", {**DEAL, **CARD}, "none of these would hold: tick"),
        (
            "deal/add/",
            {**DEAL, **QUOTA, "quotas-0-unlimited": "on", "quotas-0-limit_units": "5"},
            "is unlimited beside it",
        ),
    ],
)
def test_what_would_hold_nothing_is_refused(path: str, typed: dict[str, str], told: str) -> None:
    answer = sent(as_role(Role.OWNER), path, **typed, change_reason="Q4")

    assert answer.status_code == 200
    assert told in answer.content.decode()


@pytest.mark.parametrize(
    ("typed", "micros", "shown"),
    [("10", 10_000_000, "10"), ("2.5", 2_500_000, "2.5"), ("0.000007", 7, "0.000007")],
)
def test_a_metering_rule_s_quantity_is_typed_and_shown_in_units(
    typed: str, micros: int, shown: str
) -> None:
    owner = as_role(Role.OWNER)
    saved = sent(owner, "meteringrule/add/", **RULE, quantity_micros=typed)

    assert saved.status_code == 302, faults(saved)
    assert MeteringRule.objects.get(pk="rule").quantity_micros == micros
    assert f'value="{shown}"' in page(owner, "meteringrule/rule/change/").content.decode()
    listed = " ".join(page(owner, "meteringrule/").content.decode().split())
    assert f"> {shown} <" in listed or f">{shown}<" in listed
    assert ">request_bytes<" in listed.replace("> ", ">").replace(" <", "<")


@pytest.mark.parametrize(
    ("path", "typed", "column", "told"),
    [
        (
            "planversion/add/",
            {"plan_id": "p", "title": "P", "committed_fee_nanos": "99999999999999"},
            "committed_fee_nanos",
            "is above 9223372036, the largest amount",
        ),
        (
            "exchangerate/add/",
            {"currency": "CHF", "rate_nanos": "9999999999999"},
            "rate_nanos",
            "is above 9223372036, the largest amount",
        ),
        ("meteringrule/add/", {**RULE, "quantity_micros": "-1"}, "quantity_micros", "units a call"),
        ("meteringrule/add/", {**RULE, "quantity_micros": "0"}, "quantity_micros", "above 0"),
        (
            "meteringrule/add/",
            {**RULE, "quantity_micros": "99999999999999"},
            "quantity_micros",
            "is too large: write at most 9223372036854",
        ),
        (
            "tenant/globex/change/",
            {"warn_below_bp": "999999999999%"},
            "warn_below_bp",
            "a share like 20%",
        ),
        (
            "deal/add/",
            {
                **DEAL,
                **QUOTA,
                "quotas-0-meter": "money.cogs",
                "quotas-0-limit_units": "99999999999",
            },
            "quotas-0-limit_units",
            "is above 9223372036, the largest amount",
        ),
        (
            "deal/add/",
            {**DEAL, **QUOTA, "quotas-0-meter": "api.calls", "quotas-0-limit_units": "9" * 20},
            "quotas-0-limit_units",
            "is too large: write at most 9223372036854775807",
        ),
        (
            "credential/add/",
            {"tenant": "globex", "credential_id": "k", "kind": "api_key"}
            | {"expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"},
            "expires_at",
            "is past, so the key would never hold",
        ),
    ],
)
def test_what_is_out_of_bounds_is_told_in_the_units_of_its_field(
    path: str, typed: dict[str, str], column: str, told: str
) -> None:
    answer = sent(as_role(Role.OWNER), path, **typed, change_reason="Q4")

    assert told in faults(answer)[column]
