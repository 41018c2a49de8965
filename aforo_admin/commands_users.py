"""`aforo-admin user`: who may sign in, and as what. Django must be set up before its work."""

import getpass
import sys
from typing import Any, Final

from aforo_admin.commands_control import in_database
from aforo_admin.control.roles import Role
from aforo_admin.faults import StoreError

USER: Final = """examples:
  aforo-admin user add dana --role finance                       asks for the password
  pass show aforo/dana | aforo-admin user add dana --role owner  reads it from stdin
  aforo-admin user list
  aforo-admin user password dana --reason "was lost"             asks for it; ends their sessions
  aforo-admin user role dana viewer --reason "moved to sales"    this role, and no other
  aforo-admin user deactivate dana --reason "left us"            may no longer sign in, at once

Roles: viewer sees everything; product sells; developer connects; finance prices and sets floors;
owner does all of it, and looks after users. docs/roles.md has the table.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    command = commands.add_parser("user", help="add, list and edit who may sign in", epilog=USER)
    what = command.add_subparsers(dest="what", required=True, metavar="WHAT")
    adding = what.add_parser("add", help="make a user with a role", epilog=USER)
    adding.add_argument("name", metavar="NAME")
    adding.add_argument(
        "--role", required=True, choices=[role.value for role in Role], help="what they may do"
    )
    adding.add_argument("--reason", default="", help="why, for the record")
    adding.set_defaults(run=in_database("user_add"))
    listing = what.add_parser("list", help="print users and their roles", epilog=USER)
    listing.set_defaults(run=in_database("user_list"))
    _editing(what, "password", "give a user another password; their sessions end")
    role = _editing(what, "role", "give a user this role, and no other")
    role.add_argument("role", metavar="ROLE", choices=[each.value for each in Role])
    _editing(what, "deactivate", "let a user sign in no more; who is signed in is out at once")


def _editing(what: Any, name: str, purpose: str) -> Any:  # noqa: ANN401 - as above.
    command = what.add_parser(name, help=purpose, epilog=USER)
    command.add_argument("name", metavar="NAME")
    command.add_argument("--reason", default="", help="why, for the record")
    command.set_defaults(run=in_database(f"user_{name}"))
    return command


def read_password() -> str:
    """Ask for a password twice, or read its line from a pipe.

    Raises:
        StoreError: There is none, or the two differ.
    """
    if not sys.stdin.isatty():
        given = sys.stdin.readline().rstrip("\r\n")
        if not given:
            raise StoreError("no password on stdin: pipe it in as one line")
        return given
    given = getpass.getpass("Password: ")
    if given != getpass.getpass("Again: "):
        raise StoreError("the two passwords differ: nothing was changed")
    return given
