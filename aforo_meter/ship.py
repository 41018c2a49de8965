"""`aforo-meter ship`: Envoy's access-log streams → Kafka. It starts, wires and drains."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator

import grpc.aio
import structlog
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aforo_meter import process
from aforo_meter.access_log import Reader
from aforo_meter.access_log_service import (
    DEAD_LETTERS,
    LULL_S,
    STREAMS_CLOSE_S_MAX,
    AccessLogService,
    Topics,
    dead_letter,
)
from aforo_meter.buffer import Buffer, Record
from aforo_meter.domain.metering import Applied, Metering, Rule, built_in_rules
from aforo_meter.domain.tokens import Estimates
from aforo_meter.event_reading import EventReader
from aforo_meter.kafka import Connection, KafkaWriter
from aforo_meter.listen import ListenError, UnixAddress, claim, parse_addresses, restrict
from aforo_meter.metering_rules import RulesFollower
from aforo_meter.settings import ShipSettings, variable

LOST = Counter("aforo_ship_lost_total", "Records that neither topic took, or left after a drain.")
HELD = Gauge("aforo_ship_buffer_records", "Records held until Kafka has them.")
HELD_BYTES = Gauge("aforo_ship_buffer_bytes", "Their size.")

log = structlog.get_logger()


async def run(settings: ShipSettings) -> int:
    """Ship until SIGTERM or SIGINT, then drain; return 1 if something could not be written.

    Raises:
        ListenError: An address is in use or can't be listened on.
    """
    stop = process.stop_on_signals()
    buffer = Buffer(records_max=settings.buffer_events_max, bytes_max=settings.buffer_bytes_max)
    HELD.set_function(lambda: buffer.held)
    HELD_BYTES.set_function(lambda: buffer.held_bytes)
    topics = Topics(usage=settings.kafka_topic, dead_letters=settings.dead_letter_topic)
    reader = Reader(event_reader(settings))
    service = AccessLogService(buffer, topics, reader)
    writer = KafkaWriter(
        Connection(
            bootstrap=settings.kafka_bootstrap,
            idempotence=settings.kafka_idempotence,
            request_timeout_ms=settings.kafka_request_timeout_ms,
            # The broker decides what is too large, not our client: a dead letter holds a message.
            record_bytes_max=settings.message_bytes_max + 64 * 1024,
        ),
        buffer,
        refused=lambda record: after_refusal(record, topics),
    )
    health = process.health_server(
        settings.metrics_listen,
        setting=variable(ShipSettings, "metrics_listen"),
        ready=lambda: service.serving and buffer.has_room,
    )
    async with follow_rules(settings, reader), health, _serve(service, settings) as server:
        writing = asyncio.create_task(writer.run())
        log.info(
            "shipping",
            listen=settings.listen,
            kafka=settings.kafka_bootstrap,
            rules="of the catalog" if settings.redis_url else "built in",
        )
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, writing}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return await _drain(service, server, buffer, writing, drain_s=settings.drain_s)


def event_reader(settings: ShipSettings, metering: Metering | None = None) -> EventReader:
    """Return what reads entries by these rules, or by the built-in ones."""
    return EventReader(
        Applied(metering or Metering(rules=_built_in(settings))),
        estimates=Estimates(
            event_bytes_per_token=settings.event_bytes_per_token,
            text_bytes_per_token=settings.text_bytes_per_token,
        ),
        continued_after_ms=settings.interim_every_ms,
    )


def _built_in(settings: ShipSettings) -> tuple[Rule, ...]:
    return built_in_rules(
        unmetered_paths=frozenset(settings.unmetered_paths),
        unmetered_statuses=frozenset(settings.unmetered_statuses),
    )


@contextlib.asynccontextmanager
async def follow_rules(settings: ShipSettings, reader: Reader) -> AsyncIterator[None]:
    """Let the reader follow the catalog's rules, if it is said where to find them."""
    if not settings.redis_url:
        yield
        return
    timeout_s = max(1.0, settings.rules_poll_ms / 1000)
    redis = Redis.from_url(
        settings.redis_url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),  # The next look is the next try.
    )
    follower = RulesFollower(
        redis,
        built_in=_built_in(settings),
        changed=lambda metering: reader.follow(event_reader(settings, metering)),
        poll_s=settings.rules_poll_ms / 1000,
        kept_in=settings.rules_file,
    )
    await follower.start()
    following = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})
        await redis.aclose()


async def _drain(
    service: AccessLogService,
    server: grpc.aio.Server,
    buffer: Buffer,
    writing: asyncio.Task[None],
    *,
    drain_s: float,
) -> int:
    """Take no more, write what is held, and say what could not be written."""
    end_s = time.monotonic() + drain_s
    service.drain()
    log.info("stopping", held=buffer.held)
    await server.stop(grace=min(drain_s, STREAMS_CLOSE_S_MAX + LULL_S))
    emptied = asyncio.create_task(buffer.emptied())
    left_s = max(0.0, end_s - time.monotonic())
    await asyncio.wait({emptied, writing}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    emptied.cancel()
    writing.cancel()
    (failure,) = await asyncio.gather(writing, return_exceptions=True)
    if isinstance(failure, Exception):  # It runs until it is cancelled: a mistake of ours.
        log.error("writing to kafka failed", exc_info=failure)
    if buffer.held:
        LOST.inc(buffer.held)
        log.error("stopped before kafka had everything", not_written=buffer.held, drain_s=drain_s)
        return 1
    log.info("stopped, nothing is left")
    return 1 if isinstance(failure, Exception) else 0


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


def after_refusal(record: Record, topics: Topics) -> Record | None:
    """Return the dead letter for a record that is too large for Kafka.

    None if it is a dead letter itself. Cut short it would be of no use, so all that is left is to
    say which it was.
    """
    sha256 = hashlib.sha256(record.value).hexdigest()
    if record.topic == topics.dead_letters:
        LOST.inc()
        log.error(
            "lost: kafka takes no dead letter of this size; raise max.message.bytes of the topic",
            topic=record.topic,
            bytes=len(record.value),
            sha256=sha256,
        )
        return None
    DEAD_LETTERS.labels("too_large").inc()
    log.warning("too large for kafka, became a dead letter", bytes=len(record.value), sha256=sha256)
    return dead_letter(
        topics,
        reason=f"too large for {record.topic}: {len(record.value)} bytes",
        payload=record.value,
    )
