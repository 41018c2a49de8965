"""Figures with bounds, and the table that says which of them hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Must:
    """A figure and its bound."""

    key: str
    what: str
    bound: float
    at_least: bool

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def all_hold(musts: Sequence[Must], result: Mapping[str, Any]) -> bool:
    return all(must.holds(result[must.key]) for must in musts if must.key in result)


def table(title: str) -> Table:
    """Return an empty table for figures and musts."""
    made = Table(title=title)
    for heading in ("key", "what", "measured", "must be", ""):
        made.add_column(heading, justify="right" if heading == "measured" else "left")
    return made


def add_musts(to: Table, musts: Sequence[Must], result: Mapping[str, Any]) -> None:
    """Add a row for each figure that was measured."""
    for must in musts:
        if must.key not in result:
            continue
        value = result[must.key]
        sign = "≥" if must.at_least else "≤"
        mark = "ok" if must.holds(value) else "NO"
        told = f"{value:,.0f}" if must.bound >= 1000 else f"{value:.3f}"
        to.add_row(must.key, must.what, told, f"{sign} {must.bound:,}", mark)
