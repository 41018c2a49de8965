"""What libnghttp2 is told of our limits; it keeps them for us."""

from ngh2 import Configuration, Connection, Role, Setting

from aforo_authz.limits import Limits

HEADERS_MAX = 128
CONNECTION_WINDOW = 16 << 20


def begin(limits: Limits) -> Connection:
    """Return the server's side of a new connection, its settings ready to be sent."""
    configuration = Configuration(
        max_inbound_header_list_size=limits.header_list_bytes_max,
        max_inbound_header_count=HEADERS_MAX,
        # Envoy resets a stream whenever a check times out: bursts of resets are its good right.
        stream_reset_rate_limit=(10_000, 1_000),
    )
    http2 = Connection(Role.SERVER, configuration)
    http2.initiate_connection(
        {
            Setting.MAX_CONCURRENT_STREAMS: limits.streams_max,
            Setting.INITIAL_WINDOW_SIZE: 1 << 20,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
        }
    )
    http2.set_local_window_size(CONNECTION_WINDOW)
    return http2
