"""What would go around the record of changes: refused, whichever of Django's ways it takes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import models
from django.test import Client

from aforo_admin import audit, store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control import role_groups, users
from aforo_admin.control.models import ApiToken, AuditEntry, Deal, PlanVersion
from aforo_admin.control.models_base import NeverEditedError, Recorded
from aforo_admin.control.recording import Change, Source, UnrecordedError
from aforo_admin.control.roles import Role
from aforo_admin.faults import StoreError
from aforo_admin.rest import tokens
from lab.servers import ROOT
from tests.contract.forms_lab import PASSWORD, as_role
from tests.contract.test_sync_process import aforo_admin

pytestmark = [pytest.mark.contract, pytest.mark.slow]

EXAMPLE = read_file(ROOT / "catalog.example.yaml")
TABLES = [
    model for model in apps.get_app_config("control").get_models() if issubclass(model, Recorded)
]


@contextmanager
def changing() -> Iterator[Change]:
    with store.change(actor="tests", source=Source.SHELL, reason="why not", checked=True) as made:
        yield made


def dana(role: Role = Role.VIEWER) -> User:
    return users.add("dana", role, PASSWORD, actor="tests", source=Source.SHELL, reason="")


def anew() -> User:
    return User.objects.get(username="dana")


def last() -> Any:  # noqa: ANN401 - an entry, as Django has it.
    return AuditEntry.objects.latest("seq")


@pytest.fixture
def known(sqlite_database: str) -> None:  # noqa: ARG001 - Django uses it.
    store.apply_catalog(EXAMPLE, actor="tests")
    dana()
    tokens.add("shop", Role.VIEWER, actor="tests")


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_no_row_of_a_recorded_table_changes_elsewhere(table: type[Recorded]) -> None:
    before = list(table._base_manager.values())
    named = {table._meta.pk.attname: None}
    ways: list[Callable[[Any], object]] = [
        lambda rows: rows.update(**named),
        lambda rows: rows.bulk_update([table()], [table._meta.concrete_fields[-1].name]),
        lambda rows: rows.bulk_create([table()]),
        lambda rows: rows.delete(),
        lambda rows: rows._raw_delete("default"),
        lambda rows: rows._update([]),
        lambda rows: (rows.first() or table()).save(),
        lambda _rows: models.Model.save_base(table(), raw=True),
    ]
    for manager in (table.objects, table._base_manager, table._default_manager):
        for go_around in ways:
            with pytest.raises((UnrecordedError, NeverEditedError)):
                go_around(manager.all())
    assert list(table._base_manager.values()) == before


@pytest.mark.usefixtures("known")
def test_what_is_removed_behind_a_row_s_back_is_recorded() -> None:
    quotas = Deal.objects.get(deal_id="acme-renewal").quotas.all()
    names = {str(each) for each in quotas}
    assert names

    with changing() as made:
        quotas._raw_delete("default")

    assert {note.name for note in made.notes if note.after is None} == names


@pytest.mark.usefixtures("known")
def test_rows_are_not_added_in_ways_that_edit_others() -> None:
    with pytest.raises(TypeError), changing():
        PlanVersion.objects.bulk_create([], update_conflicts=True)


def promote(**columns: object) -> None:
    User.objects.filter(username="dana").update(**columns)


def having(user: User, **columns: object) -> None:
    for name, value in columns.items():
        setattr(user, name, value)
    user.save()


WAYS: list[Callable[[], object]] = [
    lambda: promote(is_superuser=True),
    lambda: User._base_manager.update(is_superuser=True),
    lambda: User.objects.bulk_update([anew()], ["is_active"]),
    lambda: User.objects.bulk_create([User(username="x")]),
    lambda: User.objects.create_superuser("x"),
    lambda: User.objects.create_user("x"),
    lambda: User(username="x").save_base(raw=True),
    lambda: anew().save(),
    lambda: anew().save(update_fields=["last_login", "is_superuser"]),
    lambda: anew().delete(),
    lambda: User.objects.all().delete(),
    lambda: User.objects.all()._raw_delete("default"),
    lambda: anew().groups.add(Group.objects.get(name="owner")),
    lambda: anew().groups.set([]),
    lambda: Group.objects.get(name="owner").user_set.add(anew()),
    lambda: Group.objects.get(name="viewer").user_set.set([]),
    lambda: Group.objects.get(name="viewer").delete(),
    lambda: anew().user_permissions.set(Permission.objects.all()),
    lambda: User.groups.through.objects.all().delete(),
    lambda: User.groups.through.objects.update(group=Group.objects.get(name="owner")),
    lambda: User.groups.through.objects.create(user=anew(), group=Group.objects.get(name="owner")),
    lambda: Group.objects.get(name="viewer").permissions.set(Permission.objects.all()),
    lambda: call_command("createsuperuser", username="x", email="", interactive=False),
    lambda: ApiToken.objects.update(revoked=False, role="owner"),
    lambda: ApiToken.objects.update(last_used_at=None, role="owner"),
    lambda: ApiToken.objects.create(token_id="x", sha256="x", created_at="2026-01-01T00:00Z"),
    lambda: ApiToken.objects.all().delete(),
]


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("way", WAYS, ids=lambda _: "")
def test_nobody_is_promoted_or_removed_off_the_record(way: Callable[[], object]) -> None:
    def there() -> object:
        return (
            list(User.objects.values()),
            list(User.groups.through.objects.values()),
            list(Group.permissions.through.objects.values()),
            list(ApiToken.objects.values()),
        )

    before, seq = there(), audit.last_seq()
    with pytest.raises(UnrecordedError):
        way()
    assert (there(), audit.last_seq()) == (before, seq)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda user: role_groups.set_role(user, Role.OWNER), {"roles": ["owner"]}),
        (lambda user: user.groups.clear(), {"roles": []}),
        (lambda _user: Group.objects.get(name="viewer").delete(), {"roles": []}),
        (
            lambda user: user.user_permissions.add(Permission.objects.get(codename="set_floors")),
            {"permissions": ["set_floors"]},
        ),
        (lambda user: having(user, is_superuser=True), {"superuser": True}),
        (lambda user: having(user, is_staff=False), {"staff": False}),
        (lambda user: having(user, username="d"), {"username": "d"}),
        (lambda user: (user.set_password("x" * 20), user.save()), {"password": "another"}),
        (lambda user: user.delete(), None),
    ],
)
def test_what_a_change_makes_of_a_user_is_recorded_without_being_asked(
    edit: Callable[[User], object], said: dict[str, object] | None
) -> None:
    with changing():
        edit(anew())

    name = (said or {}).get("username", "dana")
    assert (last().kind, last().name, last().after) == ("user", name, said)
    assert "pbkdf2" not in f"{last().before}"


@pytest.mark.usefixtures("known")
def test_whoever_signs_in_changes_nothing_though_their_hash_is_made_anew() -> None:
    seq = audit.last_seq()
    with changing():
        user = anew()
        user.password = make_password(PASSWORD, hasher="pbkdf2_sha1")
        user.save()
    assert audit.last_seq() == seq + 1

    answer = Client().post("/admin/login/", {"username": "dana", "password": PASSWORD})
    assert answer.status_code == 302

    assert anew().password.startswith("pbkdf2_sha256$")
    assert anew().last_login is not None
    assert audit.last_seq() == seq + 1
    user = anew()
    user.password = make_password("mine now")
    with pytest.raises(UnrecordedError):
        user.save(update_fields=["password"])


@pytest.mark.usefixtures("known")
def test_a_token_s_ends_are_on_the_record_with_a_reason() -> None:
    tokens.revoke("shop", actor="tests", reason="was in a log")

    assert (last().kind, last().name, last().reason) == ("API token", "shop", "was in a log")
    assert (last().before, last().after) == ({"revoked": False}, {"revoked": True})
    added = AuditEntry.objects.filter(kind="API token").earliest("seq")
    assert added.after["role"] == "viewer"
    assert len(added.after["sha256"]) < 12


def edited(client: Client, **said: str) -> dict[str, list[str]]:
    """Return what is refused, and at which field."""
    address = f"/admin/auth/user/{anew().pk}/change/"
    opened = {"username": "dana", "opened_at_change": str(audit.last_seq())}
    answer = client.post(address, {**opened, **said})
    return {} if answer.status_code == 302 else dict(answer.context["adminform"].form.errors)


@pytest.mark.usefixtures("sqlite_database")
def test_the_last_owner_stays_one() -> None:
    user = dana(Role.OWNER)
    client = Client()
    client.force_login(user)
    active = {"is_active": "on"}

    assert edited(client, role="viewer", **active) == {"role": [users.NO_OWNER_LEFT]}
    assert edited(client, role="owner") == {"is_active": [users.NO_OWNER_LEFT]}
    for edit in (users.deactivate, lambda user: users.set_role(user, Role.VIEWER)):
        with pytest.raises(StoreError, match="first give another user the role owner"), by_name():
            edit(anew())
    assert edited(client, role="owner", **active) == {}

    as_role(Role.OWNER, "olga")
    assert edited(client, role="viewer", **active) == {}
    assert role_groups.roles_of(anew()) == {Role.VIEWER}


@pytest.mark.usefixtures("sqlite_database")
def test_a_superuser_stays_in_any_role_until_they_are_given_one_by_name() -> None:
    user = dana()
    with changing():
        user.is_superuser = True
        user.save()

    with pytest.raises(StoreError), by_name() as held:
        users.set_role(held, Role.FINANCE)
    as_role(Role.OWNER)
    with by_name() as held:
        users.set_role(held, Role.FINANCE)

    assert last().after == {"roles": ["finance"], "superuser": False}


@pytest.mark.usefixtures("sqlite_database")
@pytest.mark.parametrize(
    "edit", [lambda user: users.set_password(user, PASSWORD * 2), users.deactivate]
)
def test_who_was_signed_in_is_out(edit: Callable[[User], None]) -> None:
    client = as_role(Role.VIEWER, "dana")
    assert client.get("/admin/control/tenant/").status_code == 200

    with by_name() as user:
        edit(user)

    assert client.get("/admin/control/tenant/").status_code == 302
    assert (last().name, last().reason) == ("dana", "why not")


def by_name() -> AbstractContextManager[User]:
    return users.changed("dana", actor="tests", source=Source.SHELL, reason="why not")


def test_commands_edit_users_on_the_record(sqlite_database: str) -> None:
    as_role(Role.OWNER)
    dana()
    env = {"AFORO_ADMIN_DATABASE_URL": sqlite_database}

    def run(*arguments: str) -> str:
        done = aforo_admin(*arguments, env=env, stdin=f"{PASSWORD * 2}\n")
        return f"{done.returncode} {done.stdout}{done.stderr}"

    why = ("--reason", "asked by olga")
    assert run("user", "password", "dana", *why).startswith("0 dana has another password")
    assert anew().check_password(PASSWORD * 2)
    assert run("user", "role", "dana", "finance", *why).startswith("0 dana is finance")
    assert run("user", "deactivate", "dana", *why).startswith("0 dana may no longer sign in")
    assert run("user", "deactivate", "owner").startswith("1 aforo-admin: nobody would be left")
    assert run("user", "role", "nobody", "viewer").startswith('1 aforo-admin: no user "nobody"')
    entries = AuditEntry.objects.order_by("-seq")[:3]
    assert [each.after for each in entries] == [
        {"active": False},
        {"roles": ["finance"]},
        {"password": "another"},
    ]
    assert {each.reason for each in entries} == {"asked by olga"}
    for command, instead in (
        ("changepassword", "aforo-admin user password NAME"),
        ("createsuperuser", "aforo-admin user add NAME --role owner"),
    ):
        refused = run("manage", command, "dana")
        assert refused.startswith("1 aforo-admin: ")
        assert instead in refused
