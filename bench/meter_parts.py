"""What each part of ship costs for an entry, alone, in CPU time; and the floor beneath all of it.

A process of its own, so that nothing else is in its figures. It prints JSON.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from aforo_meter import access_log
from aforo_meter.domain.metering import Applied, Metering, built_in_rules
from aforo_meter.domain.tokens import Estimates
from aforo_meter.event_reading import EventReader
from aforo_meter.kafka import Connection, KafkaWriter
from aforo_meter.outflow import Outflow
from aforo_meter.records import Record
from aforo_meter.segments import sync_path
from aforo_meter.spool import Spool
from bench.access_logs import ENTRIES, METHOD, messages
from bench.ship_load import stream

FLOOR_S = 1.5
REPEATED = 20
RECORDS = 100_000
TOPIC = "bench.parts"
DECISION = "envoy.filters.http.ext_authz"


def parse_floor(prepared: list[bytes]) -> float:
    """Parse messages and read the fields that an event needs; return entries a second."""
    begin_s, count = time.perf_counter(), 0
    while (now_s := time.perf_counter()) - begin_s < FLOOR_S:
        for payload in prepared:
            for entry in StreamAccessLogsMessage.FromString(payload).http_logs.log_entry:
                read_fields(entry)
                count += 1
    return count / (now_s - begin_s)


def read_fields(entry: Any) -> tuple[Any, ...]:  # noqa: ANN401 - xds-protos ships no types.
    common, request, response = entry.common_properties, entry.request, entry.response
    metadata = common.metadata
    said = metadata.filter_metadata[DECISION].fields
    start = common.start_time
    return (
        *(common.access_log_type, common.intermediate_log_entry, common.route_name),
        *(start.seconds, start.nanos, common.custom_tags["uid"], common.duration.nanos),
        *(said["tenant"].string_value, said["subscription"].string_value),
        *(said["decision"].string_value, said["features"].string_value),
        *(
            said["decision_id"].string_value,
            "envoy.ai.token_usage" in metadata.typed_filter_metadata,
        ),
        *(request.request_method, request.path, request.request_body_bytes),
        *(response.response_code.value, response.response_body_bytes),
        *(response.response_code_details, common.response_flags.downstream_remote_reset),
    )


def reading_micros(prepared: list[bytes]) -> tuple[float, list[Record]]:
    """Return what reading an entry and writing its event costs, and the records."""
    none: frozenset[Any] = frozenset()
    metering = Metering(rules=built_in_rules(unmetered_paths=none, unmetered_statuses=none))
    events = EventReader(Applied(metering), estimates=Estimates(), continued_after_ms=30_000)
    reader = access_log.StreamReader(access_log.Reader(events))
    begin_s = time.process_time()
    records = [record for payload in prepared for record in records_of(reader, payload)]
    return (time.process_time() - begin_s) / len(records) * 1e6, records


def records_of(reader: access_log.StreamReader, payload: bytes) -> Iterator[Record]:
    for reading in reader.read(payload):
        assert isinstance(reading, access_log.Event), "the messages are sound"
        yield Record(TOPIC, reading.key, reading.value)


def spool_micros(records: list[Record], home: Path) -> float:
    spool = Spool.open(home / "spool", bytes_max=1 << 30, setting="")
    begin_s = time.process_time()
    for begin in range(0, len(records), ENTRIES):
        spool.append(records[begin : begin + ENTRIES])
        spool.skip()
    used_s = time.process_time() - begin_s
    spool.close()
    sync_path(home / "spool" / "lock")
    return used_s / len(records) * 1e6


async def receiving_micros(prepared: list[bytes], home: Path) -> float:
    """Return what grpcio's server and client cost together, less than half of which is ours.

    Both run here: the generator's share is known from streams alone, which is not worth a process.
    """
    arrived = 0

    async def take(_: object, context: Any) -> bytes:  # noqa: ANN401 - no types for bytes.
        nonlocal arrived
        while await context.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
            arrived += 1
        return b""

    service, _, method = METHOD.strip("/").partition("/")
    handler = grpc.stream_unary_rpc_method_handler(take)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    server.add_insecure_port(f"unix:{home}/als.sock")
    await server.start()
    begin_s = time.process_time()
    await stream(f"{home}/als.sock", prepared, time.monotonic() + FLOOR_S)
    used_s = time.process_time() - begin_s
    await server.stop(0)
    return used_s / arrived / ENTRIES * 1e6


async def kafka_micros(records: list[Record], bootstrap: str) -> float:
    """Return what filling batches, sending them and hearing of them costs for a record."""
    outflow = Outflow(None, records_max=RECORDS * 2, bytes_max=1 << 30)
    connection = Connection(
        bootstrap=bootstrap,
        client_id="bench",
        idempotence=False,
        idempotence_setting="",
        request_timeout_ms=10_000,
        record_bytes_max=1 << 20,
    )
    writing = asyncio.create_task(KafkaWriter(connection, outflow, refused=lambda _: None).run())
    outflow.add(records[:ENTRIES])
    await outflow.emptied()  # It is connected by now.
    begin_s = time.process_time()
    for begin in range(0, len(records), ENTRIES):
        outflow.add(records[begin : begin + ENTRIES])
    await outflow.emptied()
    used_s = time.process_time() - begin_s
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    return used_s / len(records) * 1e6


async def main(bootstrap: str) -> None:
    prepared = messages()
    floor = parse_floor(prepared)
    reading, some = reading_micros(prepared * 4)
    records = (some * (RECORDS // len(some) + 1))[:RECORDS]
    with tempfile.TemporaryDirectory(prefix="aforo-parts-") as name:
        home = Path(name)
        found = {
            "parse_floor_eps": round(floor),
            "micros": {
                "read_and_serialize": round(reading, 2),
                "grpc_both_ends": round(await receiving_micros(prepared, home), 2),
                "spool_append": round(spool_micros(records, home), 2),
                "kafka_batch_and_ack": round(await kafka_micros(records, bootstrap), 2),
            },
            "event_bytes": round(sum(len(one.value) for one in records) / len(records)),
            "message_bytes": round(sum(map(len, prepared)) / len(prepared)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
