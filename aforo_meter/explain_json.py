"""Why a tenant has its level, as programs read it."""

import json
from typing import Any

from aforo_meter.domain.floors import Standing, standings
from aforo_meter.domain.inquiry import CostLine
from aforo_meter.domain.margin import Assessment, Thresholds
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.explanation import Explanation, GuardTold
from aforo_meter.shown_values import instant
from aforo_meter.tenant_reading import Override


def as_json(told: Explanation) -> str:
    """Return a document. Money is whole nanos, quantities are whole micros."""
    state = told.record.state
    assessment = state.assessment
    document: dict[str, Any] = {
        "tenant": state.tenant_id,
        "subscription": state.subscription_id,
        "plan": told.statement.plan_id,
        "period": period_json(state.period),
        "currency": state.currency,
        "contract_currency": told.statement.currency,
        "level": state.level.name.lower(),
        "level_since": _instant(state.level_since_micros),
        "in_force": state.in_force,
        "decided_level": told.decided_level.name.lower(),
        "override": override_json(told.override),
        "shadow": told.known.shadow,
        "margin": {**_margin_json(assessment), "allowance_nanos": assessment.allowance_nanos},
        "floors": _floors_json(assessment, told.thresholds),
        "guards": [_guard_json(one, told) for one in told.guards],
        "revenue": [
            {"kind": line.kind.value, "item": line.item, "amount_nanos": line.amount_nanos}
            for line in told.revenue_lines
        ],
        "cogs": [cost_json(line) for line in told.record.costs],
        "estimated_cogs_nanos": state.estimated_cogs_nanos,
        "unpriced_rows": state.unpriced_rows,
        "usage": {meter: used._asdict() for meter, used in told.record.units_by_meter().items()},
        "adjustments": [one._asdict() for one in told.record.adjusted],
        "interventions": [one._asdict() for one in told.record.interventions],
        "as_of": _ages_json(told),
    }
    return json.dumps(document, indent=2)


def _margin_json(assessment: Assessment) -> dict[str, Any]:
    ratio = assessment.gross_margin_ratio
    return {
        "state": assessment.state.value,
        "gross_margin_ratio": None if ratio is None else str(ratio),
        "revenue_nanos": assessment.revenue_nanos,
        "cogs_nanos": assessment.cogs_nanos,
    }


def _floors_json(assessment: Assessment, thresholds: Thresholds) -> dict[str, Any]:
    return {
        "source": thresholds.source,
        "hysteresis_bp": thresholds.hysteresis_bp,
        "floors": [_floor_json(one) for one in standings(assessment, thresholds)],
    }


def _guard_json(one: GuardTold, told: Explanation) -> dict[str, Any]:
    guard, state = one.guard, one.state
    return {
        "guard": state.guard_id,
        "features": None if guard is None else sorted(guard.features),
        "meters": None if guard is None else list(guard.meters),
        "level": state.level.name.lower(),
        "level_since": _instant(state.level_since_micros),
        "decided_level": told.decided(state.level).name.lower(),
        "margin": _margin_json(state.assessment),
        "floors": None if guard is None else _floors_json(state.assessment, guard.thresholds),
    }


def _ages_json(told: Explanation) -> dict[str, Any]:
    state, published = told.record.state, told.known.published
    return {
        "now": instant(told.now_micros),
        "assessed": _instant(state.assessed_at_micros),
        "published": _instant(published.as_of_micros if published else None),
        "usage_complete": _instant(published.confirmed_micros if published else None),
        "synced": _instant(told.synced.completed_at_micros),
        "catalog_version": told.synced.catalog_version,
        "price_book_version": told.synced.price_book_version,
        "assessed_catalog_version": state.catalog_version,
        "assessed_price_book_version": state.price_book_version,
    }


def period_json(period: PeriodMicros) -> dict[str, str]:
    return {"start": instant(period.start_micros), "end": instant(period.end_micros)}


def override_json(override: Override | None) -> dict[str, Any] | None:
    if override is None:
        return None
    return {
        "level_max": override.level_max.name.lower(),
        "until": instant(override.until_micros),
        "reason": override.reason,
        "author": override.author,
    }


def cost_json(line: CostLine) -> dict[str, Any]:
    price = line.price
    return {
        "meter": line.meter,
        "provider": line.provider,
        "model": line.model,
        "quantity_micros": line.quantity_micros,
        "estimated_micros": line.estimated_micros,
        "cogs_nanos": line.cogs_nanos if price else None,
        "price": None
        if price is None
        else {
            "price_id": price.price_id,
            "price_nanos": price.price_nanos,
            "per_units": price.per_units,
            "currency": price.currency,
            "precedence": price.precedence.value,
            "source": price.source,
            "effective_from": _instant(price.effective_from_micros),
            "tier_input_tokens_from": price.tier_input_tokens_from,
        },
    }


def _floor_json(one: Standing) -> dict[str, Any]:
    return {
        "level": one.level.name.lower(),
        "floor_bp": one.floor_bp,
        "cogs_max_nanos": one.cogs_max_nanos,
        "undercut": one.is_undercut,
        "held": one.is_held,
        "ends_at_bp": one.ends_at_bp,
    }


def _instant(micros: int | None) -> str | None:
    return instant(micros) if micros else None
