"""A catalog at a glance: its plans and tenants as tables."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from aforo_admin.domain.catalog import Catalog, Deal, Plan, Tenant
from aforo_admin.domain.problems import day
from aforo_admin.readable_values import many, money

TENANTS_SHOWN_MAX: Final = 50


def summary(catalog: Catalog, now: datetime) -> str:
    """Return plans and tenants as text, and the totals."""
    users = Counter(tenant.subscription.plan_at(now) for tenant in catalog.tenants.values())
    plans = [
        ("plan", "fee", "features", "quotas", "tenants"),
        *(
            (
                plan.plan_id + (" (shadow)" if plan.shadow else ""),
                _fee(plan, catalog.currency),
                ", ".join(plan.features) or "none",
                ", ".join(quota.quota_id for quota in plan.quotas) or "none",
                str(users[plan.plan_id]),
            )
            for plan in catalog.plans.values()
        ),
    ]
    shown = list(catalog.tenants.values())[:TENANTS_SHOWN_MAX]
    tenants = [
        ("tenant", "plan", "state", "since", "credentials", "deal in force"),
        *(_tenant_row(tenant, now) for tenant in shown),
    ]
    hidden = len(catalog.tenants) - len(shown)
    lines = [*table(plans), "", *table(tenants)]
    if hidden:
        lines.append(f"… and {hidden} more")
    credentials = sum(len(tenant.credentials) for tenant in catalog.tenants.values())
    beside = " beside the built-in ones" if catalog.built_in_costs else ""
    lines.append("")
    lines.append(
        f"{many(len(catalog.features), 'feature')}, {many(len(catalog.routes), 'route')}, "
        f"{many(len(catalog.plans), 'plan')}, {many(len(catalog.tenants), 'tenant')}, "
        f"{many(credentials, 'credential')}, {many(len(catalog.costs), 'own cost price')}{beside}"
    )
    if catalog.meters or catalog.metering or catalog.ingest_keys:
        lines.append(
            f"{many(len(catalog.meters), 'own meter')}, "
            f"{many(len(catalog.metering), 'metering rule')}, "
            f"{many(len(catalog.ingest_keys), 'ingest key')}"
        )
    return "\n".join(lines)


def _fee(plan: Plan, currency: str) -> str:
    told = "none"
    if plan.committed_fee_nanos:
        told = f"{money(plan.committed_fee_nanos, plan.currency or currency)} a {plan.cadence}"
    if plan.rate_cards:
        told = f"{told}, and usage" if plan.committed_fee_nanos else "by usage"
    if plan.allowance_nanos:
        told += f", {money(plan.allowance_nanos, currency)} of COGS a {plan.cadence}"
    return told


def _tenant_row(tenant: Tenant, now: datetime) -> tuple[str, ...]:
    deal: Deal | None = next((deal for deal in tenant.deals if deal.holds_at(now)), None)
    subscription = tenant.subscription
    return (
        tenant.tenant_id,
        subscription.plan_at(now),
        str(subscription.state),
        day(subscription.started_at),
        ", ".join(credential.credential_id for credential in tenant.credentials) or "none",
        deal.deal_id if deal is not None else "",
    )


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
