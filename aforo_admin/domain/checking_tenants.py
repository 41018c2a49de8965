"""What the tenants of a catalog must obey: references, credentials, deals, overrides. Pure."""

import itertools
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from aforo_admin.domain.catalog import (
    COGS,
    Catalog,
    Credential,
    Deal,
    Plan,
    QuotaChange,
    Tenant,
)
from aforo_admin.domain.checking_contracts import contract_problems
from aforo_admin.domain.checking_costs import check_costs
from aforo_admin.domain.checking_rates import Known
from aforo_admin.domain.checking_thresholds import (
    check_guards,
    check_plan_guards,
    check_thresholds,
)
from aforo_admin.domain.problems import (
    Path,
    Problem,
    check_amount,
    check_id,
    check_known,
    check_quota_meter,
    check_sha256,
    check_text,
    check_unique_ids,
    check_units,
    day,
    unknown,
)
from aforo_authz.domain.access import CredentialKind

IDENTITY_CHARS_MAX: Final = 1024

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")

IDENTITY_FIELDS: Final = {
    CredentialKind.API_KEY: "sha256",
    CredentialKind.JWT_SUBJECT: "jwt_subject",
    CredentialKind.CERTIFICATE: "certificate_uri",
}


def tenants_problems(catalog: Catalog, features: frozenset[str]) -> Iterator[Problem]:
    owners: dict[str, str] = {}  # Credential hash → the place of the first that has it.
    known = Known(features=features, meters=catalog.known_meters)
    for tenant in catalog.tenants.values():
        yield from _tenant(tenant, catalog, known)
        yield from _credentials(tenant, owners)


def _tenant(tenant: Tenant, catalog: Catalog, known: Known) -> Iterator[Problem]:
    path: Path = ("tenants", tenant.tenant_id)
    yield from check_id(path, tenant.tenant_id)
    yield from check_text((*path, "name"), tenant.name)
    subscription = tenant.subscription
    yield from check_id((*path, "subscription", "id"), subscription.subscription_id)
    if subscription.plan_id not in catalog.plans:
        yield unknown(
            (*path, "subscription", "plan"),
            subscription.plan_id,
            kind="plan",
            known=catalog.plans,
        )
    yield from contract_problems(path, tenant, catalog, known)
    names = [name for name in subscription.plan_ids if name in catalog.plans]
    plans: list[Plan | None] = [catalog.plans[name] for name in names]
    told: dict[Problem, None] = {}  # What is wrong with several of its plans is told once.
    for plan in plans or [None]:
        told |= dict.fromkeys(_terms(path, tenant, plan, catalog, known))
    yield from told
    override = tenant.margin_override
    if override is not None:
        yield from check_text((*path, "margin_override", "reason"), override.reason)
        yield from check_text((*path, "margin_override", "author"), override.author)
    yield from check_costs((*path, "negotiated_costs"), tenant.negotiated_costs, known.meters)


def override_end_problem(tenant_id: str, until: datetime, now: datetime) -> Problem | None:
    """Return what is wrong with the end that somebody gives an override; None: nothing.

    It is no rule of the catalog: an override that is over stays in it until somebody removes it.
    """
    if until > now:
        return None
    return Problem(
        path=("tenants", tenant_id, "margin_override", "until"),
        message=f"{until:%Y-%m-%d %H:%M} UTC is past, so the override would do nothing: give a "
        "moment to come; to end one that is in force, remove it",
    )


def _terms(
    path: Path, tenant: Tenant, plan: Plan | None, catalog: Catalog, known: Known
) -> Iterator[Problem]:
    yield from _deals((*path, "deals"), tenant, plan, known)
    # Whoever says nothing beside the plan breaks no rule with it: of many tenants that is most.
    if plan is not None and (tenant.deals or not tenant.thresholds.empty):
        yield from _floors(path, tenant, plan, catalog)
        yield from _guards(path, tenant, plan, catalog, known)


def _credentials(tenant: Tenant, owners: dict[str, str]) -> Iterator[Problem]:
    path: Path = ("tenants", tenant.tenant_id, "credentials")
    for index, credential in enumerate(tenant.credentials):
        yield from check_id((*path, index, "id"), credential.credential_id)
        place = (*path, index, IDENTITY_FIELDS[credential.kind])
        yield from _identity(place, credential)
        name = f"{tenant.tenant_id}/{credential.credential_id}"
        owner = owners.get(credential.sha256_hex)
        if owner is not None:
            yield Problem(
                path=place,
                message=f'is the credential "{owner}" too; a credential belongs to one tenant and '
                "stands once: mint another (aforo-admin mint) or remove one of them",
            )
        elif credential.identity:
            owners[credential.sha256_hex] = name
    yield from check_unique_ids(path, [c.credential_id for c in tenant.credentials])


def _identity(path: Path, credential: Credential) -> Iterator[Problem]:
    """The given value is never repeated: it may be a key."""
    identity = credential.identity
    if credential.kind is CredentialKind.API_KEY:
        yield from check_sha256(path, identity)
    elif not identity or "\0" in identity or len(identity) > IDENTITY_CHARS_MAX:
        yield Problem(path=path, message="must be of 1 to 1024 characters, without NUL")
    elif credential.kind is CredentialKind.CERTIFICATE and not _URI.fullmatch(identity):
        yield Problem(
            path=path, message="is no URI; a certificate is known by one, like spiffe://domain/name"
        )


