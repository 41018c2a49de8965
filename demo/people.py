"""Who may sign in to the demo's admin, and with what. As a program it makes them, and prints that.

It is a process of its own: Django is set up once in one. Everything ends with the run.
"""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from aforo_admin.control.roles import Role
from lab.stack import run_aforo

URL = "AFORO_ADMIN_DATABASE_URL"
ACTOR = "demo"
WHAT_THEY_DO = {
    Role.VIEWER: "sees everything, changes nothing",
    Role.PRODUCT: "sells: plans, tenants, deals",
    Role.DEVELOPER: "connects: routes, meters, keys",
    Role.FINANCE: "prices, and sets floors",
    Role.OWNER: "does all of it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """A user for each role, named like it, with one password; and a token of the API for each."""

    password: str
    tokens: Mapping[str, str]


def invited(control_url: str) -> People:
    """Make the people of this run.

    Raises:
        StackCommandError: They could not be made.
    """
    return People(**json.loads(run_aforo("demo.people", env={URL: control_url})))


def main() -> int:
    # Django takes long to load, so the demo itself does without; models, once it is set up.
    from aforo_admin import django_setup  # noqa: PLC0415

    django_setup.configure(os.environ[URL])
    from aforo_admin.control import users  # noqa: PLC0415
    from aforo_admin.control.recording import Source  # noqa: PLC0415
    from aforo_admin.rest import tokens  # noqa: PLC0415

    password = secrets.token_urlsafe(9)
    for role in Role:
        users.add(role, role, password, actor=ACTOR, source=Source.SHELL, reason="the demo")
    made = {str(role): tokens.add(f"demo-{role}", role, actor=ACTOR) for role in Role}
    print(json.dumps(asdict(People(password=password, tokens=made))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
