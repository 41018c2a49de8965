"""What gRPC puts around a message, and how it writes a deadline. No HTTP/2."""

from aforo_authz.server import INTERNAL, UNIMPLEMENTED, RpcError

PREFIX_BYTES = 5  # gRPC: one byte "compressed?", four bytes of length.
TIMEOUT_CHARS_MAX = 9  # At most eight digits and a unit.
TIMEOUT_UNITS_S = {b"H": 3600, b"M": 60, b"S": 1, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4) + message


def unframed(body: bytes | bytearray) -> bytes:
    """Return the one message of a unary call.

    Raises:
        RpcError: Not exactly one whole, uncompressed message.
    """
    if len(body) < PREFIX_BYTES:
        raise RpcError(INTERNAL, "a unary call needs one message")
    if body[0] != 0:
        raise RpcError(UNIMPLEMENTED, "compressed messages are not supported")
    if int.from_bytes(body[1:PREFIX_BYTES]) != len(body) - PREFIX_BYTES:
        raise RpcError(INTERNAL, "the message's length is not what its prefix says")
    return bytes(body[PREFIX_BYTES:])


def parse_timeout_s(value: bytes) -> float | None:
    """Parse `grpc-timeout`; what cannot be read is no timeout."""
    if len(value) > TIMEOUT_CHARS_MAX:
        return None
    unit = TIMEOUT_UNITS_S.get(value[-1:])
    digits = value[:-1]
    return int(digits) * unit if unit is not None and digits.isdigit() else None
