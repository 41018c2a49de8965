"""`aforo-admin prices`: dated cost prices, and what a change of them does to margins."""

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aforo_admin import commands_import, price_text, redis_access, settings
from aforo_admin.domain.price_changes import (
    Books,
    Effect,
    begun_by,
    changes,
    covering,
    effects,
    entries,
    lists,
)
from aforo_admin.faults import CatalogError
from aforo_admin.following import RedisFailure
from aforo_admin.ledger_reading import LedgerUnreadableError, standings
from aforo_admin.price_books import PricesError, books_of_file, books_of_redis
from aforo_admin.yaml_scalars import instant
from aforo_meter.domain.periods import micros_of
from aforo_proto.contract_pb2 import PriceList

OK: Final = 0
DIFFERS: Final = 1
FAILED: Final = 1
MISUSED: Final = 2

LIVE: Final = "live"
BOOK_HELP: Final = "a catalog, or `live`: what Redis holds "
LIST: Final = """examples:
  aforo-admin prices list --model gpt-4o                 what Redis holds for it, first asked first
  aforo-admin prices list catalog.yaml --meter api.calls
  aforo-admin prices list --model gpt-4o --at 2026-11-01 --json

Exit codes: 0 ok, 1 Redis does not answer or holds no prices, 2 wrong usage, settings or catalog.
"""
DIFF: Final = """examples:
  aforo-admin prices diff live catalog.yaml              what a sync would change
  aforo-admin prices diff old.yaml new.yaml --exit-code
  aforo-admin prices diff live catalog.yaml --ledger-url sqlite:////var/lib/aforo/ledger.db

With a ledger: whose margin would change its level in the current period, if its usage had come once
every change is in force, future ones too. Floors are those of NEW, revenue is that of the ledger.
Nothing is written. Exit codes: 0 ok, 1 Redis or the ledger does not answer, and with --exit-code if
prices differ; 2 wrong usage, settings or catalog.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    prices = commands.add_parser(
        "prices", help="cost prices: list, compare, import them", epilog=f"{LIST}\n{DIFF}"
    )
    actions = prices.add_subparsers(required=True, metavar="ACTION")

    listed = actions.add_parser("list", help="dated entries with their source", epilog=LIST)
    listed.add_argument("book", metavar="BOOK", nargs="?", default=LIVE, help=BOOK_HELP)
    listed.add_argument("--provider", default="", help="that hold for this one")
    listed.add_argument("--model", default="", help="that hold for this one")
    listed.add_argument("--meter", help="of this one alone")
    listed.add_argument("--at", type=_micros, help="only those that then hold, UTC")
    listed.set_defaults(run=lambda options: _run(_list, options))

    compared = actions.add_parser(
        "diff", help="what differs, and whose level that changes", epilog=DIFF
    )
    compared.add_argument("old", metavar="OLD", help=BOOK_HELP)
    compared.add_argument("new", metavar="NEW", help="the same")
    compared.add_argument(
        "--ledger-url", help="sqlite:////absolute/path/ledger.db or postgresql://user@host/database"
    )
    compared.add_argument("--exit-code", action="store_true", help="end with 1 if prices differ")
    compared.set_defaults(run=lambda options: _run(_diff, options))
    commands_import.add(actions).set_defaults(
        run=lambda options: _run(commands_import.run, options)
    )
    for action in (listed, compared):
        redis_access.add_url(action)
        action.add_argument("--json", action="store_true", help="for programs")


def _run(work: Any, options: argparse.Namespace) -> int:  # noqa: ANN401 - one of those below
    try:
        return int(work(options))
    except CatalogError as error:
        print(error, file=sys.stderr)  # noqa: T201 - begins with file and line, as editors want it.
        return MISUSED
    except (PricesError, LedgerUnreadableError) as error:
        print(f"aforo-admin: {error}", file=sys.stderr)  # noqa: T201
        return FAILED


def _list(options: argparse.Namespace) -> int:
    everything = _books(options.book, options)
    _check_names(options, everything)
    books = covering(everything, provider=options.provider, model=options.model)
    found = [
        (key, entry)
        for key, entry in entries(books)
        if options.meter is None or key.meter == options.meter
    ]
    if options.at is not None:
        found = begun_by(found, options.at)
    as_text = price_text.list_json if options.json else price_text.list_table
    print(as_text(found, books.book.currency))  # noqa: T201
    return OK


def _check_names(options: argparse.Namespace, books: Books) -> None:
    """Complain of a name that no price has: what is for all models would look like its price.

    Raises:
        PricesError: There is one.
    """
    found = lists(books)
    meters = {entry.meter for each in found for entry in each.entries}
    providers = {each.provider for each in found}
    if options.meter is not None and options.meter not in meters:
        raise PricesError(_unknown("meter", options.meter, meters))
    provider, model = options.provider.lower(), options.model.lower()
    if provider and provider not in providers:
        raise PricesError(_unknown("provider", provider, providers))
    named = [each for each in found if each.model or each.match or (provider and each.provider)]
    if model and not any(
        each.covers(provider=provider or each.provider, model=model) for each in named
    ):
        raise PricesError(_unknown("model", model, {each.model for each in found}))


def _unknown(kind: str, given: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, [*known], n=1)
    return f"no price is for the {kind} {given!r}" + (
        f"; did you mean {near[0]!r}?" if near else ""
    )


def _diff(options: argparse.Namespace) -> int:
    held = commands_import.held_in_redis(options) if options.old == LIVE else ()
    old, new = _books(options.old, options), _books(options.new, options, held)
    if old.book.currency != new.book.currency:
        raise PricesError(
            f"prices in {old.book.currency} can't be compared with prices in {new.book.currency}"
        )
    changed = changes(old, new)
    affected: Sequence[Effect] | None = None
    if options.ledger_url is not None:
        found = standings(options.ledger_url, now_micros=micros_of(_now()))
        affected = list(effects(found, old, new, changed))
    as_text = price_text.diff_json if options.json else price_text.diff_text
    print(as_text(changed, affected, new.book.currency))  # noqa: T201
    return DIFFERS if options.exit_code and changed else OK


def _books(name: str, options: argparse.Namespace, held: Sequence[PriceList] = ()) -> Books:
    if name != LIVE:
        return books_of_file(Path(name), _now(), held)
    chosen = redis_access.chosen(options, settings.RedisSettings)
    try:
        return redis_access.run(_live(chosen))
    except RedisFailure as error:
        raise PricesError(redis_access.unreachable(chosen, error)) from error


async def _live(chosen: settings.RedisSettings) -> Books:
    redis = redis_access.connect(chosen)
    try:
        return await books_of_redis(redis)
    finally:
        await redis.aclose()


def _micros(text: str) -> int:
    try:
        return micros_of(instant(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _now() -> datetime:
    return datetime.now(UTC)
