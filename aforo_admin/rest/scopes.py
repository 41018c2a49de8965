"""What a token is for, within what its role may do."""

from enum import StrEnum


class Scope(StrEnum):
    """One kind of question, or of write."""

    CATALOG_READ = "catalog:read"
    CATALOG_WRITE = "catalog:write"
    TENANTS_READ = "tenants:read"
    TENANTS_WRITE = "tenants:write"
    MONEY_READ = "money:read"
    OPERATIONS_READ = "operations:read"
    OPERATIONS_WRITE = "operations:write"
    AUDIT_READ = "audit:read"
    ENTITLEMENTS_READ = "entitlements:read"
