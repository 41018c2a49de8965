"""The published prices of language models, as dated facts: genai-prices → PriceList messages.

Its rules become plain entries that need none of its code: per model and meter, from each date, for
each part of the day, one entry a tier. What it says of a time is said again at the next change, so
"the latest entry that has begun" is always the whole answer.

Imported are the prices per token of input, cached input, cache creation, output and reasoning, for
standard requests. Not imported, since no meter of ours measures them: prices of audio, image and
video tokens, of one-hour cache writes, citations, characters, seconds, pages and pixels, of
searches and code executions, of requests; and price variants (batch, flex, priority). A model with
nothing but such prices is left out, so its usage stays unpriced.
"""

import functools
import hashlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Final

from genai_prices import data_snapshot, types

from aforo_admin.domain.catalog import (
    CACHE_CREATION_TOKENS,
    CACHED_INPUT_TOKENS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    PRICE_FALLBACKS,
    REASONING_TOKENS,
)
from aforo_admin.domain.problems import NANOS_PER_UNIT, day
from aforo_meter.domain.periods import datetime_of, micros_of
from aforo_proto.contract_pb2 import ModelMatch, PriceEntry, PriceList

PRICE_KEYS: Final = {
    INPUT_TOKENS: "input_mtok",
    CACHED_INPUT_TOKENS: "cache_read_mtok",
    CACHE_CREATION_TOKENS: "cache_write_mtok",
    OUTPUT_TOKENS: "output_mtok",
    REASONING_TOKENS: "output_reasoning_mtok",
}
TOKENS_PER_MTOK: Final = 1_000_000
DIGEST_CHARS: Final = 8

Price = Decimal | types.TieredPrices


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """When one set of prices holds: from a date on, for a part of each day."""

    start: date | None  # None: from the beginning.
    day_from_s: int  # Both 0: all day. May wrap around midnight.
    day_to_s: int
    prices: types.ModelPrice


@functools.cache
def built_in_lists() -> tuple[PriceList, ...]:
    """Return the prices of every model that the installed genai-prices knows, in its order."""
    source = f"genai-prices {importlib.metadata.version('genai-prices')}"
    return tuple(lists_of(data_snapshot.get_snapshot().providers, source=source))


def lists_of(providers: Sequence[types.Provider], *, source: str) -> Iterator[PriceList]:
    """Yield a list per provider and model; the first that matches a usage is meant.

    A provider that resells others' models ("azure") gets theirs after its own, under its name.
    """
    for provider in providers:
        names: set[str] = set()
        for seller, model in _sold_by(provider, providers):
            prefix = provider.id if seller == provider.id else f"{provider.id}:{seller}"
            entries = list(_entries(model, prefix=prefix, source=source))
            if not entries:
                continue
            # Reseller and maker may both have a model of one name, at prices and under rules of
            # their own: these are two.
            name = f"{seller}/{model.id}" if model.id in names else model.id
            names.add(name)
            match = match_of(model.match)
            yield PriceList(provider=provider.id, model=name, match=match, entries=entries)


def _sold_by(
    provider: types.Provider, providers: Sequence[types.Provider]
) -> Iterator[tuple[str, types.ModelInfo]]:
    makers = {each.id: each for each in providers}
    for name in (provider.id, *(provider.fallback_model_providers or ())):
        if name in makers:
            yield from ((name, model) for model in makers[name].models)


def _entries(model: types.ModelInfo, *, prefix: str, source: str) -> Iterator[PriceEntry]:
    priced: set[str] = set()
    spells = spells_of(model.prices)
    for spell in spells:
        priced |= {meter for meter in PRICE_KEYS if _price(spell.prices, meter) is not None}
        for meter in PRICE_KEYS:
            price = _price(spell.prices, meter)
            if price is None and (meter in priced or _priced_beside(meter, spell, spells)):
                # It had a price, or has one at another time of the day: without an entry here
                # that one would seem to hold on. The fallback's price is what holds now.
                price = _price(spell.prices, PRICE_FALLBACKS.get(meter, meter))
            if price is not None:
                yield from _tiers(price, spell, meter, name=f"{prefix}/{model.id}", source=source)


def _priced_beside(meter: str, spell: Spell, spells: Sequence[Spell]) -> bool:
    return any(
        other.start == spell.start and _price(other.prices, meter) is not None for other in spells
    )


def _price(prices: types.ModelPrice, meter: str) -> Price | None:
    price: Price | None = getattr(prices, PRICE_KEYS[meter])
    return price


def spells_of(prices: types.ModelPrice | list[types.ConditionalPrice]) -> list[Spell]:
    """Return when which prices hold, by date and then by time of the day, without gap or overlap.

    As in genai-prices, the last of several conditions that are met wins, and a condition on the
    time of the day is met at any date.
    """
    if isinstance(prices, types.ModelPrice):
        return [Spell(start=None, day_from_s=0, day_to_s=0, prices=prices)]
    conditions = [each.constraint for each in prices]
    starts = {c.start_date for c in conditions if isinstance(c, types.StartDateConstraint)}
    edges_s = {
        _second_of_day(edge)
        for c in conditions
        if isinstance(c, types.TimeOfDateConstraint)
        for edge in (c.start_time, c.end_time)
    }
    return [
        spell for start in (None, *sorted(starts)) for spell in _day(prices, start, sorted(edges_s))
    ]


