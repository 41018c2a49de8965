"""The catalog → its written form (docs/catalog.md), which reads back as the same catalog."""

from aforo_admin import written_rates as rates
from aforo_admin.domain.catalog import (
    COGS,
    Billing,
    Catalog,
    CostPrice,
    Credential,
    Deal,
    Feature,
    IngestKey,
    MarginOverride,
    Meter,
    MeteringRule,
    Plan,
    PlanChange,
    Quota,
    QuotaChange,
    Route,
    Subscription,
    Tenant,
)
from aforo_admin.domain.checking_tenants import IDENTITY_FIELDS
from aforo_admin.written_rates import said
from aforo_admin.written_values import (
    Written,
    amount,
    factor,
    instant,
    instant_of_micros,
    time_of_day,
)
from aforo_authz.domain.access import SubscriptionState
from aforo_meter.domain.metering import Quantity
from aforo_meter.domain.periods import Cadence
from aforo_meter.domain.terms import ExchangeRate, RevenueBasis
from aforo_meter.domain.usage import MICROS_PER_UNIT


def catalog(given: Catalog) -> dict[str, Written]:
    return said(
        version=1,
        currency=given.currency,
        exchange_rates=[exchange_rate(each) for each in given.exchange_rates],
        **rates.thresholds(given.thresholds),
        features=[feature(each) for each in given.features],
        routes=[route(each) for each in given.routes],
        default_route="allow" if given.default_allows else "deny",
        meters=[meter(each) for each in given.meters],
        metering=[rule(each) for each in given.metering],
        ingest_keys=[ingest_key(each) for each in given.ingest_keys],
        plans={name: plan(each) for name, each in sorted(given.plans.items())},
        tenants={name: tenant(each) for name, each in sorted(given.tenants.items())},
        built_in_costs=given.prices_file or given.built_in_costs,
        costs=[cost(each) for each in given.costs],
    )


def exchange_rate(given: ExchangeRate) -> Written:
    start = instant_of_micros(given.effective_from_micros)
    return {"currency": given.currency, "rate": amount(given.rate_nanos), "from": start}


def feature(given: Feature) -> Written:
    return said(id=given.feature_id, title=_other_than(given.feature_id, given.title))


def route(given: Route) -> Written:
    return {
        **said(methods=list(given.methods)),
        "path": given.path_template,
        "features": list(given.features),
        **said(weight=given.weight_units if given.weight_units != 1 else None),
    }


def meter(given: Meter) -> Written:
    return said(
        id=given.meter,
        title=_other_than(given.meter, given.title),
        unit=given.unit or None,
        aliases=list(given.aliases),
    )


def rule(given: MeteringRule) -> Written:
    quantity: str | None = given.quantity.value
    if given.quantity is Quantity.ONE:
        micros = given.quantity_micros
        quantity = factor(micros) if micros != MICROS_PER_UNIT else None
    return said(
        id=given.rule_id,
        methods=list(given.methods),
        path=given.path_template or None,
        routes=list(given.routes),
        features=list(given.features),
        status=list(given.statuses),
        execution_status=list(given.execution_statuses),
        exclude=given.exclude or None,
        meter=given.meter or None,
        quantity=quantity,
    )


def ingest_key(given: IngestKey) -> Written:
    return {
        "id": given.key_id,
        "sha256": given.sha256,
        "scopes": list(given.scopes),
        **said(
            installation=given.installation or None,
            tenants=list(given.tenants),
            status="revoked" if given.revoked else None,
            expires_at=None if given.expires_at is None else instant(given.expires_at),
        ),
    }


def plan(given: Plan) -> Written:
    allowance = given.allowance_nanos
    return {
        **said(
            title=_other_than(given.plan_id, given.title),
            committed_fee=amount(given.committed_fee_nanos),
            allowance=None if allowance is None else amount(allowance),
            currency=given.currency or None,
            cadence=_other_than(Cadence.MONTH, given.cadence),
            billing=_other_than(Billing.ANNIVERSARY, given.billing),
            revenue_basis=_other_than(RevenueBasis.PERIOD, given.basis),
            prepaid=amount(given.prepaid_nanos) if given.prepaid_nanos else None,
        ),
        "features": list(given.features),
        **said(
            quotas=[quota(each) for each in given.quotas],
            **rates.thresholds(given.thresholds),
            guards=[rates.guard(each) for each in given.guards],
            rate_card=[rates.rate_card(each) for each in given.rate_cards],
            shadow=given.shadow or None,
            stale_margin_blocks=given.stale_margin_blocks or None,
        ),
    }


