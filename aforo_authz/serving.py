"""One process that serves: its parts, put together, from start to drain."""

import asyncio
import contextlib
import gc
import socket

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
from aforo_authz.metrics import Metrics
from aforo_authz.policies_redis import NearCache
from aforo_authz.quotas_redis import RedisQuotas
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.redis_url import parse_redis_url
from aforo_authz.server import Methods, Server, stop_signal
from aforo_authz.server_ngh2 import Ngh2Server
from aforo_authz.settings import Settings
from aforo_authz.tally import Tally
from aforo_authz.tally_redis import TallyWriter
from aforo_authz.tls import Tls

log = structlog.get_logger("aforo_authz")

GARBAGE_S = 0.1


async def serve(settings: Settings, channel: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        settings: What the operator wants.
        channel: Where connections come from if a parent accepts them: nothing is listened on then,
            and its end is our end too.

    Raises:
        AddressError: An address can't be listened on.
        TlsError: TLS can't be served with the files.
    """
    counts = Metrics()
    nodes = RedisNodes(parse_redis_url(settings.redis_url), prefix=read_model.PREFIX)
    cache = NearCache(
        nodes,
        entries_max=settings.cache_entries_max,
        bytes_max=settings.cache_mib_max << 20,
        observe=counts.observe_redis,
    )
    tally = Tally()
    writer = TallyWriter(tally, nodes, observe=counts.observe_redis)
    decision_log = DecisionLog(
        sample_ratio=settings.log_sample_ratio,
        refusals_per_s_max=settings.log_refusals_per_s_max,
    )
    counts.watch(CacheReadings(cache))
    counts.watch(tally)
    quotas = RedisQuotas(nodes, observe=counts.observe_redis)
    observe = _observer(counts, tally, decision_log)
    authorization = _authorization(settings, cache, quotas, observe)
    healthy = Health(lambda: cache.ready)
    check = counts.counting_failures(authorization.check)
    server = _server(settings, {PATH: check, HEALTH_PATH: healthy.check}, counts)
    stop = stop_signal()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(
            metrics_http.serve(settings.metrics_listen, counts.exposed, is_ready=healthy.is_serving)
        )
        addresses = await server.start(settings.addresses if channel is None else [])
        if channel is not None:
            assert isinstance(server, Ngh2Server), "the settings say so"
            handover.receive(server, channel, stop)
        for work in (cache.run(), writer.run(), _collect_young_garbage()):
            stack.callback(asyncio.get_running_loop().create_task(work).cancel)
        log.info("serving", addresses=[str(a) for a in addresses], transport=settings.transport)
        await stop.wait()
        healthy.draining = True
        log.info("draining")
        # Whoever asks for our health looks elsewhere before anything is closed.
        await asyncio.sleep(settings.drain_notice_s)
        await server.drain(settings.drain_s)
        await writer.flush()
        decision_log.tell_left_out()


def _authorization(
    settings: Settings, cache: NearCache, quotas: RedisQuotas, observe: Observer
) -> Authorization:
    return Authorization(
        policies=cache,
        quotas=quotas,
        now_micros=system_clock_micros,
        denials={reason: settings.denial_of(reason) for reason in DENIALS},
        observe=observe,
        stale_max_micros=settings.stale_max_s * 1_000_000,
        redis_timeout_s=settings.redis_timeout_ms / 1000,
        identification=Identification(
            jwt_claim_path=tuple(part for part in settings.jwt_claim_path.split(".") if part),
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


def _server(settings: Settings, methods: Methods, counts: Metrics) -> Server:
    tls = Tls(settings.tls_files) if settings.tls_files is not None else None
    if settings.transport == "grpcio":
        # Only who asks for it pays for its 20 MB of memory.
        from aforo_authz.server_grpcio import GrpcioServer  # noqa: PLC0415

        return GrpcioServer(methods, limits=settings.limits, tls=tls)
    return Ngh2Server(methods, limits=settings.limits, tls=tls, refused=counts.count_refused)


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
