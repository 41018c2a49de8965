"""What we pay, and since when: dated cost prices, and which of them holds for a usage. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aforo_meter.domain.periods import DAY_MICROS, HOUR_MICROS
from aforo_meter.domain.usage import (
    LLM_CACHE_CREATION,
    LLM_CACHED_INPUT,
    LLM_INPUT,
    LLM_OUTPUT,
    LLM_REASONING,
    LLM_TOOL,
)

DAY_S: Final = 86_400
MEMO_MAX: Final = 20_000  # Model names come from outside: what is remembered of them is bounded.

# Whose price holds where a model has no own one for a kind of token.
FALLBACKS: Final[Mapping[str, str]] = {
    LLM_CACHED_INPUT: LLM_INPUT,
    LLM_CACHE_CREATION: LLM_INPUT,
    LLM_TOOL: LLM_INPUT,
    LLM_REASONING: LLM_OUTPUT,
}

# What an entry's source says of whose price it is; all other sources are publications.
NEGOTIATED_SOURCE: Final = "negotiated"
OWN_SOURCE: Final = "catalog"


class Precedence(StrEnum):
    """Whose price it is, in the order in which they are asked."""

    NEGOTIATED = "negotiated"  # By this tenant alone.
    OWN = "own"  # The catalog's, for everyone.
    BUILT_IN = "built-in"  # Published.


def precedence_of(source: str) -> Precedence:
    """Return whose price an entry is, by its source."""
    named = {NEGOTIATED_SOURCE: Precedence.NEGOTIATED, OWN_SOURCE: Precedence.OWN}
    return named.get(source, Precedence.BUILT_IN)


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
    """How the names of a model are recognised: by a text in lower case, or by other matches."""

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

    provider: str = ""  # Lower case. Empty: any.
    model: str = ""  # Canonical name, for people and for `match`; empty: any.
    match: ModelMatch | None = None  # None: equal to `model`, or any if that is empty.
    entries: tuple[PriceEntry, ...] = ()

    def covers(self, *, provider: str, model: str) -> bool:
        """Return whether it is for this usage; names in lower case."""
        if self.provider and self.provider != provider:
            return False
        if self.match is not None:
            # A rule that finds a text anywhere must not find it in "no model".
            return bool(model) and self.match.matches(model)
        return not self.model or self.model.lower() == model

    @property
    def specificity(self) -> tuple[bool, bool]:
        """Ordered: a model of a provider, a model, a provider, anything."""
        return (bool(self.model or self.match), bool(self.provider))


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBook:
    """All cost prices: the owner's own before the published ones."""

    version: str
    currency: str
    own: tuple[PriceList, ...] = ()
    built_in: tuple[PriceList, ...] = ()


