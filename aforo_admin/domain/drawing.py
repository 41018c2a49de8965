"""Figures → places on a drawing, as SVG writes them. Pure: integers in, text of tenths out."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

TENTHS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A span of figures on a span of a drawing; what lies outside stands at its edge."""

    first: int  # What stands at `at_first` …
    last: int  # … and at `at_last`; another than the first.
    at_first: int
    at_last: int

    def place(self, figure: int) -> Fraction:
        low, high = min(self.first, self.last), max(self.first, self.last)
        share = Fraction(min(max(figure, low), high) - self.first, self.last - self.first)
        return self.at_first + share * (self.at_last - self.at_first)

    def at(self, figure: int) -> str:
        """Return the place of a figure: `12.5`."""
        return tenths(self.place(figure))


@dataclass(frozen=True, slots=True)
class Drawing:
    """Two axes."""

    x: Axis
    y: Axis

    def line(self, points: Iterable[tuple[int, int]]) -> str:
        """Return the points of a line: `0,10 12.5,8`."""
        return " ".join(f"{self.x.at(one)},{self.y.at(other)}" for one, other in points)


def tenths(place: Fraction) -> str:
    """Return a place, rounded to a tenth."""
    whole, part = divmod(abs(round(place * TENTHS)), TENTHS)
    sign = "-" if place < 0 and (whole or part) else ""
    return f"{sign}{whole}.{part}" if part else f"{sign}{whole}"


def sparkline(figures: list[int], *, width: int, height: int) -> str:
    """Return the line of figures in turn, from the left; empty if there are fewer than two."""
    if len(figures) < 2:  # noqa: PLR2004 - a line has two ends.
        return ""
    low, high = min(figures), max(figures)
    if low == high:
        low, high = low - 1, high + 1
    drawing = Drawing(
        x=Axis(first=0, last=len(figures) - 1, at_first=1, at_last=width - 1),
        y=Axis(first=low, last=high, at_first=height - 2, at_last=2),
    )
    return drawing.line(enumerate(figures))
