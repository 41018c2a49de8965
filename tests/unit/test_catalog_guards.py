"""Thresholds and guards from the written catalog to what the consumer reads, and their faults."""

from datetime import UTC, datetime

import pytest

from aforo_admin import messages
from aforo_admin.catalog_yaml import read_text
from aforo_admin.domain.entitling import entitle
from aforo_admin.faults import CatalogError
from aforo_admin.readable import fields_of
from aforo_meter.contract_messages import terms_of
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import AllowanceThresholds, Thresholds
from aforo_meter.domain.terms import Terms
from aforo_proto.contract_pb2 import Contract

NOW = datetime(2026, 3, 10, tzinfo=UTC)
DOLLAR = 10**9


def catalog(plan: str = "", tenant: str = "", file: str = "") -> str:
    """Return a catalog with further lines in the plan, in the tenant, and in the file."""
    plan = "".join(f"    {line}\n" for line in plan.splitlines())
    tenant = "".join(f"    {line}\n" for line in tenant.splitlines())
    return (
        f"version: 1\ncurrency: USD\n{file}\n"
        "features: [{id: chat}, {id: search}]\n"
        "plans:\n  pro:\n    committed_fee: 200\n    features: [chat, search]\n"
        f"{plan}"
        "tenants:\n  acme:\n    subscription: {id: s1, plan: pro, started_at: 2026-01-15}\n"
        f"{tenant}"
    )


def contract(text: str) -> Contract:
    read = read_text(text.encode(), name="c.yaml")
    return messages.contract(entitle(read, read.tenants["acme"], NOW).contract)


def terms(text: str) -> Terms:
    """Return what the consumer makes of what sync writes."""
    return terms_of("acme", contract(text).SerializeToString(), None)


def fault(text: str) -> str:
    with pytest.raises(CatalogError) as caught:
        read_text(text.encode(), name="c.yaml")
    (line,) = caught.value.lines
    return line


GUARDS = """\
guards:
  - {id: chat-margin, features: chat, meters: ["llm.*", api.calls], revenue_share: 60%}
  - id: search-margin
    features: [search]
    revenue: 20 USD
    thresholds: {warn_below: 50%, act_from_calls: 1k}
"""


def test_a_guard_reaches_the_consumer_whole() -> None:
    plan = "thresholds: {throttle_below: 15%, act_from_revenue: 5.50}\n" + GUARDS

    chat, search = terms(catalog(plan)).guards

    assert chat == Guard(
        guard_id="chat-margin",
        features=frozenset({"chat"}),
        meters=("llm.*", "api.calls"),
        revenue_share_bp=6000,
        thresholds=Thresholds(
            throttle_below_bp=1500,
            act_from_revenue_nanos=5_500_000_000,
            source="plan:pro, default",
        ),
    )
    assert search == Guard(
        guard_id="search-margin",
        features=frozenset({"search"}),
        revenue_nanos=20 * DOLLAR,
        thresholds=Thresholds(
            warn_below_bp=5000,
            throttle_below_bp=1500,
            act_from_revenue_nanos=5_500_000_000,
            act_from_calls=1000,
            source="guard:search-margin, plan:pro, default",
        ),
    )


def test_a_guards_own_thresholds_win_over_the_tenants_and_those_over_the_deals() -> None:
    deal = "deals: [{id: d1, from: 2026-02-01, thresholds: {warn_below: 40%, block_below: 5%}}]"
    tenant = f"{deal}\nthresholds: {{block_below: 7%}}"

    chat, search = terms(catalog(GUARDS, tenant)).guards

    assert (chat.thresholds.warn_below_bp, chat.thresholds.block_below_bp) == (4000, 700)
    assert chat.thresholds.source == "tenant:acme, deal:d1, default"
    assert (search.thresholds.warn_below_bp, search.thresholds.block_below_bp) == (5000, 700)


@pytest.mark.parametrize(
    ("begins", "revenues"),
    [("2026-03-10", [30 * DOLLAR, 20 * DOLLAR, DOLLAR]), ("2026-03-11", [None, 20 * DOLLAR])],
)
def test_a_deals_guard_stands_instead_of_the_plans_while_it_holds(
    begins: str, revenues: list[int | None]
) -> None:
    deal = f"""\
deals:
  - id: d1
    from: {begins}
    guards: [{{id: chat-margin, revenue: 30}}, {{id: other, revenue: 1}}]
"""

    found = terms(catalog(GUARDS, deal)).guards

    assert [guard.revenue_nanos for guard in found] == revenues


def test_thresholds_that_a_plan_says_nothing_of_are_the_files() -> None:
    file = (
        "thresholds: {act_from_revenue: 10, act_from_calls: 50}\n"
        "allowance_thresholds: {warn_at: 50%, throttle_at: 75%, block_at: 150%}"
    )
    plan = "allowance_thresholds: {warn_at: 60%, throttle_at: 70%, block_at: 80%}"

    of_file, of_plan = terms(catalog(file=file)), terms(catalog(plan, file=file))

    assert of_file.thresholds == Thresholds(
        act_from_revenue_nanos=10 * DOLLAR,
        act_from_calls=50,
        allowance=AllowanceThresholds(warn_at_bp=5000, throttle_at_bp=7500, block_at_bp=15_000),
        source="catalog",
    )
    assert of_plan.thresholds.allowance == AllowanceThresholds(
        warn_at_bp=6000, throttle_at_bp=7000, block_at_bp=8000
    )
    assert of_plan.thresholds.source == "plan:pro, catalog"


