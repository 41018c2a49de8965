"""Commands on the catalog's database: its parser, and how they get there. The work is elsewhere."""

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aforo_admin import settings
from aforo_admin.kept_heads import Kept, kept_of

ENTRIES_SHOWN: Final = 50
DIGEST_CHARS_SHOWN: Final = 16
_SHOWN: Final = re.compile(rf"(?P<seq>[0-9]+):(?P<digest>[0-9a-f]{{{DIGEST_CHARS_SHOWN}}})")

URL: Final = settings.variable("database_url")
SECRET_KEY: Final = settings.variable("secret_key")
APPLY: Final = """examples:
  aforo-admin apply catalog.yaml --dry-run                  what would change?
  aforo-admin apply catalog.yaml --at 1204:3f9c08d1a2b4c6e7 --reason "Q3"
                                                            just that, or nothing
"""
AUDIT: Final = """examples:
  aforo-admin audit list --tenant acme
  aforo-admin audit verify                                  does each entry follow? and the head
  aforo-admin audit verify --head 1204:9f86d081884c7d65…    is it the record of which this was one?

Who may write to the database can rewrite the whole record, and it follows again. So keep the head
that is printed where they can't write, and give it back later. docs/operations.md says how.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What `apply --dry-run` names the differences by that it shows."""

    seq: int  # Of the database's last change.
    digest: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.digest[:DIGEST_CHARS_SHOWN]}"


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the commands to the others."""
    command = commands.add_parser(
        "migrate",
        help="make or upgrade the tables of the database",
        epilog=f"example:\n  {URL}=sqlite:////var/lib/aforo/control.db aforo-admin migrate",
    )
    command.set_defaults(run=in_database("migrate"))

    command = commands.add_parser(
        "export",
        help="write the database's catalog as YAML",
        epilog="example:\n  aforo-admin export catalog.yaml",
    )
    command.add_argument("file", type=Path, metavar="FILE", nargs="?", help="default: stdout")
    command.set_defaults(run=in_database("export"))

    command = commands.add_parser(
        "apply", help="make the database equal to a catalog's file", epilog=APPLY
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--dry-run", action="store_true", help="print what would change, and stop")
    command.add_argument(
        "--at",
        type=_shown,
        metavar="CHANGE:DIGEST",
        help="make what --dry-run showed with this, or nothing: refuse if database or file differ",
    )
    command.add_argument("--reason", default="", help="why, for the record")
    command.set_defaults(run=in_database("apply"))

    _add_audit(commands)

    command = commands.add_parser(
        "serve",
        help="serve the pages of the catalog at /admin/",
        epilog=f"example:\n  {SECRET_KEY}=… aforo-admin serve",
    )
    command.set_defaults(run=_serve)

    command = commands.add_parser(
        "manage",
        help="run a command of Django's, like check",
        epilog="examples:\n  aforo-admin manage axes_reset_username dana   is locked out\n"
        "  aforo-admin manage check --deploy             is what serve is told safe?\n\n"
        "Passwords and users: aforo-admin user. What changes them here is refused.",
    )
    command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND …")
    command.set_defaults(run=_manage)


def _add_audit(commands: Any) -> None:  # noqa: ANN401 - as above.
    command = commands.add_parser("audit", help="look into the record of changes", epilog=AUDIT)
    of_audit = command.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = of_audit.add_parser("list", help="print the last entries, oldest first", epilog=AUDIT)
    listing.add_argument("--tenant", metavar="ID", help="of this tenant only")
    listing.add_argument("--limit", type=int, default=ENTRIES_SHOWN, help="how many (default: 50)")
    listing.set_defaults(run=in_database("audit_list"))
    verifying = of_audit.add_parser(
        "verify", help="follow the chain; 1 if it is broken", epilog=AUDIT
    )
    verifying.add_argument(
        "--head",
        type=_kept,
        metavar="SEQ:HASH",
        help="an earlier head, kept elsewhere; 1 if it is not of this record",
    )
    verifying.set_defaults(run=in_database("audit_verify"))


def _kept(given: str) -> Kept:
    try:
        return kept_of(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _shown(given: str) -> Shown:
    match = _SHOWN.fullmatch(given)
    if match is None:
        raise argparse.ArgumentTypeError(
            f'"{given}" does not say which file was looked at: give what apply --dry-run prints, '
            "like 1204:3f9c08d1a2b4c6e7"
        )
    return Shown(seq=int(match["seq"]), digest=match["digest"])


def set_up(database_url: str) -> None:
    """Set Django up, for a command that needs the database."""
    # It takes as long to load as all the rest, so other commands do without.
    from aforo_admin import django_setup  # noqa: PLC0415

    django_setup.configure(database_url)


def diff(options: argparse.Namespace) -> int:
    """Print what applying a file would change in the database."""
    return in_database("diff")(options)


def in_database(name: str) -> Callable[[argparse.Namespace], int]:
    """Return how a command runs whose work has this name in `control_work`."""

    def run(options: argparse.Namespace) -> int:
        def work() -> int:
            # Models can be loaded only now.
            from aforo_admin import control_work  # noqa: PLC0415

            return int(getattr(control_work, name)(options))

        return with_database(work)

    return run


def with_database(work: Callable[[], int]) -> int:
    """Do what needs the database; say in one line what goes wrong with it.

    Raises:
        StoreError: It can't be used, or refuses.
    """
    chosen = settings.load(settings.DatabaseSettings, os.environ)
    set_up(chosen.database_url)
    from aforo_admin import control_work  # noqa: PLC0415 - as above.

    with control_work.told(chosen.database_url):
        return work()


def _manage(options: argparse.Namespace) -> int:
    """Run a command of Django's, set up as `serve` is where its settings are there."""
    if SECRET_KEY not in os.environ:
        return in_database("manage")(options)
    from aforo_admin import django_setup, web  # noqa: PLC0415 - as above.

    web.configure(settings.load(settings.ServeSettings, os.environ))
    django_setup.manage(options.arguments)
    return 0


def _serve(_options: argparse.Namespace) -> int:
    chosen = settings.load(settings.ServeSettings, os.environ)
    from aforo_admin import web  # noqa: PLC0415 - as above.

    return web.serve(chosen)
