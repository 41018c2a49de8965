"""One process that serves: its parts, put together, from start to drain."""

import asyncio
import contextlib
import functools
import gc
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from aforo_authz import handover, metrics_http, read_model
from aforo_authz.authorize import PATH, Authorization, Observer, system_clock_micros
from aforo_authz.cache_readings import CacheReadings
from aforo_authz.check import Call, Identification
from aforo_authz.decision_log import DecisionLog
from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import Decision
from aforo_authz.health import PATH as HEALTH_PATH
from aforo_authz.health import Health
from aforo_authz.http2 import Http2Connection, Owner
from aforo_authz.metrics import Metrics
from aforo_authz.otlp import Otlp
from aforo_authz.policies import Policies
from aforo_authz.policies_redis import NearCache
from aforo_authz.quotas import Quotas
from aforo_authz.quotas_redis import RedisQuotas
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.redis_url import parse_redis_url
from aforo_authz.server import Methods, Server, guarded, stop_signal, wait_until
from aforo_authz.server_ngh2 import Ngh2Server
from aforo_authz.settings import Settings
from aforo_authz.spans_http2 import SpannedHttp2Connection
from aforo_authz.tally import Tally
from aforo_authz.tally_redis import TallyWriter
from aforo_authz.tls import Tls
from aforo_authz.unheard import taking_back

if TYPE_CHECKING:
    from aforo_authz.spans import Spans  # Imports OpenTelemetry: only who wants spans has it.

log = structlog.get_logger("aforo_authz")

GARBAGE_S = 0.1
AGAIN_S = 1.0
FIRST_LOAD_S_MAX = 1.0  # How long to wait for Redis before we listen all the same.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What one process is made of, put together and not yet begun."""

    counts: Metrics
    cache: NearCache
    writer: TallyWriter
    decision_log: DecisionLog
    healthy: Health
    server: Server
    spans: "Spans | None"


