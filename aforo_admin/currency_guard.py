"""A catalog's currency does not change under charges: sums of two would be sums of nothing."""

from typing import Any, Final

from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from aforo_admin.domain.catalog import Catalog
from aforo_admin.ledger_reading import currencies
from aforo_admin.published import held_book
from aforo_admin.read_model import PREFIX, PRICEBOOK_KEY
from aforo_proto.margin_pb2 import Margin

MARGINS: Final = PREFIX + b"{*}:margin"
SCAN_COUNT: Final = 1000


class CurrencyChangedError(Exception):
    """The catalog is in another currency than what was charged; the message says what to do."""

    def __init__(self, *, catalog: str, charged: str, where: str) -> None:
        super().__init__(
            f"the catalog's currency is {catalog}, and {where} has charges in {charged}: amounts "
            f"of two currencies are never added up; set it back to {charged} and give contracts a "
            "currency of their own with exchange_rates, or begin with an empty Redis and a new "
            "ledger"
        )


async def require_same_currency(redis: Redis, catalog: Catalog) -> None:
    """See that nothing is charged in another currency, as far as Redis knows.

    Raises:
        CurrencyChangedError: Something is.
        RedisError, OSError: Redis does not answer.
    """
    value: Any = await redis.get(PRICEBOOK_KEY)
    held = held_book(value).currency
    if held in {"", catalog.currency}:
        return
    keys = [key async for key in redis.scan_iter(match=MARGINS, count=SCAN_COUNT)]
    for start in range(0, len(keys), SCAN_COUNT):
        values: list[Any] = await redis.mget(keys[start : start + SCAN_COUNT])
        for charged in map(_charged_in, values):
            if charged not in {"", catalog.currency}:
                raise CurrencyChangedError(
                    catalog=catalog.currency, charged=charged, where="the ledger, by Redis,"
                )


def require_ledger_currency(ledger_url: str, catalog: Catalog) -> None:
    """See that a ledger has no charges in another currency.

    Raises:
        CurrencyChangedError: It has.
        LedgerUnreadableError: It can't be read.
    """
    for charged in currencies(ledger_url):
        if charged != catalog.currency:
            raise CurrencyChangedError(
                catalog=catalog.currency, charged=charged, where="the ledger"
            )


def _charged_in(value: bytes | None) -> str:
    """Return the currency of what a tenant has cost; "" if it has cost nothing."""
    try:
        margin = Margin.FromString(value or b"")
    except DecodeError:
        return ""
    return margin.currency if margin.cogs_nanos else ""
