"""`aforo-meter ingest`: it starts, wires and drains."""

import asyncio
import contextlib
import gc
import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog
from prometheus_client import REGISTRY, Counter, Gauge
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aforo_meter import process, redis_client
from aforo_meter.flow import drain, flow, open_outflow
from aforo_meter.ingest.ages import Ages
from aforo_meter.ingest.app import Api, make_app
from aforo_meter.ingest.bodies import Budget
from aforo_meter.ingest.durable import Durable, OutflowDurable, Record
from aforo_meter.ingest.intake import Intake
from aforo_meter.ingest.keys import Keys
from aforo_meter.ingest.ledger_look import LedgerLook
from aforo_meter.ingest.memory import Accepted, Sessions
from aforo_meter.ingest.redis_link import RedisLink
from aforo_meter.ingest.server import listening, serving
from aforo_meter.ingest.tenants import MetricNames, Tenants
from aforo_meter.kafka import Connection, KafkaWriter
from aforo_meter.outflow import Outflow
from aforo_meter.outflow_metrics import OutflowMetrics
from aforo_meter.settings import variable
from aforo_meter.settings_ingest import IngestSettings
from aforo_proto import usage_pb2

BODIES = Gauge("aforo_ingest_body_bytes", "Bytes of bodies in memory.")
REMEMBERED = Gauge("aforo_ingest_remembered_events", "Events remembered as accepted.")
DEAD_LETTERS = Counter("aforo_ingest_dead_letters", "Accepted events that Kafka found too large.")

CANCEL_AGAIN_S: Final = 0.5
STAGE: Final = "ingest"  # In dead letters.
# The broker decides what is too large, not our client: a dead letter holds a whole event.
RECORD_BYTES_MAX: Final = 1024 * 1024 + 64 * 1024
GC_THRESHOLDS: Final = (50_000, 20, 20)

log = structlog.get_logger()


async def run(settings: IngestSettings) -> int:
    """Serve until SIGTERM or SIGINT, then let what is under way end; return the exit code.

    Raises:
        ListenError: An address is in use or can't be listened on.
    """
    stop = process.stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        # First of all: who can't listen has nothing to drain, and should say nothing else.
        sockets = stack.enter_context(
            listening(settings.listen, setting=variable(IngestSettings, "listen"))
        )
        link = RedisLink(await stack.enter_async_context(_redis(settings)))
        ledger = LedgerLook(settings.ledger_url)
        if not ledger.there:
            log.warning(
                "there is no ledger to ask: clients are not told of duplicates until there is one",
                run=f"aforo-meter migrate --ledger-url {settings.ledger_url}",
            )
        stack.callback(ledger.close)
        names, sessions = MetricNames(link), Sessions(ledger)
        ages = Ages(link, settings.age_days_max)
        outflow, writer = _outflow(settings)
        durable = OutflowDurable(outflow, timeout_ms=settings.kafka_timeout_ms)

        def ready() -> bool:
            return not stop.is_set() and link.has_answered

        await stack.enter_async_context(
            process.health_server(
                settings.metrics_listen,
                kind="ingest",
                setting=variable(IngestSettings, "metrics_listen"),
                ready=ready,
            )
        )
        api = _api(settings, link, ledger, names, ages, sessions, durable, ready=ready)
        following = [asyncio.create_task(one.follow()) for one in (names, ages, sessions)]
        stack.push_async_callback(_end, following)
        flowing = asyncio.create_task(flow(outflow, writer))
        stack.push_async_callback(drain, outflow, flowing, within_s=settings.drain_s)
        server = await stack.enter_async_context(
            serving(make_app(api), sockets, drain_s=settings.drain_s)
        )
        # Each event is some thirty objects that all die young: looking for garbage after every 700
        # of them, among modules that never die, took a tenth of the time.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        log.info("taking events", listen=settings.listen, kafka=settings.kafka_bootstrap)
        code = await _until_stopped(stop, server, flowing, *following)
    log.info("stopped")
    return code


