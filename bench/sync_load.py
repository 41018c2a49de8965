"""A catalog of many tenants in a database, for measuring sync: plans by turns, some with deals."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.catalog import Catalog, Credential, Deal, Subscription, Tenant
from aforo_authz.domain.access import CredentialKind
from bench.read_model import PLAIN, api_key
from lab.servers import ROOT

# Of twenty tenants: most pay a fee, some by a rate card in another currency, one has a deal.
PLANS = ("pro",) * 11 + ("free",) * 5 + ("metered",) * 3 + ("enterprise",)
STARTS = datetime(2026, 1, 1, tzinfo=UTC)


def catalog(tenants: int) -> Catalog:
    """Return the example's catalog with so many tenants, each with a key of its own."""
    example = read_file(ROOT / "catalog.example.yaml")
    deals = example.tenants["acme"].deals
    made = (_tenant(number, example, deals) for number in range(tenants))
    return replace(example, tenants={each.tenant_id: each for each in made})


def tenant_id(number: int) -> str:
    return f"t{number:06d}"


def _tenant(number: int, example: Catalog, deals: tuple[Deal, ...]) -> Tenant:
    name = tenant_id(number)
    plan = PLANS[number % len(PLANS)]
    key = api_key(PLAIN, number)
    return replace(
        example.tenants["umbrella"],
        tenant_id=name,
        name=f"Tenant {number}",
        subscription=Subscription(
            subscription_id=f"{name}-1",
            plan_id=plan,
            # Billing periods begin on all days, as anniversaries do.
            started_at=STARTS + timedelta(days=number % 300),
        ),
        credentials=(
            Credential(
                credential_id="main",
                kind=CredentialKind.API_KEY,
                identity=hashlib.sha256(key.encode()).hexdigest(),
            ),
        ),
        deals=deals if plan == "enterprise" else (),
        former=(),
        margin_override=None,
        negotiated_costs=(),
    )
