"""Whoever is killed, every nano is in the ledger and every change of a level is told once.

What is played and what it shows: rounds_of_money.py. Here it is short; `make money-kills` plays
200 kills. The broker is killed only where it is a real Kafka, which needs java and mvn.
"""

from collections import Counter
from fractions import Fraction

import pytest

from aforo_proto import usage_pb2
from lab.postgres import PostgresServer
from tests.e2e.money_ledger import view_of
from tests.e2e.money_traffic import PRICES, TENANTS, Traffic
from tests.e2e.rounds_of_kills import broker_for_kills
from tests.e2e.rounds_of_money import Played, fees, judge_alerts, play

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NOW = 1_795_000_000_000_000


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_kills_of_everything_behind_the_gateway_change_no_nano_and_lose_no_alert(
    database: str,
) -> None:
    kafka, _ = broker_for_kills()
    server = PostgresServer() if database == "postgresql" else None
    found = await play(7, kills=10, kafka=kafka, database=server)

    assert not found.problems, str(found)
    assert found.kills.total() >= 8
    assert found.transitions >= 2, str(found)


def test_a_seed_makes_the_same_usage_each_time_and_repeats_some_of_it() -> None:
    one, other = (Traffic(seed=3, now_micros=NOW) for _ in range(2))
    sent = [list(one.next(NOW)) for _ in range(500)]

    assert sent == [list(other.next(NOW)) for _ in range(500)]
    values = Counter(value for some in sent for _, value in some)
    assert one.events == 500 == len(values)
    assert one.repeats == values.total() - 500 > 0


def test_the_reckoning_is_that_of_a_single_event() -> None:
    traffic = Traffic(seed=1, now_micros=NOW)
    ((tenant_id, value), *_) = traffic.next(NOW)
    event = usage_pb2.UsageEvent.FromString(value)
    model = event.dimensions.model

    expected = 0
    for measure in event.measures:
        nanos, per_units = PRICES.get((measure.meter, model)) or PRICES[measure.meter, ""]
        expected += round(Fraction(nanos) * measure.units / per_units)
    assert list(traffic.cogs_nanos().values()) == [expected]
    assert {one for one, _ in traffic.cogs_nanos()} == {tenant_id}


def test_a_lost_repeated_or_forged_message_is_found_out() -> None:
    def row(message_id: str, before: str, after: str) -> tuple[str, str, str, int]:
        payload = f'{{"data":{{"tenant":"{TENANTS[0]}","from":"{before}","to":"{after}"}}}}'
        return message_id, "margin.level_changed", payload, 0

    def found(rows: list[tuple[str, str, str, int]], transitions: int = 2) -> list[str]:
        states = [(TENANTS[0], 0, 0, 1, 2, transitions)]
        played = Played(seed=1)
        sound = [row("m1", "none", "warn"), row("m2", "warn", "throttle")]
        received = [{"headers": {"webhook-id": one}, "body": body} for one, _, body, _ in sound]
        judge_alerts(played, view_of([], [], states, rows), received)
        return played.problems

    good = [row("m1", "none", "warn"), row("m2", "warn", "throttle")]
    assert found(good) == []
    assert found(good[:1])  # A change without a message.
    assert found([*good, row("m3", "throttle", "warn"), row("m4", "warn", "throttle")])  # Not sent.
    assert found([good[0], row("m2", "none", "throttle")])  # A link is missing.
    assert found(good, transitions=3)


def test_fees_lie_around_what_is_used() -> None:
    once, thrice = fees(100, times=Fraction(1)), fees(100, times=Fraction(3))

    assert {thrice[one] / once[one] for one in TENANTS} == {3}
    assert len(set(once.values())) == len(TENANTS)


def test_a_row_without_a_price_is_no_zero() -> None:
    with pytest.raises(AssertionError):
        view_of([("t", 0, 1, None, None)], [], [], [])
