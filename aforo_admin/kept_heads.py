"""The head of the record of changes, as somebody keeps it elsewhere: SEQ:HASH."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An entry that was the last once."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


def kept_of(text: str) -> Kept:
    """Return what `str` made of it.

    Raises:
        ValueError: It is something else.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", text.strip())
    if found is None:
        raise ValueError(
            "expected SEQ:HASH, a number and 64 hexadecimal digits,"
            " as `aforo-admin audit verify` printed it behind head:"
        )
    return Kept(seq=int(found[1]), hash=found[2])