class Prices:
    """The prices of one tenant. Nothing changes but what it remembers of earlier answers.

    Negotiated prices come before the owner's own, those before the published ones; within each, the
    list of this model of this provider, then of the model, of the provider, of anything.

    Args:
        book: The prices that hold for everyone.
        negotiated: The tenant's own.
    """

    def __init__(self, book: PriceBook, negotiated: Sequence[PriceList] = ()) -> None:
        self._levels = [
            sorted(lists, key=lambda prices: prices.specificity, reverse=True)
            for lists in (negotiated, book.own, book.built_in)
        ]
        self._memo: dict[tuple[str, str, str], tuple[PriceEntry, ...]] = {}

    def price_of(
        self, meter: str, *, provider: str, model: str, at_micros: int, input_tokens: int
    ) -> PriceEntry | None:
        """Return the price in force for a meter at the usage's own time; None: unpriced.

        Entries are never edited, so the answer for a past time never changes.

        Args:
            meter: What was used.
            provider: As the decision or the gateway named it; may be empty.
            model: As the provider reported it; may be empty.
            at_micros: When it was used, Unix time in microseconds, UTC.
            input_tokens: All input tokens of the same request, cached ones included.
        """
        for entry in self.candidates(meter, provider=provider, model=model):
            if entry.in_force(at_micros=at_micros, input_tokens=input_tokens):
                return entry
        return None

    def price_throughout(
        self, meter: str, *, provider: str, model: str, hour_start_micros: int
    ) -> tuple[PriceEntry | None, int] | None:
        """Return the price that holds for all usage within an hour; None: it depends.

        With it comes from how many input tokens on another one may hold; 0: from no number.
        """
        tokens_below = 0
        for entry in self.candidates(meter, provider=provider, model=model):
            if entry.effective_from_micros >= hour_start_micros + HOUR_MICROS:
                continue
            if entry.effective_from_micros > hour_start_micros or entry.part_of_day:
                return None
            if entry.tier_input_tokens_from == 0:
                return entry, tokens_below
            tokens_below = min(
                entry.tier_input_tokens_from, tokens_below or entry.tier_input_tokens_from
            )
        return None, tokens_below

    def price_in_hour(
        self, meter: str, *, provider: str, model: str, hour_start_micros: int, input_tokens: int
    ) -> PriceEntry | None:
        """Return the price for usage of which only the hour is known still: see `rerate`.

        It is the one in force as the hour begins, else the first that starts within it.
        """
        held = self.prices_in_hour(
            meter,
            provider=provider,
            model=model,
            hour_start_micros=hour_start_micros,
            input_tokens=input_tokens,
        )
        return held[0] if held else None

    def prices_in_hour(
        self, meter: str, *, provider: str, model: str, hour_start_micros: int, input_tokens: int
    ) -> tuple[PriceEntry, ...]:
        """Return the prices in force at some time of an hour, in the order of their beginnings."""
        held: dict[str, PriceEntry] = {}
        candidates = self.candidates(meter, provider=provider, model=model)
        for at_micros in sorted(
            {hour_start_micros, *_beginnings(candidates, hour_start_micros=hour_start_micros)}
        ):
            entry = self.price_of(
                meter,
                provider=provider,
                model=model,
                at_micros=at_micros,
                input_tokens=input_tokens,
            )
            if entry is not None:
                held.setdefault(entry.price_id, entry)
        return tuple(held.values())

    def candidates(self, meter: str, *, provider: str, model: str) -> tuple[PriceEntry, ...]:
        """Return every entry that may hold, best first: the first in force is the price."""
        key = (meter, provider, model)
        known = self._memo.get(key)
        if known is None:
            if len(self._memo) >= MEMO_MAX:
                self._memo.clear()
            known = self._memo[key] = tuple(
                entry
                for level in self._levels
                for entries in _covering(
                    level,
                    provider=provider,
                    model=model,
                    # Of published models whose rules match a name, the first one is meant.
                    first_model_only=level is self._levels[-1],
                )
                for entry in _by_precedence(entries, meter)
            )
        return known


def _beginnings(entries: Iterable[PriceEntry], *, hour_start_micros: int) -> set[int]:
    """Return the instants within an hour at which another price may come into force."""
    found = set()
    for entry in entries:
        found.add(entry.effective_from_micros)
        if entry.part_of_day:
            midnight_micros = hour_start_micros - hour_start_micros % DAY_MICROS
            for second in (entry.day_from_s, entry.day_to_s):
                found.add(midnight_micros + second * 1_000_000)
    return {at for at in found if 0 < at - hour_start_micros < HOUR_MICROS}


def _covering(
    level: Iterable[PriceList], *, provider: str, model: str, first_model_only: bool
) -> Iterable[list[PriceEntry]]:
    """Return the entries that cover a usage, list by list; lists of the same name are one."""
    provider, model = provider.lower(), model.lower()
    groups: dict[tuple[str, ...], list[PriceEntry]] = {}
    taken: set[tuple[bool, bool]] = set()
    for prices in level:
        if not prices.covers(provider=provider, model=model):
            continue
        name = (prices.provider, prices.model)
        if name not in groups and first_model_only and prices.specificity in taken:
            continue
        taken.add(prices.specificity)
        groups.setdefault(name, []).extend(prices.entries)
    return groups.values()


def _by_precedence(entries: Iterable[PriceEntry], meter: str) -> list[PriceEntry]:
    """Return a meter's entries, then those of the meter whose price stands in; latest first."""
    names = [meter, *filter(None, [FALLBACKS.get(meter)])]
    return [
        entry
        for name in names
        for entry in sorted(
            (entry for entry in entries if entry.meter == name), key=_precedence, reverse=True
        )
    ]


def _precedence(entry: PriceEntry) -> tuple[int, bool, int]:
    return (entry.effective_from_micros, entry.part_of_day, entry.tier_input_tokens_from)
