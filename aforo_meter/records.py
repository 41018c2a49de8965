"""What goes to Kafka, and how it is written into a file: a length, a checksum, the record.

Every record stands for itself, so that a file that was cut anywhere gives all that came before.
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32


class Record(NamedTuple):
    """A tuple: one is made for each entry of an access log."""

    topic: str
    key: bytes | None
    value: bytes


# Length and CRC-32 of what follows: the lengths of topic and key, then topic, key and value.
_HEAD: Final = Struct("<II")
_LENGTHS: Final = Struct("<HI")
_NO_KEY: Final = 0xFFFFFFFF


class TornError(Exception):
    """At `offset` stands something else than a whole record."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"no whole record at byte {offset}")
        self.offset = offset


def encode(records: Sequence[Record]) -> bytes:
    parts: list[bytes] = []
    for topic, key, value in records:
        name = topic.encode()
        lengths = _LENGTHS.pack(len(name), _NO_KEY if key is None else len(key))
        body = lengths + name + (key or b"") + value
        parts.append(_HEAD.pack(len(body), crc32(body)))
        parts.append(body)
    return b"".join(parts)


def decode(data: bytes) -> Iterator[tuple[Record, int]]:
    """Return each record with the offset behind it, up to the end of `data`.

    Raises:
        TornError: The rest is no whole record. It may be one whose end is not in `data`.
    """
    offset, end = 0, len(data)
    while offset < end:
        body = _body(data, offset)
        name_bytes, key_bytes = _LENGTHS.unpack_from(body)
        key_at = _LENGTHS.size + name_bytes
        value_at = key_at if key_bytes == _NO_KEY else key_at + key_bytes
        if value_at > len(body):
            raise TornError(offset)
        key = None if key_bytes == _NO_KEY else body[key_at:value_at]
        topic = body[_LENGTHS.size : key_at].decode()
        offset += _HEAD.size + len(body)
        yield Record(topic, key, body[value_at:]), offset


def size_at(data: bytes) -> int | None:
    """Return how many bytes the first record says to take, if that much of it is there."""
    if len(data) < _HEAD.size:
        return None
    length: int = _HEAD.unpack_from(data)[0]
    return _HEAD.size + length


def _body(data: bytes, offset: int) -> bytes:
    begin = offset + _HEAD.size
    if begin > len(data):
        raise TornError(offset)
    length, checksum = _HEAD.unpack_from(data, offset)
    body = data[begin : begin + length]
    # A file system may leave zeros where a write was lost, and the CRC-32 of nothing is zero.
    if length < _LENGTHS.size or len(body) != length or crc32(body) != checksum:
        raise TornError(offset)
    return body
