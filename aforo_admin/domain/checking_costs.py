"""What cost prices must obey, and what they leave open. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from aforo_admin.domain.catalog import CostPrice
from aforo_admin.domain.problems import (
    Path,
    Problem,
    check_amount,
    check_units,
    day,
    place_of,
    unknown,
)

DAY_S: Final = 86_400
Spans = Sequence[tuple[int, int]]  # Seconds of a day, half-open.


def check_costs(
    path: Path, prices: Iterable[CostPrice], meters: frozenset[str]
) -> Iterator[Problem]:
    prices = tuple(prices)
    for index, price in enumerate(prices):
        yield from _price((*path, index), price, meters)
    seen: dict[tuple[object, ...], list[int]] = {}
    for index, price in enumerate(prices):
        earlier = seen.setdefault(_slot(price), [])
        first = next((other for other in earlier if overlap(prices[other], price)), None)
        if first is not None:
            yield Problem(
                path=(*path, index, "from"),
                message=f"overlaps {place_of((*path, first))}: both price {price.meter} of "
                f"{price.provider or 'any provider'}, {price.model or 'any model'} from "
                f"{day(price.effective_from)}{_when(price)}; "
                "give them different dates or remove one",
            )
        earlier.append(index)


def _price(path: Path, price: CostPrice, meters: frozenset[str]) -> Iterator[Problem]:
    if price.meter not in meters:
        yield unknown((*path, "meter"), price.meter, kind="meter", known=meters)
    yield from check_amount((*path, "price"), price.price_nanos)
    yield from check_units((*path, "per"), price.per_units, least=1)
    yield from check_units((*path, "input_tokens_from"), price.input_tokens_from, least=0)
    if price.day_from_s == price.day_to_s != 0:
        yield Problem(
            path=(*path, "day_to"),
            message="is the time at which the part of the day begins; for all day leave both out",
        )
    if "*" in price.model.removeprefix("*").removesuffix("*") or price.model in {"*", "**"}:
        yield Problem(
            path=(*path, "model"),
            message='"*" may stand at the start or the end of a name, as in "gpt-4o*"; '
            "leave model out to mean any",
        )


def open_hours(prices: Sequence[CostPrice]) -> Iterator[tuple[int, str]]:
    """Yield what prices leave to earlier ones, or to none.

    A meter that has prices for parts of the day alone may have none for the rest; one that has
    prices for large requests alone, none for small ones.

    Yields:
        The index of the first price of those, and what is left open.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, price in enumerate(prices):
        groups.setdefault(_slot(price)[1:], []).append(index)
    for indices in groups.values():
        of_date = [prices[index] for index in indices]
        if _is_whole(of_date) or _has_earlier(prices, of_date[0]):
            continue
        what = (
            f"{of_date[0].meter} has no price at some times of the day, or for small requests, "
            f"from {day(of_date[0].effective_from)}: such usage is unpriced; add an entry of the "
            "same date without day_from, day_to and input_tokens_from"
        )
        yield indices[0], what


def _is_whole(prices: Sequence[CostPrice]) -> bool:
    spans = sorted(span for one in prices if one.input_tokens_from == 0 for span in spans_of(one))
    reached = 0
    for begin, end in spans:
        if begin > reached:
            return False
        reached = max(reached, end)
    return reached == DAY_S


def _has_earlier(prices: Iterable[CostPrice], price: CostPrice) -> bool:
    """Say whether an earlier price of the same may hold where this one does not."""
    return any(
        _slot(other)[2:] == _slot(price)[2:] and other.effective_from < price.effective_from
        for other in prices
    )


def _slot(price: CostPrice) -> tuple[object, ...]:
    return (
        price.input_tokens_from,
        price.effective_from,
        price.meter,
        # As they are compared with usage.
        price.provider.lower(),
        price.model.lower(),
    )


def overlap(one: CostPrice, other: CostPrice) -> bool:
    """Say whether two prices are of one slot and time. All day is what parts leave of it."""
    if _slot(one) != _slot(other) or is_all_day(one) is not is_all_day(other):
        return False
    return any(a < d and c < b for a, b in spans_of(one) for c, d in spans_of(other))


def is_all_day(price: CostPrice) -> bool:
    return (price.day_from_s, price.day_to_s) == (0, 0)


def spans_of(price: CostPrice) -> Spans:
    begin, end = price.day_from_s, price.day_to_s or DAY_S
    if is_all_day(price):
        return [(0, DAY_S)]
    return [(begin, end)] if begin < end else [(begin, DAY_S), (0, end)]


def _when(price: CostPrice) -> str:
    return "" if is_all_day(price) else " at the same time of the day"
