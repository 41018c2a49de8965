"""Usage that is added up before it is rated comes to the same as each event rated by itself."""

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aforo_meter.batches import Counted, Rater, read
from aforo_meter.domain.margin import Thresholds
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.prices import PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.terms import Terms
from aforo_proto import usage_pb2
from tests.unit.rated_sums import estimates, extras, sums

HOUR = 1_793_491_200_000_000  # 2026-11-01, an hour's beginning.
ANCHOR = HOUR + 20 * 60_000_000  # A period begins within the hour.


@dataclass
class Record:
    value: bytes | None
    offset: int = 0
    key: bytes | None = None
    timestamp: int = 0


class KnownContracts:
    """Contracts and prices that are there, as if Redis had told them."""

    generation = 1

    def __init__(self) -> None:
        entries = (
            _price("calls", "api.calls", 7),
            _price("in", "llm.input_tokens", 3),
            _price("in-later", "llm.input_tokens", 5, effective_from_micros=HOUR + 30 * 60_000_000),
            _price("out", "llm.output_tokens", 11),
            _price("out-large", "llm.output_tokens", 13, tier_input_tokens_from=1000),
            _price("out-night", "bytes.request", 17, day_from_s=0, day_to_s=1800),
            _price("refused", "bytes.response", 19),
        )
        lists = (
            PriceList(entries=entries),
            PriceList(model="gpt", entries=(_price("gpt", "llm.input_tokens", 2),)),
        )
        self.book = PriceBook(version="1", currency="USD", own=lists)
        self._prices = Prices(self.book)
        self._terms = {
            "acme": _terms("acme", HOUR - 24 * HOUR_MICROS),
            "midway": _terms("midway", ANCHOR),
        }

    async def know(self, _: Any) -> None:  # noqa: ANN401
        """Everything is."""

    def terms(self, tenant_id: str) -> Terms | None:
        return self._terms.get(tenant_id)

    def prices(self, _: str) -> Prices:
        return self._prices


class FormerPeriods:
    async def period_covering(self, *_: object) -> None:
        return None


def _price(price_id: str, meter: str, nanos: int, **more: int) -> PriceEntry:
    return PriceEntry(
        price_id=price_id,
        meter=meter,
        price_nanos=nanos,
        per_units=1,
        source="test",
        **({"effective_from_micros": 0} | more),
    )


def _terms(tenant_id: str, anchor_micros: int) -> Terms:
    return Terms(
        tenant_id=tenant_id,
        subscription_id="sub-1",
        anchor_micros=anchor_micros,
        thresholds=Thresholds(),
    )


