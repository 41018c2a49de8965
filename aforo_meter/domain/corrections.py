"""Which adjustments make rows of the ledger right: rated again, or taken back. Pure.

Charges are never edited. What is corrected is added beside them, as adjustments with a sign. One
law holds for every row, a charge and its adjustments taken together: it costs what its quantity
costs at its price, rounded once. So no number of corrections, in whatever order and however often,
leaves another amount than rating from nothing would.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.prices import PriceEntry, Prices
from aforo_meter.domain.rating import (
    OTHER_MODEL,
    OTHER_TOOL,
    UNPRICED,
    ChargeKey,
    Usage,
    amount_nanos,
    size_kept,
)
from aforo_meter.domain.usage import API_CALLS


class Kind(StrEnum):
    RERATE = "rerate"  # Usage moves to another price: off one row, onto another.
    VOID = "void"  # Usage is taken back.
    LATE = "late"  # Usage of a period that was closed when it arrived.


class Row(NamedTuple):
    """A row of the ledger: a charge and all its adjustments; or one adjustment, with signs."""

    quantity_micros: int = 0  # 10^-6 units.
    extra_micros: int = 0  # What weights add on quotas.
    cogs_nanos: int = 0  # 0 where it is unpriced.

    def plus(self, other: "Row") -> "Row":
        return Row(
            self.quantity_micros + other.quantity_micros,
            self.extra_micros + other.extra_micros,
            self.cogs_nanos + other.cogs_nanos,
        )


NOTHING = Row()


class Known(NamedTuple):
    """What the ledger keeps of a price that it has used."""

    price_nanos: int
    per_units: int
    currency: str
    effective_from_micros: int
    tier_input_tokens_from: int

    @classmethod
    def of(cls, entry: PriceEntry, currency: str) -> "Known":
        return cls(
            price_nanos=entry.price_nanos,
            per_units=entry.per_units,
            currency=currency,
            effective_from_micros=entry.effective_from_micros,
            tier_input_tokens_from=entry.tier_input_tokens_from,
        )

    @property
    def figures(self) -> tuple[int, int, str]:
        """What decides about money, and never changes once it was used."""
        return self.price_nanos, self.per_units, self.currency


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What is added to a row, or taken off it."""

    key: ChargeKey
    change: Row


