"""What a scenario's costs become: coming entries of the price book, and what each is instead of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final, NamedTuple

from aforo_admin.domain.catalog import CostPrice
from aforo_admin.domain.price_changes import Books, EntryKey, begun_by, entries
from aforo_admin.domain.problems import Problem
from aforo_admin.domain.scenario import CostChange, factor_of, times
from aforo_admin.domain.scenario_usage import concerns
from aforo_admin.price_books import list_named
from aforo_admin.readable_values import many, money
from aforo_admin.scenario_yaml import refuse
from aforo_admin.written_values import instant, instant_of_micros
from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.prices import FALLBACKS, Precedence, PriceBook, PriceEntry
from aforo_meter.domain.rate_card import PerUnit

ENTRIES_MAX: Final = 500  # That one change adds to the price book.
UNCHANGED: Final = CostChange(percent_bp=0)
SHOWN_MAX: Final = 3  # Of many in one sentence.


class Slot(NamedTuple):
    """What an entry prices, whenever: the catalog's own has one a date."""

    provider: str
    model: str
    meter: str
    input_tokens_from: int = 0
    day_from_s: int = 0
    day_to_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """An entry to be added, and the one that holds until then."""

    price: CostPrice
    before: PerUnit | None  # None: what it is of has no price of its own.
    before_from_micros: int = 0
    is_kept: bool = False  # It says what holds already, which the price beside it would end.

    def told(self, currency: str) -> str:
        """Say what it changes: openai gpt-4o llm.input_tokens: 12 → 14.4 USD per 1,000,000."""
        price = self.price
        names = " ".join(name for name in (price.provider, price.model, price.meter) if name)
        per = price.per_units if self.before is None else self.before.per_units
        after = _amount(PerUnit(price_nanos=price.price_nanos, per_units=price.per_units), per)
        if self.is_kept:
            from_text = instant(price.effective_from)
            return f"{names}: stays {after} {currency} per {per:,} from {from_text}"
        before = "no price" if self.before is None else _amount(self.before, per)
        from_text = instant(price.effective_from)
        return f"{names}: {before} → {after} {currency} per {per:,} from {from_text}"


