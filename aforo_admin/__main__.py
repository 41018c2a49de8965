"""aforo-admin: the command line."""

import argparse
import getpass
import hashlib
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aforo_admin import (
    commands_control,
    commands_doctor,
    commands_prices,
    commands_sync,
    commands_tokens,
    commands_users,
    commands_what_if,
    differences,
    mint,
    process,
    redis_access,
    settings,
    show,
    tables,
)
from aforo_admin.catalog_file import read_with_prices
from aforo_admin.catalog_yaml import read_file
from aforo_admin.command_line import Parser, until_read
from aforo_admin.currency_guard import (
    CurrencyChangedError,
    require_ledger_currency,
    require_same_currency,
)
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.checking_metering import SCOPES
from aforo_admin.domain.hints import find_hints
from aforo_admin.domain.problems import check_id
from aforo_admin.faults import CatalogError, StoreError
from aforo_admin.following import RedisFailure
from aforo_admin.ledger_reading import LedgerUnreadableError
from aforo_admin.published import published_for
from aforo_admin.read_model import build
from aforo_admin.sync import compare
from aforo_admin.yaml_scalars import instant

OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2

KEY_BYTES_MAX: Final = 4096

EXAMPLES: Final = """examples:
  aforo-admin check catalog.yaml               is it right? and a summary
  aforo-admin diff catalog.yaml                what would change in Redis?
  AFORO_ADMIN_CATALOG=catalog.yaml AFORO_ADMIN_REDIS_URL=redis://127.0.0.1:6379/0 aforo-admin sync
  AFORO_ADMIN_DATABASE_URL=sqlite:////var/lib/aforo/control.db aforo-admin migrate
  aforo-admin apply catalog.yaml --dry-run     what would change in the database?
  aforo-admin audit verify                     has anybody tampered with the record of changes?
  aforo-admin user add dana --role finance     may sign in at /admin/
  aforo-admin user password dana               gives another password
  aforo-admin token add shop --role viewer     for /api/v1
  aforo-admin mint --tenant acme --id production --expires 2027-12-31
  aforo-admin mint --ingest billing-bridge     a key that reports usage over HTTP
  printf %s "$KEY" | aforo-admin hash
  aforo-admin show acme
  aforo-admin doctor                           what is wrong with what runs, and what to do?
  aforo-admin prices diff live catalog.yaml    what a new price book costs, and whom it blocks

Every setting is a variable that begins with AFORO_ADMIN_; check-config prints them all.
Exit codes: 0 ok, 1 failed, 2 wrong usage, settings or catalog. `check` ends with 1 if the catalog
has faults, `diff --exit-code` with 1 if anything differs, and with 2 if it could not compare.
"""

SYNC: Final = """examples:
  AFORO_ADMIN_CATALOG=catalog.yaml AFORO_ADMIN_REDIS_URL=redis://127.0.0.1:6379/0 aforo-admin sync
  aforo-admin sync --once                      one pass: for a pipeline, or a first look
  aforo-admin sync --check                     how does Redis differ?
"""
CHECK: Final = """example:
  aforo-admin check catalog.yaml

Exit codes: 0 it is right, 1 it has faults.
"""
DIFF: Final = """examples:
  aforo-admin diff catalog.yaml --redis-url redis://127.0.0.1:6379/0
  aforo-admin diff --exit-code                 the setting's catalog; 1 if anything differs
"""
SHOW: Final = """example:
  aforo-admin show acme --redis-url redis://127.0.0.1:6379/0
"""
MINT_EXAMPLES: Final = """examples:
  aforo-admin mint --tenant acme
  aforo-admin mint --tenant acme --id production --expires 2027-12-31
  aforo-admin mint --ingest billing-bridge
  aforo-admin mint --ingest usage-page --scope quotas:read
  aforo-admin mint --ingest billing-bridge --scope usage:ingest --scope quotas:read

Prints the key, which nothing keeps, and the lines with its hash, to be added to the catalog.
"""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return until_read(lambda: int(options.run(options)))
    except (settings.SettingsError, process.ListenError) as error:
        return _complain(error, MISUSED)
    except CatalogError as error:
        return _complain(error, MISUSED)
    except StoreError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="aforo-admin",
        description="Looks after the catalog: checks it, and makes Redis equal to it.",
        epilog=EXAMPLES,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "sync", help="make Redis equal to the catalog, and keep it so", epilog=SYNC
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="one pass, then stop")
    how.add_argument(
        "--check", action="store_true", help="print how Redis differs, change nothing; 1 if it does"
    )
    command.set_defaults(run=_sync)

    command = commands.add_parser("check", help="check a catalog and print a summary", epilog=CHECK)
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument(
        "--ledger-url", metavar="URL", help="also: is it in the currency of this ledger's charges?"
    )
    command.set_defaults(run=_check)

    command = commands.add_parser(
        "diff",
        help="print what would change: in Redis by a sync, in the database by applying FILE",
        epilog=DIFF,
    )
    command.add_argument(
        "file", type=Path, metavar="FILE", nargs="?", help="default: what a sync reads"
    )
    command.add_argument("--exit-code", action="store_true", help="end with 1 if there is any")
    redis_access.add_url(command)
    command.set_defaults(run=_diff)

    _add_mint(commands)

    command = commands.add_parser(
        "hash",
        help="read a key from stdin, print its SHA-256",
        epilog='example: printf %%s "$KEY" | aforo-admin hash',
    )
    command.set_defaults(run=_hash)

    command = commands.add_parser("show", help="print what Redis holds of a tenant", epilog=SHOW)
    command.add_argument("tenant", metavar="TENANT")
    redis_access.add_url(command)
    command.set_defaults(run=_show)

    commands_prices.add(commands)
    commands_control.add(commands)
    commands_doctor.add(commands)
    commands_what_if.add(commands)
    commands_users.add(commands)
    commands_tokens.add(commands)

    command = commands.add_parser(
        "check-config",
        help="print the settings in force, and stop",
        epilog="example: aforo-admin check-config",
    )
    command.set_defaults(run=_check_config)
    return parser


