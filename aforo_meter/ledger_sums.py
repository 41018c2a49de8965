"""Sums over rows of the ledger, however many: SQLite's SUM fails beyond 64 bits.

A column is added up in two parts, which are put together here. What is taken off has a sign, and
division goes towards zero for both.
"""

from typing import Final

PART: Final = 1_000_000


def parts(column: str) -> str:
    """Return the expressions of a column's sum: two."""
    return f"SUM({column} / {PART}), SUM({column} % {PART})"


def whole(high: int | None, low: int | None) -> int:
    """Return the sum that two parts are, as the database gives them; of no rows it is 0."""
    return int(high or 0) * PART + int(low or 0)


def is_above_zero(column: str) -> str:
    """Return the condition that a column's sum is.

    Beyond 64 bits SQLite goes on in floating point: still above zero.
    """
    return f"SUM({column} / {PART}) * {PART} + SUM({column} % {PART}) > 0"
