"""The parts of Envoy's answer that are made anew for many calls, encoded by hand.

What a quota says changes with every call, what is said of the tenant with every tenant. Building
either with the messages' own classes takes as long as the whole decision or longer; this takes a
microsecond. Protobuf merges messages that are written one behind the other: append these to an
answer. The layout is that of CheckResponse; a test reads it back with the messages' own classes.
"""

import functools
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
    """Return CheckResponses that add headers to the client's response, and nothing else."""
    return _headers_added(_RESPONSE_HEADERS_TO_ADD, headers)


def upstream_headers_added(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return CheckResponses that add headers to the request, and nothing else."""
    return _headers_added(_HEADERS, headers)


def metadata_added(texts: Iterable[tuple[str, str]]) -> bytes:
    """Return CheckResponses with texts in their dynamic metadata, and nothing else."""
    parts: list[bytes] = []
    for name, text in texts:
        value = text.encode()
        parts += (_before_metadata(name, len(value)), value)
    return b"".join(parts)


def _headers_added(place: bytes, headers: Iterable[tuple[str, str]]) -> bytes:
    parts: list[bytes] = []
    for name, text in headers:
        value = text.encode()
        parts += (_before_header(place, name, len(value)), value, _OVERWRITE)
    return b"".join(parts)


# A message for each text: so what stands before it depends on nothing but its name and length, and
# there are few of both.


@functools.lru_cache(maxsize=4096)
def _before_header(place: bytes, name: str, size: int) -> bytes:
    key = _text(_KEY, name)
    value = _VALUE + _length(size)
    header = _HEADER + _length(len(key) + len(value) + size) + key + value
    option = place + _length(len(header) + size + len(_OVERWRITE)) + header
    return _OK_RESPONSE + _length(len(option) + size + len(_OVERWRITE)) + option


@functools.lru_cache(maxsize=4096)
def _before_metadata(name: str, size: int) -> bytes:
    key = _text(_KEY, name)
    text = _STRING_VALUE + _length(size)
    value = _VALUE + _length(len(text) + size) + text
    entry = _FIELDS + _length(len(key) + len(value) + size) + key + value
    return _DYNAMIC_METADATA + _length(len(entry) + size) + entry


def _text(tag: bytes, text: str) -> bytes:
    encoded = text.encode()
    return tag + _length(len(encoded)) + encoded


def _length(size: int) -> bytes:
    """Encode a length as a varint: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while size > 0x7F:  # noqa: PLR2004 - seven bits
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)
