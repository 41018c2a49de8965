"""Ended spans → the receiver, in OTLP. Runs in the thread that OpenTelemetry batches spans in.

A receiver that is away costs spans and nothing else: what it does not take after a few attempts is
given up, and counted.
"""

import threading
from collections.abc import Mapping, Sequence

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.util.types import AttributeValue

from aforo_authz.metrics import Reading
from aforo_authz.otlp_send import Sender, SendError
from aforo_proto import otlp_pb2 as pb

log = structlog.get_logger(__name__)

PAUSES_S = (1.0, 2.0, 4.0)  # Between attempts. Meanwhile spans wait in a queue with an end.
PARENT_KNOWN, PARENT_REMOTE = 0x100, 0x200  # OTLP's SpanFlags.


class OtlpExporter(SpanExporter):
    """Sends spans; says in the log when that begins to fail, and when it succeeds again.

    Args:
        sender: Hands messages over.
        pauses_s: Between attempts; one more attempt than there are pauses.
    """

    def __init__(self, sender: Sender, *, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._sender = sender
        self._pauses_s = pauses_s
        self._ending = threading.Event()
        self._failing = False
        self._sent = 0
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        message = encoded(spans)
        for pause_s in (*self._pauses_s, None):
            try:
                self._sender.send(message)
            except Exception as error:  # noqa: BLE001 - a thread that ends would send nothing more
                if not self._failing:
                    self._failing = True
                    # Of an unknown error only its kind: its words may quote a header with a key.
                    words = str(error) if isinstance(error, SendError) else type(error).__name__
                    log.warning("spans can't be sent; decisions go on", error=words)
                later = isinstance(error, SendError) and error.later
                if pause_s is None or not later or self._ending.wait(pause_s):
                    break
            else:
                if self._failing:
                    self._failing = False
                    log.info("spans are sent again", lost=self._lost)
                self._sent += len(spans)
                return SpanExportResult.SUCCESS
        self._lost += len(spans)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._sender.close()

    def hurry(self) -> None:
        """Give up at the first failure from now on: the process is about to end."""
        self._ending.set()

    def counters(self) -> list[Reading]:
        return [
            ("spans_sent", "Spans that the receiver took.", lambda: self._sent),
            ("spans_lost", "Spans that the receiver did not take.", lambda: self._lost),
        ]

    def gauges(self) -> list[Reading]:
        return []


def encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """Return spans of one process as an ExportTraceServiceRequest."""
    scope = pb.Scope(name="aforo_authz")
    resource = pb.Resource(attributes=_attributes(spans[0].resource.attributes) if spans else ())
    told = pb.ScopeSpans(scope=scope, spans=[_span(span) for span in spans])
    resource_spans = pb.ResourceSpans(resource=resource, scope_spans=[told])
    return pb.ExportTraceServiceRequest(resource_spans=[resource_spans]).SerializeToString()


def _span(span: ReadableSpan) -> pb.Span:
    context, parent = span.get_span_context(), span.parent
    assert context is not None, "what has ended has begun"
    flags = int(context.trace_flags) | PARENT_KNOWN
    if parent is not None and parent.is_remote:
        flags |= PARENT_REMOTE
    return pb.Span(
        trace_id=context.trace_id.to_bytes(16),
        span_id=context.span_id.to_bytes(8),
        parent_span_id=parent.span_id.to_bytes(8) if parent is not None else b"",
        name=span.name,
        kind=pb.SpanKind.Value(f"SPAN_KIND_{span.kind.name}"),
        start_time_unix_nano=span.start_time or 0,
        end_time_unix_nano=span.end_time or 0,
        attributes=_attributes(span.attributes or {}),
        status=pb.Status(code=pb.StatusCode.Value(f"STATUS_CODE_{span.status.status_code.name}")),
        flags=flags,
    )


def _attributes(attributes: Mapping[str, AttributeValue]) -> list[pb.KeyValue]:
    return [pb.KeyValue(key=name, value=_value(value)) for name, value in attributes.items()]


def _value(value: object) -> pb.AnyValue:
    if isinstance(value, bool):  # Before int, whose subclass it is.
        return pb.AnyValue(bool_value=value)
    if isinstance(value, int):
        return pb.AnyValue(int_value=value)
    if isinstance(value, float):
        return pb.AnyValue(double_value=value)
    if isinstance(value, str):
        return pb.AnyValue(string_value=value)
    assert isinstance(value, Sequence), "attributes have no other types"
    return pb.AnyValue(array_value=pb.ArrayValue(values=[_value(each) for each in value]))
