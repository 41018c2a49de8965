"""The price book that usage is rated by, read from Redis."""

import functools
from dataclasses import dataclass
from typing import Final

from aforo_admin.domain.price_listing import Line, lines_of
from aforo_admin.places import places
from aforo_admin.screens.stores import Missing
from aforo_meter.command_arguments import CommandError
from aforo_meter.contract_messages import UnreadableError, book_of
from aforo_meter.tenant_reading import tenant_reader

BOOKS_REMEMBERED: Final = 2  # The one in force, and another while that changes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """A price book, line by line."""

    version: str
    currency: str
    lines: tuple[Line, ...]


async def read_book(missing: Missing) -> Book | None:
    """Return the book; None, and the reason is kept, if it can't be read."""
    return await missing.of(_read())


async def _read() -> Book:
    async with tenant_reader(places().redis()) as tenants:
        value = await tenants.price_book()
    try:
        return _decoded(value)
    except UnreadableError as error:
        raise CommandError(str(error)) from error


@functools.lru_cache(maxsize=BOOKS_REMEMBERED)  # It has thousands of prices, and changes seldom.
def _decoded(value: bytes) -> Book:
    book = book_of(value)
    return Book(version=book.version, currency=book.currency, lines=tuple(lines_of(book)))
