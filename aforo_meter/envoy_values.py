"""Small messages of Envoy's that `access_log.proto` leaves encoded → values of Python.

Raises `UsageError` where something is not what it should be: one entry's matter, not a stream's.
"""

import functools
from dataclasses import dataclass
from typing import Final

from envoy.data.accesslog.v3.accesslog_pb2 import ResponseFlags
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value
from google.protobuf.wrappers_pb2 import UInt64Value

from aforo_meter.domain.usage import UsageError
from aforo_proto.access_log_pb2 import Entry, Response

DECISION_NAMESPACE: Final = "envoy.filters.http.ext_authz"
GRPC_STATUS: Final = "grpc-status"
STRING: Final = 0x1A  # What an encoded Value begins with where it is a string.
NUMBER: Final = 0x11
SECONDS: Final = 0x08  # What an encoded Duration begins with where it is a second or more.


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What we read of Envoy's response flags."""

    unauthorized: bool = False
    aborted: bool = False  # The client left.
    broken_off: bool = False  # The upstream did.


def text(raw: bytes | None) -> str:
    """Return a Value's string; "" where it is something else: Envoy adds numbers of its own.

    Raises:
        UsageError: It is not UTF-8, or no Value.
    """
    if not raw or raw[0] != STRING:
        return ""
    try:
        return Value.FromString(raw).string_value
    except DecodeError:
        raise UsageError("metadata that is not UTF-8") from None


def value(raw: bytes | None) -> Value:
    """Return a Value, one that is not set where there is none.

    Raises:
        UsageError: It is no Value.
    """
    try:
        return Value.FromString(raw or b"")
    except DecodeError:
        raise UsageError("metadata that is no Value") from None


def readable(raw: bytes) -> str:
    """Return a text that is only shown and compared, whatever it holds."""
    return raw.decode(errors="replace")


@functools.lru_cache(maxsize=1024)
def status(raw: bytes) -> int:
    try:
        # 32 bits are what Envoy has; more would be cut here as there.
        return UInt64Value.FromString(raw).value & 0xFFFFFFFF
    except DecodeError:
        raise UsageError("a status that is no number") from None


@functools.lru_cache(maxsize=1024)
def flags(raw: bytes) -> Flags:
    try:
        found = ResponseFlags.FromString(raw)
    except DecodeError:
        raise UsageError("response flags that can't be read") from None
    return Flags(
        unauthorized=found.HasField("unauthorized_details"),
        aborted=found.downstream_connection_termination or found.downstream_remote_reset,
        broken_off=found.upstream_connection_termination or found.upstream_remote_reset,
    )


def grpc_status(response: Response) -> bytes:
    """Return the status from the trailer, else from the header of an answer without a body."""
    if GRPC_STATUS in response.response_trailers:
        return response.response_trailers[GRPC_STATUS]
    return response.response_headers.get(GRPC_STATUS, b"")


def duration_ms(raw: bytes) -> int:
    try:
        found = Duration.FromString(raw)
    except DecodeError:
        raise UsageError("a duration that can't be read") from None
    return max(0, found.seconds * 1000 + found.nanos // 1_000_000)


def is_no_call(entry: Entry) -> bool:
    """Say whether an entry is about bytes or a connection that no request came of.

    Envoy tells of what it can't parse, a scanner's TLS at a plain port for one; and where the log
    stands at a listener too, as Istio and Envoy Gateway have it, of connections that no filter
    chain took. Neither has a method or a path, and nobody was asked about them.
    """
    request = entry.request
    return (
        not request.request_method
        and not request.path
        and DECISION_NAMESPACE not in entry.common.metadata.filter_metadata
    )
