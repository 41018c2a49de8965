"""Metering rules on their way: from a catalog through Redis into what ship counts."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio import Redis

from aforo_admin.catalog_yaml import read_text
from aforo_admin.read_model import build
from aforo_meter import dlq_retry
from aforo_meter.access_log import Reader
from aforo_meter.command_arguments import CommandError
from aforo_meter.contract_messages import UnreadableError
from aforo_meter.dlq import Letter, Place
from aforo_meter.domain.metering import Applied, Metering, Quantity, built_in_rules
from aforo_meter.event_reading import EventReader
from aforo_meter.metering_messages import metering_of
from aforo_meter.metering_rules import RulesFollower
from aforo_meter.settings_ship import ShipSettings
from aforo_meter.ship_rules import event_reader
from aforo_proto import metering_pb2, usage_pb2
from lab.servers import KafkaServer, eventually
from tests.contract.ship_lab import make_entry, make_message, ship_lab

pytestmark = pytest.mark.contract

BUILT_IN = built_in_rules(unmetered_paths=frozenset(), unmetered_statuses=frozenset())
CATALOG = """version: 1
currency: USD
features: [{id: api}]
routes: [{path: "/v1/{kind}", features: []}]
meters: [{id: things.read, title: Things, aliases: [thingsRead]}]
metering:
  - {id: quiet, path: /v1/quiet, exclude: true}
  - {id: things, methods: [GET], path: /v1/things, meter: things.read, quantity: 2.5}
  - {id: egress, status: 2xx, features: [api], meter: bytes.response, quantity: response_bytes}