METERS = (
    *("api.calls", "llm.input_tokens", "llm.cached_input_tokens", "llm.output_tokens"),
    *("bytes.request", "bytes.response", "unknown.meter", ""),
)
MEASURES = st.builds(
    usage_pb2.Measure,
    meter=st.sampled_from(METERS),
    units=st.sampled_from([-1, 0, 1, 499, 501, 1000, 10**15]),
    micros=st.sampled_from([0, 0, 0, 1, 999_999, 1_000_000, -1]),
)
USUAL = st.builds(usage_pb2.Measure, meter=st.sampled_from(METERS[:4]), units=st.integers(0, 1200))
DIMENSIONS = st.builds(
    usage_pb2.Dimensions,
    provider=st.sampled_from(["openai", ""]),
    model=st.sampled_from(["gpt", "other", "gpt\0"]),
    tool=st.sampled_from(["", "", "search"]),
    session=st.sampled_from(["", "", "", "s1"]),
    execution_status=st.sampled_from([0, 1, 99]),
)
EVENTS = st.builds(
    usage_pb2.UsageEvent,
    event_id=st.sampled_from(["", *(f"e{n}" for n in range(30)), "ik:1", "ce:1"]),
    source=st.sampled_from(["envoy:a", "envoy:b", "ingest", "completeness"]),
    tenant_id=st.sampled_from(["acme", "acme", "midway", "stranger", ""]),
    subscription_id=st.sampled_from(["sub-1", "sub-1", "", "sub-0"]),
    features=st.lists(st.sampled_from(["api", "chat", "a,b"]), max_size=2),
    occurred_at_micros=st.sampled_from(
        [HOUR, HOUR + 1, ANCHOR - 1, ANCHOR, HOUR + 40 * 60_000_000, HOUR + HOUR_MICROS, 5, 2**62]
    ),
    decision_id=st.sampled_from(["", "d1", "d2"]),
    outcome=st.sampled_from([1, 1, 1, 2, 3, 4, 9]),
    reason=st.sampled_from(["allowed", "quota"]),
    shadow_reason=st.sampled_from(["", "", "quota"]),
    dimensions=DIMENSIONS,
    measures=st.one_of(st.lists(USUAL, max_size=4), st.lists(MEASURES, max_size=4)),
    estimated=st.sampled_from([False, False, False, True]),
    interim=st.sampled_from([False, False, False, True]),
    continued=st.sampled_from([False, False, False, True]),
    decided_hour_s=st.sampled_from([0, HOUR // 1_000_000]),
    weight_units=st.sampled_from([0, 1, 3, -1, 10**9]),
    late=st.booleans(),
    session_boundary=st.sampled_from([0, 0, 0, 1, 2, 3]),
)


def rater() -> Rater:
    made = Rater(KnownContracts(), FormerPeriods())  # type: ignore[arg-type]
    made.refuse_prices(["refused"])
    return made


def summary(counted: Counted) -> dict[str, Any]:
    """Return all that the ledger takes from it, whatever the order and the grouping."""
    plain = [one for one in counted.rated if one.usage.call is None]
    return {
        "sums": +sums(plain),
        "extras": +extras(plain),
        "estimates": +estimates(plain),
        "calls": Counter(
            (one.usage.call, one.charges, one.usage.weight_units)
            for one in counted.rated
            if one.usage.call is not None
        ),
        "keys": Counter(key for one in counted.rated for key in one.event_keys),
        "kept": Counter(
            (key, one.usage.from_gateway, one.usage.is_reported)
            for one in counted.rated
            for key in one.event_keys
        ),
        "interventions": _counts(counted, lambda one: one.intervention),
        "logged": _counts(counted, lambda one: one.usage.logged),
        "sightings": [one.usage.sighting for one in counted.rated if one.usage.sighting],
        "periods": {(one.tenant_id, one.subscription_id, one.period) for one in counted.rated},
        "late": counted.late,
        "oldest": counted.oldest_micros,
        "repeated": counted.repeated,
    }


def _counts(counted: Counted, what: Any) -> Counter[Any]:  # noqa: ANN401
    found: Counter[Any] = Counter()
    for one in counted.rated:
        if what(one) is not None:
            found[what(one)] += one.usage.logged_calls * len(one.event_keys)
    return +found


@st.composite
def batches_of_few_kinds(draw: st.DrawFn) -> list[list[usage_pb2.UsageEvent]]:
    """Return events of a few kinds, with ids and quantities of their own; some come twice."""
    kinds = draw(st.lists(EVENTS, min_size=1, max_size=4))
    numbers = itertools.count()
    known: list[usage_pb2.UsageEvent] = []
    batches = []
    for _ in range(draw(st.integers(1, 3))):
        batch = []
        for _ in range(draw(st.integers(0, 20))):
            if known and draw(st.integers(0, 9)) == 0:
                batch.append(draw(st.sampled_from(known[-5:])))
                continue
            event = usage_pb2.UsageEvent()
            event.CopyFrom(draw(st.sampled_from(kinds)))
            if event.event_id:
                event.event_id = event.event_id[:3] + f"-{next(numbers)}"
            if draw(st.booleans()):
                event.ClearField("measures")
                event.measures.extend(draw(st.lists(USUAL, max_size=4)))
            batch.append(event)
        known += batch
        batches.append(batch)
    return batches


@settings(max_examples=300, deadline=None)
@given(batches=batches_of_few_kinds())
def test_adding_up_first_comes_to_the_same(batches: list[list[usage_pb2.UsageEvent]]) -> None:
    async def check() -> None:
        quick, slow = rater(), rater()
        for events in batches:  # Later ones meet kinds that are known.
            records: list[Any] = [Record(event.SerializeToString()) for event in events]
            records.append(Record(b"\xff no event"))
            readable, refused = read(records)
            expected = await slow.one_by_one(readable)
            found = await quick.add_up(records, counted=())

            assert summary(found) == summary(expected)
            assert Counter((id(one.record), one.reason) for one in found.refused) == Counter(
                (id(one.record), one.reason) for one in refused
            )

    asyncio.run(check())


@settings(max_examples=300, deadline=None)
@given(event=EVENTS, at=st.integers(0, 400), bits=st.integers(1, 255))
def test_a_broken_record_of_a_known_kind_is_read_as_it_would_be_alone(
    event: usage_pb2.UsageEvent, at: int, bits: int
) -> None:
    value = bytearray(event.SerializeToString())
    value[at % len(value)] ^= bits
    broken: list[Any] = [Record(bytes(value))]

    async def check() -> None:
        quick, slow = rater(), rater()
        await quick.add_up([Record(event.SerializeToString())], counted=())
        readable, refused = read(broken)
        found = await quick.add_up(broken, counted=())

        assert summary(found) == summary(await slow.one_by_one(readable))
        assert [one.reason for one in found.refused] == [one.reason for one in refused]

    asyncio.run(check())


async def test_events_of_a_kind_are_rated_together() -> None:
    records: list[Any] = [
        Record(_call(f"e{number}", 10).SerializeToString()) for number in range(50)
    ]
    made = rater()

    await made.add_up(records[:1], counted=())
    counted = await made.add_up(records[1:], counted=())

    (one,) = counted.rated
    assert len(one.event_keys) == 49
    assert {key.meter: micros for key, micros in one.charges} == {
        "api.calls": 49_000_000,
        "llm.output_tokens": 490_000_000,
    }


async def test_what_was_counted_before_is_left_out() -> None:
    records: list[Any] = [
        Record(_call(f"e{number}", 10).SerializeToString()) for number in range(5)
    ]
    made = rater()
    before = await made.add_up(records[:2], counted=())
    known = [key for one in before.rated for key in one.event_keys]

    counted = await made.add_up(records, counted=known)

    assert counted.repeated == 2
    assert sum(len(one.event_keys) for one in counted.rated) == 3


def calls(count: int) -> list[Any]:
    return [Record(_call(f"e{number}", 10).SerializeToString()) for number in range(count)]


def _call(event_id: str, tokens: int) -> usage_pb2.UsageEvent:
    return usage_pb2.UsageEvent(
        event_id=event_id,
        source="envoy:a",
        tenant_id="acme",
        subscription_id="sub-1",
        occurred_at_micros=HOUR + 5,
        outcome=usage_pb2.OUTCOME_ALLOW,
        measures=[
            usage_pb2.Measure(meter="api.calls", units=1),
            usage_pb2.Measure(meter="llm.output_tokens", units=tokens),
        ],
    )