def _add_mint(commands: "argparse._SubParsersAction[Any]") -> None:
    command = commands.add_parser(
        "mint",
        help="make an API key; it is shown once",
        description="Makes a key with which a tenant calls, or a program of yours reports usage.",
        epilog=MINT_EXAMPLES,
    )
    command.add_argument("--tenant", metavar="ID", help="whom it identifies")
    command.add_argument("--id", metavar="NAME", help="its public name (default: main)")
    command.add_argument(
        "--ingest", metavar="NAME", help="instead: the name of a key for a program of yours"
    )
    command.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        help="what such a key may do, repeatable (default: usage:ingest)",
    )
    command.add_argument("--expires", metavar="WHEN", help="a date, like 2027-12-31 (UTC)")
    command.set_defaults(run=_mint)


def _sync(options: argparse.Namespace) -> int:
    chosen = settings.load(settings.SyncSettings, os.environ)
    process.configure_logging(chosen.log_level)
    try:
        if options.check:
            told = _compare(chosen, *commands_sync.catalog_of(chosen))
            return FAILED if told.differs else OK
        work = commands_sync.once if options.once else commands_sync.follow
        return redis_access.run(work(chosen))
    except CatalogError as error:
        return _complain(error, MISUSED)
    except CurrencyChangedError as error:
        return _complain(error, FAILED)
    except RedisFailure as error:
        return _complain(redis_access.unreachable(chosen, error), FAILED)


def _check(options: argparse.Namespace) -> int:
    try:
        catalog, _ = read_with_prices(options.file)
    except CatalogError as error:
        count = len(error.faults)
        _complain(error, FAILED)
        return _complain(f"{count} {'fault' if count == 1 else 'faults'}", FAILED)
    if options.ledger_url is not None:
        try:
            require_ledger_currency(options.ledger_url, catalog)
        except (CurrencyChangedError, LedgerUnreadableError) as error:
            return _complain(error, FAILED)
    _print(tables.summary(catalog, _now()))
    for hint in find_hints(catalog):
        _complain(f"warning: {hint}", OK)
    return OK


def _diff(options: argparse.Namespace) -> int:
    try:
        if options.file is None:
            with_catalog = redis_access.chosen(options, settings.SyncSettings)
            chosen: settings.RedisSettings = with_catalog
            told = _compare(chosen, *commands_sync.catalog_of(with_catalog))
        elif os.environ.get(settings.variable("database_url")):
            return commands_control.diff(options)
        else:
            chosen = redis_access.chosen(options, settings.RedisSettings)
            told = _compare(chosen, read_file(options.file), options.file)
    except (CatalogError, CurrencyChangedError) as error:
        return _complain(error, MISUSED)
    except RedisFailure as error:
        return _complain(redis_access.unreachable(chosen, error), MISUSED)
    return FAILED if options.exit_code and not told.empty else OK


