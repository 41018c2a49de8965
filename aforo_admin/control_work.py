"""What the commands on the catalog's database do. Django must be set up before this is loaded."""

import argparse
import contextlib
import getpass
import sqlite3
import sys
from collections.abc import Iterator

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError

from aforo_admin import audit, django_setup, settings, store, written
from aforo_admin.catalog_differences import differences, digest_of
from aforo_admin.catalog_yaml import read_file
from aforo_admin.commands_control import Shown
from aforo_admin.commands_users import read_password
from aforo_admin.control import codes, recorded_values, role_groups, users
from aforo_admin.control.models import AuditEntry
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.problems import day
from aforo_admin.faults import (
    ChangedMeanwhileError,
    NoCatalogError,
    NotAsShownError,
    StoreAwayError,
    StoreError,
)
from aforo_admin.rest import tokens
from aforo_admin.rest.scopes import Scope, not_for_tenants
from aforo_admin.yaml_writing import yaml_text

OK = 0
FAILED = 1
SQLITE_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


@contextlib.contextmanager
def told(database_url: str) -> Iterator[None]:
    """Say in one line what goes wrong with the database.

    Raises:
        StoreAwayError: It does not answer.
        StoreError: It can't be used, or refuses.
    """
    try:
        yield
    except DatabaseError as error:
        name = settings.variable("database_url")
        why = " ".join(str(error).split()) or type(error).__name__
        what = f"the database at {settings.without_password(database_url)} ({name}) can't be used"
        if _is_away(error):
            raise StoreAwayError(f"{what}: {why}") from None
        raise StoreError(
            f"{what}: {why}; if it is new, or aforo-admin is newer: aforo-admin migrate"
        ) from None


def _is_away(error: DatabaseError) -> bool:
    """Say whether it may work later. SQLite has one kind of error for that and for all else."""
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        # The last byte names the kind, the others which of the kind.
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in SQLITE_BUSY
    return isinstance(error, OperationalError | InterfaceError)


def migrate(_options: argparse.Namespace) -> int:
    call_command("migrate", verbosity=1)
    return OK


def manage(options: argparse.Namespace) -> int:
    django_setup.manage(options.arguments)
    return OK


def export(options: argparse.Namespace) -> int:
    text = yaml_text(written.catalog(store.load_catalog().catalog))
    if options.file is None:
        sys.stdout.write(text)
    else:
        options.file.write_text(text, encoding="utf-8")
    return OK


def apply(options: argparse.Namespace) -> int:
    catalog = read_file(options.file)
    held, seq = held_catalog()
    as_shown = Shown(seq=seq, digest=digest_of(seq, catalog))
    if options.at is not None:
        _refuse_others(options.at, as_shown, name=str(options.file))
    found = differences(held, catalog)
    for difference in found:
        _print(str(difference))
    count = f"{len(found)} {'difference' if len(found) == 1 else 'differences'}"
    if options.dry_run:
        _print(f"{count}; to make just these: aforo-admin apply {options.file} --at {as_shown}")
        return OK
    made = store.apply_catalog(
        catalog, actor=getpass.getuser(), reason=options.reason, expected_seq=seq
    )
    _print(f"{count}, {len(made.notes)} rows written" if made.notes else "nothing to do")
    return OK


def _refuse_others(wanted: Shown, held: Shown, *, name: str) -> None:
    """Refuse to make other differences than those that were looked at.

    Raises:
        ChangedMeanwhileError: The database has changed since.
        NotAsShownError: The file has.
    """
    if wanted.seq != held.seq:
        raise ChangedMeanwhileError(seq=held.seq, expected=wanted.seq)
    if str(wanted) != str(held):
        raise NotAsShownError(name)


def diff(options: argparse.Namespace) -> int:
    held, _ = held_catalog()
    found = differences(held, read_file(options.file))
    _print("\n".join(map(str, found)) or "nothing to do: the database holds this catalog")
    return FAILED if found and options.exit_code else OK


def held_catalog() -> tuple[Catalog | None, int]:
    """Return the database's catalog, if it has one, and the change that it reflects."""
    try:
        held = store.load_catalog()
    except NoCatalogError:
        return None, audit.last_seq()
    return held.catalog, held.seq


def audit_list(options: argparse.Namespace) -> int:
    for entry in audit.entries_of(tenant_id=options.tenant, limit=options.limit):
        _print(entry_text(entry))
    return OK


