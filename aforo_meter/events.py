"""`aforo-meter events`: the usage topic, searched. It changes nothing."""

from collections.abc import AsyncIterator
from typing import Any, Final

from aforo_meter.batches import AHEAD_MICROS_MAX
from aforo_meter.domain.event_search import Search, holds
from aforo_meter.kafka_reading import count_of, open_topic
from aforo_meter.progress import Progress
from aforo_meter.shown_events import event_of, fields_of, json_text, line_of
from aforo_proto import usage_pb2

PLACE: Final = "place"


async def run(search: Search, *, bootstrap: str, topic: str, limit: int, as_json: bool) -> int:
    """Print what is found, as it is found; return how many that were.

    Raises:
        CommandError: Kafka does not answer.
    """
    found = 0
    async for place, event in matching(search, bootstrap=bootstrap, topic=topic):
        print(_json(place, event) if as_json else line_of(event), flush=True)  # noqa: T201
        found += 1
        if found >= limit:
            break
    return found


async def matching(
    search: Search, *, bootstrap: str, topic: str
) -> AsyncIterator[tuple[str, usage_pb2.UsageEvent]]:
    """Find events, each with its place PARTITION:OFFSET, in the order of the topic's partitions."""
    async with open_topic(bootstrap, topic) as reader:
        # What occurred at an instant was written after it, but for clocks that are ahead.
        spans = await reader.spans(search.period.start_micros - AHEAD_MICROS_MAX)
        progress = Progress("searching", count_of(spans))
        seen = 0
        try:
            async for partition, records in reader.records(spans):
                for record in records:
                    event = _match(search, record)
                    if event is not None:
                        progress.end()
                        yield f"{partition}:{record.offset}", event
                seen += len(records)
                progress.at(seen)
        finally:
            progress.end()


def _match(search: Search, record: Any) -> usage_pb2.UsageEvent | None:  # noqa: ANN401
    # The key is the tenant: most of a topic need not be decoded. A record without one may be any's.
    if (
        search.tenant_id is not None
        and record.key is not None
        and record.key != search.tenant_id.encode()
    ):
        return None
    event = event_of(record.value)
    if event is None or event.occurred_at_micros not in search.period:
        return None
    if search.tenant_id is not None and event.tenant_id != search.tenant_id:
        return None
    if search.event_ids and event.event_id not in search.event_ids:
        return None
    if search.conditions and not holds(fields_of(event), search.conditions):
        return None
    return event


def _json(place: str, event: usage_pb2.UsageEvent) -> str:
    return json_text({PLACE: place, **fields_of(event)})
