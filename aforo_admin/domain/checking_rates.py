"""What rate cards, currencies and exchange rates of a catalog must obey. Pure."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.problems import (
    FULL_BP,
    Path,
    Problem,
    check_amount,
    check_id,
    check_known,
    check_unique_ids,
    check_units,
    day,
    percent,
    place_of,
    repeated,
    unknown,
)
from aforo_meter.domain.periods import datetime_of
from aforo_meter.domain.rate_card import (
    Component,
    Discount,
    Graduated,
    Multiplier,
    Package,
    Percent,
    PerUnit,
    RateCard,
    Selection,
    Tier,
    Volume,
)

_CURRENCY = re.compile(r"[A-Z]{3}")
ANYTHING: Final = Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The names that the rest of the catalog defines."""

    features: frozenset[str]
    meters: frozenset[str]


def check_currency(path: Path, currency: str) -> Iterator[Problem]:
    if not _CURRENCY.fullmatch(currency):
        yield Problem(
            path=path,
            message=f'"{currency}" is no currency: use three capital letters, like USD',
        )


def exchange_rate_problems(catalog: Catalog) -> Iterator[Problem]:
    for index, rate in enumerate(catalog.exchange_rates):
        here: Path = ("exchange_rates", index)
        yield from check_currency((*here, "currency"), rate.currency)
        if rate.currency == catalog.currency:
            yield Problem(
                path=(*here, "currency"),
                message=f"{rate.currency} is the catalog's currency: rates are to it, from others",
            )
        if rate.rate_nanos <= 0:
            yield Problem(path=(*here, "rate"), message="must be above 0")
        yield from check_amount((*here, "rate"), max(rate.rate_nanos, 0))
    keys = ((rate.currency, rate.effective_from_micros) for rate in catalog.exchange_rates)
    for index, first, (currency, at_micros) in repeated(keys):
        yield Problem(
            path=("exchange_rates", index, "from"),
            message=f"overlaps {place_of(('exchange_rates', first))}: both are of {currency} from "
            f"{_day(at_micros)}; give them different dates or remove one",
        )


def check_rate_cards(path: Path, cards: Sequence[RateCard], known: Known) -> Iterator[Problem]:
    """Check the cards under `path`, the place of a field `rate_card`."""
    for index, card in enumerate(cards):
        here = (*path, index)
        yield from check_amount((*here, "minimum"), card.minimum_nanos)
        yield from _discounts((*here, "discounts"), card.discounts)
        for number, component in enumerate(card.components):
            yield from _component((*here, "components", number), component, known)
        yield from check_unique_ids(
            (*here, "components"), [each.component_id for each in card.components]
        )
        yield from _never_reached((*here, "components"), card.components)
        yield from _idle_minimum(here, card)
    for index, first, at_micros in repeated(card.effective_from_micros for card in cards):
        yield Problem(
            path=(*path, index, "from"),
            message=f"overlaps {place_of((*path, first))}: both begin on {_day(at_micros)}; give "
            "them different dates or remove one",
        )


def _component(path: Path, component: Component, known: Known) -> Iterator[Problem]:
    yield from check_id((*path, "id"), component.component_id)
    if component.meter and component.meter not in known.meters:
        yield unknown((*path, "meter"), component.meter, kind="meter", known=known.meters)
    selection = component.selection
    yield from check_known(
        (*path, "features"), selection.features, kind="feature", known=known.features
    )
    for field in ("providers", "models", "tools"):
        for index, name in enumerate(getattr(selection, field)):
            yield from _pattern((*path, field, index), name)
    yield from _pricing(path, component)
    for field in ("flat", "minimum"):
        yield from check_amount((*path, field), getattr(component, f"{field}_nanos"))
    if component.included_units and component.pricing is None:
        yield Problem(
            path=(*path, "included"), message="only what has a meter and a price can be included"
        )
    yield from check_units((*path, "included"), component.included_units, least=0)
    yield from _discounts((*path, "discounts"), component.discounts)
    for index, multiplier in enumerate(component.multipliers):
        yield from _multiplier((*path, "multipliers", index), multiplier, known)


