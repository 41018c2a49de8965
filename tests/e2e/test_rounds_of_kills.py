"""Whatever is killed or frozen, what reached a receiver is charged once, and the rest is named.

Ships and consumer are killed and frozen; the broker is frozen, and killed too where it is a real
Kafka, which needs java and mvn. What that shows and what not: rounds_of_kills.py. Here is one seed
of each with few requests; `make kills` plays more.
"""

import pytest

from lab.faults import Kind, schedule
from lab.servers import scratch_dir
from tests.e2e.kills_witness import ShipWitness
from tests.e2e.rounds_of_kills import Round, broker_for_kills, play
from tests.missing import missing

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

REQUESTS = 1500
RATE_PER_S = 250


def assert_kept(found: Round) -> None:
    assert not found.problems, str(found)
    assert found.served == REQUESTS
    assert found.missing == found.named_missing, str(found)


async def test_kills_and_freezes_of_ships_consumer_and_kafka_charge_all_that_was_read_once() -> (
    None
):
    kafka, why = broker_for_kills()
    if kafka is None:
        missing(why)
    found = await play(1, requests=REQUESTS, rate_per_s=RATE_PER_S, kafka=kafka)

    assert_kept(found)
    assert {(one.target, one.kind) for one in found.faults} == {
        (target, kind) for target in ("ship-a", "ship-b", "consume", "broker") for kind in Kind
    }


async def test_kills_and_freezes_around_a_frozen_broker_charge_all_that_was_read_once() -> None:
    found = await play(2, requests=REQUESTS, rate_per_s=RATE_PER_S, kafka=None)

    assert_kept(found)
    assert ("broker", Kind.KILL) not in {(one.target, one.kind) for one in found.faults}


def test_a_seed_says_the_same_each_time_and_each_kind_comes() -> None:
    kinds = {"one": tuple(Kind), "other": (Kind.FREEZE,)}
    planned = schedule(7, kinds, span_s=40)

    assert planned == schedule(7, kinds, span_s=40) != schedule(8, kinds, span_s=40)
    for target, possible in kinds.items():
        assert {one.kind for one in planned[target]} == set(possible)
        assert all(0 <= one.at_s <= 40 for one in planned[target])


def test_a_ship_that_said_more_than_its_disk_has_is_found_out() -> None:
    spool = scratch_dir("spool")
    (spool / "checkpoint").write_text("5 00000000\n")
    witness = ShipWitness(spool=spool, metrics_port=1)
    witness._now_said = 6
    witness.look()

    assert witness.read == 5
    assert witness.problems == [f"{spool.name}: read 6, on disk 5"]
