"""Which published prices hold: a file's, or what Redis holds, continued by the installed package.

Redis is the memory of those who name no file: what a package says must not replace what an earlier
one said of the past.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from aforo_admin.builtin_prices import built_in_lists
from aforo_admin.domain.catalog import Catalog
from aforo_admin.price_history import continued, edition_of
from aforo_admin.prices_file import imported_prices
from aforo_admin.read_model import PRICEBOOK_KEY
from aforo_meter.domain.periods import micros_of
from aforo_proto.contract_pb2 import PriceBook, PriceList


async def published_for(
    catalog: Catalog, path: Path, redis: Redis, now: datetime
) -> Sequence[PriceList]:
    """Return the published prices that a sync of this catalog would write now.

    Raises:
        CatalogError: The file that it names can't be used.
        RedisError, OSError: Redis does not answer.
    """
    imported = imported_prices(catalog, path)
    if imported is not None or not catalog.built_in_costs:
        return imported or ()
    value: Any = await redis.get(PRICEBOOK_KEY)
    held = held_book(value).built_in
    return up_to_date(held, now_micros=micros_of(now))


def held_book(value: bytes | None) -> PriceBook:
    """Return the price book that Redis holds; an empty one if that is none."""
    try:
        return PriceBook.FromString(value or b"")
    except DecodeError:
        return PriceBook()


def up_to_date(held: Sequence[PriceList], *, now_micros: int) -> Sequence[PriceList]:
    """Return what is held, continued by the installed package.

    An older package than what is held has nothing to add: beside a newer one, while a cluster is
    upgraded, the two would overrule each other for ever.
    """
    installed = built_in_lists()
    if not held:
        return installed
    if edition_of(held) > edition_of(installed):
        return list(held)
    return continued(held, installed, now_micros=now_micros)
