"""Thresholds and guards as written → the domain's. docs/catalog.md describes them."""

from aforo_admin.domain.catalog import Guard, ThresholdChanges
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_scalars import amount_nanos, percent_bp, text, units
from aforo_meter.domain.margin import AllowanceThresholds


def read_thresholds(fields: Fields, currency: str) -> ThresholdChanges:
    """Read the fields `thresholds` and `allowance_thresholds`."""
    return _thresholds(fields, currency, allowance=_allowance(fields))


def read_guards(fields: Fields, currency: str) -> tuple[Guard, ...]:
    """Read the field `guards`."""
    return tuple(_guard(each, currency) for each in fields.each("guards"))


def _guard(fields: Fields, currency: str) -> Guard:
    guard = Guard(
        guard_id=fields.need("id", text, ""),
        features=fields.texts("features") or (),
        meters=fields.texts("meters") or (),
        revenue_nanos=fields.may("revenue", amount_nanos(currency), None),
        revenue_share_bp=fields.may("revenue_share", percent_bp, None),
        thresholds=_thresholds(fields, currency, allowance=None),
    )
    fields.close()
    return guard


def _thresholds(
    parent: Fields, currency: str, *, allowance: AllowanceThresholds | None
) -> ThresholdChanges:
    fields = parent.section("thresholds")
    changes = ThresholdChanges(
        warn_below_bp=fields.may("warn_below", percent_bp, None),
        throttle_below_bp=fields.may("throttle_below", percent_bp, None),
        block_below_bp=fields.may("block_below", percent_bp, None),
        hysteresis_bp=fields.may("hysteresis", percent_bp, None),
        act_from_revenue_nanos=fields.may("act_from_revenue", amount_nanos(currency), None),
        act_from_calls=fields.may("act_from_calls", units, None),
        allowance=allowance,
    )
    fields.close()
    return changes


def _allowance(parent: Fields) -> AllowanceThresholds | None:
    fields = parent.section("allowance_thresholds")
    if "allowance_thresholds" not in parent:
        return None
    allowance = AllowanceThresholds(
        warn_at_bp=fields.need("warn_at", percent_bp, 0),
        throttle_at_bp=fields.need("throttle_at", percent_bp, 0),
        block_at_bp=fields.need("block_at", percent_bp, 0),
    )
    fields.close()
    return allowance
