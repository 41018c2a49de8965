"""Which role somebody has, by what the provider says of them."""

from typing import Any

import pytest

from aforo_admin.control.roles import Role
from aforo_admin.django_security import SingleSignOn, security
from tests.contract import control_lab  # noqa: F401 - it sets Django up.

SIGN_ON = SingleSignOn(
    issuer="https://id.example.com",
    client_id="aforo",
    client_secret="secret",
    claim="groups",
    roles={"staff": "viewer", "money": "finance", "boss": "owner"},
)


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"groups": ["staff"]}, Role.VIEWER),
        ({"groups": "money"}, Role.FINANCE),
        ({"groups": ["boss", "staff", "money"]}, Role.OWNER),
        ({"userinfo": {"groups": ["staff"]}, "id_token": {"groups": ["money"]}}, Role.FINANCE),
        ({"userinfo": None, "id_token": {"groups": None}}, None),
        ({"groups": ["finance"]}, None),
        ({"roles": ["boss"]}, None),
        ({"groups": [{"name": "boss"}]}, None),
        ({}, None),
    ],
)
def test_the_widest_of_the_roles_that_somebody_s_groups_are(
    claims: dict[str, Any], role: Role | None
) -> None:
    from aforo_admin.control.sign_on import role_of  # noqa: PLC0415 - once it is set up.

    assert role_of(claims, SIGN_ON) is role


def test_cookies_are_strict_unless_somebody_comes_back_from_a_provider() -> None:
    assert security(https=True, sign_on=None)["SESSION_COOKIE_SAMESITE"] == "Strict"
    assert security(https=True, sign_on=SIGN_ON)["SESSION_COOKIE_SAMESITE"] == "Lax"
