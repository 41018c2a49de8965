"""A row of the ledger → the row that it would be: another model, price or quantity. Pure, exact."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple

from aforo_admin.domain.scenario import (
    UNCHANGED,
    CostChange,
    ModelSwap,
    Scenario,
    factor_of,
    times,
)
from aforo_meter.domain.account import UsageKey, Used
from aforo_meter.domain.periods import DAY_MICROS
from aforo_meter.domain.prices import PriceEntry, PriceList, Prices
from aforo_meter.domain.rate_card import Dimension, PerUnit, has_value
from aforo_meter.domain.rating import amount_nanos, depends_on_size


class Row(NamedTuple):
    """Usage of one hour at one price: a charge with its adjustments."""

    hour_start_micros: int
    key: UsageKey
    quantity_micros: int
    cogs_nanos: int  # 0 where it has no price.
    price: PerUnit | None  # As the ledger keeps it; None: unpriced.
    input_tokens: int  # The least size of request that it may have come from.
    is_negotiated: bool  # Its price is the tenant's own.

    @property
    def used(self) -> Used:
        unpriced_micros = self.quantity_micros if self.price is None else 0
        return Used(self.quantity_micros, self.cogs_nanos, 0, unpriced_micros)


class Effect(NamedTuple):
    """What becomes of all rows of one kind."""

    key: UsageKey
    price: PerUnit | None
    growth: Fraction


Reprice = Callable[[Row], Row]
# A provider's model → a list of prices of it, which says what usage the name covers.
Naming = Callable[[str, str], PriceList]
Met = set[CostChange | ModelSwap]


def repricing(
    scenario: Scenario, tenant_id: str, prices: Prices, named: Naming, met: Met
) -> Reprice:
    """Return what turns a tenant's rows into those that they would be.

    A row that nothing changes keeps the amount that the ledger has. A price that rises by a share
    is the one that the ledger kept, so no price book is asked; one of another model is asked for as
    the hour began, and for the same size of request.

    Args:
        scenario: What changes.
        tenant_id: Whose rows.
        prices: That tenant's, to find those of models that are swapped in.
        named: What a model's name covers, by the rule of the price book.
        met: Takes in the changes that there is usage for.
    """
    swaps: dict[UsageKey, ModelSwap | None] = {}
    known: dict[tuple[object, ...], Effect] = {}

    def changed(row: Row) -> Row:
        if row.key not in swaps:
            swap = swaps[row.key] = _swap_of(scenario, row.key, named)
            met.update([] if swap is None else [swap])
        swapped, price = _swapped(swaps[row.key], row, prices)
        kind = (row.key, swapped, price, row.is_negotiated)
        effect = known.get(kind)
        if effect is None:
            costs = [each for each in scenario.costs if concerns(each, swapped, named)]
            met.update(costs)
            effect = known[kind] = Effect(
                key=swapped,
                price=_cost(costs, price, is_negotiated=row.is_negotiated),
                growth=growth_of(scenario, tenant_id, row.key),
            )
        return _with(row, effect)

    return changed


def _with(row: Row, effect: Effect) -> Row:
    if (effect.price, effect.growth) == (row.price, UNCHANGED):
        return row if effect.key == row.key else row._replace(key=effect.key)
    quantity_micros = row.quantity_micros
    if effect.growth != UNCHANGED:
        quantity_micros = round(quantity_micros * effect.growth)
    cogs_nanos = 0
    if effect.price is not None:
        cogs_nanos = amount_nanos(
            quantity_micros,
            price_nanos=effect.price.price_nanos,
            per_units=effect.price.per_units,
        )
    return row._replace(
        key=effect.key, quantity_micros=quantity_micros, cogs_nanos=cogs_nanos, price=effect.price
    )


def _swap_of(scenario: Scenario, key: UsageKey, named: Naming) -> ModelSwap | None:
    """Return the first that fits."""
    return next(
        (
            swap
            for swap in scenario.swaps
            if covers(key, provider=swap.provider, model="") and goes_by(key, swap.model, named)
        ),
        None,
    )


def _swapped(swap: ModelSwap | None, row: Row, prices: Prices) -> tuple[UsageKey, PerUnit | None]:
    """Return the usage as another model's, where one is swapped in.

    What has one price for both models keeps the amount that it had.
    """
    if swap is None:
        return row.key, row.price
    key = row.key._replace(provider=swap.to_provider or row.key.provider, model=swap.to_model)
    before, after = (_entry(row, each, prices) for each in (row.key, key))
    if after is None:
        return key, None if depends_on_size(key.meter) else row.price
    if before == after:
        return key, row.price
    return key, PerUnit(price_nanos=after.price_nanos, per_units=after.per_units)


def _entry(row: Row, key: UsageKey, prices: Prices) -> PriceEntry | None:
    return prices.price_in_hour(
        key.meter,
        provider=key.provider,
        model=key.model,
        hour_start_micros=row.hour_start_micros,
        input_tokens=row.input_tokens,
    )


def _cost(
    changes: Iterable[CostChange], price: PerUnit | None, *, is_negotiated: bool
) -> PerUnit | None:
    for change in changes:
        if change.negotiated or not is_negotiated:
            price = _changed_price(change, price)
    return price


def _changed_price(change: CostChange, price: PerUnit | None) -> PerUnit | None:
    if change.price is not None:
        return change.price
    if price is None or not change.percent_bp:
        return price
    return times(price, factor_of(change.percent_bp))


def concerns(change: CostChange, key: UsageKey, named: Naming) -> bool:
    """Say whether a change is about a usage's price."""
    if change.meter not in ("", key.meter):
        return False
    if change.price is not None and not change.provider:
        # It would be an entry of no provider, which covers that very name.
        return not change.model or named("", change.model).covers(
            provider="", model=key.model.lower()
        )
    return covers(key, provider=change.provider, model="") and goes_by(key, change.model, named)


