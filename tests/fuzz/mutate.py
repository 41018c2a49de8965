"""Bytes turned into other bytes: the small steps that both targets share."""

from collections.abc import Sequence
from random import Random

CASE_BYTES_MAX = 32_768
INTEGERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x3FFF, 0x4000, 0x4001, 0xFFFF, 0x7FFFFFFF, 1 << 31)


def mutated(random: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    """Change a few places of the data; `words` are worth writing into it."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _step(random, changed, words)
    return bytes(changed[:CASE_BYTES_MAX])


def _step(random: Random, data: bytearray, words: Sequence[bytes]) -> None:
    at = random.randrange(len(data) + 1)
    span = min(len(data) - at, random.choice((1, 1, 2, 4, 9, 40)))
    match random.randrange(8):
        case 0 if span:
            data[at] ^= 1 << random.randrange(8)
        case 1 if span:
            data[at] = random.randrange(256)
        case 2:
            del data[at : at + span]
        case 3:
            data[at:at] = data[at : at + span] * random.choice((1, 1, 2, 10))
        case 4:
            data[at:at] = random.choice(words)
        case 5:
            word = random.choice(words)
            data[at : at + len(word)] = word
        case 6:
            size = random.choice((1, 2, 3, 4))
            number = random.choice(INTEGERS) & ((1 << 8 * size) - 1)
            data[at : at + size] = number.to_bytes(size)
        case _:
            del data[at + span :]
