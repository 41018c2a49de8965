"""What we pay, and since when: dated cost prices, and which of them holds for a usage. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aforo_meter.domain.usage import (
    LLM_CACHE_CREATION,
    LLM_CACHED_INPUT,
    LLM_INPUT,
    LLM_OUTPUT,
    LLM_REASONING,
)

DAY_S: Final = 86_400
MEMO_MAX: Final = 20_000  # Model names come from outside: what is remembered of them is bounded.

# Whose price holds where a model has no own one for a kind of token.
FALLBACKS: Final[Mapping[str, str]] = {
    LLM_CACHED_INPUT: LLM_INPUT,
    LLM_CACHE_CREATION: LLM_INPUT,
    LLM_REASONING: LLM_OUTPUT,
}


class MatchKind(StrEnum):
    EQUALS = "equals"
    STARTS_WITH = "starts_with"
    ENDS_WITH = "ends_with"
    CONTAINS = "contains"
    REGEX = "regex"
    ANY_OF = "any_of"
    ALL_OF = "all_of"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMatch:
    """How the names of a model are recognised: by a text, or by other matches."""

    kind: MatchKind
    text: str = ""
    parts: tuple["ModelMatch", ...] = ()

    def matches(self, model: str) -> bool:
        if self.kind is MatchKind.ANY_OF:
            return any(part.matches(model) for part in self.parts)
        if self.kind is MatchKind.ALL_OF:
            return all(part.matches(model) for part in self.parts)
        return _TEXT_RULES[self.kind](model, self.text)


_TEXT_RULES: Final[Mapping[MatchKind, Callable[[str, str], bool]]] = {
    MatchKind.EQUALS: lambda model, text: model == text,
    MatchKind.STARTS_WITH: lambda model, text: model.startswith(text),
    MatchKind.ENDS_WITH: lambda model, text: model.endswith(text),
    MatchKind.CONTAINS: lambda model, text: text in model,
    MatchKind.REGEX: lambda model, text: re.search(text, model) is not None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceEntry:
    """What one meter costs from a date on, until a later entry's. Never edited."""

    price_id: str
    meter: str
    price_nanos: int  # For `per_units`.
    per_units: int
    effective_from_micros: int  # Unix time, UTC, inclusive.
    # The highest that is not above the request's input tokens holds for the whole request.
    tier_input_tokens_from: int = 0
    source: str = ""
    day_from_s: int = 0  # Seconds after midnight UTC, half-open; both 0: all day.
    day_to_s: int = 0

    @property
    def part_of_day(self) -> bool:
        return (self.day_from_s, self.day_to_s) != (0, 0)

    def in_force(self, *, at_micros: int, input_tokens: int) -> bool:
        if at_micros < self.effective_from_micros or input_tokens < self.tier_input_tokens_from:
            return False
        if not self.part_of_day:
            return True
        second = at_micros // 1_000_000 % DAY_S
        if self.day_from_s <= self.day_to_s:
            return self.day_from_s <= second < self.day_to_s
        return second >= self.day_from_s or second < self.day_to_s  # It wraps around midnight.


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """The prices of one model, of all of a provider, or of a meter whatever the model."""

    provider: str = ""  # Empty: any.
    model: str = ""  # Canonical name; empty: any.
    match: ModelMatch | None = None  # None: equal to `model`, or any if that is empty.
    entries: tuple[PriceEntry, ...] = ()

    def covers(self, *, provider: str, model: str) -> bool:
        if self.provider and self.provider != provider:
            return False
        if self.match is not None:
            return self.match.matches(model)
        return not self.model or self.model == model

    @property
    def specificity(self) -> tuple[bool, bool]:
        """Ordered: a model of a provider, a model, a provider, anything."""
        return (bool(self.model or self.match), bool(self.provider))

    def price_of(self, meter: str, *, at_micros: int, input_tokens: int) -> PriceEntry | None:
        """Return the entry in force for a meter, else for the meter whose price stands in."""
        found = [
            entry
            for entry in self.entries
            if entry.meter == meter
            and entry.in_force(at_micros=at_micros, input_tokens=input_tokens)
        ]
        if found:
            return max(found, key=_precedence)
        instead = FALLBACKS.get(meter)
        if instead is None:
            return None
        return self.price_of(instead, at_micros=at_micros, input_tokens=input_tokens)


def _precedence(entry: PriceEntry) -> tuple[int, bool, int]:
    return (entry.effective_from_micros, entry.part_of_day, entry.tier_input_tokens_from)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBook:
    """All cost prices: the owner's own before the published ones."""

    version: str
    currency: str
    own: tuple[PriceList, ...] = ()
    built_in: tuple[PriceList, ...] = ()


class Prices:
    """Answers which price holds. Immutable but for what it remembers.

    Precedence: negotiated with this tenant, the owner's own, the published ones; within each the
    most specific list that has a price.
    """

    def __init__(self, levels: Sequence[Sequence[PriceList]]) -> None:
        self._levels = [
            sorted(lists, key=lambda li: li.specificity, reverse=True) for lists in levels
        ]
        self._memo: dict[tuple[str, str], list[PriceList]] = {}

    def price_of(
        self, meter: str, *, provider: str, model: str, at_micros: int, input_tokens: int
    ) -> PriceEntry | None:
        """Return the price in force for a meter at the usage's own time; None: unpriced.

        Args:
            meter: What was used.
            provider: As the decision or the gateway named it; may be empty.
            model: As the provider reported it; may be empty.
            at_micros: When it was used, Unix time in microseconds, UTC.
            input_tokens: All input tokens of the same request, cached ones included.
        """
        for prices in self._covering(provider, model):
            entry = prices.price_of(meter, at_micros=at_micros, input_tokens=input_tokens)
            if entry is not None:
                return entry
        return None

    def _covering(self, provider: str, model: str) -> list[PriceList]:
        known = self._memo.get((provider, model))
        if known is None:
            if len(self._memo) >= MEMO_MAX:
                self._memo.clear()
            known = self._memo[provider, model] = [
                prices
                for level in self._levels
                for prices in level
                if prices.covers(provider=provider, model=model)
            ]
        return known


def prices_of(book: PriceBook, negotiated: Iterable[PriceList] = ()) -> Prices:
    """Return the prices of one tenant."""
    return Prices([tuple(negotiated), book.own, book.built_in])
