"""Access-log messages as Envoy sends them: some 27 entries, some 18 KB, of many tenants."""

import itertools
import uuid

from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
ENTRIES = 27  # What fits into Envoy's default of 16,384 bytes, and the one that exceeds it.
TENANTS = 100
DISTINCT = 100  # Messages that are made; they are sent again and again.


def messages() -> list[bytes]:
    """Return messages of a stream, the first of which says who sends."""
    numbers = itertools.count()
    made = []
    for which in range(DISTINCT):
        message = StreamAccessLogsMessage()
        if which == 0:
            message.identifier.node.id = "bench"
        message.http_logs.log_entry.extend(make_entry(next(numbers)) for _ in range(ENTRIES))
        made.append(message.SerializeToString())
    return made


def make_entry(number: int) -> HTTPAccessLogEntry:
    """Return an entry about an allowed call, with what Envoy 1.40 fills in by default."""
    entry = HTTPAccessLogEntry(protocol_version=2)
    common = entry.common_properties
    common.start_time.GetCurrentTime()
    for name in ("duration", "time_to_first_upstream_tx_byte", "time_to_last_upstream_rx_byte"):
        getattr(common, name).nanos = 8_445_412
    for name in ("downstream_remote", "downstream_local", "upstream_remote", "upstream_local"):
        address = getattr(common, f"{name}_address").socket_address
        address.address, address.port_value = "127.0.0.1", 57348
    common.upstream_cluster, common.route_name = "api", "everything"
    common.stream_id = str(uuid.uuid4())
    common.access_log_type = AccessLogType.DownstreamEnd
    common.upstream_request_attempt_count = 1
    for name in ("downstream", "upstream"):
        setattr(common, f"{name}_wire_bytes_sent", 549)
        setattr(common, f"{name}_wire_bytes_received", 277)
    common.custom_tags["uid"] = str(uuid.uuid4())
    common.custom_tags["authz_us"] = "250"
    tenant = number % TENANTS
    common.metadata.filter_metadata["envoy.filters.http.ext_authz"].update(
        {
            "tenant": f"tenant-{tenant}",
            "subscription": f"subscription-{tenant}",
            "decision": "allow",
            "features": "api",
            "decision_id": uuid.uuid4().hex,
            "ext_authz_duration": 1.0,
        }
    )
    request, response = entry.request, entry.response
    request.request_method = 1
    request.path, request.scheme, request.authority = f"/v1/things/{number}", "http", "api.example"
    request.user_agent, request.forwarded_for = "python-httpx/0.27", "10.0.0.1"
    request.request_id = common.stream_id
    request.request_headers_bytes = request.downstream_header_bytes_received = 273
    request.request_body_bytes = 120
    response.response_code.value = 200
    response.response_code_details = "via_upstream"
    response.response_body_bytes, response.response_headers_bytes = 420, 180
    return entry