def _outflow(settings: IngestSettings) -> tuple[Outflow, KafkaWriter]:
    outflow = open_outflow(
        settings.spool_dir,
        setting=variable(IngestSettings, "spool_dir"),
        spool_bytes_max=settings.spool_bytes_max,
        records_max=settings.buffer_events_max,
        bytes_max=settings.buffer_bytes_max,
        sync_s=settings.spool_fsync_ms / 1000,
    )
    writer = KafkaWriter(
        Connection(
            bootstrap=settings.kafka_bootstrap,
            client_id="aforo-meter-ingest",
            idempotence=settings.kafka_idempotence,
            idempotence_setting=variable(IngestSettings, "kafka_idempotence"),
            request_timeout_ms=settings.kafka_timeout_ms,
            record_bytes_max=RECORD_BYTES_MAX,
        ),
        outflow,
        refused=lambda record: after_refusal(
            record, settings.dead_letter_topic, outflow, letters=DEAD_LETTERS
        ),
    )
    REGISTRY.register(OutflowMetrics("aforo_ingest", outflow, writer))
    return outflow, writer


def after_refusal(
    record: Record, dead_letters: str, outflow: Outflow, *, letters: Counter
) -> Record | None:
    """Return the dead letter for an accepted event that is too large for Kafka.

    None if it is a dead letter itself: all that is left is to say which it was.
    """
    sha256 = hashlib.sha256(record.value).hexdigest()
    if record.topic == dead_letters:
        outflow.lost += 1
        log.error(
            "lost: kafka takes no dead letter of this size; raise max.message.bytes of the topic",
            topic=record.topic,
            bytes=len(record.value),
            sha256=sha256,
        )
        return None
    # Fields are bounded, so the topic's own bound is too low.
    letters.inc()
    log.error(
        "too large for kafka, became a dead letter; raise max.message.bytes of the topic",
        topic=record.topic,
        bytes=len(record.value),
        sha256=sha256,
    )
    letter = usage_pb2.DeadLetter(
        reason=f"too large for {record.topic}: {len(record.value)} bytes",
        stage=STAGE,
        payload=record.value,
        failed_at_micros=time.time_ns() // 1000,
    )
    return Record(topic=dead_letters, key=None, value=letter.SerializeToString())


def _redis(settings: IngestSettings) -> Redis:
    return redis_client.connect(
        settings.redis_url,
        timeout_s=settings.redis_timeout_ms / 1000,
        retry=Retry(NoBackoff(), 1),  # A connection that was closed meanwhile, and no more.
    )


def _api(
    settings: IngestSettings,
    link: RedisLink,
    ledger: LedgerLook,
    names: MetricNames,
    ages: Ages,
    sessions: Sessions,
    durable: Durable,
    *,
    ready: Callable[[], bool],
) -> Api:
    accepted = Accepted(settings.remembered_events_max)
    budget = Budget(settings.bodies_bytes_max)
    BODIES.set_function(lambda: budget.held_bytes)
    REMEMBERED.set_function(lambda: len(accepted))
    intake = Intake(
        topic=settings.kafka_topic,
        ages=ages,
        names=names,
        tenants=Tenants(link),
        ledger=ledger,
        accepted=accepted,
        sessions=sessions,
        durable=durable,
    )
    return Api(
        keys=Keys(link),
        intake=intake,
        link=link,
        names=names,
        budget=budget,
        requests_max=settings.requests_max,
        body_timeout_s=settings.body_timeout_s,
        ready=ready,
    )


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they are over: one cancellation may be lost in a client's time-out."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)


async def _until_stopped(stop: asyncio.Event, *running: asyncio.Task[Any]) -> int:
    """Wait for a signal; return 1 if a part that runs for ever ended before."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, *running}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
    for task in running:
        if task.done():
            error = None if task.cancelled() else task.exception()
            log.error("a part that should run for ever has ended", exc_info=error)
            return 1
    return 0
