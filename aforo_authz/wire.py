"""The parts of Envoy's answer that are made anew for many calls, encoded by hand.

What a quota says changes with every call, what is said of the tenant with every tenant. Building
either with the messages' own classes takes as long as the whole decision or longer; this takes a
few microseconds. Protobuf merges messages that are written one behind the other: append these to an
answer. The layout is that of CheckResponse; a test reads it back with the messages' own classes.
"""

from collections.abc import Iterable

# Protobuf: a field's number and type (2: bytes with their length before them) in one byte.
_OK_RESPONSE = b"\x1a"  # CheckResponse.ok_response = 3
_HEADERS = b"\x12"  # OkHttpResponse.headers = 2
_RESPONSE_HEADERS_TO_ADD = b"\x32"  # OkHttpResponse.response_headers_to_add = 6
_HEADER = b"\x0a"  # HeaderValueOption.header = 1
_DYNAMIC_METADATA = b"\x22"  # CheckResponse.dynamic_metadata = 4
_FIELDS = b"\x0a"  # Struct.fields = 1, a map
_STRING_VALUE = b"\x1a"  # Value.string_value = 3
_KEY = b"\x0a"  # HeaderValue.key = 1, and that of an entry of a map
_VALUE = b"\x12"  # HeaderValue.value = 2, likewise
# HeaderValueOption.append_action = 3, a number: OVERWRITE_IF_EXISTS_OR_ADD.
_OVERWRITE = b"\x18\x02"


def response_headers_added(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a CheckResponse that adds headers to the client's response, and nothing else."""
    return _ok_response(_RESPONSE_HEADERS_TO_ADD, headers)


def upstream_headers_added(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a CheckResponse that adds headers to the request, and nothing else."""
    return _ok_response(_HEADERS, headers)


def metadata_added(texts: Iterable[tuple[str, str]]) -> bytes:
    """Return a CheckResponse with texts in its dynamic metadata, and nothing else."""
    fields: list[bytes] = []
    for name, text in texts:
        entry = _field(_KEY, name.encode()) + _field(_VALUE, _field(_STRING_VALUE, text.encode()))
        fields.append(_field(_FIELDS, entry))
    return _field(_DYNAMIC_METADATA, b"".join(fields))


def _ok_response(place: bytes, headers: Iterable[tuple[str, str]]) -> bytes:
    options: list[bytes] = []
    for name, value in headers:
        header = _field(_KEY, name.encode()) + _field(_VALUE, value.encode())
        options.append(_field(place, _field(_HEADER, header) + _OVERWRITE))
    return _field(_OK_RESPONSE, b"".join(options))


def _field(tag: bytes, content: bytes) -> bytes:
    return b"".join((tag, _length(content), content))


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