def quota(given: Quota) -> Written:
    limit: Written = given.limit_units
    return said(
        id=given.quota_id,
        meter=given.meter,
        limit=amount(given.limit_units) if given.meter == COGS else limit,
        window=given.window.value,
        features=list(given.features),
        soft=given.soft or None,
    )


def tenant(given: Tenant) -> Written:
    override = given.margin_override
    return said(
        name=_other_than(given.tenant_id, given.name),
        subscription=subscription(given.subscription),
        former_subscriptions=[subscription(each) for each in given.former],
        credentials=[credential(each) for each in given.credentials],
        deals=[deal(each) for each in given.deals],
        **rates.thresholds(given.thresholds),
        shadow=given.shadow,
        margin_override=None if override is None else margin_override(override),
        negotiated_costs=[cost(each) for each in given.negotiated_costs],
    )


def subscription(given: Subscription) -> Written:
    return said(
        id=given.subscription_id,
        plan=given.plan_id,
        state=_other_than(SubscriptionState.ACTIVE, given.state),
        started_at=instant(given.started_at),
        changes=[plan_change(each) for each in given.changes],
        ended_at=None if given.ended_at is None else instant(given.ended_at),
    )


def plan_change(given: PlanChange) -> Written:
    return {"plan": given.plan_id, "from": instant(given.effective_from)}


def credential(given: Credential) -> Written:
    return {
        "id": given.credential_id,
        IDENTITY_FIELDS[given.kind]: given.identity,
        **said(
            status="revoked" if given.revoked else None,
            expires_at=None if given.expires_at is None else instant(given.expires_at),
        ),
    }


def deal(given: Deal) -> Written:
    until, fee, prepaid = given.effective_until, given.committed_fee_nanos, given.prepaid_nanos
    allowance, cards = given.allowance_nanos, given.rate_cards
    written = said(
        id=given.deal_id,
        from_=instant(given.effective_from),
        until=None if until is None else instant(until),
        committed_fee=None if fee is None else amount(fee),
        allowance=None if allowance is None else amount(allowance),
        currency=given.currency or None,
        revenue_basis=None if given.basis is None else given.basis.value,
        prepaid=None if prepaid is None else amount(prepaid),
        add_features=list(given.add_features),
        quotas=[quota_change(each) for each in given.quotas],
        **rates.thresholds(given.thresholds),
        guards=[rates.guard(each) for each in given.guards],
    )
    if cards is not None:  # An empty list says that usage brings no revenue.
        written["rate_card"] = [rates.rate_card(each) for each in cards]
    return written


def quota_change(given: QuotaChange) -> Written:
    limit: Written | None = given.limit_units
    if given.unlimited:
        limit = "unlimited"
    elif given.limit_units is not None and given.meter == COGS:
        limit = amount(given.limit_units)
    written = said(
        id=given.quota_id,
        meter=given.meter,
        limit=limit,
        window=None if given.window is None else given.window.value,
        soft=given.soft,
    )
    if given.features is not None:  # An empty list says: of all calls.
        written["features"] = list(given.features)
    return written


def margin_override(given: MarginOverride) -> Written:
    return {
        "level_max": given.level_max.name.lower(),
        "until": instant(given.until),
        "reason": given.reason,
        "author": given.author,
    }


def cost(given: CostPrice) -> Written:
    return said(
        meter=given.meter,
        price=amount(given.price_nanos),
        per=given.per_units,
        from_=instant(given.effective_from),
        provider=given.provider or None,
        model=given.model or None,
        input_tokens_from=given.input_tokens_from or None,
        day_from=time_of_day(given.day_from_s) if given.day_from_s != given.day_to_s else None,
        day_to=time_of_day(given.day_to_s) if given.day_from_s != given.day_to_s else None,
    )


def _other_than(default: str, given: str) -> str | None:
    """Return a plain text; None where it is the default, which need not be written."""
    return str.__str__(given) if given != default else None
