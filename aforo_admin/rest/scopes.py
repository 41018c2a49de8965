"""What a token is for, within what its role may do."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """One kind of question, or of write."""

    CATALOG_READ = "catalog:read"
    CATALOG_WRITE = "catalog:write"
    TENANTS_READ = "tenants:read"
    TENANTS_WRITE = "tenants:write"
    MONEY_READ = "money:read"
    MONEY_WRITE = "money:write"
    OPERATIONS_READ = "operations:read"
    OPERATIONS_WRITE = "operations:write"
    AUDIT_READ = "audit:read"
    ENTITLEMENTS_READ = "entitlements:read"


# What a tenant may see of itself. All others show costs, margins, floors, or who decided on them.
FOR_TENANTS: Final = frozenset({Scope.ENTITLEMENTS_READ})


def scopes_of(given: Iterable[Scope], *, tenant_id: str) -> tuple[Scope, ...]:
    """Return the scopes of a new token: empty means all that its role may.

    A token of one tenant is likely to be handed to that tenant, so it has no more than is for it,
    unless somebody names more.
    """
    return tuple(given) or (tuple(FOR_TENANTS) if tenant_id else ())


def not_for_tenants(scopes: Iterable[Scope]) -> list[str]:
    return sorted(scope.value for scope in scopes if scope not in FOR_TENANTS)