async def serve(
    settings: Settings, otlp: Otlp | None, channel: socket.socket | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        settings: What the operator wants.
        otlp: Where spans go; None: nobody wants them.
        channel: Where connections come from if a parent accepts them: nothing is listened on then,
            and its end is our end too.

    Raises:
        AddressError: An address can't be listened on.
        TlsError: TLS can't be served with the files.
    """
    parts = _assembled(settings, otlp)
    stop = stop_signal()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(
            metrics_http.serve(
                settings.metrics_listen, parts.counts.exposed, is_ready=parts.healthy.is_serving
            )
        )
        addresses = await parts.server.bind(settings.addresses if channel is None else [])
        for work in (parts.cache.run, parts.writer.run, _collect_young_garbage):
            stack.callback(asyncio.get_running_loop().create_task(kept_up(work)).cancel)
        if channel is None:
            # Who listens is asked, whether Envoy has noticed our absence or not. To take over we
            # wait as long as it takes: who serves now knows what Redis said, even if it is silent.
            wait_s = None if settings.take_over else FIRST_LOAD_S_MAX
            await wait_until(lambda: parts.cache.ready or stop.is_set(), wait_s)
        else:
            assert isinstance(parts.server, Ngh2Server), "the settings say so"
            handover.receive(parts.server, channel, stop)
        if not stop.is_set():
            await parts.server.begin()
            parts.healthy.listening = True
            log.info("serving", addresses=[str(a) for a in addresses], transport=settings.transport)
        await stop.wait()
        await _drain(parts, settings)


def _assembled(settings: Settings, otlp: Otlp | None) -> _Parts:
    counts = Metrics()
    nodes = RedisNodes(parse_redis_url(settings.redis_url), prefix=read_model.PREFIX)
    cache = NearCache(
        nodes,
        entries_max=settings.cache_entries_max,
        bytes_max=settings.cache_mib_max << 20,
        observe=counts.observe_redis,
    )
    tally = Tally()
    decision_log = DecisionLog(
        sample_ratio=settings.log_sample_ratio,
        refusals_per_s_max=settings.log_refusals_per_s_max,
    )
    counts.watch(CacheReadings(cache))
    counts.watch(tally)
    policies: Policies = cache
    quotas: Quotas = RedisQuotas(nodes, observe=counts.observe_redis)
    observe = _observer(counts, tally, decision_log)
    spans = _spans(otlp)
    if spans is not None:
        policies, quotas = spans.of_policies(policies), spans.of_quotas(quotas)
        observe = spans.of_observer(observe)
        counts.watch(spans)
    authorization = _authorization(settings, policies, quotas, observe)
    healthy = Health(lambda: cache.ready)
    # What our own code gets wrong is counted like an outage: guarded first, then counted.
    check = counts.counting_failures(guarded(authorization.check))
    if spans is not None:
        check = spans.of_checks(check)
    methods = {PATH: check, HEALTH_PATH: healthy.check}
    return _Parts(
        counts=counts,
        cache=cache,
        writer=TallyWriter(tally, nodes, observe=counts.observe_redis),
        decision_log=decision_log,
        healthy=healthy,
        server=_server(settings, methods, counts, spans, taking_back(tally)),
        spans=spans,
    )


async def _drain(parts: _Parts, settings: Settings) -> None:
    # A successor at the same address serves: nobody shall look for another one.
    parts.healthy.draining = not settings.take_over
    log.info("draining")
    # Whoever asks for our health looks elsewhere before anything is closed.
    await asyncio.sleep(settings.drain_notice_s)
    await parts.server.drain(settings.drain_s)
    await parts.writer.flush()
    parts.decision_log.tell_left_out()
    if parts.spans is not None:
        await parts.spans.end()


def _authorization(
    settings: Settings, policies: Policies, quotas: Quotas, observe: Observer
) -> Authorization:
    return Authorization(
        policies=policies,
        quotas=quotas,
        now_micros=system_clock_micros,
        denials={reason: settings.denial_of(reason) for reason in DENIALS},
        observe=observe,
        stale_max_micros=settings.stale_max_s * 1_000_000,
        redis_timeout_s=settings.redis_timeout_ms / 1000,
        identification=Identification(
            jwt_claim_path=settings.jwt_claim_names,
            peer_certificate=settings.peer_certificate,
        ),
    )


def _observer(counts: Metrics, tally: Tally, decision_log: DecisionLog) -> Observer:
    def observe(
        decision: Decision, decision_id: str, seconds: float, call: Call, now_micros: int
    ) -> None:
        counts.observe(decision, seconds)
        tally.count(decision, now_micros)
        decision_log.note(decision, decision_id, seconds, call, now_micros)

    return observe


def _spans(otlp: Otlp | None) -> "Spans | None":
    if otlp is None:
        return None
    # Only who wants spans pays for them, in memory and in time.
    from aforo_authz.spans import Spans  # noqa: PLC0415

    log.info("spans are sent", to=str(otlp))
    return Spans(otlp)


def _server(
    settings: Settings,
    methods: Methods,
    counts: Metrics,
    spans: "Spans | None",
    unheard: Callable[[bytes], None],
) -> Server:
    tls = Tls(settings.tls_files) if settings.tls_files is not None else None
    if settings.transport == "grpcio":
        # Only who asks for it pays for its 20 MB of memory.
        from aforo_authz.server_grpcio import GrpcioServer  # noqa: PLC0415

        hear = spans.hear if spans is not None else None
        return GrpcioServer(methods, limits=settings.limits, tls=tls, hear=hear, unheard=unheard)
    connection: Callable[[Owner], Http2Connection] = Http2Connection
    if spans is not None:
        connection = functools.partial(SpannedHttp2Connection, hear=spans.hear)
    return Ngh2Server(
        methods,
        limits=settings.limits,
        tls=tls,
        refused=counts.count_refused,
        unheard=unheard,
        connection=connection,
        take_over=settings.take_over,
    )


async def kept_up(
    work: Callable[[], Coroutine[Any, Any, None]], *, again_s: float = AGAIN_S
) -> None:
    """Do what lasts as long as the process. A fault of ours ends it for a moment, not for good.

    Else nobody would notice: what is known goes on serving, older and older.
    """
    while True:
        try:
            await work()
        except Exception:
            log.exception("a part of the process broke, and begins again", part=work.__qualname__)
        await asyncio.sleep(again_s)


async def _collect_young_garbage() -> None:
    """Search for cycles only among what the last tenth of a second has left.

    Decisions leave none behind, and what the cache remembers lives long: Python's own searches,
    through hundreds of thousands of its objects, stop everything for tens of milliseconds
    (docs/decisions/0011). What survives one search here is not looked at again.
    """
    gc.disable()
    gc.collect()
    while True:
        gc.freeze()
        await asyncio.sleep(GARBAGE_S)
        gc.collect(0)
