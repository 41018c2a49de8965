"""Users and their roles: made and edited in one recorded change each.

What the record keeps of it, `user_guard` sees to.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db.models import Q

from aforo_admin import store
from aforo_admin.control import role_groups
from aforo_admin.control.recording import OF_NOBODY, Change, Note, Source
from aforo_admin.control.roles import Role
from aforo_admin.faults import StoreError

NO_OWNER_LEFT: Final = (
    "nobody would be left who looks after users: first give another user the role owner"
)


def add(name: str, role: Role, password: str, *, actor: str, source: Source, reason: str) -> User:
    """Make a user who has this role.

    Raises:
        StoreError: The name is taken or no name, or the password is too easy.
    """
    user = User(username=name, is_staff=True)
    if User.objects.filter(username=name).exists():
        raise StoreError(f'there is a user "{name}" already: choose another name')
    try:
        User.username_validator(name)
    except ValidationError as error:
        raise StoreError(" ".join(error.messages)) from None
    _give_password(user, password)
    # No rule of the catalog speaks of users.
    with store.change(actor=actor, source=source, reason=reason, checked=True):
        user.save()
        role_groups.set_role(user, role)
    return user


@contextlib.contextmanager
def changed(name: str, *, actor: str, source: Source, reason: str) -> Iterator[User]:
    """Change a user: yield them, as they are while nobody else changes anything.

    Raises:
        StoreError: There is none of that name.
    """
    with store.change(actor=actor, source=source, reason=reason, checked=True):
        user = User.objects.filter(username=name).first()
        if user is None:
            raise StoreError(f'no user "{name}": aforo-admin user list shows them')
        yield user


def set_password(user: User, password: str) -> None:
    """Give a user another password. It signs their sessions: those end.

    Raises:
        StoreError: It is too easy.
    """
    _give_password(user, password)
    user.save()


def set_role(user: User, role: Role) -> None:
    """Give a user this role, and nothing beside it: a superuser is none any more.

    Raises:
        StoreError: No owner would be left.
    """
    if role is not Role.OWNER and is_last_owner(user):
        raise StoreError(NO_OWNER_LEFT)
    user.is_superuser = False
    user.save()
    user.user_permissions.clear()
    role_groups.set_role(user, role)


def follow_provider(user: User, role: Role, made: Change) -> bool:
    """Give a user the role that their provider says; say whether it was given.

    The last owner keeps theirs: a group that was renamed at the provider would else leave nobody
    who can mend it here. The record tells of it; once there is another owner, the next sign-in
    takes this one's role.
    """
    if role is not Role.OWNER and is_last_owner(user):
        refusal = {f"role {role}, by the provider": f"not taken over: {NO_OWNER_LEFT}"}
        made.notes.append(
            Note(
                kind="user",
                name=user.get_username(),
                tenant_id=OF_NOBODY,
                before=dict.fromkeys(refusal),
                after=refusal,
            )
        )
        return False
    role_groups.set_role(user, role)
    return True


def deactivate(user: User) -> None:
    """Let a user sign in no more; who is signed in is asked at each request.

    Raises:
        StoreError: No owner would be left.
    """
    if is_last_owner(user):
        raise StoreError(NO_OWNER_LEFT)
    user.is_active = False
    user.save()


def is_last_owner(user: User) -> bool:
    """Whether this is the only one who may sign in and look after users."""
    may = Q(is_superuser=True) | Q(groups__name=Role.OWNER.value)
    owners = User.objects.filter(may, is_active=True, is_staff=True)
    return set(owners.values_list("pk", flat=True)) == {user.pk}


def _give_password(user: User, password: str) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise StoreError(" ".join(error.messages)) from None
    user.set_password(password)
