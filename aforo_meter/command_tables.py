"""What commands print for people: columns, instants, amounts."""

from collections.abc import Collection, Sequence
from decimal import Decimal

from aforo_meter.domain.periods import datetime_of


def columns(rows: Sequence[Sequence[str]], *, right: Collection[int]) -> list[str]:
    """Return rows as lines, in columns as wide as they must be; those in `right` end in line."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(
            text.rjust(width) if index in right else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def minute(micros: int) -> str:
    return f"{datetime_of(micros):%Y-%m-%d %H:%M}"


def units(quantity_micros: int) -> str:
    """Return a quantity exactly, with a sign if it is below zero: `-1,200.5`."""
    sign, size = "-" if quantity_micros < 0 else "", abs(quantity_micros)
    text = f"{size // 1_000_000:,}.{size % 1_000_000:06d}"
    return sign + text.rstrip("0").rstrip(".")


def money(nanos: int) -> str:
    """Return an amount exactly, with two decimals at least: `1,234.50`, `0.000000001`."""
    sign, size = "-" if nanos < 0 else "", abs(nanos)
    decimals = f"{size % 1_000_000_000:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{size // 1_000_000_000:,}.{decimals}"


def percent(ratio: Decimal | None) -> str:
    """Return a ratio with two decimals of a percent; `-` where there is none."""
    return "-" if ratio is None else f"{ratio * 100:.2f} %"


def many(count: int, what: str) -> str:
    """Return how many of something there are: `1 row`, `1,200 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
