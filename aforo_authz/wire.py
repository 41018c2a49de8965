"""The part of Envoy's answer that changes with every call of a quota, encoded by hand.

Building it with the messages' own classes takes 7 µs, as much as the whole decision; this takes 1.
The layout is that of CheckResponse.ok_response.response_headers_to_add; a test reads it back with
those classes.
"""

from collections.abc import Iterable

# Protobuf: a field's number and type (2: bytes with their length before them) in one byte.
_OK_RESPONSE = b"\x1a"  # CheckResponse.ok_response = 3
_RESPONSE_HEADERS_TO_ADD = b"\x32"  # OkHttpResponse.response_headers_to_add = 6
_HEADER = b"\x0a"  # HeaderValueOption.header = 1
_KEY = b"\x0a"  # HeaderValue.key = 1
_VALUE = b"\x12"  # HeaderValue.value = 2
# HeaderValueOption.append_action = 3, a number: OVERWRITE_IF_EXISTS_OR_ADD.
_OVERWRITE = b"\x18\x02"


def response_headers_added(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a CheckResponse that adds headers to the client's response, and nothing else.

    Protobuf merges messages that are written one behind the other: append it to an answer.
    """
    options: list[bytes] = []
    for name, value in headers:
        key, text = name.encode(), value.encode()
        header = b"".join((_KEY, _length(key), key, _VALUE, _length(text), text))
        option = b"".join((_HEADER, _length(header), header, _OVERWRITE))
        options += (_RESPONSE_HEADERS_TO_ADD, _length(option), option)
    ok_response = b"".join(options)
    return b"".join((_OK_RESPONSE, _length(ok_response), ok_response))


def _length(data: bytes) -> bytes:
    """Encode a length as a varint: seven bits a byte, the lowest first."""
    size = len(data)
    if size < len(_SHORT):
        return _SHORT[size]
    encoded = bytearray()
    while size > 0x7F:  # noqa: PLR2004 - seven bits
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


_SHORT = [bytes((size,)) for size in range(128)]
