"""Where spans go, what is said of them, and what happens when nobody takes them."""

from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from aforo_authz.otlp import Otlp, OtlpError, load
from aforo_authz.otlp_export import OtlpExporter, encoded
from aforo_authz.otlp_send import SendError
from aforo_authz.otlp_send_grpc import GRPC_LATER
from tests.certificates import certificate

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "a", "OTEL_TRACES_SAMPLER": "always_on"},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "True"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_an_endpoint_or_where_they_are_switched_off_nobody_wants_spans(
    environment: Mapping[str, str],
) -> None:
    assert load(environment) is None


@pytest.mark.parametrize(
    ("environment", "url", "secure"),
    [
        (ENDPOINT, "http://collector:4318/v1/traces", False),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/otlp/"},
            "https://c/otlp/v1/traces",
            True,
        ),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/mine"},
            "https://c/mine",
            True,
        ),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://collector:4318", False),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "https://c:4317",
            True,
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_INSECURE": "true",
            },
            "http://c:4317",
            False,
        ),
    ],
)
def test_the_standard_variables_name_the_receiver(
    environment: Mapping[str, str],
    url: str,
    secure: bool,  # noqa: FBT001 - a column of the table
) -> None:
    otlp = load(environment)

    assert otlp is not None
    assert otlp.url.geturl() == url
    assert otlp.secure is secure


def test_time_is_in_milliseconds_and_headers_are_percent_encoded() -> None:
    otlp = load(
        {
            **ENDPOINT,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20a%3Db, x-team = money ,",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
    )

    assert otlp is not None
    assert otlp.timeout_s == 2.5
    assert otlp.headers == (("authorization", "Basic a=b"), ("x-team", "money"))
    assert otlp.gzip
    assert str(otlp) == "collector:4318 by http/protobuf"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "write http://collector:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://u:s3cret@c"}, "ENDPOINT is no URL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:s3cret@c:1x"}, "ENDPOINT is no URL"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "write http/protobuf or grpc"),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "zipkin"}, "only otlp and none"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, "write milliseconds"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": "s3cret"}, "write name=value"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_COMPRESSION": "br"}, "write gzip or none"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere"}, "CERTIFICATE=/nowhere: No"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/nowhere"}, "set both"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_to_write(
    environment: Mapping[str, str], words: str
) -> None:
    with pytest.raises(OtlpError) as raised:
        load(environment)

    assert words in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_certificates_are_checked_at_the_start(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "collector", "DNS:collector")
    other, _ = certificate(tmp_path, "other", "DNS:other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")

    def loaded(authority: Path, mine: Path) -> Otlp | None:
        return load(
            {
                **ENDPOINT,
                "OTEL_EXPORTER_OTLP_CERTIFICATE": str(authority),
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(mine),
                "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(key),
            }
        )

    otlp = loaded(chain, chain)
    assert otlp is not None
    assert otlp.authorities == chain.read_bytes()
    assert otlp.certificate == (chain, key)
    with pytest.raises(OtlpError, match="no PEM certificates"):
        loaded(nonsense, chain)
    with pytest.raises(OtlpError, match="with its own key"):
        loaded(chain, other)


def some_spans(count: int = 1) -> list[ReadableSpan]:
    tracer = TracerProvider(
        resource=Resource({"service.name": "a"}), shutdown_on_exit=False
    ).get_tracer("t")
    spans: list[ReadableSpan] = []
    for number in range(count):
        span = tracer.start_span(
            "s", attributes={"i": number, "f": 0.5, "b": True, "t": "ä", "l": ("x", "y")}
        )
        span.end()
        assert isinstance(span, ReadableSpan)
        spans.append(span)
    return spans


def test_spans_are_encoded_as_others_read_them() -> None:
    (span,) = some_spans()

    (of_resource,) = ExportTraceServiceRequest.FromString(encoded([span])).resource_spans
    (of_scope,) = of_resource.instrumentation_library_spans
    (read,) = of_scope.spans
    context = span.get_span_context()
    assert context is not None
    assert int.from_bytes(read.trace_id) == context.trace_id
    assert int.from_bytes(read.span_id) == context.span_id
    assert read.parent_span_id == b""
    assert (read.start_time_unix_nano, read.end_time_unix_nano) == (span.start_time, span.end_time)
    values = {pair.key: pair.value for pair in read.attributes}
    assert values["i"].int_value == 0
    assert values["f"].double_value == 0.5
    assert values["b"].bool_value is True
    assert values["t"].string_value == "ä"
    assert [v.string_value for v in values["l"].array_value.values] == ["x", "y"]


class Receiver:
    """Fails with these errors, one after another, before it takes anything."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tried = 0

    def send(self, message: bytes) -> None:
        assert message
        self.tried += 1
        if self.errors:
            raise self.errors.pop(0)

    def close(self) -> None:
        pass


def counts(exporter: OtlpExporter) -> dict[str, float]:
    return {name: read() for name, _, read in exporter.counters()}


def test_what_may_be_taken_later_is_sent_again() -> None:
    receiver = Receiver(*[SendError("UNAVAILABLE", later=True)] * 3)
    exporter = OtlpExporter(receiver, pauses_s=(0.0, 0.0, 0.0))

    assert exporter.export(some_spans(2)) is SpanExportResult.SUCCESS
    assert receiver.tried == 4
    assert counts(exporter) == {"spans_sent": 2, "spans_lost": 0}


@pytest.mark.parametrize("error", [SendError("HTTP 400", later=False), ValueError("of a header")])
def test_what_will_never_be_taken_is_given_up_and_counted(error: Exception) -> None:
    receiver = Receiver(error)
    exporter = OtlpExporter(receiver)

    assert exporter.export(some_spans(2)) is SpanExportResult.FAILURE
    assert receiver.tried == 1
    assert counts(exporter) == {"spans_sent": 0, "spans_lost": 2}


def test_at_the_end_nothing_is_tried_twice() -> None:
    receiver = Receiver(*[SendError("UNAVAILABLE", later=True)] * 9)
    exporter = OtlpExporter(receiver)
    exporter.hurry()

    assert exporter.export(some_spans()) is SpanExportResult.FAILURE
    assert receiver.tried == 1


def test_codes_that_may_pass_are_those_of_grpc() -> None:
    assert {code.name for code in grpc.StatusCode} >= GRPC_LATER
