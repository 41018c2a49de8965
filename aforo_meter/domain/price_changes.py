"""Which prices took the place of others that usage was charged at, and what that makes of it. Pure.

A usage has a schedule: the entries that can be its price at one instant, whatever the size of its
requests and the time of day. A change of price is another schedule.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.prices import PriceEntry, Prices
from aforo_meter.domain.rating import OTHER_MODEL, amount_nanos


class ModelUse(NamedTuple):
    """What was used, as far as a cost price goes by it."""

    meter: str
    provider: str
    model: str


class ChangeState(StrEnum):
    ANNOUNCED = "announced"  # Entered, and in force from a later instant on.
    IN_FORCE = "in_force"


class ChargedPrice(NamedTuple):
    """A price that a tenant's usage was charged at, as the ledger keeps it, and when."""

    price_id: str
    price_nanos: int
    per_units: int
    effective_from_micros: int
    tier_input_tokens_from: int
    source: str
    first_used_at_micros: int  # By anybody.
    first_hour_micros: int  # Of the tenant's usage at this price.
    last_hour_micros: int


class ChargedRow(NamedTuple):
    """One row of the ledger."""

    use: ModelUse
    price_id: str
    quantity_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """Prices that usage was charged at, and those that take their place."""

    use: ModelUse
    state: ChangeState
    before: tuple[ChargedPrice, ...]
    after: tuple[PriceEntry, ...]
    effective_from_micros: int

    @property
    def price_ids(self) -> str:
        """Name the change: the same prices are told once, in this state."""
        return " ".join(sorted(entry.price_id for entry in self.after))


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """Tells a change of price from one that has long been charged."""

    since_micros: int
    old_price_ids: Collection[str]  # By which somebody was charged before that.

    def are(
        self, before: Sequence[ChargedPrice], known: Mapping[str, ChargedPrice], now: str
    ) -> bool:
        """Return whether a price that holds now is news to who was charged at others before."""
        charged = known.get(now)
        if charged is not None and charged.first_hour_micros + HOUR_MICROS <= self.since_micros:
            return False
        # A price that others had all along is news to one who was charged at another till now.
        return now not in self.old_price_ids or any(
            price.last_hour_micros + HOUR_MICROS > self.since_micros for price in before
        )


def changes(
    charged: Mapping[ModelUse, Sequence[ChargedPrice]],
    prices: Prices,
    news: News,
    *,
    now_micros: int,
) -> list[PriceChange]:
    """Return the changes of price that are news.

    Args:
        charged: The prices that a tenant's usage was charged at, by what was used.
        prices: Those that hold for the tenant.
        news: What is news.
        now_micros: Unix time, UTC.
    """
    found = []
    for use, known in charged.items():
        if use.model == OTHER_MODEL:
            continue  # Of many models, each at its own price.
        now = schedule(prices, use, at_micros=now_micros)
        change = _in_force(use, known, now, news)
        if change is not None:
            found.append(change)
        found += _announced(use, known, now, prices, now_micros=now_micros)
    return found


def schedule(prices: Prices, use: ModelUse, *, at_micros: int) -> tuple[PriceEntry, ...]:
    """Return the entries that can be the price at an instant, best first."""
    kept: list[PriceEntry] = []
    for entry in prices.candidates(use.meter, provider=use.provider, model=use.model):
        if entry.effective_from_micros <= at_micros and not any(
            _covers(better, entry) for better in kept
        ):
            kept.append(entry)
    return tuple(kept)


def extra_nanos(rows: Iterable[ChargedRow], change: PriceChange) -> int:
    """Return what the same rows would cost more at the new prices; negative: less.

    A row that was charged at a tier's price counts at that tier's new one.
    """
    known = {price.price_id: price for price in change.before}
    total = 0
    for row in rows:
        old = known.get(row.price_id)
        if row.use != change.use or old is None:
            continue
        new = _counterpart(old, change.after)
        total += amount_nanos(
            row.quantity_micros, price_nanos=new.price_nanos, per_units=new.per_units
        ) - amount_nanos(row.quantity_micros, price_nanos=old.price_nanos, per_units=old.per_units)
    return total


def _in_force(
    use: ModelUse, known: Sequence[ChargedPrice], now: tuple[PriceEntry, ...], news: News
) -> PriceChange | None:
    by_id = {price.price_id: price for price in known}
    current = [entry.price_id for entry in now]
    before = tuple(price for price in known if price.price_id not in current)
    # Without a price at all it is unpriced usage, which is told as that.
    if not before or not now or _same_figures(before, now):
        return None
    if not any(news.are(before, by_id, name) for name in current):
        return None
    return PriceChange(
        use=use,
        state=ChangeState.IN_FORCE,
        before=before,
        after=now,
        effective_from_micros=max(entry.effective_from_micros for entry in now),
    )


def _announced(
    use: ModelUse,
    known: Sequence[ChargedPrice],
    now: tuple[PriceEntry, ...],
    prices: Prices,
    *,
    now_micros: int,
) -> Iterable[PriceChange]:
    """Yield the next change to come, if one is entered."""
    starts = sorted(
        entry.effective_from_micros
        for entry in prices.candidates(use.meter, provider=use.provider, model=use.model)
        if entry.effective_from_micros > now_micros
    )
    if not now:
        return  # Unpriced usage, which is told as that.
    for start_micros in starts:
        then = schedule(prices, use, at_micros=start_micros)
        names = {entry.price_id for entry in then}
        gone = tuple(price for price in known if price.price_id not in names)
        # What holds now may not have been charged yet: it was entered together with the next one.
        going = [_heir(price, now) for price in gone]
        if gone and not _same_figures(going, then):
            yield PriceChange(
                use=use,
                state=ChangeState.ANNOUNCED,
                before=gone,
                after=then,
                effective_from_micros=start_micros,
            )
            return


def _covers(better: PriceEntry, entry: PriceEntry) -> bool:
    """Return whether a better entry holds wherever this one would."""
    same_hours = (better.day_from_s, better.day_to_s) == (entry.day_from_s, entry.day_to_s)
    return better.tier_input_tokens_from <= entry.tier_input_tokens_from and (
        not better.part_of_day or same_hours
    )


def _heir(old: ChargedPrice, now: Sequence[PriceEntry]) -> PriceEntry:
    """Return the price that holds now where a charged one did: itself, if it still does."""
    same = next((entry for entry in now if entry.price_id == old.price_id), None)
    return same or _counterpart(old, now)


def _same_figures(before: Sequence[ChargedPrice | PriceEntry], after: Sequence[PriceEntry]) -> bool:
    """Return whether each price that goes is followed by one of the same figures."""
    return all(
        old.price_nanos * new.per_units == new.price_nanos * old.per_units
        for old in before
        for new in [_counterpart(old, after)]
    )


def _counterpart(old: ChargedPrice | PriceEntry, after: Sequence[PriceEntry]) -> PriceEntry:
    """Return the new price that takes an old one's place: the tier that its requests fall into."""
    fitting = [
        entry for entry in after if entry.tier_input_tokens_from <= old.tier_input_tokens_from
    ]
    return max(
        fitting or after, key=lambda entry: (entry.tier_input_tokens_from, not entry.part_of_day)
    )