@pytest.mark.parametrize(
    ("tenant", "revenue_nanos", "source"),
    [
        ("", 5 * DOLLAR, "plan:pro, default"),
        ("thresholds: {act_from_revenue: 0}", 0, "tenant:acme, default"),
        (
            "deals: [{id: d1, from: 2026-03-10, thresholds: {act_from_revenue: 7}}]",
            7 * DOLLAR,
            "deal:d1, default",
        ),
        (
            "deals: [{id: d1, from: 2026-03-11, thresholds: {act_from_revenue: 7}}]",
            5 * DOLLAR,
            "plan:pro, default",
        ),
    ],
)
def test_minimums_have_the_same_precedence_as_floors(
    tenant: str, revenue_nanos: int, source: str
) -> None:
    found = terms(catalog("thresholds: {act_from_revenue: 5}", tenant)).thresholds

    assert (found.act_from_revenue_nanos, found.source) == (revenue_nanos, source)


def test_a_contract_without_any_of_it_is_as_it_always_was() -> None:
    found = contract(catalog())

    assert not found.guards
    assert not found.thresholds.HasField("allowance")
    assert terms(catalog()).thresholds == Thresholds()


def test_a_guard_of_a_kind_from_the_future_has_no_revenue_and_hides_no_contract() -> None:
    message = contract(catalog(GUARDS))
    message.guards[0].ClearField("revenue_share_bp")

    found = terms_of("acme", message.SerializeToString(), None).guards[0]

    assert (found.revenue_nanos, found.revenue_share_bp) == (None, 0)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("guards: [{id: g}]", "needs one revenue to compare its costs with"),
        ("guards: [{id: g, revenue: 1, revenue_share: 1%}]", "needs one revenue"),
        ("guards: [{id: g, revenue: 0}]", "revenue: must be above 0"),
        ("guards: [{id: g, revenue: -1}]", "revenue: must not be negative"),
        ("guards: [{id: g, revenue: 1 EUR}]", "is in EUR, but the currency here is USD"),
        ("guards: [{id: g, revenue_share: 100.01%}]", "must be above 0% and at most 100%"),
        ("guards: [{id: g, revenue_share: 0%}]", "must be above 0%"),
        ("guards: [{id: G, revenue: 1}]", '"G" is no id'),
        ("guards: [{id: g, revenue: 1}, {id: g, revenue: 2}]", '"g" is already the id of'),
        ("guards: [{id: g, revenue: 1, features: [chad]}]", 'no feature "chad"; did you mean'),
        ("guards: [{id: g, revenue: 1, meters: [api.cals]}]", 'no meter "api.cals"; did you mean'),
        ("guards: [{id: g, revenue: 1, meters: [lmm.*]}]", 'no meter begins with "lmm."'),
        ("guards: [{id: g, revenue: 1, meter: x}]", 'no field "meter"; did you mean "meters"'),
        (
            "guards: [{id: g, revenue: 1, thresholds: {warn_below: 5%}}]",
            "warn_below 5%, throttle_below 10% (inherited)",
        ),
        ("thresholds: {act_from_revenue: -1}", "act_from_revenue: must not be negative"),
        ("thresholds: {act_from_calls: -1}", "act_from_calls: "),
        ("allowance_thresholds: {warn_at: 80%, throttle_at: 90%}", "block_at: is missing"),
        (
            "allowance_thresholds: {warn_at: 95%, throttle_at: 90%, block_at: 100%}",
            "shares of the allowance are out of order: warn_at 95%, throttle_at 90%, block_at 100%",
        ),
        (
            "allowance_thresholds: {warn_at: -1%, throttle_at: 90%, block_at: 100%}",
            "warn_at: must be from 0% to 10000%, not -1%",
        ),
    ],
)
def test_a_fault_names_the_field_and_the_remedy(plan: str, told: str) -> None:
    assert told in fault(catalog(plan))


def test_a_deals_guard_is_checked_against_all_that_it_falls_back_on() -> None:
    tenant = """\
thresholds: {throttle_below: 18%}
deals:
  - id: d1
    from: 2026-01-15
    guards: [{id: g, revenue: 1, thresholds: {warn_below: 15%}}]
"""

    assert "tenants.acme.deals[0].guards[0].thresholds: floors are out of order" in fault(
        catalog("", tenant)
    )


def test_a_tenants_floors_must_leave_the_plans_guards_in_order() -> None:
    plan = "guards: [{id: g, revenue: 1, thresholds: {block_below: 9%}}]"

    assert (
        'tenants.acme.thresholds: in the plan\'s guard "g", floors are out of order: '
        "throttle_below 5% (inherited), block_below 9%"
    ) in fault(catalog(plan, "thresholds: {throttle_below: 5%}"))


def test_guards_and_minimums_are_shown_with_their_units() -> None:
    plan = "thresholds: {act_from_revenue: 5, act_from_calls: 1k}\n" + GUARDS

    shown = fields_of(contract(catalog(plan)))

    assert shown["thresholds.act_from_revenue"] == "5 USD"
    assert shown["thresholds.act_from_calls"] == "1000"
    assert shown["guards[chat-margin]"] == (
        "llm.*, api.calls of chat on 60% of the revenue: warn below 20%, throttle below 10%, "
        "block below 0%, hysteresis 1%, act from 5 USD, act from 1,000 calls (plan:pro, default)"
    )
    assert shown["guards[search-margin]"].startswith(
        "all meters of search on 20 USD: warn below 50%"
    )
