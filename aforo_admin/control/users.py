"""Users and their roles: made, and told apart, in one recorded change each."""

from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError

from aforo_admin import store
from aforo_admin.control import role_groups
from aforo_admin.control.recording import Change, Note, Source
from aforo_admin.control.roles import Role
from aforo_admin.faults import StoreError


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
        validate_password(password, user)
    except ValidationError as error:
        raise StoreError(" ".join(error.messages)) from None
    user.set_password(password)
    # No rule of the catalog speaks of users.
    with store.change(actor=actor, source=source, reason=reason, checked=True) as made:
        user.save()
        role_groups.set_role(user, role)
        note(made, user, before=None, after=told(user))
    return user


def told(user: User) -> dict[str, object]:
    """Return what the record keeps of a user."""
    return {
        "username": user.get_username(),
        "roles": sorted(role_groups.roles_of(user)),
        "active": user.is_active,
        "superuser": user.is_superuser,
    }


def note(
    change: Change, user: User, *, before: dict[str, object] | None, after: dict[str, object] | None
) -> None:
    if before != after:
        change.notes.append(
            Note(kind="user", name=user.get_username(), tenant_id="", before=before, after=after)
        )


def note_password(change: Change, user: User) -> None:
    """Record that somebody was given another password; not which."""
    said = {"password": "another"}
    change.notes.append(
        Note(
            kind="user", name=user.get_username(), tenant_id="", before={"password": ""}, after=said
        )
    )
