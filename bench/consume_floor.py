"""The least that consuming costs: fetch, decode, read every field of each event. One process.

Run by bench/consume.py; prints events, seconds and CPU seconds as JSON.
"""

import json
import sys
import time

import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from aforo_proto import usage_pb2
from bench.consume_load import PARTITIONS, TOPIC


async def main(bootstrap: str, count: int) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        started_s, cpu_s, seen = time.perf_counter(), time.process_time(), 0
        while seen < count:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    read(usage_pb2.UsageEvent.FromString(record.value))
                seen += len(records)
        done = {
            "events": seen,
            "seconds": time.perf_counter() - started_s,
            "cpu_s": time.process_time() - cpu_s,
        }
    finally:
        await consumer.stop()
    print(json.dumps(done))


def read(event: usage_pb2.UsageEvent) -> None:
    """Read every field once, and do nothing with it."""
    event.event_id, event.source, event.tenant_id, event.subscription_id  # noqa: B018
    event.occurred_at_micros, event.decision_id, event.outcome, event.reason  # noqa: B018
    event.estimated, event.aborted, event.shadow_reason, event.interim  # noqa: B018
    event.continued, event.decided_hour_s, event.weight_units, event.late  # noqa: B018
    event.session_boundary, event.metadata_json, event.received_at_micros  # noqa: B018
    tuple(event.features)
    told = event.dimensions
    told.provider, told.model, told.route, told.method, told.status, told.tool  # noqa: B018
    told.agent, told.session, told.path, told.execution_status, told.product  # noqa: B018
    for measure in event.measures:
        measure.meter, measure.units, measure.micros  # noqa: B018


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
