"""Whether spans are sent, and where to: by OpenTelemetry's own variables, read once at the start.

They are those of every other process of an operator, so they have no prefix of ours. Without an
endpoint nothing of OpenTelemetry is imported.

Source: OpenTelemetry specification, "OTLP Exporter Configuration" and "Environment Variable
Specification".
"""

import importlib.util
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
HTTP, GRPC = "http/protobuf", "grpc"
PORTS = {HTTP: 4318, GRPC: 4317}
TIMEOUT_MS = "10000"


class OtlpError(Exception):
    """Spans can't be sent as the environment says; the message names what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Otlp:
    """A receiver of spans."""

    protocol: str
    url: SplitResult
    secure: bool  # TLS?
    headers: tuple[tuple[str, str], ...] = ()  # They may hold a key: never shown.
    timeout_s: float = 10.0
    gzip: bool = False
    authorities: bytes | None = None  # PEM; None: the system's.
    certificate: tuple[Path, Path] | None = None  # Ours, and its key: PEM.

    def __str__(self) -> str:
        return f"{self.url.hostname}:{self.url.port or PORTS[self.protocol]} by {self.protocol}"


def load(environment: Mapping[str, str]) -> Otlp | None:
    """Return where spans go; None if nobody wants them.

    Raises:
        OtlpError: Somebody does, but they can't be sent so.
    """

    def said(name: str, default: str = "") -> str:
        names = (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}")
        return next((v.strip() for n in names if (v := environment.get(n, ""))), default)

    endpoint = said("ENDPOINT")
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not endpoint or disabled or exporter == "none":
        return None
    if exporter != "otlp":
        raise OtlpError(f"OTEL_TRACES_EXPORTER={exporter}: only otlp and none are known here")
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        raise OtlpError(
            f"{ENDPOINT} is set, but opentelemetry-sdk is not installed:"
            " pip install 'aforo[otel]', or set OTEL_TRACES_EXPORTER=none"
        )
    protocol = said("PROTOCOL", HTTP)
    if protocol not in PORTS:
        raise OtlpError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: write {HTTP} or {GRPC}")
    is_whole = bool(environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
    url = _url(endpoint, protocol, is_whole=is_whole, insecure=said("INSECURE"))
    return Otlp(
        protocol=protocol,
        url=url,
        secure=url.scheme == "https",
        headers=_headers(said("HEADERS")),
        timeout_s=_timeout_s(said("TIMEOUT", TIMEOUT_MS)),
        gzip=_is_gzip(said("COMPRESSION", "none")),
        authorities=_authorities(said("CERTIFICATE")),
        certificate=_certificate(said),
    )


def _url(endpoint: str, protocol: str, *, is_whole: bool, insecure: str) -> SplitResult:
    """Return the URL: of HTTP with its path, of gRPC host and port.

    Args:
        endpoint: As it was set.
        protocol: One of `PORTS`.
        is_whole: It is that of spans alone: nothing is added to its path.
        insecure: What is said of a gRPC endpoint without a scheme.
    """
    if protocol == GRPC and "://" not in endpoint:
        endpoint = f"{'http' if insecure.lower() == 'true' else 'https'}://{endpoint}"
    try:
        url = urlsplit(endpoint)
        usable = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        # Not its own words: they may hold a password.
        raise OtlpError(f"{ENDPOINT} is no URL: write http://collector:{PORTS[protocol]}")
    if protocol == HTTP and not is_whole:
        url = url._replace(path=url.path.rstrip("/") + "/v1/traces")
    return url


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    headers = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise OtlpError("OTEL_EXPORTER_OTLP_HEADERS: write name=value,name=value")
        headers.append((unquote(name.strip()).lower(), unquote(value.strip())))
    return tuple(headers)


def _timeout_s(text: str) -> float:
    if not text.isdecimal() or int(text) == 0:
        raise OtlpError(f"OTEL_EXPORTER_OTLP_TIMEOUT={text}: write milliseconds")
    return int(text) / 1000


def _is_gzip(text: str) -> bool:
    if text not in {"gzip", "none"}:
        raise OtlpError(f"OTEL_EXPORTER_OTLP_COMPRESSION={text}: write gzip or none")
    return text == "gzip"


def _authorities(path: str) -> bytes | None:
    if not path:
        return None
    pem = _read("CERTIFICATE", path)
    try:
        ssl.create_default_context(cadata=pem.decode())
    except (ssl.SSLError, ValueError):
        raise OtlpError(f"OTEL_EXPORTER_OTLP_CERTIFICATE={path}: no PEM certificates") from None
    return pem


def _certificate(said: Callable[[str], str]) -> tuple[Path, Path] | None:
    certificate, key = said("CLIENT_CERTIFICATE"), said("CLIENT_KEY")
    if bool(certificate) != bool(key):
        raise OtlpError("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and …_CLIENT_KEY: set both")
    if not certificate:
        return None
    _read("CLIENT_CERTIFICATE", certificate)
    _read("CLIENT_KEY", key)
    try:
        ssl.create_default_context().load_cert_chain(certificate, key)
    except ssl.SSLError:
        raise OtlpError(
            f"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE={certificate}:"
            " not a PEM certificate with its own key"
        ) from None
    return Path(certificate), Path(key)


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OtlpError(f"OTEL_EXPORTER_OTLP_{name}={path}: {error.strerror}") from error
