"""Tokens of programs: made, shown once, found again by their hash. They are never logged."""

import contextlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import OperationalError

from aforo_admin import store
from aforo_admin.control import roles
from aforo_admin.control.models import Tenant
from aforo_admin.control.models_api import TOKEN_CHARS_KEPT, ApiToken
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from aforo_admin.domain.catalog import sha256_hex
from aforo_admin.domain.problems import check_id
from aforo_admin.faults import StoreError
from aforo_admin.rest.scopes import Scope, scopes_of

PREFIX: Final = "aforo_admin_"
RANDOM_BYTES: Final = 32
USE_NOTED_EVERY: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, by the token that was shown."""

    token_id: str
    role: Role
    scopes: frozenset[str]  # Empty: all that the role may.
    tenant_id: str = ""  # All that it sees. Empty: all tenants.

    @property
    def actor(self) -> str:
        return f"token {self.token_id}"

    def has(self, permission: str) -> bool:
        """Whether its role has a permission, as Django names it."""
        return permission in roles.permissions(self.role)

    def is_for(self, scope: Scope) -> bool:
        return not self.scopes or scope in self.scopes

    def sees(self, tenant_id: str) -> bool:
        return self.tenant_id in {"", tenant_id}


def caller_of(token: str, *, now: datetime) -> Caller | None:
    """Return who shows a token; None if nobody known, or no longer."""
    held = ApiToken.objects.filter(sha256=sha256_hex(token), revoked=False).first()
    if held is None or (held.expires_at is not None and held.expires_at <= now):
        return None
    if held.last_used_at is None or held.last_used_at <= now - USE_NOTED_EVERY:
        # Who only reads does not fail because somebody else has long been writing.
        with contextlib.suppress(OperationalError):
            ApiToken.objects.filter(pk=held.pk).update(last_used_at=now)
    return Caller(
        token_id=held.token_id,
        role=Role(held.role),
        scopes=frozenset(held.scopes),
        tenant_id=held.tenant_id,
    )


def add(
    token_id: str,
    role: Role,
    *,
    scopes: Sequence[Scope] = (),
    tenant_id: str = "",
    expires_at: datetime | None = None,
    actor: str,
    reason: str = "",
) -> str:
    """Make a token and return it: it can't be shown again.

    Without scopes it is for all that its role may; one of a tenant, for what that tenant may see.

    Raises:
        StoreError: The name is no id, or taken; it has expired; or there is no such tenant.
    """
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    with store.change(actor=actor, source=Source.SHELL, reason=reason, checked=True) as made:
        _refuse(token_id, tenant_id, expires_at, made.at)
        ApiToken.objects.create(
            token_id=token_id,
            sha256=sha256_hex(token),
            prefix=token[:TOKEN_CHARS_KEPT],
            role=role.value,
            scopes=[scope.value for scope in scopes_of(scopes, tenant_id=tenant_id)],
            tenant_id=tenant_id,
            created_at=made.at,
            expires_at=expires_at,
        )
    return token


def revoke(token_id: str, *, actor: str, reason: str = "") -> None:
    """End a token, at once and for good.

    Raises:
        StoreError: There is none of that name.
    """
    with store.change(actor=actor, source=Source.SHELL, reason=reason, checked=True):
        row = ApiToken.objects.filter(pk=token_id).first()
        if row is None:
            raise StoreError(f'no token "{token_id}": aforo-admin token list shows them')
        row.revoked = True
        row.save()


def listed() -> Iterable[ApiToken]:
    return list(ApiToken.objects.order_by("token_id"))


def _refuse(token_id: str, tenant_id: str, expires_at: datetime | None, now: datetime) -> None:
    for problem in check_id((), token_id):
        raise StoreError(problem.message)
    if ApiToken.objects.filter(pk=token_id).exists():
        raise StoreError(f'there is a token "{token_id}" already: take another name')
    if expires_at is not None and expires_at <= now:
        raise StoreError(f"it would have expired already, at {expires_at.astimezone(UTC)}")
    if tenant_id and not Tenant.objects.filter(pk=tenant_id).exists():
        raise StoreError(f'no tenant "{tenant_id}": a token that sees one tenant needs it')