def _amount(price: PerUnit, per: int) -> str:
    """Write what so many units cost; what has no end is cut at a nano."""
    return money(round(Fraction(price.price_nanos, price.per_units) * per), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComingPrices:
    """All of them."""

    added: tuple[Coming, ...] = ()
    later: tuple[int, ...] = ()  # When further prices of the same begin, which stay as they are.
    follows: tuple[str, ...] = ()  # Kinds of tokens that have no price beside a changed one.
    currency: str = ""

    def remarks(self, now: datetime) -> Iterator[str]:
        """Yield what somebody who adds them should know."""
        piled = [
            each
            for each in self.added
            if each.before_from_micros > micros_of(now) and not each.is_kept
        ]
        if piled:
            shown = "; ".join(each.told(self.currency) for each in piled[:SHOWN_MAX])
            more = f"; and {len(piled) - SHOWN_MAX:,} more" if len(piled) > SHOWN_MAX else ""
            since = instant_of_micros(min(each.before_from_micros for each in piled))
            yield (
                f"{many(len(piled), 'price')} had a coming change already, from {since} on, and"
                f" this one adds to it: {shown}{more}"
            )
        if self.follows:
            yield (
                f"{', '.join(self.follows)}: where there is no price of our own for them, that of"
                " the tokens that they are part of holds, and changes with it; the what-if left"
                " them as they were"
            )
        if self.later:
            first = instant_of_micros(min(self.later))
            yield (
                "later prices of the same stay as they are, and end this change:"
                f" {len(self.later):,}, the first from {first}"
            )


def coming_prices(
    changes: Sequence[CostChange], book: PriceBook, begins_at: datetime
) -> ComingPrices:
    """Return the entries of the price book that say what a scenario's costs do.

    A percentage is told for each price in force at that date, at most `ENTRIES_MAX`; several
    changes of one price are made in turn.

    Args:
        changes: Of costs.
        book: As it is.
        begins_at: From when the entries hold.

    Raises:
        CatalogError: There is no such price, there are too many, or they have a price from the
            very same date.
    """
    every = [
        (key, entry)
        for key, entry in entries(Books(book=book))
        if key.precedence is not Precedence.NEGOTIATED
    ]
    at_micros = micros_of(begins_at)
    held = _in_force(every, at_micros)
    found: dict[Slot, Coming] = {}
    for index, change in enumerate(changes):
        if change.price is not None:
            slots = [Slot(change.provider, change.model, change.meter)]
        else:
            slots = [slot for slot in held if _is_about(change, slot)]
            _check_count(slots, ("costs", index))
        for slot in slots:
            found[slot] = _coming(slot, change, held.get(slot), found.get(slot), begins_at)
    of_one = {change.meter for change in changes}  # Else what is raised is raised with its kinds.
    kinds = [
        (slot, kind)
        for slot in found
        if slot.meter in of_one
        for kind, whole in FALLBACKS.items()
        if whole == slot.meter
    ]
    for slot, kind in kinds:
        found |= _kept(slot, kind, held, found, begins_at)
    priced = {slot[:3] for slot in (*held, *found)}
    _check_dates(every, found, begins_at)
    return ComingPrices(
        added=tuple(found.values()),
        later=tuple(
            key.effective_from_micros
            for key, _ in every
            if key.effective_from_micros > at_micros and _slot(key) in found
        ),
        follows=tuple(
            dict.fromkeys(
                kind for slot, kind in kinds if (slot.provider, slot.model, kind) not in priced
            )
        ),
        currency=book.currency,
    )


def _kept(
    slot: Slot,
    kind: str,
    held: Mapping[Slot, tuple[EntryKey, PriceEntry]],
    found: Mapping[Slot, Coming],
    begins_at: datetime,
) -> dict[Slot, Coming]:
    """Return the published prices of a kind of token that one of our own for the whole would end.

    Ours are asked first, and its price for the whole would hold for the kind too.
    """
    return {
        each: _coming(each, UNCHANGED, (key, entry), None, begins_at, is_kept=True)
        for each, (key, entry) in held.items()
        if each[:3] == (slot.provider, slot.model, kind)
        and key.precedence is Precedence.BUILT_IN
        and each not in found
    }


def _in_force(
    every: Sequence[tuple[EntryKey, PriceEntry]], at_micros: int
) -> dict[Slot, tuple[EntryKey, PriceEntry]]:
    """Return what holds by then: of a meter that has prices of our own, these alone."""
    begun = begun_by(every, at_micros)
    own = {_group(key) for key, _ in begun if key.precedence is Precedence.OWN}
    return {
        _slot(key): (key, entry)
        for key, entry in begun
        if key.precedence is Precedence.OWN or _group(key) not in own
    }


def _group(key: EntryKey) -> tuple[str, str, str]:
    return key.provider, key.model, key.meter


def _slot(key: EntryKey) -> Slot:
    return Slot(*_group(key), key.tier_input_tokens_from, key.day_from_s, key.day_to_s)


def _is_about(change: CostChange, slot: Slot) -> bool:
    key = UsageKey(slot.meter, "", slot.provider, slot.model, "", "")
    return concerns(change, key, list_named)


def _check_count(slots: Sequence[Slot], path: tuple[str | int, ...]) -> None:
    if not slots:
        message = "is about no price that there is: name provider, model or meter otherwise"
        refuse([Problem(path=path, message=message)])
    if len(slots) > ENTRIES_MAX:
        message = f"is about {len(slots)} prices, at most {ENTRIES_MAX} become entries: name models"
        refuse([Problem(path=path, message=message)])


def _coming(
    slot: Slot,
    change: CostChange,
    held: tuple[EntryKey, PriceEntry] | None,
    found: Coming | None,
    begins_at: datetime,
    *,
    is_kept: bool = False,
) -> Coming:
    before, since_micros = None, 0
    if held is not None:
        key, entry = held
        before = PerUnit(price_nanos=entry.price_nanos, per_units=entry.per_units)
        since_micros = key.effective_from_micros
    price = change.price
    if price is None:
        last = before
        if found is not None:
            of = found.price
            last = PerUnit(price_nanos=of.price_nanos, per_units=of.per_units)
        assert last is not None, "a percentage is of a price that there is"
        price = times(last, factor_of(change.percent_bp or 0))
    added = CostPrice(
        **slot._asdict(),
        price_nanos=price.price_nanos,
        per_units=price.per_units,
        effective_from=begins_at,
    )
    return Coming(price=added, before=before, before_from_micros=since_micros, is_kept=is_kept)


def _check_dates(
    every: Sequence[tuple[EntryKey, PriceEntry]],
    found: dict[Slot, Coming],
    begins_at: datetime,
) -> None:
    """Refuse a second price of one date: it is there already, as where the same is sent twice."""
    at_micros = micros_of(begins_at)
    taken = [
        slot
        for key, _ in every
        if key.precedence is Precedence.OWN
        and key.effective_from_micros == at_micros
        and (slot := _slot(key)) in found
    ]
    if taken:
        names = " ".join(name for name in taken[0][:3] if name)
        more = f" and {many(len(taken) - 1, 'further price')}" if len(taken) > 1 else ""
        message = (
            f'"{instant(begins_at)}" is the date of an entry that there is already, of'
            f" {names}{more}: name another date"
        )
        refuse([Problem(path=("begins",), message=message)])