def goes_by(key: UsageKey, model: str, named: Naming) -> bool:
    """Say whether a model's name covers a usage, as in the price book: "" covers any."""
    provider = key.provider.lower()
    return not model or named(provider, model).covers(provider=provider, model=key.model.lower())


def covers(key: UsageKey, *, provider: str, model: str) -> bool:
    """Say whether a usage has just these names; a `*` at the start or end is for anything."""
    return (not provider or has_value(key, Dimension.PROVIDER, provider)) and (
        not model or has_value(key, Dimension.MODEL, model)
    )


def growth_of(scenario: Scenario, tenant_id: str, key: UsageKey) -> Fraction:
    """Return what a usage is multiplied by."""
    factor = UNCHANGED
    for growth in scenario.growths:
        if growth.tenant_id in ("", tenant_id) and (
            not growth.feature or growth.feature in key.feature.split(",")
        ):
            factor *= factor_of(growth.percent_bp)
    return factor


def repriced_by(old: Prices, new: Prices, *, latest_micros: int) -> Reprice:
    """Return what turns rows into those of another price book, once all of it is in force.

    As with `prices diff`: what both books price alike keeps the amount that the ledger has, and
    usage is taken as if it had come by whole days later, so that parts of the day stay the same.

    Args:
        old: The tenant's prices.
        new: The same with other entries.
        latest_micros: From when the last of these holds.
    """

    def changed(row: Row) -> Row:
        days = max(0, -((row.hour_start_micros - latest_micros) // DAY_MICROS))
        at_micros = row.hour_start_micros + days * DAY_MICROS
        before, after = (
            prices.price_of(
                row.key.meter,
                provider=row.key.provider,
                model=row.key.model,
                at_micros=at_micros,
                input_tokens=row.input_tokens,
            )
            for prices in (old, new)
        )
        if before == after:
            return row
        price = None
        if after is not None:
            price = PerUnit(price_nanos=after.price_nanos, per_units=after.per_units)
        return _with(row, Effect(row.key, price, UNCHANGED))

    return changed
