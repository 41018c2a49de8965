"""What nobody types and somebody sends: it is refused or ignored, on either database."""

import pytest
from django.test import Client

from aforo_admin.control.models import Scenario
from aforo_admin.control.roles import Role
from tests.contract.forms_lab import as_role
from tests.contract.rest_lab import applied

pytestmark = [pytest.mark.contract, pytest.mark.slow]

DIGITS = "9" * 5000


@pytest.fixture(autouse=True)
def example(database: str) -> None:  # noqa: ARG001 - Django uses it.
    applied()


def test_numbers_without_end_are_cut() -> None:
    viewer = as_role(Role.VIEWER)
    for address in (
        *(f"{page}/?skip={DIGITS}" for page in ("margins", "interventions", "sessions", "prices")),
        *(f"{page}/?before={DIGITS}" for page in ("deliveries", "audit")),
    ):
        assert viewer.get(f"/admin/{address}").status_code == 200, address[:40]
    # Of a row that is not there the list tells, which may be where one was removed from.
    for address in ("control/credential/x/revoke/", f"control/planversion/{'9' * 30}/publish/"):
        assert viewer.get(f"/admin/{address}").status_code in {302, 404}, address


@pytest.mark.parametrize(
    "address",
    [
        *("audit/?tenant=%00", "margins/%00/", "what-if/?saved=%00", "audit/?%00=x"),
        *("control/tenant/%00/change/", "control/tenant/?subscription__plan=%00"),
    ],
)
def test_characters_that_no_database_keeps_are_refused(address: str) -> None:
    answer = as_role(Role.VIEWER).get(f"/admin/{address}")

    assert answer.status_code == 400
    assert "leave it out" in answer.content.decode()


def test_they_are_refused_in_forms_too() -> None:
    developer = as_role(Role.DEVELOPER)
    session = {"tenant": "acme", "session": "a\0"}

    assert developer.post("/admin/sessions/", session).status_code == 400
    removal = {"step": "remove", "saved": "\0"}
    assert developer.post("/admin/what-if/", removal).status_code == 400
    assert not Scenario.objects.exists()
    anybody = Client().post("/admin/login/", {"username": "\0", "password": "x"})
    assert anybody.status_code == 400
