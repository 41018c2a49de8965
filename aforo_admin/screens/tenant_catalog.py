"""What the catalog's database says of one tenant, read for its page: a handful of statements."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import Q

from aforo_admin.columns import floors_of
from aforo_admin.control.models import (
    Credential,
    Deal,
    General,
    MarginOverride,
    PlanVersion,
    Subscription,
    Tenant,
)
from aforo_admin.control.models_plans import State
from aforo_admin.domain.catalog import NO_CHANGES, ThresholdChanges, Thresholds
from aforo_admin.domain.entitling import floor_sources, floors_in_force

FLOORS: Final = ("warn_below_bp", "throttle_below_bp", "block_below_bp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A threshold in force, and who says so."""

    name: str  # Of the column.
    value: int
    source: str  # "deal:acme-renewal"


@dataclass(frozen=True, slots=True, kw_only=True)
class InCatalog:
    """The tenant's rows."""

    tenant: Tenant
    subscription: Subscription | None
    plan_id: str  # In force now; empty without a subscription.
    plan_version_pk: int | None  # Of its version in force.
    deals: Sequence[Deal]  # In force or to come.
    override: MarginOverride | None  # In force.
    override_over: MarginOverride | None  # It is to be edited: a tenant has one at most.
    credentials: Sequence[Credential]
    rules: Sequence[Rule]  # The three floors.


def tenant_in_catalog(tenant_id: str, *, now: datetime) -> InCatalog | None:
    """Read the tenant's rows; None if there is no such tenant."""
    tenant = Tenant.objects.filter(pk=tenant_id).first()
    if tenant is None:
        return None
    subscription = Subscription.objects.filter(pk=tenant_id).first()
    plan_id = _plan_id(tenant, subscription, now)
    deals = list(tenant.deals.filter(Q(effective_until=None) | Q(effective_until__gt=now)))
    version = PlanVersion.objects.filter(plan_id=plan_id, state=State.PUBLISHED).first()
    override = MarginOverride.objects.filter(pk=tenant_id).first()
    is_over = override is not None and override.until <= now
    return InCatalog(
        tenant=tenant,
        subscription=subscription,
        plan_id=plan_id,
        plan_version_pk=None if version is None else int(version.pk),
        deals=deals,
        override=None if is_over else override,
        override_over=override if is_over else None,
        credentials=list(tenant.credentials.all()),
        rules=_rules(tenant, plan_id, version, deals, now),
    )


def _plan_id(tenant: Tenant, subscription: Subscription | None, now: datetime) -> str:
    if subscription is None:
        return ""
    changes = tenant.plan_changes.filter(effective_from__lte=now).order_by("effective_from")
    last = changes.values_list("plan_id", flat=True).last()
    return str(last or subscription.plan_id)


def _rules(
    tenant: Tenant,
    plan_id: str,
    version: PlanVersion | None,
    deals: Sequence[Deal],
    now: datetime,
) -> list[Rule]:
    general = General.objects.first()
    default = Thresholds() if general is None else floors_of(Thresholds, vars(general))
    deal = next((one for one in deals if one.effective_from <= now), None)
    rules = [
        (f"plan:{plan_id}", _changes(version)),
        *([(f"deal:{deal.deal_id}", _changes(deal))] if deal is not None else []),
        (f"tenant:{tenant.tenant_id}", _changes(tenant)),
    ]
    floors, _ = floors_in_force(default, *rules)
    sources = floor_sources(default, *rules)
    return [Rule(name=name, value=getattr(floors, name), source=sources[name]) for name in FLOORS]


def _changes(row: Any) -> ThresholdChanges:
    if row is None:
        return NO_CHANGES
    found = floors_of(ThresholdChanges, vars(row))
    assert isinstance(found, ThresholdChanges)
    return found
