"""Who asks: by a bearer token, and nothing else."""

import math
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from django.http import HttpRequest
from ninja.security import HttpBearer

from aforo_admin.rest.attempts import FailedAttempts
from aforo_admin.rest.problems import ApiError, NotFoundError
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.tokens import Caller, caller_of

TOKEN_CHARS_MAX: Final = 200

FAILED: Final = FailedAttempts()


class Bearer(HttpBearer):
    """Looks up what is shown, unless its address has shown too much that nobody knows."""

    def authenticate(self, request: HttpRequest, token: str) -> Caller | None:
        address = request.META.get("REMOTE_ADDR", "")
        wait_s = FAILED.wait_s(address, now_s=time.monotonic())
        if wait_s:
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too-many-failures",
                "too many unknown tokens came from this address: wait, then show a right one",
                headers={"Retry-After": str(math.ceil(wait_s))},
            )
        caller = None
        if len(token) <= TOKEN_CHARS_MAX and token.isascii():
            caller = caller_of(token, now=datetime.now(UTC))
        if caller is None:
            FAILED.note(address, now_s=time.monotonic())
        return caller


def unauthenticated() -> ApiError:
    return ApiError(
        HTTPStatus.UNAUTHORIZED,
        "unauthenticated",
        "show a token that is in force: Authorization: Bearer aforo_admin_…; "
        "`aforo-admin token add` makes one",
        headers={"WWW-Authenticate": 'Bearer realm="aforo"'},
    )


def caller_for(request: HttpRequest, scope: Scope, *, tenant: str | None = None) -> Caller:
    """Return who asks, if it may ask this.

    Args:
        request: What was asked.
        scope: What it belongs to.
        tenant: Whose it is; None: it is of all tenants.

    Raises:
        ApiError: The token is not for this; or it sees one tenant alone, and this is not of it.
    """
    caller: Caller = request.auth
    if caller.tenant_id and (tenant is None or not caller.sees(tenant)):
        raise NotFoundError("such thing")
    if not caller.is_for(scope):
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            "scope",
            f"this token is not for {scope}: it has {', '.join(sorted(caller.scopes))}",
        )
    return caller


def forbidden(message: str) -> ApiError:
    return ApiError(HTTPStatus.FORBIDDEN, "forbidden", message)


def require(caller: Caller, permission: str) -> None:
    """Refuse who lacks a permission.

    Raises:
        ApiError: It does.
    """
    if not caller.has(permission):
        raise forbidden(
            f"the role {caller.role} may not do this; it takes {permission}: docs/roles.md says "
            "who has it"
        )
