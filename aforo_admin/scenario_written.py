"""A scenario → its written form, without what is not said: the inverse of `scenario_yaml`."""

from aforo_admin import written
from aforo_admin.domain.problems import percent
from aforo_admin.domain.scenario import (
    CostChange,
    DealChange,
    DraftChoice,
    FeeChange,
    FloorChange,
    Growth,
    ModelSwap,
    PriceChange,
    Scenario,
)
from aforo_admin.written_rates import said, thresholds
from aforo_admin.written_values import Written, amount
from aforo_meter.domain.rate_card import PerUnit


def scenario(given: Scenario) -> dict[str, Written]:
    return said(
        month=given.month or None,
        tenants=list(given.tenants),
        costs=[_cost(each) for each in given.costs],
        prices=[_price(each) for each in given.prices],
        fees=[_fee(each) for each in given.fees],
        floors=[_floors(each) for each in given.floors],
        models=[_swap(each) for each in given.swaps],
        growth=[_growth(each) for each in given.growths],
        drafts=[_draft(each) for each in given.drafts],
        deals=[_deal(each) for each in given.deals],
    )


def changed(percent_bp: int | None) -> str | None:
    """Write a change by a share with its sign: +20%, -5%."""
    if percent_bp is None:
        return None
    return f"{'+' if percent_bp > 0 else ''}{percent(percent_bp)}"


def _cost(given: CostChange) -> Written:
    return said(
        provider=given.provider or None,
        model=given.model or None,
        meter=given.meter or None,
        percent=changed(given.percent_bp),
        **_unit_price(given.price),
        negotiated=given.negotiated or None,
    )


def _price(given: PriceChange) -> Written:
    return said(
        plan=given.plan_id,
        component=given.component_id or None,
        percent=changed(given.percent_bp),
        **_unit_price(given.price),
    )


def _unit_price(price: PerUnit | None) -> dict[str, Written]:
    if price is None:
        return {}
    return said(price=amount(price.price_nanos), per=price.per_units)


def _fee(given: FeeChange) -> Written:
    return said(
        plan=given.plan_id,
        percent=changed(given.percent_bp),
        fee=None if given.fee_nanos is None else amount(given.fee_nanos),
    )


def _floors(given: FloorChange) -> Written:
    return said(
        plan=given.plan_id or None, tenant=given.tenant_id or None, **thresholds(given.thresholds)
    )


def _swap(given: ModelSwap) -> Written:
    return said(
        from_=given.model,
        to=given.to_model,
        provider=given.provider or None,
        to_provider=given.to_provider or None,
    )


def _growth(given: Growth) -> Written:
    return said(
        percent=changed(given.percent_bp),
        tenant=given.tenant_id or None,
        feature=given.feature or None,
    )


def _draft(given: DraftChoice) -> Written:
    return {"plan": given.plan_id, "version": given.number}


def _deal(given: DealChange) -> Written:
    return {"tenant": given.tenant_id, "deal": written.deal(given.deal)}
