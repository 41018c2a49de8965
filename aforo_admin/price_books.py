"""Where books of cost prices come from: a catalog, or what Redis holds. Messages → domain."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from aforo_admin import messages
from aforo_admin.catalog_file import read_with_prices
from aforo_admin.domain.entitling import entitle
from aforo_admin.domain.price_changes import Books, Contract
from aforo_admin.published import up_to_date
from aforo_admin.read_model import PREFIX, PRICEBOOK_KEY
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import AllowanceThresholds, Thresholds
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.prices import MatchKind, ModelMatch, PriceBook, PriceEntry, PriceList
from aforo_proto import contract_pb2

CONTRACTS: Final = PREFIX + b"{*}:contract"
SCAN_COUNT: Final = 1000
NAMES_MAX: Final = 10_000  # That are remembered.


class PricesError(Exception):
    """There are no prices to look at; the message says what to do."""


def books_of_file(path: Path, now: datetime, held: Sequence[contract_pb2.PriceList] = ()) -> Books:
    """Return the prices of a catalog, with what holds of its deals now.

    Args:
        path: The catalog.
        now: Aware UTC.
        held: The published prices that a catalog without a file of them goes on from.

    Raises:
        CatalogError: It can't be used.
    """
    catalog, imported = read_with_prices(path)
    published = imported
    if published is None:
        published = up_to_date(held, now_micros=micros_of(now))
    contracts = {
        tenant_id: messages.contract(entitle(catalog, tenant, now).contract)
        for tenant_id, tenant in catalog.tenants.items()
    }
    return _books(messages.price_book(catalog, published), contracts)


async def books_of_redis(redis: Redis) -> Books:
    """Return the prices that usage is rated by.

    Raises:
        PricesError: Redis holds none, or something that this version can't read.
        RedisError, OSError: It does not answer.
    """
    book: Any = await redis.get(PRICEBOOK_KEY)
    if book is None:
        raise PricesError("Redis holds no price book; is it the right one? run: aforo-admin sync")
    keys = [key async for key in redis.scan_iter(match=CONTRACTS, count=SCAN_COUNT)]
    contracts: dict[str, contract_pb2.Contract] = {}
    try:
        for start in range(0, len(keys), SCAN_COUNT):
            values: list[Any] = await redis.mget(keys[start : start + SCAN_COUNT])
            for value in values:
                contract = contract_pb2.Contract.FromString(value or b"")
                contracts[contract.tenant_id] = contract
        return _books(contract_pb2.PriceBook.FromString(book), contracts)
    except DecodeError as error:
        raise PricesError(
            "Redis holds something unreadable: its writer may be newer than this program"
        ) from error


def _books(book: contract_pb2.PriceBook, contracts: Mapping[str, contract_pb2.Contract]) -> Books:
    return Books(
        book=PriceBook(
            version=book.version,
            currency=book.currency,
            own=lists_of(book.own),
            built_in=lists_of(book.built_in),
        ),
        contracts={
            tenant_id: Contract(
                thresholds=_thresholds(contract.thresholds),
                guards=tuple(_guard(guard) for guard in contract.guards),
                negotiated=lists_of(contract.negotiated),
            )
            for tenant_id, contract in contracts.items()
        },
    )


def _guard(said: contract_pb2.Guard) -> Guard:
    own = said.WhichOneof("revenue") == "revenue_nanos"
    return Guard(
        guard_id=said.guard_id,
        features=frozenset(said.features),
        meters=tuple(said.meters),
        revenue_nanos=said.revenue_nanos if own else None,
        revenue_share_bp=said.revenue_share_bp,
        thresholds=_thresholds(said.thresholds),
    )


def _thresholds(said: contract_pb2.Thresholds) -> Thresholds:
    allowance = None
    if said.HasField("allowance"):
        allowance = AllowanceThresholds(
            warn_at_bp=said.allowance.warn_at_bp,
            throttle_at_bp=said.allowance.throttle_at_bp,
            block_at_bp=said.allowance.block_at_bp,
        )
    return Thresholds(
        warn_below_bp=said.warn_below_bp,
        throttle_below_bp=said.throttle_below_bp,
        block_below_bp=said.block_below_bp,
        hysteresis_bp=said.hysteresis_bp,
        act_from_revenue_nanos=said.act_from_revenue_nanos,
        act_from_calls=said.act_from_calls,
        allowance=allowance,
        source=said.source,
    )


@functools.lru_cache(NAMES_MAX)
def list_named(provider: str, model: str) -> PriceList:
    """Return what a price of our own for a model would stand in, to ask what its name covers."""
    (named,) = lists_of([messages.price_list(provider, model)])
    return named


def lists_of(lists: Iterable[contract_pb2.PriceList]) -> tuple[PriceList, ...]:
    return tuple(
        PriceList(
            provider=each.provider.lower(),
            model=each.model,
            match=_match(each.match) if each.HasField("match") else None,
            entries=tuple(_entry(entry) for entry in each.entries),
        )
        for each in lists
    )


def _entry(said: contract_pb2.PriceEntry) -> PriceEntry:
    return PriceEntry(
        price_id=said.price_id,
        meter=said.meter,
        price_nanos=said.price_nanos,
        per_units=said.per_units,
        effective_from_micros=said.effective_from_micros,
        tier_input_tokens_from=said.tier_input_tokens_from,
        source=said.source,
        day_from_s=said.day_from_s,
        day_to_s=said.day_to_s,
    )


def _match(said: contract_pb2.ModelMatch) -> ModelMatch:
    rule = said.WhichOneof("rule")
    kind = MatchKind(rule) if rule else MatchKind.ANY_OF  # Of a kind from the future: none fits.
    if kind in {MatchKind.ANY_OF, MatchKind.ALL_OF}:
        parts = tuple(map(_match, getattr(said, rule).matches)) if rule else ()
        return ModelMatch(kind=kind, parts=parts)
    text: str = getattr(said, rule or "")
    if kind is MatchKind.REGEX and not _compiles(text):
        return ModelMatch(kind=MatchKind.ANY_OF)
    return ModelMatch(kind=kind, text=text if kind is MatchKind.REGEX else text.lower())


def _compiles(regex: str) -> bool:
    try:
        re.compile(regex)
    except re.error:
        return False
    return True