def _deals(path: Path, tenant: Tenant, plan: Plan | None, known: Known) -> Iterator[Problem]:
    for index, deal in enumerate(tenant.deals):
        here = (*path, index)
        yield from check_id((*here, "id"), deal.deal_id)
        yield from check_amount((*here, "committed_fee"), deal.committed_fee_nanos)
        yield from check_amount((*here, "allowance"), deal.allowance_nanos)
        yield from _deal_fee(here, deal, plan)
        yield from check_known(
            (*here, "add_features"), deal.add_features, kind="feature", known=known.features
        )
        yield from _quota_changes((*here, "quotas"), deal, plan, known)
        if deal.effective_until is not None and deal.effective_until <= deal.effective_from:
            yield Problem(
                path=(*here, "until"),
                message=f"must be after from ({day(deal.effective_from)}); it is the first "
                "instant at which the deal no longer holds",
            )
    yield from check_unique_ids(path, [deal.deal_id for deal in tenant.deals])
    yield from _overlaps(path, tenant)


def _overlaps(path: Path, tenant: Tenant) -> Iterator[Problem]:
    numbered = sorted(enumerate(tenant.deals), key=lambda pair: pair[1].effective_from)
    for (_, earlier), (index, later) in itertools.pairwise(numbered):
        if earlier.effective_until is None or later.effective_from < earlier.effective_until:
            yield Problem(
                path=(*path, index, "from"),
                message=f'overlaps the deal "{earlier.deal_id}": end that one with '
                f'"until: {day(later.effective_from)}", or start this one later',
            )


def _deal_fee(path: Path, deal: Deal, plan: Plan | None) -> Iterator[Problem]:
    fee_nanos = deal.committed_fee_nanos
    if fee_nanos is None and plan is not None:
        fee_nanos = plan.committed_fee_nanos
    if deal.allowance_nanos is not None and fee_nanos:
        yield Problem(
            path=(*path, "allowance"),
            message="only a contract without a fee has an allowance: with one, the margin decides; "
            "remove it, or set committed_fee to 0",
        )


def _quota_changes(path: Path, deal: Deal, plan: Plan | None, known: Known) -> Iterator[Problem]:
    meters = {quota.quota_id: quota.meter for quota in plan.quotas} if plan is not None else {}
    quotas = set(meters)
    of_money = {quota_id for quota_id, meter in meters.items() if meter == COGS}
    for index, change in enumerate(deal.quotas):
        here = (*path, index)
        yield from check_id((*here, "id"), change.quota_id)
        if change.meter is not None:
            yield from check_quota_meter(here, change.meter, change.window, known.meters)
        if change.limit_units is not None:
            yield from check_units((*here, "limit"), change.limit_units, least=0)
        yield from check_known(
            (*here, "features"), change.features or (), kind="feature", known=known.features
        )
        if change.meter is None and change.limit_units is not None and change.quota_id in of_money:
            yield Problem(
                path=(*here, "limit"),
                message=f"is an amount here: say meter: {COGS} as well",
            )
        if plan is not None and change.quota_id not in quotas:
            yield from _new_quota(here, change, plan, quotas)
    yield from check_unique_ids(path, [change.quota_id for change in deal.quotas])


def _new_quota(path: Path, change: QuotaChange, plan: Plan, known: set[str]) -> Iterator[Problem]:
    missing = [
        name
        for name, value in (
            ("meter", change.meter),
            ("limit", change.limit_units),
            ("window", change.window),
        )
        if value is None
    ]
    if missing:
        yield Problem(
            path=(*path, "id"),
            message=f'plan "{plan.plan_id}" has no quota "{change.quota_id}" to change, and a '
            f"further one needs {', '.join(missing)} too",
            given=change.quota_id,
            kind="quota",
            choices=tuple(sorted(known)),
        )


def _floors(path: Path, tenant: Tenant, plan: Plan, catalog: Catalog) -> Iterator[Problem]:
    base = catalog.thresholds.changed_by(plan.thresholds)
    for index, deal in enumerate(tenant.deals):
        yield from check_thresholds((*path, "deals", index, "thresholds"), base, deal.thresholds)
    bases = [base, *(base.changed_by(deal.thresholds) for deal in tenant.deals)]
    seen: set[Problem] = set()
    for each in bases:
        for problem in check_thresholds((*path, "thresholds"), each, tenant.thresholds):
            if problem not in seen:
                seen.add(problem)
                yield problem


def _guards(
    path: Path, tenant: Tenant, plan: Plan, catalog: Catalog, known: Known
) -> Iterator[Problem]:
    """Check the deals' guards, and the plan's where its thresholds are not all that holds."""
    base = catalog.thresholds.changed_by(plan.thresholds)
    for index, deal in enumerate(tenant.deals):
        merged = base.changed_by(deal.thresholds).changed_by(tenant.thresholds)
        yield from check_guards((*path, "deals", index, "guards"), deal.guards, merged, known)
        if merged != base:
            yield from check_plan_guards((*path, "deals", index), plan.guards, merged)
    merged = base.changed_by(tenant.thresholds)
    if merged != base:
        yield from check_plan_guards(path, plan.guards, merged)
