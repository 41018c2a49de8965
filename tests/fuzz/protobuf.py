"""Protobuf's wire format as a tree of fields, to be changed where no library would let one."""

from dataclasses import dataclass
from random import Random

from tests.fuzz.mutate import INTEGERS, mutated

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
NUMBER_MAX = 40
DEPTH_MAX = 8


@dataclass
class Field:
    number: int
    kind: int
    value: bytes  # As on the wire, without the length of BYTES.

    def to_bytes(self) -> bytes:
        head = varint(self.number << 3 | self.kind)
        return head + (varint(len(self.value)) if self.kind == BYTES else b"") + self.value


def varint(value: int) -> bytes:
    coded = bytearray()
    while value > 0x7F:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def fields_of(data: bytes) -> list[Field] | None:
    """Return the fields of a message; None: it is none."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        size = 0
        match tag & 7:
            case 0:
                _, end = _read_varint(data, at)
                size = end - at
            case 1:
                size = 8
            case 2:
                size, at = _read_varint(data, at)
            case 5:
                size = 4
            case _:
                return None
        if not 0 < tag >> 3 < 1 << 29 or at + size > len(data):
            return None
        fields.append(Field(tag >> 3, tag & 7, data[at : at + size]))
        at += size
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            return value, at + 1  # Beyond the end: whoever asked will see.
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            break
    return value, at


def mutated_message(random: Random, data: bytes, words: list[bytes], depth: int = 0) -> bytes:
    """Change one field somewhere in a message, at any depth."""
    fields = fields_of(data)
    if not fields:
        return mutated(random, data, words)
    at = random.randrange(len(fields))
    field = fields[at]
    inner = field.kind == BYTES and depth < DEPTH_MAX and fields_of(field.value)
    if inner and random.random() < 0.8:
        field.value = mutated_message(random, field.value, words, depth + 1)
        return _joined(fields)
    match random.randrange(6):
        case 0:
            del fields[at]
        case 1:
            fields.insert(at, Field(field.number, field.kind, field.value))
        case 2:
            other = random.randrange(len(fields))
            fields[at], fields[other] = fields[other], field
        case 3:
            field.number = random.randrange(1, NUMBER_MAX)
        case 4:
            field.kind = random.choice((VARINT, FIXED64, BYTES, FIXED32, 3, 4, 7))
        case _:
            field.value = _value_changed(random, field, words)
    return _joined(fields)


def _value_changed(random: Random, field: Field, words: list[bytes]) -> bytes:
    if field.kind != BYTES:
        return varint(random.choice((*INTEGERS, (1 << 64) - 1, 1 << 69)))
    if random.random() < 0.1:
        return nested(random, field)
    return random.choice(words) if random.random() < 0.5 else mutated(random, field.value, words)


def nested(random: Random, field: Field) -> bytes:
    """Return the field inside of itself, up to beyond what parsers follow."""
    value = field.value[:64]
    for _ in range(random.choice((1, 5, 50, 150))):
        value = Field(field.number, BYTES, value).to_bytes()
    return value


def _joined(fields: list[Field]) -> bytes:
    return b"".join(field.to_bytes() for field in fields)