def entry_text(entry: AuditEntry) -> str:
    """Return an entry as a line, and one for each column that it changed.

    Ways, columns and values are in the words of the pages: neither "via ui" nor an amount in nanos
    says much to who looks.
    """
    action = "added" if entry.before is None else "removed" if entry.after is None else "changed"
    reason = f" ({entry.reason})" if entry.reason else ""
    head = (
        f"{entry.seq} {day(entry.at)} {entry.actor} via {codes.source(entry.source)}: "
        f"{action} {entry.kind} {entry.name}{reason}"
    )
    if entry.before is None or entry.after is None:
        return head
    model = recorded_values.model_of(entry.kind)
    changes = (
        f"    {recorded_values.label(model, name)}: "
        f"{recorded_values.text(model, name, entry.before)} → "
        f"{recorded_values.text(model, name, entry.after)}"
        for name in dict.fromkeys([*entry.before, *entry.after])
        if entry.before.get(name) != entry.after.get(name)
    )
    return "\n".join([head, *changes])


def audit_verify(options: argparse.Namespace) -> int:
    found = audit.verify(options.head)
    if found.broken_at is None:
        _print(f"{found.entries} entries, each follows from the one before")
        if options.head is not None:
            _print(f"entry {options.head.seq} is the one that was kept elsewhere")
        if found.head is not None:
            _print(f"head: {found.head}")
        return OK
    _print(f"entry {found.broken_at} {found.why}; {found.entries} entries before it are whole")
    return FAILED


def user_add(options: argparse.Namespace) -> int:
    users.add(
        options.name,
        Role(options.role),
        read_password(),
        actor=getpass.getuser(),
        source=Source.SHELL,
        reason=options.reason,
    )
    _print(f"{options.name} may sign in, as {options.role}")
    return OK


def user_password(options: argparse.Namespace) -> int:
    given = read_password()  # Before the change: others would wait for who types.
    with _user(options) as user:
        users.set_password(user, given)
    _print(f"{options.name} has another password; whoever was signed in with it no longer is")
    return OK


def user_role(options: argparse.Namespace) -> int:
    with _user(options) as user:
        users.set_role(user, Role(options.role))
    _print(f"{options.name} is {options.role} from now on")
    return OK


def user_deactivate(options: argparse.Namespace) -> int:
    with _user(options) as user:
        users.deactivate(user)
    _print(f"{options.name} may no longer sign in; an owner lets them in again under Users")
    return OK


def _user(options: argparse.Namespace) -> contextlib.AbstractContextManager[User]:
    return users.changed(
        options.name, actor=getpass.getuser(), source=Source.SHELL, reason=options.reason
    )


def user_list(_options: argparse.Namespace) -> int:
    for user in User.objects.prefetch_related("groups").order_by("username"):
        has = ["superuser"] if user.is_superuser else sorted(role_groups.roles_of(user))
        state = "" if user.is_active else " (may not sign in)"
        _print(f"{user.get_username()}: {', '.join(has) or 'no role'}{state}")
    return OK


def token_add(options: argparse.Namespace) -> int:
    scopes = [Scope(scope) for scope in options.scope]
    token = tokens.add(
        options.name,
        Role(options.role),
        scopes=scopes,
        tenant_id=options.tenant,
        expires_at=options.expires,
        actor=getpass.getuser(),
        reason=options.reason,
    )
    _print(token)
    internal = not_for_tenants(scopes) if options.tenant else []
    if internal:
        _warn(
            f"{', '.join(internal)}: this token shows what {options.tenant} costs us, its margins "
            "or floors; keep it from the customer"
        )
    return OK


def token_list(_options: argparse.Namespace) -> int:
    for token in tokens.listed():
        said = [
            str(token.role),
            *(list(token.scopes) or ["all scopes"]),
            *([f"tenant {token.tenant_id}"] if token.tenant_id else []),
            *([f"until {day(token.expires_at)}"] if token.expires_at is not None else []),
            f"used {day(token.last_used_at)}" if token.last_used_at is not None else "never used",
            *(["revoked"] if token.revoked else []),
        ]
        _print(f"{token.token_id} {token.prefix}…: {', '.join(said)}")
    return OK


def token_revoke(options: argparse.Namespace) -> int:
    tokens.revoke(options.name, actor=getpass.getuser(), reason=options.reason)
    _print(f"{options.name} is refused from now on")
    return OK


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201 - not into what is piped on.


def _print(text: str) -> None:
    print(text)  # noqa: T201 - what a command is for.
