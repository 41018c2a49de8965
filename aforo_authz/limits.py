"""What a client may cost us, whoever it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the server. What goes beyond them is refused, and counted by kind."""

    connections_max: int = 1024
    streams_max: int = 1000  # Calls under way on one connection.
    # Envoy sends up to 60 KiB of the client's headers inside the message, few of its own.
    message_bytes_max: int = 1 << 20
    header_list_bytes_max: int = 16_384
    # Settings, pings, windows of one connection: far more than calls need, little to serve.
    control_frames_per_s_max: int = 100_000
    buffered_bytes_max: int = 8 << 20  # Of unfinished messages, on one connection.
    handshake_s_max: float = 5.0  # TLS, and the client's first SETTINGS.
    request_s_max: float = 10.0  # From a call's headers to the end of its message.
    idle_s_max: float = 300.0  # Of silence: not even a ping.
