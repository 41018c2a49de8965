"""Every process is replaced under load, in an order and all at once, and nothing is lost.

`make rolling` plays more rounds: what is done and judged is in rounds_of_rolling.py.
"""

from itertools import pairwise

import pytest

from lab.servers import Program, ServerStartError, eventually, scratch_dir
from tests.e2e.rolling_lab import Ends, manifest_of
from tests.e2e.rounds_of_rolling import WORKLOADS, Order, orders_of, play
from tests.missing import missing

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SEED = 1


@pytest.mark.parametrize(
    ("at_port", "orders"),
    [
        (False, [*orders_of(SEED, 1), Order(names=WORKLOADS, together=True)]),
        (True, orders_of(SEED + 1, 1)),
    ],
    ids=["authz-at-a-socket", "authz-behind-a-service"],
)
async def test_every_process_is_replaced_and_no_request_fails_and_no_usage_is_lost(
    orders: list[Order], *, at_port: bool
) -> None:
    try:
        found = await play(SEED, orders=orders, rate_per_s=40, authz_at_port=at_port)
    except ServerStartError as error:
        missing(error)

    assert not found.problems, str(found)
    assert {name: len(took) for name, took in found.ends.seconds.items()} == {
        name: len(orders) * (2 if name == "ship" else 1) for name in WORKLOADS
    }
    assert found.answers.statuses.total() > 100
    assert found.reported > 10
    assert found.pages > 3


def test_a_seed_says_the_same_orders_each_time_and_each_has_every_workload() -> None:
    orders = orders_of(SEED, 12)

    assert orders == orders_of(SEED, 12) != orders_of(SEED + 1, 12)
    for order in orders:
        assert sorted(order.names) == sorted(WORKLOADS)
    assert [order.together for order in orders] == [False, False, False, True] * 3
    pairs = {pair for each in orders if not each.together for pair in pairwise(each.names)}
    assert len(pairs) == len(WORKLOADS) * (len(WORKLOADS) - 1), "each behind each other"


def test_all_but_ship_come_before_the_old_one_goes_and_have_time_to_end() -> None:
    manifests = {name: manifest_of(name) for name in WORKLOADS}

    assert [name for name, one in manifests.items() if not one.surges] == ["ship"]
    assert all(one.grace_s >= 25 for one in manifests.values())


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("exit 3", "ended with 3"),
        ('trap "sleep 2; exit 0" TERM; echo ready; while :; do sleep 0.05; done', "of 1"),
        ("echo Traceback; exit 0", "errors in its log"),
    ],
)
async def test_an_end_that_is_not_well_is_found_out(script: str, complaint: str) -> None:
    program = Program("victim", ["bash", "-c", script], log_dir=scratch_dir("victim"))
    ends = Ends()
    program.start()
    await eventually(lambda: "ready" in program.log_text() or not program.running)
    await ends.end("victim", program, grace_s=1)

    (problem,) = ends.problems
    assert complaint in problem
