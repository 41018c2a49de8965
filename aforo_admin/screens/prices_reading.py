"""The price book that usage is rated by, read from Redis."""

from aforo_admin.places import places
from aforo_admin.screens.stores import Missing
from aforo_meter.domain.prices import PriceBook
from aforo_meter.tenant_reading import tenant_reader


async def read_book(missing: Missing) -> PriceBook | None:
    """Return the book; None, and the reason is kept, if it can't be read."""
    return await missing.of(_book())


async def _book() -> PriceBook:
    async with tenant_reader(places().redis()) as tenants:
        return await tenants.book()
