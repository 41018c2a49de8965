"""`aforo-admin token`: what programs show to the REST API. Its work is in `control_work`."""

import argparse
from datetime import datetime
from typing import Any, Final

from aforo_admin.commands_control import in_database
from aforo_admin.control.roles import Role
from aforo_admin.rest.scopes import Scope
from aforo_admin.yaml_scalars import instant

EXAMPLES: Final = """examples:
  aforo-admin token add billing --role finance --expires 2027-12-31
  aforo-admin token add shop --role viewer --scope entitlements:read
  aforo-admin token add acme-portal --role viewer --tenant acme    may acme use a feature?
  aforo-admin token add ours --role viewer --tenant acme --scope money:read
                                                      acme's costs and margins: not for acme
  aforo-admin token list
  aforo-admin token revoke billing --reason "was in a log"

A token is printed once; of it only a hash is kept. docs/api.md says what scopes there are.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    command = commands.add_parser(
        "token", help="make, list and end tokens of the API", epilog=EXAMPLES
    )
    what = command.add_subparsers(dest="what", required=True, metavar="WHAT")
    adding = what.add_parser("add", help="make a token and print it", epilog=EXAMPLES)
    adding.add_argument("name", metavar="NAME", help="like an id of the catalog")
    adding.add_argument(
        "--role", required=True, choices=[role.value for role in Role], help="what it may do"
    )
    adding.add_argument(
        "--scope",
        action="append",
        default=[],
        choices=[scope.value for scope in Scope],
        help="only this of it; may be given several times (default: all that the role may; with "
        "--tenant: entitlements:read)",
    )
    adding.add_argument(
        "--tenant",
        metavar="ID",
        default="",
        help="it sees this tenant alone, of which it may ask for "
        "entitlements, unless --scope names more",
    )
    adding.add_argument(
        "--expires", type=_instant, metavar="DATE", help="refused from then on (default: never)"
    )
    adding.add_argument("--reason", default="", help="why, for the record")
    adding.set_defaults(run=in_database("token_add"))
    listing = what.add_parser("list", help="print all tokens, without the tokens", epilog=EXAMPLES)
    listing.set_defaults(run=in_database("token_list"))
    revoking = what.add_parser("revoke", help="end a token, at once", epilog=EXAMPLES)
    revoking.add_argument("name", metavar="NAME")
    revoking.add_argument("--reason", default="", help="why, for the record")
    revoking.set_defaults(run=in_database("token_revoke"))


def _instant(given: str) -> datetime:
    try:
        return instant(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
