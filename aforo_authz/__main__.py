"""aforo-authz: wiring, and the command line."""

import argparse
import asyncio
import contextlib
import gc
import os
import random
import signal
import sys
from collections.abc import Callable

import structlog
import uvloop

from aforo_authz import health, metrics, read_model
from aforo_authz.authorize import PATH, Authorization, system_clock_micros
from aforo_authz.check import Call, Identification
from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import Decision, Outcome
from aforo_authz.log import configure_logging
from aforo_authz.policies_redis import NearCache
from aforo_authz.quotas_redis import RedisQuotas
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.redis_url import parse_redis_url
from aforo_authz.server import AddressError, Methods, Server, guarded
from aforo_authz.server_ngh2 import Ngh2Server
from aforo_authz.settings import Settings, SettingsError, describe, load

log = structlog.get_logger("aforo_authz")

EXAMPLES = """examples:
  aforo-authz serve
  AFORO_AUTHZ_LISTEN=unix:/run/aforo/authz.sock aforo-authz serve
  aforo-authz serve --transport grpcio
  aforo-authz check-config

Every setting is a variable that begins with AFORO_AUTHZ_; check-config prints them all.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="aforo-authz",
        description="Decides for Envoy whether a request may pass: allow, throttle or block.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve_command = commands.add_parser("serve", help="serve Envoy's ext_authz over gRPC")
    serve_command.add_argument(
        "--transport", choices=["ngh2", "grpcio"], help="which gRPC server (default: the setting)"
    )
    commands.add_parser("check-config", help="print the settings in force, and stop")
    options = parser.parse_args(arguments)
    try:
        settings = load(os.environ)
        if options.command == "check-config":
            print(describe(settings))  # noqa: T201 - what the command is for
            return 0
        if options.transport:
            settings = settings.model_copy(update={"transport": options.transport})
        configure_logging(settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except (SettingsError, AddressError) as error:
        print(f"aforo-authz: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    return 0


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        AddressError: An address can't be listened on.
    """
    nodes = RedisNodes(parse_redis_url(settings.redis_url), prefix=read_model.PREFIX)
    cache = NearCache(
        nodes,
        entries_max=settings.cache_entries_max,
        bytes_max=settings.cache_mib_max << 20,
    )
    counters = metrics.Metrics()
    counters.watch(cache)
    authorization = Authorization(
        policies=cache,
        quotas=RedisQuotas(nodes),
        now_micros=system_clock_micros,
        denials={reason: settings.denial_of(reason) for reason in DENIALS},
        observe=_observer(counters, settings.log_sample_ratio),
        stale_max_micros=settings.stale_max_s * 1_000_000,
        redis_timeout_s=settings.redis_timeout_ms / 1000,
        identification=Identification(
            jwt_claim_path=tuple(part for part in settings.jwt_claim_path.split(".") if part),
            peer_certificate=settings.peer_certificate,
        ),
    )
    healthy = health.Health(lambda: cache.ready)
    # What our own code gets wrong is counted like an outage: guarded first, then counted.
    check = counters.counting_failures(guarded(authorization.check))
    methods = {PATH: check, health.PATH: healthy.check}
    server = _server(settings.transport, methods)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(
            metrics.serve(settings.metrics_listen, counters, is_ready=lambda: healthy.serving)
        )
        addresses = await server.start(settings.addresses)
        following = loop.create_task(cache.run())
        stack.callback(following.cancel)
        log.info("serving", addresses=[str(a) for a in addresses], transport=settings.transport)
        # What lives as long as the process is not searched for garbage again and again; decisions
        # leave no cycles behind.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        await stop.wait()
        healthy.draining = True
        log.info("draining")
        await server.drain(settings.drain_s)


def _server(transport: str, methods: Methods) -> Server:
    if transport == "grpcio":
        # Only who asks for it pays for its 20 MB of memory.
        from aforo_authz.server_grpcio import GrpcioServer  # noqa: PLC0415

        return GrpcioServer(methods)
    return Ngh2Server(methods)


def _observer(
    counters: metrics.Metrics, sample_ratio: float
) -> Callable[[Decision, str, float, Call], None]:
    def observe(decision: Decision, decision_id: str, seconds: float, call: Call) -> None:
        counters.observe(decision, seconds)
        refused = decision.outcome is Outcome.BLOCK or decision.shadow_reason is not None
        if refused or (sample_ratio and random.random() < sample_ratio):  # noqa: S311 - a sample
            log.info("decided", **_told(decision, decision_id, seconds, call))

    return observe


def _told(
    decision: Decision, decision_id: str, seconds: float, call: Call
) -> dict[str, str | int | bool | None]:
    credential = decision.credential
    return {
        "decision": decision.outcome.value,
        "reason": decision.reason.value,
        "decision_id": decision_id,
        "tenant": credential.tenant_id if credential else None,
        "credential_id": credential.credential_id if credential else None,
        "features": ",".join(decision.needs.features),
        "method": call.method,
        "path": call.path.partition("?")[0][:256],  # A query may hold secrets.
        "margin_level": decision.level.name.lower(),
        "shadow_reason": decision.shadow_reason.value if decision.shadow_reason else None,
        "stale": decision.stale,
        "micros": round(seconds * 1_000_000),
    }


if __name__ == "__main__":
    sys.exit(main())
