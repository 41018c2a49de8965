"""Users change on the record as well, whichever way: they, their roles and their permissions.

Their tables are Django's. Signals tell of what is saved, removed or given one by one; querysets
refuse the rest. How a user was is compared with how they are as the change ends.
"""

from functools import partial
from typing import Any, Final

from django.contrib.auth.hashers import get_hasher, identify_hasher
from django.contrib.auth.models import Group, User, UserManager
from django.db import models
from django.db.models.signals import m2m_changed, post_save, pre_delete, pre_save

from aforo_admin.control import recording, role_groups
from aforo_admin.control.models_base import AnsweredForQuerySet
from aforo_admin.control.recording import Note, UnrecordedError

PASSWORD: Final = "password"  # noqa: S105 - a column's name.
SIGNED_IN: Final = frozenset({"last_login"})
HASHED: Final = frozenset({PASSWORD})

Said = dict[str, Any]


class UserQuerySet(models.QuerySet):
    """Users, whom signals tell of only one by one. Migrations have models of their own."""

    def update(self, **values: Any) -> int:
        self._refuse()
        return int(super().update(**values))

    def bulk_create(self, *arguments: Any, **options: Any) -> Any:
        self._refuse()
        return super().bulk_create(*arguments, **options)

    def _raw_delete(self, using: str | None) -> int:
        self._refuse()
        return int(super()._raw_delete(using))

    def _refuse(self) -> None:
        if self.model is User:
            raise UnrecordedError("users change one by one, so that each is recorded")


class GivenQuerySet(AnsweredForQuerySet):
    """What users and groups are given, row by row."""

    def update(self, **_values: Any) -> int:
        raise UnrecordedError("roles and permissions are given and taken, so that it is recorded")


def install() -> None:
    """Guard the tables, once in a process."""
    UserManager._queryset_class = UserQuerySet
    _by_objects(User)
    given = [User.groups.through, User.user_permissions.through]
    for table in (*given, Group.permissions.through):
        table._meta.local_managers[0]._queryset_class = GivenQuerySet
        _by_objects(table)
    pre_save.connect(_before_save, sender=User)
    post_save.connect(_after_save, sender=User)
    pre_delete.connect(_before_removal, sender=User)
    pre_delete.connect(_before_removal_of_group, sender=Group)
    for table in given:
        m2m_changed.connect(_before_giving, sender=table)


def _by_objects(model: Any) -> None:
    """Have a table's relations led through its manager: Django would take one of its own."""
    model._meta.base_manager_name = "objects"
    model._meta._expire_cache()


def _before_save(instance: User, update_fields: frozenset[str] | None, **_signal: Any) -> None:
    if update_fields == SIGNED_IN or _only_hashes_anew(instance, update_fields):
        return
    recording.current()
    if instance.pk is not None:
        _watch(instance.pk)


def _after_save(instance: User, *, created: bool, **_signal: Any) -> None:
    if created:
        pk = instance.pk
        recording.current().compare(("user", pk), partial(_compared, pk, None))


def _before_removal(instance: User, **_signal: Any) -> None:
    _watch(instance.pk)


def _before_removal_of_group(instance: Group, **_signal: Any) -> None:
    recording.current()
    for user in instance.user_set.all():
        _watch(user.pk)


def _before_giving(
    instance: Any, action: str, *, reverse: bool, pk_set: set[int] | None, **_signal: Any
) -> None:
    if not action.startswith("pre_"):
        return
    recording.current()
    if not reverse:
        pks = {instance.pk}
    elif pk_set is None:  # All that it was given to.
        pks = set(instance.user_set.values_list("pk", flat=True))
    else:
        pks = pk_set
    for pk in pks:
        _watch(pk)


def _watch(pk: int) -> None:
    change = recording.current()
    if ("user", pk) not in change.compared:
        change.compare(("user", pk), partial(_compared, pk, _said_of(pk)))


def _said_of(pk: int) -> Said | None:
    user = User.objects.filter(pk=pk).first()
    if user is None:
        return None
    return {
        "username": user.get_username(),
        "roles": sorted(role_groups.roles_of(user)),
        "permissions": sorted(user.user_permissions.values_list("codename", flat=True)),
        "active": user.is_active,
        "staff": user.is_staff,
        "superuser": user.is_superuser,
        PASSWORD: user.password,
    }


def _compared(pk: int, before: Said | None) -> Note | None:
    after = _said_of(pk)
    held = after or before  # Who was renamed is found by the new name.
    if before == after or held is None:
        return None
    if before is not None and after is not None:
        differing = [name for name in after if before[name] != after[name]]
        before, after = ({name: said[name] for name in differing} for said in (before, after))
        if PASSWORD in after:  # That it is another; never which.
            before[PASSWORD], after[PASSWORD] = "", "another"
    else:
        for said in filter(None, (before, after)):
            said.pop(PASSWORD)
    return Note(kind="user", name=held["username"], tenant_id="", before=before, after=after)


def _only_hashes_anew(user: User, fields: frozenset[str] | None) -> bool:
    """Whether somebody signs in whose hash has become too cheap: the password stays the same."""
    if fields != HASHED or user._password is not None:
        return False
    held = User.objects.filter(pk=user.pk).values_list(PASSWORD, flat=True).first()
    try:
        hasher = identify_hasher(held or "")
    except ValueError:  # They have no password.
        return False
    preferred = get_hasher()
    return hasher.algorithm != preferred.algorithm or bool(preferred.must_update(held))