"""


def values(text: str = CATALOG) -> dict[bytes, bytes]:
    basis = build(read_text(text.encode(), name="c.yaml"), datetime(2026, 11, 20, tzinfo=UTC)).basis
    return {key: basis[key] for key in (b"aforo:v1:metering", b"aforo:v1:routes")}


def follower(redis: Redis, known: list[Metering], kept_in: Path | None = None) -> RulesFollower:
    return RulesFollower(
        redis, built_in=BUILT_IN, changed=known.append, poll_s=0.01, kept_in=kept_in
    )


def test_ship_reads_what_sync_writes() -> None:
    metering = metering_of(*values().values(), built_in=BUILT_IN)
    quiet, things, egress = metering.rules

    assert (quiet.exclude, quiet.path_template) == (True, "/v1/quiet")
    assert (things.meter, things.quantity_micros) == ("things.read", 2_500_000)
    assert things.methods == {"GET"}
    assert (egress.quantity, egress.statuses) == (Quantity.RESPONSE_BYTES, (range(200, 300),))
    assert egress.features == {"api"}
    assert metering.meters == {"things.read"}
    assert metering.aliases == {"thingsRead": "things.read"}
    assert [route.path_template for route in metering.routes] == ["/v1/{kind}"]


def test_a_catalog_without_rules_means_the_built_in_ones() -> None:
    assert metering_of(b"", b"", built_in=BUILT_IN).rules == BUILT_IN


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"meter": "m", "quantity": 99}, "unknown quantity 99"),
        ({"meter": "m", "status_ranges": ["x"]}, "is no status"),
        ({"meter": "m", "path_template": "x"}, "does not start with /"),
        ({"meter": "M"}, "names no meter"),
        ({"meter": "m", "quantity_micros": -1}, "negative"),
    ],
)
def test_a_rule_of_a_later_version_is_never_read_as_none(rule: dict[str, object], why: str) -> None:
    written = metering_pb2.Metering(rules=[metering_pb2.MeteringRule(**rule)])  # type: ignore[arg-type]

    with pytest.raises(UnreadableError, match=why):
        metering_of(written.SerializeToString(), b"", built_in=BUILT_IN)


async def test_rules_are_followed_and_what_is_gone_or_broken_changes_nothing(
    redis_url: str, tmp_path: Path
) -> None:
    known: list[Metering] = []
    async with Redis.from_url(redis_url) as redis:
        following = follower(redis, known, tmp_path / "rules.json")
        await following.start()
        assert known == []
        await redis.mset(values())
        await following.look()
        await following.look()
        assert [len(one.rules) for one in known] == [3]
        await redis.set("aforo:v1:metering", b"\xff\xff")
        await following.look()
        await redis.delete("aforo:v1:metering")
        await following.look()
        assert len(known) == 1
        await redis.mset(values(CATALOG.replace("2.5", "3")))
        await following.look()

    assert known[1].rules[1].quantity_micros == 3_000_000
    again: list[Metering] = []
    async with Redis.from_url("redis://127.0.0.1:1/0") as nowhere:
        await follower(nowhere, again, tmp_path / "rules.json").start()
    assert again == [known[1]], "the last known ones outlive a restart without Redis"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"metering": "!", "routes": ""}'])
async def test_a_damaged_file_of_last_known_rules_stops_nothing(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / "rules.json").write_text(content)
    known: list[Metering] = []
    async with Redis.from_url("redis://127.0.0.1:1/0") as nowhere:
        await follower(nowhere, known, tmp_path / "rules.json").start()

    assert known == []


async def test_a_change_holds_from_the_next_entry_on(
    kafka_server: KafkaServer, redis_url: str
) -> None:
    async with (
        Redis.from_url(redis_url) as redis,
        ship_lab(
            kafka_server.bootstrap, partitions=3, REDIS_URL=redis_url, RULES_POLL_MS="20"
        ) as lab,
        lab.stream() as stream,
    ):
        await stream.write(make_message(make_entry("before")))
        (before,) = await lab.arrived(1)
        await redis.mset(values())
        await eventually(lambda: lab.metric("aforo_ship_rules_followed") == 1)
        await stream.write(make_message(make_entry("after"), make_entry("x", path="/v1/quiet")))
        await lab.arrived(3)
        (after,) = [event for event in lab.events if event.tenant_id == "after"]
        (excluded,) = [event for event in lab.events if event.tenant_id == "x"]
        unmetered = lab.metric('aforo_ship_unmetered_total{why="rule"}')

    assert {one.meter: one.units for one in before.measures} == {
        "api.calls": 1,
        "bytes.response": 42,
    }
    assert {one.meter: (one.units, one.micros) for one in after.measures} == {
        "things.read": (2, 500_000),
        "bytes.response": (42, 0),
    }
    assert before.dimensions.path == "/v1/things"
    assert after.dimensions.path == "/v1/{kind}"
    assert not excluded.measures
    assert unmetered == 1


async def test_streams_under_way_read_by_the_new_rules() -> None:
    reader = Reader(EventReader(Applied(Metering(rules=BUILT_IN))))
    way = reader.quick
    reader.follow(EventReader(Applied(metering_of(*values().values(), built_in=BUILT_IN))))
    await asyncio.sleep(0)

    assert reader.quick is not way


async def test_a_dead_letter_counts_by_the_catalogs_rules(redis_url: str) -> None:
    settings = ShipSettings(kafka_bootstrap="kafka:9092", redis_url=redis_url)
    letter = usage_pb2.DeadLetter(
        stage="ship", reason="some", payload=make_entry().SerializeToString()
    )
    with pytest.raises(CommandError, match=r"aforo:v1:metering is missing"):
        await dlq_retry.catalog_rules(settings)
    async with Redis.from_url(redis_url) as redis:
        await redis.mset(values())

    found = dlq_retry.attempt(
        Letter(place=Place(0, 1), letter=letter),
        topic="usage",
        letters_topic="letters",
        settings=settings,
        metering=await dlq_retry.catalog_rules(settings),
        now_micros=0,
    )

    (record,) = found.records
    told = usage_pb2.UsageEvent.FromString(record.value)
    meters = {one.meter for one in told.measures}
    assert "things.read" in meters
    assert "api.calls" not in meters


async def test_a_dead_letter_counts_by_the_built_in_rules_where_ship_has_no_redis() -> None:
    assert await dlq_retry.catalog_rules(ShipSettings(kafka_bootstrap="kafka:9092")) is None


async def test_rules_that_can_not_be_had_are_not_guessed(redis_url: str) -> None:
    settings = ShipSettings(kafka_bootstrap="kafka:9092", redis_url=redis_url)
    async with Redis.from_url(redis_url) as redis:
        await redis.set("aforo:v1:metering", b"\xff")
    with pytest.raises(CommandError, match="can't be had"):
        await dlq_retry.catalog_rules(settings)


def test_the_end_says_a_little_early_that_totals_may_have_come_before() -> None:
    """Envoy's first total may come before its interval is over, by the clock of the request."""
    reader = event_reader(ShipSettings(kafka_bootstrap="kafka:9092", interim_every_ms=30_000))

    assert reader.continued_after_ms == 27_000
