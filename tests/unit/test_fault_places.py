"""Where in a form a fault belongs: from the words of the YAML to rows and columns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_admin.domain.problems import Figure, path_of, place_of
from aforo_admin.faults import Fault
from tests.contract import control_lab  # noqa: F401 - it sets Django up.

STEPS = st.one_of(
    st.integers(min_value=0, max_value=10**6),
    st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True),
)


@given(st.lists(STEPS, max_size=6).filter(lambda steps: not steps or isinstance(steps[0], str)))
def test_a_place_is_read_back_as_the_path_that_it_was_written_from(steps: list[str | int]) -> None:
    assert path_of(place_of(tuple(steps))) == tuple(steps)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("plans.pro.title", ("", 0, "title")),
        ("plans.pro.committed_fee", ("", 0, "committed_fee_nanos")),
        ("plans.pro.features[2]", ("", 0, "features")),
        ("plans.pro.revenue_basis", ("", 0, "basis")),
        ("plans.pro.thresholds.block_below", ("", 0, "block_below_bp")),
        ("plans.pro.thresholds", ("", 0, "warn_below_bp")),
        ("plans.pro.allowance_thresholds.throttle_at", ("", 0, "allowance_throttle_at_bp")),
        ("plans.pro.quotas[1].limit", ("PlanQuota", 1, "limit_units")),
        ("plans.pro.quotas[1].id", ("PlanQuota", 1, "quota_id")),
        ("plans.pro.guards[0].thresholds.warn_below", ("PlanGuard", 0, "warn_below_bp")),
        ("plans.pro.guards[0].meters[3]", ("PlanGuard", 0, "meters")),
        ("plans.pro.rate_card[0].components[0].price", ("PlanRateCard", 0, "components")),
        ("plans.pro.rate_card[2].from", ("PlanRateCard", 2, "effective_from")),
        ("plans.pro", ("", 0, "")),
        ("plans.pro.unheard_of", ("", 0, "")),
    ],
)
def test_a_fault_of_a_plan_stands_at(place: str, expected: tuple[str, int, str]) -> None:
    from aforo_admin.control.fault_places import place_in  # noqa: PLC0415 - once it is set up.
    from aforo_admin.control.models import PlanVersion  # noqa: PLC0415

    found = place_in(PlanVersion(plan_id="pro"), path_of(place))

    assert found is not None
    assert (found.table, found.index, found.column) == expected


def test_figures_that_do_not_go_together_are_told_among_their_columns() -> None:
    from aforo_admin.control.fault_places import place_of_fault  # noqa: PLC0415 - as above.
    from aforo_admin.control.models import PlanVersion  # noqa: PLC0415

    figures = (
        Figure(name="throttle_below", written="5%"),
        Figure(name="block_below", written="7%"),
    )
    fault = Fault(line=0, place="plans.pro.guards[1].thresholds", message="", pair=figures)
    place = place_of_fault(PlanVersion(plan_id="pro"), fault)

    assert place is not None
    assert (place.table, place.index) == ("PlanGuard", 1)
    assert place.among == ("throttle_below_bp", "block_below_bp")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("tenants.acme.name", ("", 0, "name")),
        ("tenants.acme.subscription.plan", ("Subscription", 0, "plan")),
        ("tenants.acme.subscription.changes[1].from", ("PlanChange", 1, "effective_from")),
        ("tenants.acme.margin_override.until", ("MarginOverride", 0, "until")),
        ("tenants.acme.negotiated_costs[4].per", ("NegotiatedCost", 4, "per_units")),
        ("tenants.acme.thresholds.act_from_revenue", ("", 0, "act_from_revenue_nanos")),
    ],
)
def test_a_fault_of_a_tenant_stands_at(place: str, expected: tuple[str, int, str]) -> None:
    from aforo_admin.control.fault_places import place_in  # noqa: PLC0415 - once it is set up.
    from aforo_admin.control.models import Tenant  # noqa: PLC0415

    found = place_in(Tenant(tenant_id="acme"), path_of(place))

    assert found is not None
    assert (found.table, found.index, found.column) == expected
    assert place_in(Tenant(tenant_id="globex"), path_of(place)) is None