def _pricing(path: Path, component: Component) -> Iterator[Problem]:
    pricing = component.pricing
    if isinstance(pricing, PerUnit):
        yield from _per_unit(path, pricing)
    elif isinstance(pricing, Package):
        yield from check_amount((*path, "package", "price"), pricing.price_nanos)
        yield from check_units((*path, "package", "units"), pricing.package_units, least=1)
    elif isinstance(pricing, Percent):
        yield from _share((*path, "percent"), pricing.rate_bp)
    elif isinstance(pricing, Graduated):
        yield from _tiers((*path, "graduated"), pricing.tiers)
    elif isinstance(pricing, Volume):
        yield from _tiers((*path, "volume"), pricing.tiers)


def _per_unit(path: Path, price: PerUnit) -> Iterator[Problem]:
    yield from check_amount((*path, "price"), price.price_nanos)
    yield from check_units((*path, "per"), price.per_units, least=1)


def _tiers(path: Path, tiers: Sequence[Tier]) -> Iterator[Problem]:
    if not tiers:
        yield Problem(path=path, message="must have at least one tier")
        return
    for index, tier in enumerate(tiers):
        yield from _per_unit((*path, index), tier.price)
        is_last = index == len(tiers) - 1
        if tier.up_to_units is None and not is_last:
            yield Problem(
                path=(*path, index),
                message="has no up_to, but only the last tier is without end; give it one",
            )
        elif tier.up_to_units is not None and is_last:
            yield Problem(
                path=(*path, index, "up_to"),
                message="ends the last tier: usage beyond would have no price; remove it, or add "
                "a tier without up_to",
            )
    for index, (lower, higher) in enumerate(itertools.pairwise(tiers), start=1):
        if lower.up_to_units is None or higher.up_to_units is None:
            continue
        if higher.up_to_units <= lower.up_to_units:
            yield Problem(
                path=(*path, index, "up_to"),
                message=f"{higher.up_to_units} does not ascend: the tier before it goes up to "
                f"{lower.up_to_units}",
            )
    if tiers[0].up_to_units == 0:
        yield Problem(path=(*path, 0, "up_to"), message="must be above 0")


def _discounts(path: Path, discounts: Sequence[Discount]) -> Iterator[Problem]:
    for index, discount in enumerate(discounts):
        here = (*path, index)
        yield from _share((*here, "percent"), discount.percent_bp)
        yield from check_amount((*here, "amount"), discount.amount_nanos)
        until_micros = discount.effective_until_micros
        if until_micros is not None and until_micros <= discount.effective_from_micros:
            yield Problem(
                path=(*here, "until"),
                message=f"must be after from ({_day(discount.effective_from_micros)})",
            )


def _multiplier(path: Path, multiplier: Multiplier, known: Known) -> Iterator[Problem]:
    field = multiplier.dimension.value
    if field == "feature":
        if multiplier.value not in known.features:
            yield unknown((*path, field), multiplier.value, kind="feature", known=known.features)
    else:
        yield from _pattern((*path, field), multiplier.value)


def _pattern(path: Path, name: str) -> Iterator[Problem]:
    if not name.strip("*") or "*" in name.removeprefix("*").removesuffix("*"):
        yield Problem(
            path=path,
            message='must be a name; "*" may stand at its start or end, as in "gpt-4o*"',
        )


def _share(path: Path, bp: int) -> Iterator[Problem]:
    if not 0 <= bp <= FULL_BP:
        yield Problem(path=path, message=f"must be from 0% to 100%, not {percent(bp)}")


def _never_reached(path: Path, components: Sequence[Component]) -> Iterator[Problem]:
    taken: dict[str, int] = {}
    for index, component in enumerate(components):
        if component.pricing is None:
            continue
        if component.meter in taken:
            first = place_of((*path, taken[component.meter]))
            yield Problem(
                path=(*path, index),
                message=f"is never reached: {first} takes all of {component.meter}, and the first "
                "that matches charges; put it before that one",
                joint=True,
            )
        elif component.selection == ANYTHING:
            taken[component.meter] = index


def _idle_minimum(path: Path, card: RateCard) -> Iterator[Problem]:
    of_components = sum(component.minimum_nanos for component in card.components)
    if card.minimum_nanos and card.minimum_nanos <= of_components and not card.discounts:
        yield Problem(
            path=(*path, "minimum"),
            message="never holds: the minimums of its components come to as much; raise it above "
            "them, or remove it",
        )


def _day(at_micros: int) -> str:
    return day(datetime_of(at_micros))
