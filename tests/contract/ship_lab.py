"""A ship process with topics of its own, streams like Envoy's into it, and what came out."""

from __future__ import annotations  # grpc-stubs has generics that grpc has not.

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from aforo_meter import topics
from aforo_proto.usage_pb2 import DeadLetter, UsageEvent
from lab.ports import free_port
from lab.servers import HANG_S, Program, ask_tcp, eventually, python_module, scratch_dir

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
HEALTH = "/grpc.health.v1.Health/Check"
READY = b"GET /readyz HTTP/1.1\r\n\r\n"

_numbers = itertools.count(1)


@dataclass(kw_only=True)
class ShipLab:
    """One ship process: `program` is not started yet."""

    bootstrap: str
    usage_topic: str
    dead_letter_topic: str
    socket_path: Path
    program: Program
    metrics_port: int
    records: dict[str, list[ConsumerRecord[bytes, bytes]]] = field(default_factory=dict)

    @property
    def events(self) -> list[UsageEvent]:
        """What has arrived, each once: a retry may write an event twice."""
        found = (UsageEvent.FromString(one.value) for one in self.records[self.usage_topic])
        return list({event.event_id: event for event in found}.values())

    @property
    def dead_letters(self) -> list[DeadLetter]:
        return [DeadLetter.FromString(one.value) for one in self.records[self.dead_letter_topic]]

    async def start(self) -> None:
        # In a thread: what it waits for may be served by this loop.
        await asyncio.to_thread(self.program.start)

    async def stop(self) -> int:
        return await asyncio.to_thread(self.program.stop)

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[grpc.aio.StreamUnaryCall[bytes, bytes]]:
        """Open a stream as Envoy does."""
        async with grpc.aio.insecure_channel(f"unix:{self.socket_path}") as channel:
            # Bytes in, bytes out: the stubs want serializers and a request iterator all the same.
            open_stream: Any = channel.stream_unary(METHOD, None, None)
            call = open_stream()
            try:
                yield call
            finally:
                call.cancel()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Keep reading both topics from their beginning into `records`."""
        self.records = {self.usage_topic: [], self.dead_letter_topic: []}
        consumer = AIOKafkaConsumer(
            *self.records,
            bootstrap_servers=self.bootstrap,
            auto_offset_reset="earliest",
            request_timeout_ms=5000,
        )
        await consumer.start()
        task = asyncio.create_task(self._read(consumer))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await consumer.stop()

    async def _read(self, consumer: Any) -> None:  # noqa: ANN401 - aiokafka ships no types.
        while True:
            for place, records in (await consumer.getmany(timeout_ms=50)).items():
                self.records[place.topic] += records

    def metric(self, name: str) -> float:
        """Return a metric's value, by its name and labels; 0 if there is none."""
        lines = self.ask("/metrics").decode().splitlines()
        found = [line for line in lines if line.startswith(name + " ")]
        return float(found[0].split()[-1]) if found else 0.0

    def ask(self, path: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.metrics_port), HANG_S) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))

    async def arrived(self, count: int) -> list[UsageEvent]:
        await eventually(lambda: len(self.events) >= count)
        return self.events


async def make_ship(bootstrap: str, *, partitions: int | None = 3, **settings: str) -> ShipLab:
    """Return a ship with topics of its own, not yet created if there are no `partitions`.

    Settings go without their prefix.
    """
    number = f"{os.getpid()}.{next(_numbers)}"
    names = [f"usage.{number}", f"dlq.{number}"]
    if partitions is not None:
        await create(bootstrap, names, partitions=partitions)
    home = scratch_dir("ship")
    port = free_port()
    env = {
        "LISTEN": f"unix:{home / 'als.sock'}",
        "KAFKA_BOOTSTRAP": bootstrap,
        "KAFKA_TOPIC": names[0],
        "DEAD_LETTER_TOPIC": names[1],
        "KAFKA_IDEMPOTENCE": "false",  # The lab's broker has none.
        "KAFKA_REQUEST_TIMEOUT_MS": "1000",
        "METRICS_LISTEN": f"127.0.0.1:{port}",
    } | settings
    program = python_module(
        "ship",
        *("aforo_meter", "ship"),
        env={f"AFORO_METER_SHIP_{name}": value for name, value in env.items()},
        ready=lambda: b" 200 " in ask_tcp(port, READY, bytes_max=64),
        log_dir=home,
    )
    return ShipLab(
        bootstrap=bootstrap,
        usage_topic=names[0],
        dead_letter_topic=names[1],
        socket_path=home / "als.sock",
        program=program,
        metrics_port=port,
    )


async def create(bootstrap: str, names: list[str], *, partitions: int = 3) -> list[str]:
    made = topics.create(bootstrap, names, partitions=partitions, replication=1)
    return [line async for line in made]


@contextlib.asynccontextmanager
async def ship_lab(
    bootstrap: str, *, partitions: int = 3, **settings: str
) -> AsyncIterator[ShipLab]:
    """Run a ship and read what it writes."""
    lab = await make_ship(bootstrap, partitions=partitions, **settings)
    try:
        await lab.start()
        async with lab.reading():
            yield lab
    finally:
        await lab.stop()


def make_entry(tenant: str = "acme", *, path: str = "/v1/things") -> HTTPAccessLogEntry:
    """Return an entry about an allowed call."""
    entry = HTTPAccessLogEntry()
    common = entry.common_properties
    common.start_time.GetCurrentTime()
    common.access_log_type = AccessLogType.DownstreamEnd
    common.metadata.filter_metadata["envoy.filters.http.ext_authz"].update(
        {"tenant": tenant, "subscription": "sub-1", "decision": "allow", "features": "api"}
    )
    entry.request.request_method = 1
    entry.request.path = path
    entry.response.response_code.value = 200
    entry.response.response_body_bytes = 42
    entry.response.response_code_details = "via_upstream"
    return entry


def make_message(*entries: HTTPAccessLogEntry, node_id: str = "gateway-1") -> bytes:
    message = StreamAccessLogsMessage()
    message.identifier.node.id = node_id
    message.http_logs.log_entry.extend(entries)
    data: bytes = message.SerializeToString()
    return data