def _compare(chosen: settings.RedisSettings, catalog: Catalog, path: Path) -> differences.Report:
    """Print how Redis differs from a catalog that was read from a path."""
    told, version = redis_access.run(_compared(chosen, catalog, path))
    _print("\n".join([*told.lines, differences.summary(told, version=version)]))
    return told


async def _compared(
    chosen: settings.RedisSettings, catalog: Catalog, path: Path
) -> tuple[differences.Report, str]:
    now = _now()
    redis = redis_access.connect(chosen)
    try:
        await require_same_currency(redis, catalog)
        model = build(catalog, now, await published_for(catalog, path, redis, now))
        found = await compare(redis, model, with_gone_values=True)
        return differences.report(model, found), model.version
    finally:
        await redis.aclose()


def _mint(options: argparse.Namespace) -> int:
    complaints = list(_mint_complaints(options))
    expires_at = None
    try:
        expires_at = instant(options.expires) if options.expires else None
    except ValueError as error:
        complaints.append(f"--expires: {error}")
    if expires_at is not None and expires_at <= _now():
        complaints.append(f"--expires: {options.expires} is past: the key would never be valid")
    if complaints:
        return _complain("\n".join(complaints), MISUSED)
    key = mint.mint_key()
    sha256 = mint.sha256_of_key(key)
    if options.ingest is not None:
        lines = mint.ingest_lines(
            key_id=options.ingest,
            sha256=sha256,
            scopes=list(dict.fromkeys(options.scope or SCOPES[:1])),
            expires_at=expires_at,
        )
    else:
        lines = mint.catalog_lines(
            tenant_id=options.tenant,
            credential_id=options.id or "main",
            sha256=sha256,
            expires_at=expires_at,
        )
    _print(f"{key}\n\n{lines}")
    _complain("above is the key, shown only now, and what to add to the catalog", OK)
    return OK


def _mint_complaints(options: argparse.Namespace) -> Iterator[str]:
    for name in ("tenant", "id", "ingest"):
        given = getattr(options, name)
        if given is not None:
            yield from (f"--{name}: {problem.message}" for problem in check_id((), given))
    if options.tenant is None and options.ingest is None:
        yield (
            "whose key shall it be? Say --tenant ID, as the catalog names the tenant; or"
            " --ingest NAME for a program of yours that reports usage"
        )
    if options.ingest is not None and options.tenant is not None:
        yield "--ingest: such a key is no tenant's; leave out --tenant"
    if options.ingest is not None and options.id is not None:
        yield "--id: the name of such a key is what --ingest says; leave out --id"
    if options.ingest is None and options.scope:
        yield "--scope: only keys made with --ingest have scopes; a tenant's plan says what it may"


def _hash(_options: argparse.Namespace) -> int:
    if sys.stdin.isatty():
        key = getpass.getpass("key: ").encode()
    else:
        key = sys.stdin.buffer.read(KEY_BYTES_MAX + 1).removesuffix(b"\n").removesuffix(b"\r")
    if not key or len(key) > KEY_BYTES_MAX or key.split() != [key]:
        return _complain("expected one key, without spaces or further lines", MISUSED)
    _print(hashlib.sha256(key).hexdigest())
    return OK


def _show(options: argparse.Namespace) -> int:
    chosen = redis_access.chosen(options, settings.RedisSettings)
    try:
        _print(redis_access.run(_tenant_text(chosen, options.tenant)))
    except show.UnknownTenantError as error:
        return _complain(error, FAILED)
    except RedisFailure as error:
        return _complain(redis_access.unreachable(chosen, error), FAILED)
    return OK


async def _tenant_text(chosen: settings.RedisSettings, tenant_id: str) -> str:
    redis = redis_access.connect(chosen)
    try:
        return await show.tenant_text(redis, tenant_id, _now())
    finally:
        await redis.aclose()


def _check_config(_options: argparse.Namespace) -> int:
    _print(settings.describe(settings.load(settings.SyncSettings, os.environ)))
    return OK


def _now() -> datetime:
    return datetime.now(UTC)


def _print(text: str) -> None:
    print(text)  # noqa: T201 - what a command is for.


def _complain(what: object, code: int) -> int:
    # Faults of a catalog begin with file and line, which editors turn into links.
    told = what if isinstance(what, CatalogError) else f"aforo-admin: {what}"
    print(told, file=sys.stderr)  # noqa: T201 - for whoever called the command.
    return code


if __name__ == "__main__":
    sys.exit(main())