def price_now(key: ChargeKey, used: Known, prices: Prices) -> PriceEntry | None:
    """Return the price that a priced row would have by now; None: there is none any more.

    Of its usage only the hour is known still, and of the size of its requests the tier that its
    price is for. So it keeps its price if that holds at some time of its hour, for such requests.
    Else it gets the one in force as the hour began, or as its own price did if that was later.

    Args:
        key: The row.
        used: Its price, as the ledger knows it.
        prices: Those of its tenant, now.
    """
    held = prices.prices_in_hour(
        key.meter,
        provider=key.provider,
        model=key.model,
        hour_start_micros=key.hour_start_micros,
        input_tokens=used.tier_input_tokens_from,
    )
    same = next((entry for entry in held if entry.price_id == key.price_id), None)
    if same is not None or not held:
        return same
    began_micros = max(key.hour_start_micros, used.effective_from_micros)
    if began_micros >= key.hour_start_micros + HOUR_MICROS:
        return held[0]
    then = prices.price_of(
        key.meter,
        provider=key.provider,
        model=key.model,
        at_micros=began_micros,
        input_tokens=used.tier_input_tokens_from,
    )
    return then or held[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rows a re-rating changes, and which it leaves as they are."""

    to: Mapping[ChargeKey, str]  # The id of each row's price; its own: only the amount is wrong.
    entries: Mapping[str, PriceEntry]  # Those that rows move to, by id.
    waiting: int  # Rows that no price covers yet: they get one without being asked.
    without: int  # Rows whose model no price covers any more, or that share `(other)`.


def choose(rows: Mapping[ChargeKey, Row], known: Mapping[str, Known], prices: Prices) -> Choice:
    """Choose what is to be rated again.

    Args:
        rows: Of one tenant; an hour's rows of one meter, provider and model all together.
        known: Prices as the ledger has them, by id; those of all these rows.
        prices: Those of the tenant, now.
    """
    to: dict[ChargeKey, str] = {}
    entries: dict[str, PriceEntry] = {}
    waiting = without = 0
    for key, row in rows.items():
        if key.price_id == UNPRICED:
            waiting += row.quantity_micros > 0
            continue
        used = known[key.price_id]
        # Models that share one name kept their own prices, which can't be found under it.
        is_shared = OTHER_MODEL in (key.provider, key.model)
        entry = None if is_shared else price_now(key, used, prices)
        without += entry is None
        if entry is not None and entry.price_id != key.price_id and row.quantity_micros:
            to[key] = entry.price_id
            entries[entry.price_id] = entry
        elif changed(row, 0, 0, price=used) != NOTHING:
            to[key] = key.price_id
    return Choice(to=to, entries=entries, waiting=waiting, without=without)


def rerated(
    rows: Mapping[ChargeKey, Row],
    to: Mapping[ChargeKey, str],
    prices: Mapping[str, Known],
) -> list[Adjustment]:
    """Return what moves rows to other prices: off each row, onto the one of the other price.

    Args:
        rows: All rows that are named in `to`, and all that they move to, where they exist.
        to: The id of each row's price. Its own: only its amount is put right, if it is wrong.
        prices: By price id; those of all these rows.
    """
    state = dict(rows)
    done: dict[ChargeKey, Row] = {}

    def change(key: ChargeKey, quantity_micros: int, extra_micros: int) -> None:
        before = state.get(key, NOTHING)
        made = changed(before, quantity_micros, extra_micros, price=prices.get(key.price_id))
        state[key] = before.plus(made)
        done[key] = done.get(key, NOTHING).plus(made)

    for key, price_id in to.items():
        if price_id == key.price_id:
            change(key, 0, 0)
            continue
        row = state.get(key, NOTHING)
        change(key, -row.quantity_micros, -row.extra_micros)
        change(at_price(key, price_id), row.quantity_micros, row.extra_micros)
    return [Adjustment(key, made) for key, made in done.items() if made != NOTHING]


def changed(row: Row, quantity_micros: int, extra_micros: int, *, price: Known | None) -> Row:
    """Return the adjustment that adds to a row, or takes off it what is there at most.

    Args:
        row: As it is.
        quantity_micros: With a sign.
        extra_micros: With a sign.
        price: The row's; None: it is unpriced, and costs nothing yet.
    """
    after_micros = max(0, row.quantity_micros + quantity_micros)
    after_nanos = 0
    if price is not None:
        after_nanos = amount_nanos(
            after_micros, price_nanos=price.price_nanos, per_units=price.per_units
        )
    return Row(
        quantity_micros=after_micros - row.quantity_micros,
        extra_micros=max(0, row.extra_micros + extra_micros) - row.extra_micros,
        cogs_nanos=after_nanos - row.cogs_nanos,
    )


def at_price(key: ChargeKey, price_id: str) -> ChargeKey:
    """Return the row that the same usage has at another price."""
    return key._replace(price_id=price_id, input_tokens=0)


def cogs_by_period(adjustments: Iterable[Adjustment]) -> Counter[tuple[str, str, int]]:
    """Add up what adjustments change, by tenant, subscription and period; zeros are kept."""
    totals: Counter[tuple[str, str, int]] = Counter()
    for one in adjustments:
        key = one.key
        period = (key.tenant_id, key.subscription_id, key.period_start_micros)
        totals[period] += one.change.cogs_nanos
    return totals


class Taken(NamedTuple):
    """What one row gives back of an event."""

    key: ChargeKey
    quantity_micros: int
    extra_micros: int


def taken_of_event(
    usage: Usage, rows: Mapping[ChargeKey, Row], known: Mapping[str, Known], prices: Prices
) -> dict[str, list[Taken]]:
    """Find what rows give back of one event, by meter; nothing where they have less than it says.

    The ledger keeps sums: where an hour has such usage at several prices, the one that holds now
    for the event's own time goes first, then that of the highest tier that its request reaches.
    Only if no row has all of it, several give.

    Args:
        usage: The event; none that a call is told by more than once.
        rows: Those of its tenant and hour.
        known: Prices as the ledger has them, by id; those of all these rows.
        prices: Those of the tenant, now.
    """
    quantities: Counter[str] = Counter()
    for meter, quantity_micros in usage.measures:
        quantities[meter] += quantity_micros
    found = {}
    for meter, quantity_micros in quantities.items():
        if quantity_micros == 0:
            continue
        now = prices.price_of(
            meter,
            provider=usage.provider,
            model=usage.model,
            at_micros=usage.occurred_at_micros,
            input_tokens=usage.input_tokens,
        )
        fitting = sorted(
            (key for key in rows if key.meter == meter and _may_hold(key, usage, known)),
            key=lambda key, now=now: _likeness(key, usage, now, known),  # type: ignore[misc]
            reverse=True,
        )
        whole = (quantity_micros, quantity_micros * (usage.weight_units - 1))
        if meter != API_CALLS:
            whole = (quantity_micros, 0)
        found[meter] = _taken(whole, {key: rows[key] for key in fitting})
    return found


def _taken(whole: tuple[int, int], rows: Mapping[ChargeKey, Row]) -> list[Taken]:
    """Return what rows give, best first: one that has all of it, else several; else nothing."""
    for key, row in rows.items():
        if row.quantity_micros >= whole[0] and row.extra_micros >= whole[1]:
            return [Taken(key, *whole)]
    quantity_micros, extra_micros = whole
    found = []
    for key, row in rows.items():
        one = Taken(
            key, min(quantity_micros, row.quantity_micros), min(extra_micros, row.extra_micros)
        )
        if one.quantity_micros or one.extra_micros:
            found.append(one)
        quantity_micros -= one.quantity_micros
        extra_micros -= one.extra_micros
    return [] if quantity_micros or extra_micros else found


def _may_hold(key: ChargeKey, usage: Usage, known: Mapping[str, Known]) -> bool:
    if key.price_id == UNPRICED:
        is_its_size = key.input_tokens == size_kept(key.meter, usage.input_tokens)
    else:
        is_its_size = known[key.price_id].tier_input_tokens_from <= usage.input_tokens
    return (
        is_its_size
        and key.hour_start_micros == usage.hour_start_micros
        and key.feature == ",".join(usage.features)
        and key.execution_status == usage.execution_status
        and key.provider in (usage.provider, OTHER_MODEL)
        and key.model in (usage.model, OTHER_MODEL)
        and key.tool in (usage.tool, OTHER_TOOL)
    )


def _likeness(
    key: ChargeKey, usage: Usage, now: PriceEntry | None, known: Mapping[str, Known]
) -> tuple[bool, bool, bool, bool, int, ChargeKey]:
    price = known.get(key.price_id)
    tier = None if price is None else price.tier_input_tokens_from
    return (
        (key.provider, key.model, key.tool) == (usage.provider, usage.model, usage.tool),
        key.subscription_id == usage.subscription_id,
        key.price_id == (UNPRICED if now is None else now.price_id),
        # A row that waits holds requests of this size alone.
        tier is None or (now is not None and tier == now.tier_input_tokens_from),
        tier or 0,
        key,  # The same one each time.
    )
