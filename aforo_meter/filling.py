"""Estimates for calls that were decided and not logged → usage events, marked as what they are."""

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from aforo_meter.completeness import Completeness
from aforo_meter.domain.completeness import STANDS_FOR, Basis, Estimate, Score, estimates
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rating import MICROS_PER_UNIT
from aforo_meter.kafka_place import client_options, start, told
from aforo_meter.wire import COMPLETENESS
from aforo_proto import usage_pb2

BASIS_HOURS: Final = 24  # What to go by where nothing of the hour itself arrived.

CHUNK_EVENTS: Final = 1000  # Under way at the same time.


class FillError(Exception):
    """Kafka did not take the estimates. What it did take counts once, however often it is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """What would be, or is, sent for one tenant, features and hour."""

    score: Score
    basis: Basis
    hours: int  # That the averages are of; 0: there is nothing to reckon by.

    def events(self) -> Iterator[usage_pb2.UsageEvent]:
        """Yield an estimate for every lost call: the ledger drops those that it has already."""
        for estimate in estimates(self.basis, self.score.missing_passed):
            yield _event(self.score, estimate)

    def totals(self) -> dict[str, int]:
        """Return what is added to what was filled before, in 10^-6 units by meter."""
        sums: dict[str, int] = {}
        for estimate in estimates(self.basis, self.score.missing_passed):
            if estimate.number < self.score.filled:
                continue
            for meter, quantity_micros in estimate.measures:
                sums[meter] = sums.get(meter, 0) + quantity_micros
        return dict(sorted(sums.items()))


async def fillings(completeness: Completeness, scores: Iterable[Score]) -> AsyncIterator[Filling]:
    """Find what to reckon each gap by: the calls of the hour that arrived, else of the day."""
    for score in scores:
        if score.to_fill == 0 or not score.tenant_id:
            continue
        hour_end_micros = score.hour_start_micros + HOUR_MICROS
        for hours in (1, BASIS_HOURS):
            span = PeriodMicros(hour_end_micros - hours * HOUR_MICROS, hour_end_micros)
            basis = await completeness.basis(score.tenant_id, score.feature, span)
            if basis.calls:
                break
        else:
            hours = 0
        yield Filling(score=score, basis=basis, hours=hours)


async def send(events: Iterable[usage_pb2.UsageEvent], *, bootstrap: str, topic: str) -> int:
    """Send estimates to where all usage goes; return how many.

    Raises:
        FillError: Kafka did not take all of them.
    """
    producer = AIOKafkaProducer(**client_options(bootstrap), acks="all")
    count = 0
    try:
        await start(producer)
        try:
            for some in _chunks(events):
                sent = [
                    await producer.send(topic, one.SerializeToString(), key=one.tenant_id.encode())
                    for one in some
                ]
                await asyncio.gather(*sent)
                count += len(some)
        finally:
            await producer.stop()
    except (KafkaError, OSError) as error:
        raise FillError(f"Kafka has {count} of the estimates, then: {told(error)}") from error
    return count


def _chunks(events: Iterable[usage_pb2.UsageEvent]) -> Iterator[Sequence[usage_pb2.UsageEvent]]:
    waiting = iter(events)
    while chunk := list(itertools.islice(waiting, CHUNK_EVENTS)):
        yield chunk


def _event(score: Score, estimate: Estimate) -> usage_pb2.UsageEvent:
    """Return one estimate.

    Its id is that of the lost call, whatever the averages are by now and whether the ledger has
    heard of earlier estimates: asking again fills each call once.
    """
    kind = estimate.kind
    gap = _digest(score.tenant_id, score.feature, score.hour_start_micros)
    event_id = f"est:{gap}:{estimate.number}"
    if not estimate.stands_for:
        event_id += f":{_digest(*kind)}"
    return usage_pb2.UsageEvent(
        event_id=event_id,
        source=COMPLETENESS,
        tenant_id=score.tenant_id,
        subscription_id=kind.subscription_id,
        features=[one for one in score.feature.split(",") if one],
        occurred_at_micros=score.hour_start_micros,
        outcome=usage_pb2.OUTCOME_ALLOW,
        dimensions=usage_pb2.Dimensions(provider=kind.provider, model=kind.model, tool=kind.tool),
        measures=[
            usage_pb2.Measure(
                meter=meter,
                units=quantity_micros // MICROS_PER_UNIT,
                micros=quantity_micros % MICROS_PER_UNIT,
            )
            for meter, quantity_micros in estimate.measures
        ],
        estimated=True,
        decided_hour_s=score.hour_start_micros // 1_000_000,
        weight_units=estimate.weight_units,
        metadata_json=json.dumps({STANDS_FOR: estimate.stands_for}),
    )


def _digest(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