def _day(
    prices: list[types.ConditionalPrice], start: date | None, edges_s: Sequence[int]
) -> Iterator[Spell]:
    """Yield the parts of a day as they are from `start` on, joined where nothing changes."""
    if not edges_s:
        yield Spell(start=start, day_from_s=0, day_to_s=0, prices=_winner(prices, start, 0))
        return
    winners = [(edge_s, _winner(prices, start, edge_s)) for edge_s in edges_s]
    # A part begins where the one before it, around midnight for the first, has other prices.
    begins = [
        (edge_s, winner)
        for (_, before), (edge_s, winner) in zip([winners[-1], *winners[:-1]], winners, strict=True)
        if winner is not before
    ]
    if not begins:
        yield Spell(start=start, day_from_s=0, day_to_s=0, prices=winners[0][1])
    ends_s = [edge_s for edge_s, _ in [*begins[1:], *begins[:1]]]
    for (from_s, winner), to_s in zip(begins, ends_s, strict=True):
        yield Spell(start=start, day_from_s=from_s, day_to_s=to_s, prices=winner)


def _winner(
    prices: list[types.ConditionalPrice], start: date | None, second: int
) -> types.ModelPrice:
    for each in reversed(prices):
        condition = each.constraint
        if isinstance(condition, types.StartDateConstraint):
            met = start is not None and start >= condition.start_date
        elif isinstance(condition, types.TimeOfDateConstraint):
            from_s, to_s = map(_second_of_day, (condition.start_time, condition.end_time))
            met = from_s <= second < to_s if from_s <= to_s else not to_s <= second < from_s
        else:
            met = True
        if met:
            return each.prices
    return prices[0].prices


def _second_of_day(at: time) -> int:
    """Return seconds since midnight UTC; a time without an offset is UTC."""
    moment = datetime.combine(date(2000, 1, 2), at if at.tzinfo else at.replace(tzinfo=UTC))
    moment = moment.astimezone(UTC)
    return (moment.hour * 60 + moment.minute) * 60 + moment.second


def _tiers(
    price: Price, spell: Spell, meter: str, *, name: str, source: str
) -> Iterator[PriceEntry]:
    tiers = [(0, price)] if isinstance(price, Decimal) else [(0, price.base)]
    if isinstance(price, types.TieredPrices):
        # Theirs holds above `start`; ours from a count on.
        tiers += [(tier.start + 1, tier.price) for tier in price.tiers]
    midnight = datetime.combine(spell.start, time.min, UTC) if spell.start is not None else None
    for tokens_from, amount in tiers:
        price_nanos, per_units = exact_nanos(amount)
        entry = PriceEntry(
            meter=meter,
            price_nanos=price_nanos,
            per_units=per_units,
            effective_from_micros=micros_of(midnight) if midnight is not None else 0,
            tier_input_tokens_from=tokens_from,
            day_from_s=spell.day_from_s,
            day_to_s=spell.day_to_s,
        )
        entry.source = source
        yield identified(entry, name=f"genai:{name}")


def identified(entry: PriceEntry, *, name: str) -> PriceEntry:
    """Give an entry its id: whose price it is, and what it says."""
    entry.price_id = ""
    bare = PriceEntry()
    bare.CopyFrom(entry)
    # Over what the price is and not where it comes from: it survives an upgrade unless the
    # price itself was corrected.
    bare.source = ""
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()
    part = ""
    if entry.day_from_s != entry.day_to_s:
        part = f"@{_clock(entry.day_from_s)}-{_clock(entry.day_to_s)}"
    start = "undated"
    if entry.effective_from_micros:
        start = day(datetime_of(entry.effective_from_micros))
    entry.price_id = (
        f"{name}/{entry.meter}/{start}{part}/{entry.tier_input_tokens_from}#{digest[:DIGEST_CHARS]}"
    )
    return entry


def name_of(entry: PriceEntry) -> str:
    """Return the name that an entry got its id with."""
    return entry.price_id.rpartition("#")[0].rpartition(f"/{entry.meter}/")[0]


def _clock(second: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}"


def exact_nanos(price: Decimal, per_units: int = TOKENS_PER_MTOK) -> tuple[int, int]:
    """Return a price as whole nanos for so many units, without rounding."""
    nanos, denominator = (price * NANOS_PER_UNIT).as_integer_ratio()
    return nanos, per_units * denominator


def match_of(clause: types.MatchLogic) -> ModelMatch:
    """Translate a rule on a model's name. Names are compared in lower case."""
    if isinstance(clause, types.ClauseOr):
        return ModelMatch(any_of=ModelMatch.List(matches=map(match_of, clause.or_)))
    if isinstance(clause, types.ClauseAnd):
        return ModelMatch(all_of=ModelMatch.List(matches=map(match_of, clause.and_)))
    if isinstance(clause, types.ClauseRegex):
        return ModelMatch(regex=clause.regex)
    # The rest compare with one text, in a field of the same name as ours.
    ((name, text),) = vars(clause).items()
    match = ModelMatch()
    setattr(match, name, text.lower())
    return match
