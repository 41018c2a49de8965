"""Published prices through the years: what is known of them is kept, what changes is added. Pure.

A published price has often no date: it is what a package says today. An edition that says another
one must not change what usage cost before it, so the other price is an entry of its own.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from aforo_admin.builtin_prices import identified, name_of
from aforo_admin.domain.catalog import PRICE_FALLBACKS
from aforo_proto.contract_pb2 import PriceEntry, PriceList

Name = tuple[str, str]  # Provider and model.

_VERSION: Final = re.compile(r"genai-prices (\d+(?:\.\d+)*)")


def continued(
    known: Sequence[PriceList], published: Sequence[PriceList], *, now_micros: int
) -> list[PriceList]:
    """Return the published lists with all that was known before them.

    Entries that have begun stay. A price that is another one now begins at its own date, if that is
    later than what is known, else now. Models and kinds of tokens that were not known are taken
    as published; a model that is published no more keeps its prices, and is asked last. Which names
    mean a model is what `published` says.

    Args:
        known: What an earlier call returned, or was published first.
        published: What is published now.
        now_micros: Unix time, UTC.
    """
    before = {_name(each): each for each in known}
    lists = [
        _continued(before[_name(each)], each, now_micros) if _name(each) in before else each
        for each in published
    ]
    named = {_name(each) for each in published}
    return [*lists, *(each for each in known if _name(each) not in named)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What `continued` has made of the known lists."""

    added: tuple[PriceEntry, ...]
    withdrawn: tuple[PriceEntry, ...]  # Announced, and taken back before they began.
    renamed: tuple[Name, ...]  # Known models that other names mean now.
    unpublished: tuple[Name, ...]  # Their prices are kept.

    @property
    def empty(self) -> bool:
        return not (self.added or self.withdrawn or self.renamed)


def difference(
    known: Sequence[PriceList], lists: Sequence[PriceList], published: Sequence[PriceList]
) -> Difference:
    """Say what `lists`, continued from `known` by `published`, has beyond it."""
    before = {entry.price_id for each in known for entry in each.entries}
    after = {entry.price_id for each in lists for entry in each.entries}
    matches = {_name(each): each.match for each in known}
    named = {_name(each) for each in published}
    return Difference(
        added=tuple(e for each in lists for e in each.entries if e.price_id not in before),
        withdrawn=tuple(e for each in known for e in each.entries if e.price_id not in after),
        renamed=tuple(
            _name(each) for each in lists if matches.get(_name(each), each.match) != each.match
        ),
        unpublished=tuple(name for name in matches if name not in named),
    )


def edition_of(lists: Iterable[PriceList]) -> tuple[int, ...]:
    """Return the newest version of genai-prices that they are from; empty: none."""
    sources = {entry.source for each in lists for entry in each.entries}
    found = filter(None, map(_VERSION.fullmatch, sources))
    return max((tuple(map(int, match[1].split("."))) for match in found), default=())


def _continued(known: PriceList, published: PriceList, now_micros: int) -> PriceList:
    ids = _ids(published.entries)
    kept = [e for e in known.entries if e.effective_from_micros <= now_micros or e.price_id in ids]
    meters = dict.fromkeys(entry.meter for each in (known, published) for entry in each.entries)
    new = [e for meter in meters for e in _new(kept, published.entries, meter, now_micros)]
    return PriceList(
        provider=published.provider,
        model=published.model,
        match=published.match,
        entries=[*kept, *new],
    )


def _new(
    known: Sequence[PriceEntry], published: Sequence[PriceEntry], meter: str, now_micros: int
) -> Iterator[PriceEntry]:
    """Yield what is said of a meter and not known."""
    own = list(_of_meter(known, meter))
    said = list(_of_meter(published, meter))
    if own:
        said = said or list(_standing_in(published, meter))
    # What the meter was priced by until now. To get a first price of its own is a change in any
    # case: the other meter's may move at the same time.
    held = _in_force(own or list(_standing_in(known, meter)), now_micros)
    now_said = _in_force(said, now_micros)
    if held and now_said and not (own and _content(now_said) == _content(held)):
        start_micros = now_said[0].effective_from_micros
        if start_micros <= held[0].effective_from_micros:
            start_micros = now_micros
        yield from (_dated(entry, start_micros) for entry in now_said)
    known_ids = _ids(own)
    for entry in said:
        # Without a price until now, nothing was charged that a past date could change.
        is_to_come = entry.effective_from_micros > now_micros
        if (is_to_come or not held) and entry.price_id not in known_ids:
            yield entry


def _of_meter(entries: Iterable[PriceEntry], meter: str) -> Iterator[PriceEntry]:
    return (entry for entry in entries if entry.meter == meter)


def _standing_in(entries: Sequence[PriceEntry], meter: str) -> Iterator[PriceEntry]:
    """Yield, as the meter's own, the prices of the one that stands in for it."""
    for entry in _of_meter(entries, PRICE_FALLBACKS.get(meter, "")):
        own = PriceEntry()
        own.CopyFrom(entry)
        own.meter = meter
        yield identified(own, name=name_of(entry))


def _in_force(entries: Sequence[PriceEntry], now_micros: int) -> list[PriceEntry]:
    """Return the latest that have begun: for each tier, and each part of the day."""
    begun = [e.effective_from_micros for e in entries if e.effective_from_micros <= now_micros]
    return [e for e in entries if begun and e.effective_from_micros == max(begun)]


def _content(entries: Iterable[PriceEntry]) -> frozenset[tuple[int, int, int, Fraction]]:
    return frozenset(
        (
            entry.tier_input_tokens_from,
            entry.day_from_s,
            entry.day_to_s,
            Fraction(entry.price_nanos, entry.per_units),
        )
        for entry in entries
    )


def _dated(entry: PriceEntry, start_micros: int) -> PriceEntry:
    own = PriceEntry()
    own.CopyFrom(entry)
    own.effective_from_micros = start_micros
    return identified(own, name=name_of(entry))


def _ids(entries: Iterable[PriceEntry]) -> set[str]:
    return {entry.price_id for entry in entries}


def _name(prices: PriceList) -> Name:
    return prices.provider, prices.model
