"""Roles as groups of the database, made equal to the table after each migration."""

from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType

from aforo_admin.control import roles
from aforo_admin.control.recording import Source, recorded
from aforo_admin.control.roles import Role
from aforo_admin.faults import StoreError


def install(**_signal: Any) -> None:
    """Make the permissions and groups what `roles` says."""
    # Django makes them after each app's migrations, and its own app's come after ours.
    for label in ("control", "auth"):
        create_permissions(apps.get_app_config(label), verbosity=0)
    general = ContentType.objects.get_for_model(apps.get_model("control", "General"))
    for codename, name in roles.ACTS.items():
        Permission.objects.update_or_create(
            content_type=general, codename=codename, defaults={"name": name}
        )
    known = {
        f"{each.content_type.app_label}.{each.codename}": each
        for each in Permission.objects.select_related("content_type")
    }
    # They are what the code says, and no change of anybody's.
    with recorded(actor="migrate", source=Source.SHELL, reason="", lock=_nothing, finish=_nothing):
        _give(known)


def _nothing(*_given: Any) -> None:
    """Neither wait for other changes nor write an entry."""


def _give(known: Mapping[str, Permission]) -> None:
    for role in Role:
        group, _ = Group.objects.get_or_create(name=role.value)
        group.permissions.set([known[name] for name in roles.permissions(role)])


def set_role(user: User, role: Role) -> None:
    """Give a user this role, and no other.

    Raises:
        StoreError: The database has no roles yet.
    """
    group = Group.objects.filter(name=role.value).first()
    if group is None:
        raise StoreError(f'the database knows no role "{role}": run aforo-admin migrate')
    user.groups.set([group])


def roles_of(user: User) -> frozenset[Role]:
    names = set(user.groups.values_list("name", flat=True))
    return frozenset(role for role in Role if role.value in names)
