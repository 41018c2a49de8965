"""What a tenant may do follows from plan, deal, tenant and time, the narrowest rule first."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_admin.domain.catalog import (
    Catalog,
    Deal,
    MarginOverride,
    Plan,
    Quota,
    QuotaChange,
    Subscription,
    Tenant,
    ThresholdChanges,
    Thresholds,
)
from aforo_admin.domain.entitling import Entitled, entitle, floors_in_force
from aforo_authz.domain import quotas
from aforo_authz.domain.access import Level, SubscriptionState
from aforo_authz.domain.quotas import WindowKind
from aforo_meter.domain.periods import Cadence, micros_of

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
STARTED = datetime(2026, 1, 31, tzinfo=UTC)
CALLS = Quota(quota_id="calls", meter="api.calls", limit_units=100, window=WindowKind.DAY)
PLAN = Plan(
    plan_id="pro",
    title="Pro",
    committed_fee_nanos=500,
    features=("chat",),
    quotas=(CALLS,),
)
SUBSCRIPTION = Subscription(subscription_id="s1", plan_id="pro", started_at=STARTED)
TENANT = Tenant(tenant_id="acme", name="Acme", subscription=SUBSCRIPTION)
DEAL = Deal(deal_id="d1", effective_from=datetime(2026, 3, 1, tzinfo=UTC))


def entitled(tenant: Tenant = TENANT, *, plan: Plan = PLAN, now: datetime = NOW) -> Entitled:
    catalog = Catalog(
        currency="USD", plans={plan.plan_id: plan}, tenants={tenant.tenant_id: tenant}
    )
    return entitle(catalog, tenant, now)


def with_deal(**changes: Any) -> Tenant:  # noqa: ANN401 - whatever a deal may say.
    return replace(TENANT, deals=(replace(DEAL, **changes),))


def test_a_plan_gives_features_quotas_fee_and_period() -> None:
    found = entitled()

    assert found.policy.features == {"chat"}
    assert found.policy.quotas == (
        quotas.Quota(quota_id="calls", meter="api.calls", limit_units=100, window=WindowKind.DAY),
    )
    assert found.contract.committed_fee_nanos == 500
    assert found.contract.anchor == STARTED
    assert found.contract.thresholds == Thresholds()
    assert found.contract.thresholds_source == "default"
    assert found.policy.period_start_micros == micros_of(datetime(2026, 2, 28, tzinfo=UTC))
    assert found.policy.period_end_micros == micros_of(datetime(2026, 3, 31, tzinfo=UTC))
    assert found.policy.next_period_end_micros == micros_of(datetime(2026, 4, 30, tzinfo=UTC))
    assert found.holds_until == datetime(2026, 3, 31, tzinfo=UTC)


def test_a_plan_by_the_year_has_periods_of_a_year() -> None:
    found = entitled(plan=replace(PLAN, cadence=Cadence.YEAR))

    assert found.contract.cadence is Cadence.YEAR
    assert found.policy.period_end_micros == micros_of(datetime(2027, 1, 31, tzinfo=UTC))


def test_a_subscription_that_has_not_started_counts_as_created() -> None:
    started_at = NOW + timedelta(days=3)
    tenant = replace(TENANT, subscription=replace(SUBSCRIPTION, started_at=started_at))

    before = entitled(tenant)
    after = entitled(tenant, now=started_at)

    assert before.policy.state is SubscriptionState.CREATED
    assert before.policy.period_start_micros == micros_of(started_at)
    assert before.holds_until == started_at
    assert after.policy.state is SubscriptionState.ACTIVE


def test_a_deal_changes_what_it_names_and_leaves_the_rest() -> None:
    tenant = with_deal(
        committed_fee_nanos=900,
        add_features=("reports",),
        thresholds=ThresholdChanges(block_below_bp=-500),
    )

    found = entitled(tenant)

    assert found.contract.committed_fee_nanos == 900
    assert found.policy.features == {"chat", "reports"}
    assert len(found.policy.quotas) == 1
    assert found.contract.thresholds == replace(Thresholds(), block_below_bp=-500)
    assert found.contract.thresholds_source == "deal:d1, default"


@pytest.mark.parametrize(
    ("at", "fee"),
    [
        (datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC), 500),
        (datetime(2026, 3, 1, tzinfo=UTC), 900),
        (datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC), 900),
        (datetime(2026, 4, 1, tzinfo=UTC), 500),
    ],
)
def test_a_deal_holds_from_its_start_up_to_its_end(at: datetime, fee: int) -> None:
    tenant = with_deal(committed_fee_nanos=900, effective_until=datetime(2026, 4, 1, tzinfo=UTC))

    assert entitled(tenant, now=at).contract.committed_fee_nanos == fee


def test_the_first_instant_that_changes_something_bounds_the_answer() -> None:
    soon = NOW + timedelta(hours=1)

    assert entitled(with_deal(effective_from=soon)).holds_until == soon
    assert entitled(with_deal(effective_until=soon)).holds_until == soon


def test_a_deal_can_change_lift_and_add_quotas() -> None:
    tokens = replace(CALLS, quota_id="tokens", meter="llm.output_tokens")
    plan = replace(PLAN, quotas=(CALLS, tokens))
    tenant = with_deal(
        quotas=(
            QuotaChange(quota_id="calls", limit_units=5000, soft=True),
            QuotaChange(quota_id="tokens", unlimited=True),
            QuotaChange(
                quota_id="chats",
                meter="api.calls",
                limit_units=7,
                window=WindowKind.HOUR,
                features=("chat",),
            ),
        )
    )

    found = entitled(tenant, plan=plan).policy.quotas

    assert found == (
        quotas.Quota(
            quota_id="calls",
            meter="api.calls",
            limit_units=5000,
            window=WindowKind.DAY,
            soft=True,
        ),
        quotas.Quota(
            quota_id="chats",
            meter="api.calls",
            limit_units=7,
            window=WindowKind.HOUR,
            features=frozenset({"chat"}),
        ),
    )


def test_a_limit_of_nothing_is_a_limit() -> None:
    tenant = with_deal(quotas=(QuotaChange(quota_id="calls", limit_units=0),))

    assert entitled(tenant).policy.quotas[0].limit_units == 0


def test_an_allowance_counts_only_without_a_fee() -> None:
    free = replace(PLAN, committed_fee_nanos=0, allowance_nanos=70)
    paid = with_deal(committed_fee_nanos=900)

    assert entitled(plan=free).contract.allowance_nanos == 70
    assert entitled(paid, plan=free).contract.allowance_nanos == 0
    assert entitled(with_deal(allowance_nanos=90), plan=free).contract.allowance_nanos == 90


@pytest.mark.parametrize(
    ("of_plan", "of_tenant", "shadow"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_a_tenant_s_shadow_mode_wins_over_its_plan_s(
    of_plan: bool,  # noqa: FBT001 - a table's column.
    of_tenant: bool | None,  # noqa: FBT001
    shadow: bool,  # noqa: FBT001
) -> None:
    found = entitled(replace(TENANT, shadow=of_tenant), plan=replace(PLAN, shadow=of_plan))

    assert found.policy.shadow is shadow


def test_an_override_stands_in_the_policy_with_its_end() -> None:
    until = NOW + timedelta(days=1)
    override = MarginOverride(level_max=Level.WARN, until=until, reason="r", author="a")

    policy = entitled(replace(TENANT, margin_override=override)).policy

    assert policy.override_level_max is Level.WARN
    assert policy.override_until_micros == micros_of(until)


def test_the_narrowest_rule_sets_each_floor_and_those_that_did_are_named() -> None:
    floors, source = floors_in_force(
        Thresholds(),
        ("plan:pro", ThresholdChanges(warn_below_bp=3000, throttle_below_bp=2500)),
        ("deal:d1", ThresholdChanges(warn_below_bp=4000)),
        ("tenant:acme", ThresholdChanges(hysteresis_bp=50)),
    )

    assert floors == Thresholds(
        warn_below_bp=4000, throttle_below_bp=2500, block_below_bp=0, hysteresis_bp=50
    )
    assert source == "deal:d1, plan:pro, default"


floor_changes = st.builds(
    ThresholdChanges,
    warn_below_bp=st.none() | st.integers(-100, 10_000),
    throttle_below_bp=st.none() | st.integers(-100, 10_000),
    block_below_bp=st.none() | st.integers(-100, 10_000),
)


@given(wide=floor_changes, narrow=floor_changes)
def test_a_floor_is_what_the_narrowest_rule_says_of_it(
    wide: ThresholdChanges, narrow: ThresholdChanges
) -> None:
    floors, source = floors_in_force(Thresholds(), ("wide", wide), ("narrow", narrow))

    named = set()
    for name in ("warn_below_bp", "throttle_below_bp", "block_below_bp"):
        said = [("narrow", narrow), ("wide", wide)]
        rule, bp = next(
            ((rule, getattr(each, name)) for rule, each in said if getattr(each, name) is not None),
            ("default", getattr(Thresholds(), name)),
        )
        assert getattr(floors, name) == bp
        named.add(rule)
    assert set(source.split(", ")) == named


@given(
    now=st.datetimes(
        min_value=datetime(2026, 1, 1),  # noqa: DTZ001 - hypothesis wants naive bounds.
        max_value=datetime(2027, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
    permille=st.integers(0, 999),
)
def test_nothing_changes_before_the_instant_that_is_promised(now: datetime, permille: int) -> None:
    tenant = with_deal(committed_fee_nanos=900, effective_until=datetime(2026, 7, 4, 3, tzinfo=UTC))
    first = entitled(tenant, now=now)

    later = entitled(tenant, now=now + (first.holds_until - now) * permille // 1000)
    then = entitled(tenant, now=first.holds_until)

    assert (later.policy, later.contract) == (first.policy, first.contract)
    assert (then.policy, then.contract) != (first.policy, first.contract)
