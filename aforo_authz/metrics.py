"""What operators see: Prometheus metrics, liveness and readiness on a port of their own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from aforo_authz.domain.access import Decision, Outcome, Reason
from aforo_authz.policies_redis import NearCache
from aforo_authz.server import AddressError, Method, RpcError, TcpAddress, parse_address, plain

REQUEST_BYTES_MAX = 8192
REQUEST_TIMEOUT_S = 5.0
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
        self._uncounted = Counter(
            "aforo_authz_uncounted_decisions",
            "Decisions that a quota should have counted, had Redis answered.",
            registry=self.registry,
        )
        self._failed = Counter(
            "aforo_authz_failed_checks",
            "Checks that ended as an error of the call: Envoy's failure_mode_allow ruled.",
            ["code"],
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
        if decision.uncounted:
            self._uncounted.inc()

    def counting_failures(self, method: Method) -> Method:
        """Return the method, with the errors that it answers counted by gRPC code."""

        def call(message: bytes, budget_s: float | None) -> bytes | Awaitable[bytes]:
            try:
                answered = method(message, budget_s)
            except RpcError as error:
                self._failed.labels(code=error.code).inc()
                raise
            return answered if isinstance(answered, bytes) else later(answered)

        async def later(answered: Awaitable[bytes]) -> bytes:
            try:
                return await answered
            except RpcError as error:
                self._failed.labels(code=error.code).inc()
                raise

        return call

    def watch(self, cache: NearCache) -> None:
        """Show what the cache counts, and whether it is stale."""
        readings: dict[str, tuple[str, Callable[[], float]]] = {
            "cache_hits": ("Callers found in the cache.", lambda: cache.counts.hits),
            "cache_misses": ("Callers that Redis was asked for.", lambda: cache.counts.misses),
            "cache_reloads": ("Keys read again.", lambda: cache.counts.reloads),
            "unreadable_values": ("Values not understood.", lambda: cache.counts.unreadable),
            "cache_stale": ("1 while values can't be confirmed.", lambda: float(cache.stale)),
            # Sync's own figure goes silent with it.
            "synced_timestamp_seconds": (
                "When sync last completed a pass, by what it left in Redis; 0: never seen.",
                lambda: cache.synced_micros / 1_000_000,
            ),
        }
        for name, (text, reading) in readings.items():
            gauge = Gauge(f"aforo_authz_{name}", text, registry=self.registry)
            gauge.set_function(reading)


@contextlib.asynccontextmanager
async def serve(
    listen: str, metrics: Metrics, *, is_ready: Callable[[], bool]
) -> AsyncIterator[None]:
    """Serve /metrics, /livez and /readyz while the body runs; nothing if `listen` is empty.

    It runs on the process's own loop, so that an answer says that the loop turns.

    Raises:
        AddressError: The address is unusable.
    """
    if not listen:
        yield
        return
    address = parse_address(listen)
    if not isinstance(address, TcpAddress):
        raise AddressError(f"AFORO_AUTHZ_METRICS_LISTEN={listen}: must be host:port")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, ValueError):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_page(head, metrics, is_ready=is_ready))
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(
            answer, address.host, address.port, limit=REQUEST_BYTES_MAX
        )
    except OSError as error:
        raise AddressError(
            f"cannot listen on {address}: {plain(error)};"
            " stop what uses it, or set AFORO_AUTHZ_METRICS_LISTEN to another address"
        ) from error
    async with server:
        yield


def _page(head: bytes, metrics: Metrics, *, is_ready: Callable[[], bool]) -> bytes:
    path = head.split(b" ", 2)[1].partition(b"?")[0] if head.count(b" ") > 1 else b""
    status, kind, body = "404 Not Found", "text/plain", b"try /livez, /readyz or /metrics\n"
    if path == b"/metrics":
        status, kind, body = "200 OK", CONTENT_TYPE_LATEST, generate_latest(metrics.registry)
    elif path == b"/livez" or (path == b"/readyz" and is_ready()):
        status, body = "200 OK", b"ok\n"
    elif path == b"/readyz":
        status, body = "503 Service Unavailable", b"not ready\n"
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    ).encode() + body
