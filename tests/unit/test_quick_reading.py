"""Two ways to an event, one of them quick: they must lead to the same one."""

import uuid
from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aforo_meter.access_log import Event, Reader, Reading, StreamReader
from aforo_meter.domain.metering import (
    Applied,
    Metering,
    Quantity,
    Rule,
    built_in_rules,
    statuses_of,
)
from aforo_meter.domain.paths import RouteTemplate
from aforo_meter.event_encoding import measure_code, time_varint, varint
from aforo_meter.event_reading import EventReader
from aforo_meter.recent import Recent
from aforo_proto.usage_pb2 import Measure, UsageEvent
from tests.unit.entries import entries
from tests.unit.test_access_log import DECIDED, make_entry, make_tokens

RECEIVED_MICROS = 1_795_000_002_000_000
BUILT_IN = Metering(
    rules=built_in_rules(
        unmetered_paths=frozenset({"/healthz"}), unmetered_statuses=frozenset({429})
    ),
    routes=(RouteTemplate(methods=frozenset(), path_template="/v1/batches/{batch}/run"),),
)
OWN = Metering(
    rules=(
        Rule(rule_id="no-errors", statuses=(statuses_of("5xx"),), exclude=True),
        Rule(rule_id="batch", path_template="/v1/batches/{b}/run", meter="api.calls",
             quantity_micros=2_500_000),
        Rule(rule_id="chat", features=frozenset({"chat"}), meter="chat.calls"),
        Rule(rule_id="any", meter="api.calls"),
        Rule(rule_id="out", methods=frozenset({"GET"}), meter="egress",
             quantity=Quantity.RESPONSE_BYTES),
        Rule(rule_id="in", routes=frozenset({"api"}), meter="ingress",
             quantity=Quantity.REQUEST_BYTES),
        Rule(rule_id="pages", path_template="/files/**", meter="reports.pages",
             quantity=Quantity.REPORTED),
    ),
    meters=frozenset({"report.pages"}),
    aliases={"reports.pages": "report.pages"},
)  # fmt: skip


def make_events(metering: Metering, **options: Any) -> EventReader:  # noqa: ANN401 - passed on.
    return EventReader(Applied(metering), new_id=lambda: "ours", **options)


class NothingQuick:
    """Leaves everything to the other way."""

    def for_message(self, *_: object) -> Any:  # noqa: ANN401 - as the real one's.
        return lambda _: None


def thorough(metering: Metering, **options: Any) -> StreamReader:  # noqa: ANN401 - passed on.
    reader = Reader(make_events(metering, **options))
    reader.quick = NothingQuick()  # type: ignore[assignment]  # It has what is asked of it.
    return StreamReader(reader, now_micros=lambda: RECEIVED_MICROS)


def quick(metering: Metering, **options: Any) -> StreamReader:  # noqa: ANN401 - passed on.
    reader = Reader(make_events(metering, **options))
    return StreamReader(reader, now_micros=lambda: RECEIVED_MICROS)


def message(*given: HTTPAccessLogEntry) -> bytes:
    made = StreamAccessLogsMessage()
    made.identifier.node.id = "gateway-1"
    made.http_logs.log_entry.extend(given)
    data: bytes = made.SerializeToString()
    return data


def plain(reading: Reading) -> tuple[object, ...]:
    """Return what a reading says, whatever the order of its parts on the wire."""
    if not isinstance(reading, Event):
        return (reading.reason,)
    event = UsageEvent.FromString(reading.value)
    measures = sorted((one.meter, one.units, one.micros) for one in event.measures)
    del event.measures[:]
    return (reading.key, event.SerializeToString(deterministic=True), *measures)


SHARED = {id(rules): quick(rules) for rules in (BUILT_IN, OWN)}


@pytest.mark.parametrize("metering", [BUILT_IN, OWN], ids=["built-in", "own"])
# On a busy machine an example may take its time; that is no fault of the example.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(entries(), min_size=1, max_size=2))
def test_both_ways_lead_to_the_same_event(
    metering: Metering, given_entries: list[HTTPAccessLogEntry]
) -> None:
    """The quick one has seen all the examples before, and remembers what it wants."""
    payload = message(*given_entries)
    warm, cold = SHARED[id(metering)], thorough(metering)
    warm.counts.clear()

    assert [plain(one) for one in warm.read(payload)] == [plain(one) for one in cold.read(payload)]
    assert warm.counts == cold.counts


def test_what_most_entries_look_like_takes_the_quick_way() -> None:
    counts: Any = SHARED[id(BUILT_IN)].counts
    way = Reader(make_events(BUILT_IN)).quick.for_message("envoy:gw", RECEIVED_MICROS, counts)
    usual = [
        make_entry(),
        make_entry(tokens=make_tokens()),
        make_entry(said={}),
        make_entry(said={**DECIDED, "decision": "block"}, details="ext_authz_denied", status=429),
        make_entry(status=503),
    ]

    for entry in usual:
        assert way(as_read(entry)) is not None


def as_read(entry: HTTPAccessLogEntry) -> Any:  # noqa: ANN401 - protobuf's.
    from aforo_proto.access_log_pb2 import Entry  # noqa: PLC0415 - of this helper alone.

    return Entry.FromString(entry.SerializeToString())


def test_a_million_names_of_an_attacker_fill_no_memory() -> None:
    reader = quick(BUILT_IN)
    for number in range(20_000):
        tokens = make_tokens()
        tokens.model = f"model-{number}"
        entry = make_entry(tokens=tokens)
        entry.request.path = f"/word{chr(97 + number % 26)}/{uuid.uuid4().hex[:8]}x{number}"
        entry.common_properties.metadata.filter_metadata["envoy.filters.http.mcp"].update(
            {"method": "tools/call", "params": {"name": f"tool-{number}"}}
        ) if number % 2 else None
        reader.read(message(entry))
    held = [
        len(one)
        for owner in (reader._reader.quick, reader._reader.events, reader._reader.events._mcp)
        for one in vars(owner).values()
        if isinstance(one, Recent)
    ]

    assert len(held) == 10
    assert all(count <= 2 * 4096 for count in held)
    assert max(held) > 1000, "something is remembered"


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_encoded_as_protobuf_does(number: int) -> None:
    event = UsageEvent(occurred_at_micros=number)
    measure = UsageEvent(measures=[Measure(meter="a.b", units=number)])

    assert b"\x30" + varint(number) == (event.SerializeToString() or b"\x30\x00")
    assert time_varint(number) == varint(number)
    assert UsageEvent.FromString(measure_code("a.b")(number)) == measure
