"""`aforo-admin prices import`: what is published now, added to a file of prices."""

import argparse
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from aforo_admin import redis_access, settings
from aforo_admin.builtin_prices import built_in_lists
from aforo_admin.catalog_yaml import PRICES_SUFFIX
from aforo_admin.domain.catalog import BUILT_IN_CURRENCY
from aforo_admin.following import RedisFailure
from aforo_admin.price_books import PricesError
from aforo_admin.price_history import Difference, difference, edition_of
from aforo_admin.prices_file import read_prices, write_prices
from aforo_admin.published import held_book, up_to_date
from aforo_admin.read_model import PRICEBOOK_KEY
from aforo_admin.readable_values import instant_text, money
from aforo_meter.domain.periods import micros_of
from aforo_proto.contract_pb2 import PriceEntry, PriceList

OK: Final = 0
LIVE: Final = "live"
PACKAGE: Final = "package"
SHOWN_MAX: Final = 200

EXAMPLES: Final = """examples:
  aforo-admin prices import --into prices.jsonl --begin live --write   a first file; then, in the
                                       catalog that is synced: built_in_costs: prices.jsonl
  aforo-admin prices import --into prices.jsonl            after an upgrade: what would be added
  aforo-admin prices import --into prices.jsonl --write    and add it

Entries that have begun are never changed or removed: another price is a further entry, from its own
date if that is later, else from now. Exit codes: 0 ok, 1 Redis does not answer or the file can't be
written, 2 wrong usage, settings or file.
"""


def add(actions: Any) -> argparse.ArgumentParser:  # noqa: ANN401 - argparse has no type for it.
    """Add the action to those of `prices`, and return it."""
    action: argparse.ArgumentParser = actions.add_parser(
        "import",
        help="add what the installed genai-prices says to a file of prices",
        epilog=EXAMPLES,
    )
    action.add_argument("--into", type=Path, required=True, metavar="FILE", help="*.jsonl")
    action.add_argument(
        "--begin",
        choices=[LIVE, PACKAGE],
        help="where a new file begins: with what Redis holds, or with the package alone",
    )
    action.add_argument("--write", action="store_true", help="write it; without, it is only shown")
    redis_access.add_url(action)
    return action


def run(options: argparse.Namespace) -> int:
    """Show what is new, and write it if that is wanted.

    Raises:
        CatalogError: The file is there and none of prices.
        PricesError: There is nothing to begin with, or the file can't be written.
    """
    path: Path = options.into
    if path.suffix != PRICES_SUFFIX:
        raise PricesError(f"--into: a file of prices has a name that ends with {PRICES_SUFFIX}")
    is_new = not path.exists()
    known = _beginning(options) if is_new else read_prices(path)
    published = built_in_lists()
    if edition_of(known) > edition_of(published):
        raise PricesError(
            f"{path.name} holds prices of a newer genai-prices than the installed one; upgrade it"
        )
    now = datetime.now(UTC)
    lists = up_to_date(known, now_micros=micros_of(now))
    found = difference(known, lists, published)
    entries = sum(len(each.entries) for each in lists)
    print("\n".join([*_lines(found), f"{entries} entries of {len(lists)} models"]))  # noqa: T201
    if not options.write:
        print("nothing is written; with --write it is")  # noqa: T201
    elif is_new or not found.empty:
        _write(path, lists)
    return OK


def _write(path: Path, lists: Sequence[PriceList]) -> None:
    try:
        write_prices(path, lists)
    except OSError as error:
        raise PricesError(f"{path} can't be written: {error.strerror or error}") from None


def _beginning(options: argparse.Namespace) -> Sequence[PriceList]:
    if options.begin is None:
        raise PricesError(
            f"there is no {options.into} yet: say --begin live, where Redis holds prices that usage"
            " was charged by (--redis-url), or --begin package"
        )
    return held_in_redis(options) if options.begin == LIVE else built_in_lists()


def held_in_redis(options: argparse.Namespace) -> Sequence[PriceList]:
    """Return the published prices that Redis holds.

    Raises:
        PricesError: It does not answer.
    """
    chosen = redis_access.chosen(options, settings.RedisSettings)
    try:
        return redis_access.run(_held(redis_access.connect(chosen)))
    except RedisFailure as error:
        raise PricesError(redis_access.unreachable(chosen, error)) from error


async def _held(redis: Redis) -> Sequence[PriceList]:
    try:
        value: Any = await redis.get(PRICEBOOK_KEY)
        return list(held_book(value).built_in)
    finally:
        await redis.aclose()


def _lines(found: Difference) -> Iterator[str]:
    told = [
        *(f"+ {_text(entry)}" for entry in found.added),
        *(f"- {_text(entry)}, announced and taken back" for entry in found.withdrawn),
        *(f"~ {provider} {model}: other names mean it now" for provider, model in found.renamed),
        *(
            f"= {provider} {model}: published no more, its prices are kept"
            for provider, model in found.unpublished
        ),
    ]
    yield from told[:SHOWN_MAX]
    if len(told) > SHOWN_MAX:
        yield f"… and {len(told) - SHOWN_MAX} more"


def _text(entry: PriceEntry) -> str:
    start = "undated"
    if entry.effective_from_micros:
        start = f"from {instant_text(entry.effective_from_micros)}"
    price = money(entry.price_nanos, BUILT_IN_CURRENCY)
    return f"{entry.price_id}: {price} per {entry.per_units:,}, {start} ({entry.source})"
