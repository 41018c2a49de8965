"""`aforo-meter ship`: Envoy's access-log streams → Kafka. It starts, wires and drains."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Final

import grpc.aio
import structlog
from prometheus_client import REGISTRY

from aforo_meter import process
from aforo_meter.access_log import Reader
from aforo_meter.access_log_service import (
    AccessLogService,
    Topics,
    dead_letter,
)
from aforo_meter.flow import drain, flow, open_outflow
from aforo_meter.kafka import Connection, KafkaWriter
from aforo_meter.listen import ListenError, UnixAddress, claim, parse_addresses, restrict
from aforo_meter.outflow import Outflow
from aforo_meter.outflow_metrics import OutflowMetrics
from aforo_meter.records import Record
from aforo_meter.settings import variable
from aforo_meter.settings_ship import ShipSettings
from aforo_meter.ship_metrics import REFUSED, ShipMetrics
from aforo_meter.ship_rules import event_reader, follow_rules

# How long streams go on when nobody new is let in. By then Envoy opens its next stream elsewhere;
# what it writes to one that is refused is lost. It looks each 250 ms, but its workers may hear of
# what it saw a second later: that is its `update_merge_window`, if another change was just before.
NOTICE_S: Final = 2.0
# How long they may then wait for a message to end after, and how long the word of that may take.
# A stream that is cut instead has lost what was under way.
LAST_MESSAGE_S_MAX: Final = 2.0
LAST_WORD_S_MAX: Final = 1.0

log = structlog.get_logger()


async def run(settings: ShipSettings) -> int:
    """Ship until SIGTERM or SIGINT, then drain; return 1 if something was lost.

    Raises:
        ListenError: An address is in use or can't be listened on.
        SpoolError: The directory of the spool can't be used.
    """
    process.look_for_garbage_rarely()
    process.give_way()
    stop = process.stop_on_signals()
    outflow = open_outflow(
        settings.spool_dir,
        spool_bytes_max=settings.spool_bytes_max,
        records_max=settings.buffer_events_max,
        bytes_max=settings.buffer_bytes_max,
        sync_s=settings.spool_fsync_ms / 1000,
        setting=variable(ShipSettings, "spool_dir"),
    )
    topics = Topics(usage=settings.kafka_topic, dead_letters=settings.dead_letter_topic)
    metrics = ShipMetrics()
    reader = Reader(event_reader(settings))
    service = AccessLogService(outflow, topics, reader, metrics)
    writer = KafkaWriter(
        _connection(settings),
        outflow,
        refused=lambda record: after_refusal(record, topics, outflow, metrics),
    )
    REGISTRY.register(metrics)
    REGISTRY.register(OutflowMetrics("aforo_ship", outflow, writer))
    health = process.health_server(
        settings.metrics_listen,
        kind="ship",
        setting=variable(ShipSettings, "metrics_listen"),
        ready=lambda: service.serving and outflow.has_room,
    )
    async with follow_rules(settings, reader), health, _serve(service, settings) as server:
        flowing = asyncio.create_task(flow(outflow, writer))
        log.info(
            "shipping",
            listen=settings.listen,
            kafka=settings.kafka_bootstrap,
            rules="of the catalog" if settings.redis_url else "built in",
        )
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, flowing}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        end_s = time.monotonic() + settings.drain_s
        log.info("stopping", held=outflow.held)
        notice_s = min(NOTICE_S, settings.drain_s / 4)
        last_message_s = min(LAST_MESSAGE_S_MAX, settings.drain_s / 4)
        grace_s = min(settings.drain_s, notice_s + last_message_s + LAST_WORD_S_MAX)
        closing = asyncio.create_task(server.stop(grace=grace_s))  # Nobody new from here on.
        await asyncio.sleep(notice_s)
        service.drain(within_s=last_message_s)
        await closing
        return await drain(outflow, flowing, within_s=max(0.0, end_s - time.monotonic()))


def _connection(settings: ShipSettings) -> Connection:
    return Connection(
        bootstrap=settings.kafka_bootstrap,
        client_id="aforo-meter-ship",
        idempotence=settings.kafka_idempotence,
        idempotence_setting=variable(ShipSettings, "kafka_idempotence"),
        request_timeout_ms=settings.kafka_request_timeout_ms,
        # The broker decides what is too large, not our client: a dead letter holds a message.
        record_bytes_max=settings.message_bytes_max + 64 * 1024,
    )


@contextlib.asynccontextmanager
async def _serve(
    service: AccessLogService, settings: ShipSettings
) -> AsyncIterator[grpc.aio.Server]:
    setting = variable(ShipSettings, "listen")
    addresses = parse_addresses(settings.listen)
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", settings.message_bytes_max),
            ("grpc.so_reuseport", 0),
            # Envoy's keepalive would be answered by GOAWAY: grpc takes frequent pings for abuse.
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
        )
    )
    server.add_generic_rpc_handlers(service.handlers())
    for address in addresses:
        claim(address, setting=setting)
        text = f"unix:{address.path}" if isinstance(address, UnixAddress) else str(address)
        try:
            server.add_insecure_port(text)
        except RuntimeError as error:  # Taken since we looked; grpc says no more than that.
            raise ListenError(f"can't listen on {address}; change {setting}") from error
    await server.start()
    for address in addresses:
        restrict(address)
    try:
        yield server
    finally:
        await server.stop(grace=0)


def after_refusal(
    record: Record, topics: Topics, outflow: Outflow, metrics: ShipMetrics
) -> Record | None:
    """Return the dead letter for a record that is too large for Kafka.

    None if it is a dead letter itself. Cut short it would be of no use, so all that is left is to
    say which it was.
    """
    sha256 = hashlib.sha256(record.value).hexdigest()
    if record.topic == topics.dead_letters:
        outflow.lost += 1
        log.error(
            "lost: kafka takes no dead letter of this size; raise max.message.bytes of the topic",
            topic=record.topic,
            bytes=len(record.value),
            sha256=sha256,
        )
        return None
    metrics.counts["dead_letter", REFUSED] += 1
    log.warning("too large for kafka, became a dead letter", bytes=len(record.value), sha256=sha256)
    return dead_letter(
        topics,
        reason=f"too large for {record.topic}: {len(record.value)} bytes",
        payload=record.value,
    )
