"""What another plan would let pass of a tenant's calls: the first thing that is looser."""

from dataclasses import replace
from typing import Any

import pytest

from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.catalog import Guard, Plan, ThresholdChanges
from aforo_admin.domain.loosening import loosened
from aforo_meter.domain.margin import AllowanceThresholds
from lab.servers import ROOT

EXAMPLE = read_file(ROOT / "catalog.example.yaml")

GLOBEX = EXAMPLE.tenants["globex"]
GUARD = Guard(guard_id="chat", features=("chat",), revenue_share_bp=6000)
ALLOWANCE = AllowanceThresholds(warn_at_bp=5000, throttle_at_bp=8000, block_at_bp=10000)
LATER = AllowanceThresholds(warn_at_bp=5000, throttle_at_bp=8000, block_at_bp=12000)


def plan(**said: Any) -> Plan:  # noqa: ANN401 - any field of a plan, or of its floors.
    floors = {name: said.pop(name) for name in list(said) if name in ThresholdChanges.__slots__}
    thresholds = ThresholdChanges(**floors)
    return Plan(plan_id="p", title="P", committed_fee_nanos=0, thresholds=thresholds, **said)


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (plan(), plan(shadow=True), "it is in shadow mode, in which nothing is blocked"),
        (plan(shadow=True), plan(), ""),
        (plan(shadow=True), plan(act_from_calls=100), ""),
        (plan(shadow=True), plan(shadow=True), ""),
        (plan(stale_margin_blocks=True), plan(), "a stale margin no longer blocks"),
        (plan(), plan(block_below_bp=-1), "block_below is looser"),
        (plan(block_below_bp=-1), plan(), ""),
        (plan(warn_below_bp=9000), plan(), "warn_below is looser"),
        (plan(), plan(act_from_calls=100), "act_from_calls is looser"),
        (plan(act_from_calls=100), plan(), ""),
        (plan(), plan(act_from_revenue_nanos=1), "act_from_revenue is looser"),
        (plan(allowance=ALLOWANCE), plan(allowance=LATER), "allowance is looser"),
        (plan(allowance=LATER), plan(allowance=ALLOWANCE), ""),
        (plan(allowance=ALLOWANCE), plan(), "allowance is looser"),
        (plan(guards=(GUARD,)), plan(), "the guard chat is gone"),
        (plan(), plan(guards=(GUARD,)), ""),
        (
            plan(guards=(GUARD,)),
            plan(guards=(replace(GUARD, revenue_share_bp=9000),)),
            "the guard chat is another",
        ),
        (plan(), plan(features=("chat",)), ""),
    ],
)
def test_another_plan_is_looser_where_it_lets_more_pass(
    before: Plan, after: Plan, what: str
) -> None:
    assert loosened(EXAMPLE, GLOBEX, before, after) == what


def test_what_the_tenant_says_stands_above_both_plans() -> None:
    strict = replace(GLOBEX, shadow=False, thresholds=ThresholdChanges(block_below_bp=500))

    assert not loosened(EXAMPLE, strict, plan(), plan(shadow=True, block_below_bp=-500))
    assert loosened(EXAMPLE, strict, plan(), plan(warn_below_bp=600)) == "warn_below is looser"
