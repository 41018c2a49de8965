"""The tenants' part of the written catalog → the domain's. docs/catalog.md describes it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from aforo_admin.catalog_yaml_metering import revoked
from aforo_admin.catalog_yaml_rates import read_rate_cards
from aforo_admin.catalog_yaml_thresholds import read_guards, read_thresholds
from aforo_admin.domain.catalog import (
    COGS,
    CostPrice,
    Credential,
    Deal,
    MarginOverride,
    Plan,
    PlanChange,
    QuotaChange,
    Subscription,
    Tenant,
)
from aforo_admin.domain.checking_tenants import IDENTITY_FIELDS
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_scalars import (
    amount_nanos,
    choice,
    flag,
    instant,
    text,
    time_of_day_s,
    units,
)
from aforo_authz.domain.access import CredentialKind, Level, SubscriptionState
from aforo_authz.domain.quotas import WindowKind
from aforo_meter.domain.terms import RevenueBasis

LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
UNLIMITED: Final = "unlimited"

read_state = choice("state", SubscriptionState)
read_window = choice("window", WindowKind)
read_basis = choice("revenue basis", RevenueBasis)
read_level_max = choice("level", [Level.NONE, Level.WARN, Level.THROTTLE])


def read_tenant(
    tenant_id: str, fields: Fields, *, currency: str, plans: Mapping[str, Plan]
) -> Tenant:
    subscription = read_subscription(fields.need_section("subscription"))
    plan = plans.get(subscription.plan_id)
    of_plan = (plan.currency if plan is not None else "") or currency
    tenant = Tenant(
        tenant_id=tenant_id,
        name=fields.may("name", text, tenant_id),
        subscription=subscription,
        former=tuple(read_subscription(each) for each in fields.each("former_subscriptions")),
        credentials=tuple(_credential(each) for each in fields.each("credentials")),
        deals=tuple(read_deal(each, currency, of_plan) for each in fields.each("deals")),
        thresholds=read_thresholds(fields, currency),
        shadow=fields.may("shadow", flag, None),
        margin_override=_margin_override(fields),
        negotiated_costs=read_costs(fields, "negotiated_costs", currency=currency),
    )
    fields.close()
    return tenant


def read_costs(fields: Fields, key: str, *, currency: str) -> tuple[CostPrice, ...]:
    return tuple(_cost(each, currency) for each in fields.each(key))


def _cost(fields: Fields, currency: str) -> CostPrice:
    price = CostPrice(
        meter=fields.need("meter", text, ""),
        price_nanos=fields.need("price", amount_nanos(currency), 0),
        per_units=fields.need("per", units, 1),
        effective_from=fields.need("from", instant, LONG_AGO),
        # Providers and models are compared in lower case.
        provider=fields.may("provider", str.lower, ""),
        model=fields.may("model", str.lower, ""),
        input_tokens_from=fields.may("input_tokens_from", units, 0),
        day_from_s=fields.may("day_from", time_of_day_s, 0),
        day_to_s=fields.may("day_to", time_of_day_s, 0),
    )
    fields.close()
    return price


def read_subscription(fields: Fields) -> Subscription:
    subscription = Subscription(
        subscription_id=fields.need("id", text, ""),
        plan_id=fields.need("plan", text, ""),
        started_at=fields.need("started_at", instant, LONG_AGO),
        state=fields.may("state", read_state, SubscriptionState.ACTIVE),
        changes=tuple(_plan_change(each) for each in fields.each("changes")),
        ended_at=fields.may("ended_at", instant, None),
    )
    fields.close()
    return subscription


def _plan_change(fields: Fields) -> PlanChange:
    change = PlanChange(
        plan_id=fields.need("plan", text, ""),
        effective_from=fields.need("from", instant, LONG_AGO),
    )
    fields.close()
    return change


def _credential(fields: Fields) -> Credential:
    given = [(kind, key) for kind, key in IDENTITY_FIELDS.items() if key in fields]
    names = ", ".join(IDENTITY_FIELDS.values())
    if not given:
        fields.note((), f"identifies nobody: give one of {names}")
    for _, key in given[1:]:
        fields.note((key,), f"stands beside {given[0][1]}; a credential has one of {names}")
    kind = given[0][0] if given else CredentialKind.API_KEY
    identities = {key: fields.may(key, text, "") for key in IDENTITY_FIELDS.values()}
    identity = identities[IDENTITY_FIELDS[kind]]
    credential = Credential(
        credential_id=fields.need("id", text, ""),
        kind=kind,
        identity=identity.lower() if kind is CredentialKind.API_KEY else identity,
        revoked=fields.may("status", revoked, default=False),
        expires_at=fields.may("expires_at", instant, None),
    )
    fields.close()
    return credential


def read_deal(fields: Fields, currency: str, of_plan: str) -> Deal:
    """Read a deal; `currency` is the catalog's, which costs are in."""
    own = fields.may("currency", text, "")
    amount = amount_nanos(own or of_plan)
    rate_cards = read_rate_cards(fields, currency=own or of_plan)
    deal = Deal(
        deal_id=fields.need("id", text, ""),
        effective_from=fields.need("from", instant, LONG_AGO),
        effective_until=fields.may("until", instant, None),
        committed_fee_nanos=fields.may("committed_fee", amount, None),
        allowance_nanos=fields.may("allowance", amount_nanos(currency), None),
        currency=own,
        basis=fields.may("revenue_basis", read_basis, None),
        rate_cards=rate_cards if "rate_card" in fields else None,
        prepaid_nanos=fields.may("prepaid", amount, None),
        add_features=fields.texts("add_features") or (),
        quotas=tuple(_quota_change(each, currency) for each in fields.each("quotas")),
        thresholds=read_thresholds(fields, currency),
        guards=read_guards(fields, currency),
    )
    fields.close()
    return deal


def limit_of(meter: str, currency: str) -> Callable[[str], int]:
    """Return a reader of a quota's limit: an amount of money in nanos, else whole units."""
    return amount_nanos(currency) if meter == COGS else units


def _quota_change(fields: Fields, currency: str) -> QuotaChange:
    meter = fields.may("meter", text, None)
    read_limit = limit_of(meter or "", currency)
    limit_units = fields.may(
        "limit", lambda given: UNLIMITED if given == UNLIMITED else read_limit(given), None
    )
    change = QuotaChange(
        quota_id=fields.need("id", text, ""),
        meter=meter,
        limit_units=limit_units if isinstance(limit_units, int) else None,
        unlimited=limit_units == UNLIMITED,
        window=fields.may("window", read_window, None),
        features=fields.texts("features"),
        soft=fields.may("soft", flag, None),
    )
    fields.close()
    return change


def _margin_override(tenant: Fields) -> MarginOverride | None:
    if "margin_override" not in tenant:
        tenant.section("margin_override")
        return None
    fields = tenant.section("margin_override")
    override = MarginOverride(
        level_max=fields.need("level_max", read_level_max, Level.NONE),
        until=fields.need("until", instant, LONG_AGO),
        reason=fields.need("reason", text, ""),
        author=fields.need("author", text, ""),
    )
    fields.close()
    return override
