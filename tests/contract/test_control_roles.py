"""Roles on a real store: what each may change, whichever way the change comes."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import Group, User

from aforo_admin import store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control import permitting, roles, users
from aforo_admin.control.models import (
    Credential,
    Deal,
    Feature,
    MarginOverride,
    Plan,
    PlanGuard,
    PlanVersion,
    Tenant,
)
from aforo_admin.control.permitting import NotPermittedError, ReasonMissingError
from aforo_admin.control.recording import Change, Source
from aforo_admin.control.roles import Role
from aforo_admin.faults import StoreError
from lab.servers import ROOT

pytestmark = [pytest.mark.contract, pytest.mark.slow]

EXAMPLE = read_file(ROOT / "catalog.example.yaml")


@pytest.fixture(autouse=True)
def example(database: str) -> None:  # noqa: ARG001 - Django uses it.
    store.apply_catalog(EXAMPLE, actor="tests")


class PermittedError(Exception):
    """The change may be made; it is undone all the same."""


def permitted(role: Role, make: Callable[[Change], object]) -> None:
    def permit(made: Change) -> None:
        permitting.check(made, roles.permissions(role).__contains__)
        raise PermittedError

    with store.change(actor=role, source=Source.REST, reason="why not", permit=permit) as made:
        make(made)


def as_role(role: Role, make: Callable[[Change], object], reason: str = "why not") -> None:
    has = roles.permissions(role).__contains__
    with store.change(
        actor=role,
        source=Source.REST,
        reason=reason,
        permit=lambda made: permitting.check(made, has),
    ) as made:
        make(made)


def rename_feature(_made: Change) -> None:
    feature = Feature.objects.get(pk="chat")
    feature.title = "Chatting"
    feature.save()


def rename_tenant(_made: Change) -> None:
    tenant = Tenant.objects.get(pk="acme")
    tenant.name = "A"
    tenant.save()


def lower_floor_of_tenant(_made: Change) -> None:
    tenant = Tenant.objects.get(pk="globex")
    tenant.block_below_bp = 0
    tenant.save()


def shadow_tenant(_made: Change) -> None:
    tenant = Tenant.objects.get(pk="globex")
    tenant.shadow = True
    tenant.save()


def override(_made: Change) -> None:
    MarginOverride.objects.create(
        tenant_id="acme",
        level_max="warn",
        until=datetime(2030, 1, 1, tzinfo=UTC),
        reason="r",
        author="a",
    )


def revoke(_made: Change) -> None:
    credential = Credential.objects.filter(tenant_id="acme")[0]
    credential.revoked = True
    credential.save()


def publish_other_fee(made: Change) -> None:
    store.publish(draft(committed_fee_nanos=1), made)


def publish_other_floor(made: Change) -> None:
    store.publish(draft(block_below_bp=1), made)


def publish_without_guard(made: Change) -> None:
    version = draft()
    version.guards.all().delete()
    store.publish(version, made)


def guard_a_draft(_made: Change) -> None:
    PlanGuard.objects.create(
        version=draft(), guard_id="g", features=["chat"], meters=[], revenue_nanos=1
    )


def new_plan(made: Change) -> None:
    plan = Plan.objects.create(pk="new")
    version = PlanVersion.objects.create(
        plan=plan, number=1, title="New", committed_fee_nanos=5, features=["chat"]
    )
    store.publish(version, made)


def new_plan_in_shadow(_made: Change) -> None:
    plan = Plan.objects.create(pk="new")
    PlanVersion.objects.create(
        plan=plan, number=1, title="New", committed_fee_nanos=5, features=["chat"], shadow=True
    )


def remove_tenant(_made: Change) -> None:
    Tenant.objects.get(pk="acme").delete()


def draft(**changes: object) -> PlanVersion:
    """Return a draft that says what is in force of the plan "pro", but for some columns."""
    version = store.new_draft("pro")
    for name, value in changes.items():
        setattr(version, name, value)
    version.save()
    return version


SELLERS = {Role.PRODUCT, Role.FINANCE, Role.OWNER}
MONEY = {Role.FINANCE, Role.OWNER}
MAY = [
    (rename_feature, SELLERS),
    (rename_tenant, SELLERS),
    (publish_other_fee, SELLERS),
    (new_plan, SELLERS),
    (remove_tenant, SELLERS),
    (lower_floor_of_tenant, MONEY),
    (shadow_tenant, MONEY),
    (override, MONEY),
    (publish_other_floor, MONEY),
    (publish_without_guard, MONEY),
    (guard_a_draft, MONEY),
    (new_plan_in_shadow, MONEY),
    (revoke, {Role.DEVELOPER, Role.OWNER}),
]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("make", "allowed"), MAY, ids=lambda each: getattr(each, "__name__", ""))
def test_a_change_takes_a_role_that_may_make_it(
    make: Callable[[Change], object], allowed: set[Role]
) -> None:
    before = store.load_catalog()
    for role in Role:
        expected: type[Exception] = PermittedError if role in allowed else NotPermittedError
        with pytest.raises(expected):
            permitted(role, make)
        assert store.load_catalog() == before


def test_a_deal_with_floors_is_not_prolonged_by_who_may_not_set_them() -> None:
    def prolong(_made: Change) -> None:
        deal = Deal.objects.filter(tenant_id="acme")[0]
        deal.effective_until = datetime(2031, 1, 1, tzinfo=UTC)
        deal.save()

    def give_floors(_made: Change) -> None:
        deal = Deal.objects.filter(tenant_id="acme")[0]
        deal.warn_below_bp = 9_000
        deal.save()

    as_role(Role.FINANCE, give_floors)
    with pytest.raises(NotPermittedError, match="effective_until"):
        as_role(Role.PRODUCT, prolong)
    as_role(Role.FINANCE, prolong)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "make",
    [
        *(lower_floor_of_tenant, shadow_tenant, publish_other_floor, publish_without_guard),
        *(guard_a_draft, new_plan_in_shadow),
    ],
)
def test_floors_change_for_a_reason(make: Callable[[Change], object]) -> None:
    before = store.load_catalog()
    with pytest.raises(ReasonMissingError, match="say why"):
        as_role(Role.OWNER, make, reason=" ")
    assert store.load_catalog() == before


def test_groups_have_what_the_table_says() -> None:
    for role in Role:
        group = Group.objects.get(name=role.value)
        names = {
            f"{each.content_type.app_label}.{each.codename}"
            for each in group.permissions.select_related("content_type")
        }
        assert names == roles.permissions(role)


def test_a_user_is_made_with_a_role_on_the_record() -> None:
    def add(name: str, password: str) -> User:
        return users.add(
            name, Role.FINANCE, password, actor="root", source=Source.SHELL, reason="new"
        )

    dana = add("dana", "correct horse battery")

    assert dana.has_perm("control.set_floors")
    assert not dana.has_perm("auth.change_user")
    with pytest.raises(StoreError, match='a user "dana" already'):
        add("dana", "correct horse battery")
    with pytest.raises(StoreError, match="too short"):
        add("dan", "x")
    with pytest.raises(StoreError, match="valid username"):
        add("a b", "correct horse battery")
