"""A price book as people look things up in it: one line for what one price is of. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from aforo_meter.domain.margin import BP
from aforo_meter.domain.prices import Precedence, PriceBook, PriceEntry, PriceList


class PriceOf(NamedTuple):
    """What a line is of."""

    precedence: Precedence
    provider: str  # Empty: any.
    model: str  # Empty: any.
    meter: str
    tier_input_tokens_from: int
    day_from_s: int
    day_to_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """All prices of one thing, by date."""

    of: PriceOf
    entries: tuple[PriceEntry, ...]  # The first one first; at least one.

    def now(self, now_micros: int) -> PriceEntry | None:
        """Return the price in force; None: the first one is to come."""
        begun = [entry for entry in self.entries if entry.effective_from_micros <= now_micros]
        return begun[-1] if begun else None

    def coming(self, now_micros: int) -> tuple[PriceEntry, ...]:
        return tuple(entry for entry in self.entries if entry.effective_from_micros > now_micros)

    def matches(self, words: Iterable[str]) -> bool:
        """Return whether all words stand somewhere in what it is of."""
        text = f"{self.of.provider} {self.of.model} {self.of.meter} {self.of.precedence}".lower()
        return all(word in text for word in words)


def lines_of(book: PriceBook) -> list[Line]:
    """Return the lines of a book: our own before the published ones, each by name."""
    found: defaultdict[PriceOf, list[PriceEntry]] = defaultdict(list)
    for precedence, lists in ((Precedence.OWN, book.own), (Precedence.BUILT_IN, book.built_in)):
        for prices in lists:
            for entry in prices.entries:
                found[_of(precedence, prices, entry)].append(entry)
    order = list(Precedence)
    return [
        Line(of=of, entries=tuple(sorted(entries, key=lambda one: one.effective_from_micros)))
        for of, entries in sorted(
            found.items(), key=lambda item: (order.index(item[0].precedence), item[0][1:])
        )
    ]


def coming_changes(lines: Iterable[Line], now_micros: int) -> list[tuple[Line, PriceEntry]]:
    """Return what will change, the next change first."""
    found = [(line, entry) for line in lines for entry in line.coming(now_micros)]
    return sorted(found, key=lambda pair: (pair[1].effective_from_micros, pair[0].of))


def change_bp(before: PriceEntry | None, entry: PriceEntry) -> int | None:
    """Return how much a price rises, in basis points; None: there was none, or it was nothing."""
    if before is None or before.price_nanos == 0:
        return None
    was = Fraction(before.price_nanos, before.per_units)
    return round(BP * (Fraction(entry.price_nanos, entry.per_units) - was) / was)


def _of(precedence: Precedence, prices: PriceList, entry: PriceEntry) -> PriceOf:
    return PriceOf(
        precedence=precedence,
        provider=prices.provider,
        model=prices.model,
        meter=entry.meter,
        tier_input_tokens_from=entry.tier_input_tokens_from,
        day_from_s=entry.day_from_s,
        day_to_s=entry.day_to_s,
    )
