"""What operators see: Prometheus metrics, liveness and readiness on a port of their own."""

import threading
from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from aforo_authz.domain.access import Decision, Outcome, Reason
from aforo_authz.policies_redis import NearCache
from aforo_authz.server import AddressError, TcpAddress, parse_address

SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)


class Metrics:
    """The counters of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._decisions = Counter(
            "aforo_authz_decisions",
            "Decisions, by what was answered and why.",
            ["decision", "reason"],
            registry=self.registry,
        )
        self._shadowed = Counter(
            "aforo_authz_shadow_decisions",
            "Calls that passed in shadow mode, by why they would not have.",
            ["reason"],
            registry=self.registry,
        )
        self._stale = Counter(
            "aforo_authz_stale_decisions",
            "Decisions made with values that may be old.",
            registry=self.registry,
        )
        self._seconds = Histogram(
            "aforo_authz_decision_seconds",
            "From the arrival of a CheckRequest to its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        # Children are looked up once: labels() costs more than the count itself.
        self._by_reason = {
            (outcome, reason): self._decisions.labels(decision=outcome, reason=reason)
            for reason in Reason
            for outcome in Outcome
        }

    def observe(self, decision: Decision, seconds: float) -> None:
        self._by_reason[decision.outcome, decision.reason].inc()
        self._seconds.observe(seconds)
        if decision.shadow_reason is not None:
            self._shadowed.labels(reason=decision.shadow_reason).inc()
        if decision.stale:
            self._stale.inc()

    def watch(self, cache: NearCache) -> None:
        """Show what the cache counts, and whether it is stale."""
        readings: dict[str, tuple[str, Callable[[], float]]] = {
            "cache_hits": ("Callers found in the cache.", lambda: cache.counts.hits),
            "cache_misses": ("Callers that Redis was asked for.", lambda: cache.counts.misses),
            "cache_reloads": ("Keys read again.", lambda: cache.counts.reloads),
            "unreadable_values": ("Values not understood.", lambda: cache.counts.unreadable),
            "cache_stale": ("1 while values can't be confirmed.", lambda: float(cache.stale)),
        }
        for name, (text, reading) in readings.items():
            gauge = Gauge(f"aforo_authz_{name}", text, registry=self.registry)
            gauge.set_function(reading)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        structlog.get_logger(__name__).debug("probe", line=format % args)


def serve(listen: str, metrics: Metrics, *, is_ready: Callable[[], bool]) -> WSGIServer:
    """Serve /metrics, /livez and /readyz from a thread; `shutdown()` ends it.

    Raises:
        AddressError: The address is unusable.
    """
    address = parse_address(listen)
    if not isinstance(address, TcpAddress):
        raise AddressError(f"AFORO_AUTHZ_METRICS_LISTEN={listen}: must be host:port")
    exposition = make_wsgi_app(metrics.registry)

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path in {"/livez", "/readyz"}:
            good = path == "/livez" or is_ready()
            start("200 OK" if good else "503 Service Unavailable", [("content-type", "text/plain")])
            return [b"ok\n" if good else b"not ready\n"]
        page: Iterable[bytes] = exposition(environ, start)
        return page

    try:
        server = make_server(address.host, address.port, application, handler_class=_Quiet)
    except OSError as error:
        raise AddressError(
            f"cannot listen on {address}: {error.strerror or error};"
            " stop what uses it, or set AFORO_AUTHZ_METRICS_LISTEN to another address"
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True, name="metrics").start()
    return server
