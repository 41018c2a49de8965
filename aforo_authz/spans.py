"""A span of every check, and of each wait for Redis in it: OpenTelemetry, where it is wanted.

Imported only then: it wraps the parts of the decision from outside, and they know nothing of it.
A span tells what was decided and why; never a path, a credential or a figure of money.
"""

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aforo_authz.authorize import Observer
from aforo_authz.check import Call, traceparent_of
from aforo_authz.domain.access import Decision, Known
from aforo_authz.domain.features import Rules
from aforo_authz.domain.quotas import Reservation, Standing
from aforo_authz.metrics import Reading
from aforo_authz.otlp import Otlp
from aforo_authz.otlp_export import OtlpExporter
from aforo_authz.otlp_send import sender
from aforo_authz.policies import Policies, Presented
from aforo_authz.quotas import Quotas
from aforo_authz.server import Method, OwnFaultError, RpcError

log = structlog.get_logger(__name__)

FLUSH_S_MAX = 5.0
# How soon the thread that encodes spans makes way for the loop. Python's own 5 ms would be seen in
# the slowest decisions.
SWITCH_S = 0.0005
COMPLAINTS_EVERY_S = 10.0
TRACEPARENT_CHARS_MAX = 64  # Of version 00 it has 55.


class Spans:
    """Begins and ends spans; sends them in batches from a thread of its own.

    Sampler, limits, batches and the names of the service are OpenTelemetry's, from its variables.

    Args:
        otlp: Where they go.
    """

    def __init__(self, otlp: Otlp) -> None:
        _listen_to_complaints()
        sys.setswitchinterval(SWITCH_S)
        self._exporter = OtlpExporter(sender(otlp))
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("aforo_authz")
        self._traceparents = TraceContextTextMapPropagator()
        self._heard = ""

    def hear(self, traceparent: str) -> None:
        """Take note of what came with a call, right before its method is called; empty: nothing."""
        self._heard = traceparent

    def of_checks(self, method: Method) -> Method:
        """Return the method, with a span of each call."""

        def call(message: bytes, budget_s: float | None) -> bytes | Awaitable[bytes]:
            # Envoy's own span comes with the call, if it traces; else the client's is in the
            # request that it asks about.
            traceparent = self._heard or traceparent_of(message)
            self._heard = ""
            span = self._tracer.start_span(
                "aforo.check", context=self._parent(traceparent), kind=SpanKind.SERVER
            )
            try:
                with _current(span):
                    answered = method(message, budget_s)
            except BaseException as error:
                _fail(span, error)
                span.end()
                raise
            if isinstance(answered, bytes):
                span.end()
                return answered
            return self._later(span, answered)

        return call

    def of_observer(self, observe: Observer) -> Observer:
        """Return an observer that tells the span of each check, too, what was decided."""

        def observe_and_tell(
            decision: Decision, decision_id: str, seconds: float, call: Call, now_micros: int
        ) -> None:
            self.note(decision, decision_id)
            observe(decision, decision_id, seconds, call, now_micros)

        return observe_and_tell

    def of_policies(self, policies: Policies) -> Policies:
        """Return the policies, with a span of each read that a check waits for."""
        return _SpannedPolicies(policies, self)

    def of_quotas(self, quotas: Quotas) -> Quotas:
        """Return the quotas, with a span of each reservation."""
        return _SpannedQuotas(quotas, self)

    def note(self, decision: Decision, decision_id: str) -> None:
        """Tell the span of the check under way what was decided."""
        span = get_current_span()
        if span.is_recording():
            span.set_attributes(
                {
                    "aforo.decision": decision.outcome.value,
                    "aforo.reason": decision.reason.value,
                    "aforo.decision_id": decision_id,
                    "aforo.features": decision.needs.features,
                    "aforo.stale": decision.stale,
                    "aforo.uncounted": decision.uncounted,
                }
            )
            if decision.credential is not None:
                span.set_attribute("aforo.tenant", decision.credential.tenant_id)
            if decision.shadow_reason is not None:
                span.set_attribute("aforo.shadow_reason", decision.shadow_reason.value)

    @contextlib.contextmanager
    def waiting_for_redis(self, purpose: str) -> Iterator[None]:
        """Time a wait for Redis, as a child of the check under way."""
        span = self._tracer.start_span(
            f"aforo.redis.{purpose}",
            kind=SpanKind.CLIENT,
            attributes={"db.system.name": "redis"},
        )
        try:
            yield
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()

    async def end(self) -> None:
        """Send what is left, as long as that takes, but at most FLUSH_S_MAX."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # Nobody waits any more.
                loop.call_soon_threadsafe(sent.set)

        self._exporter.hurry()
        # A daemon: a receiver that hangs must not keep the process from ending.
        threading.Thread(target=flush, daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_S_MAX):
                await sent.wait()
        except TimeoutError:
            log.warning("the last spans were not sent in time", waited_s=FLUSH_S_MAX)

    def counters(self) -> list[Reading]:
        return self._exporter.counters()

    def gauges(self) -> list[Reading]:
        return []

    def _parent(self, traceparent: str) -> Context:
        if not traceparent or len(traceparent) > TRACEPARENT_CHARS_MAX:
            return Context()
        return self._traceparents.extract({"traceparent": traceparent}, Context())

    async def _later(self, span: Span, answered: Awaitable[bytes]) -> bytes:
        try:
            with _current(span):
                return await answered
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()


class _SpannedPolicies:
    def __init__(self, policies: Policies, spans: Spans) -> None:
        self._policies = policies
        self._spans = spans

    @property
    def rules(self) -> Rules:
        return self._policies.rules

    @property
    def ready(self) -> bool:
        return self._policies.ready

    def find(self, presented: Presented, budget_s: float) -> Known | Awaitable[Known]:
        found = self._policies.find(presented, budget_s)
        return found if isinstance(found, Known) else self._waited(found)

    async def _waited(self, found: Awaitable[Known]) -> Known:
        with self._spans.waiting_for_redis("read"):
            return await found


class _SpannedQuotas:
    def __init__(self, quotas: Quotas, spans: Spans) -> None:
        self._quotas = quotas
        self._spans = spans

    async def reserve(
        self, tenant_id: str, reservations: Sequence[Reservation], budget_s: float
    ) -> tuple[Standing, ...]:
        with self._spans.waiting_for_redis("reserve"):
            return await self._quotas.reserve(tenant_id, reservations, budget_s)


def _current(span: Span) -> "contextlib.AbstractContextManager[Span]":
    # What an exception says is not for a span: it may name a key's hash.
    return use_span(span, record_exception=False, set_status_on_exception=False)


def _fail(span: Span, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        span.set_attribute("aforo.cancelled", True)  # noqa: FBT003 - the client gave up
        return
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", type(error).__name__)
    if isinstance(error, RpcError):
        span.set_attribute("rpc.grpc.status_code", error.code)
    if isinstance(error, OwnFaultError):
        span.set_attribute("aforo.decision_id", error.decision_id)


def _resource() -> Resource:
    """Return what names this process: as the operator says, else as aforo-authz."""
    found = Resource.create()
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        return found.merge(Resource({"service.name": "aforo-authz"}))
    return found


class _Complaints(logging.Handler):
    """OpenTelemetry's own warnings in our log; few of them, since clients can provoke some."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told_s = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= COMPLAINTS_EVERY_S:
            self._told_s = now_s
            log.warning("OpenTelemetry complains", message=record.getMessage())


def _listen_to_complaints() -> None:
    theirs = logging.getLogger("opentelemetry")
    theirs.propagate = False
    if not theirs.handlers:
        theirs.addHandler(_Complaints())
