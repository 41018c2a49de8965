"""What forms say beside their fields: labels and hints for those who sell and price.

Columns say what databases must know. A hint is found by its model and column, else by its column.
"""

from typing import Any, Final

from django.db import models

UTC: Final = "(UTC)"
ENDS: Final = "From this moment on it no longer holds. Empty: no end is set."

LABELS: Final = {
    "basis": "Revenue basis",
    "level_max": "At worst",
    "url_kept_in": "URL kept in",
}

HINTS: Final = {
    "act_from_calls": "With fewer calls in the period the level is at most a warning.",
    "act_from_revenue_nanos": (
        "With less revenue in the period the level is at most a warning. In the catalog's currency."
    ),
    "add_features": "Ids beyond the plan's, separated by commas, like chat, reports.",
    "allowance_block_at_bp": "Calls are refused above it, like 100%.",
    "allowance_throttle_at_bp": "Calls are marked above it, like 90%.",
    "basis": (
        "period: a fee counts whole from the period's first day. accrued: it counts as time passes."
    ),
    "billing": (
        "anniversary: periods begin when the subscription did. "
        "calendar: on the first of the month, or of the year."
    ),
    "block_below_bp": "Calls are refused.",
    "cadence": "How long a billing period is.",
    "effective_until": ENDS,
    "ended_at": ENDS,
    "hysteresis_bp": "How far above a floor the margin must rise before its level ends, like 1%.",
    "level_max": "Calls are decided as if the level were no worse than this.",
    "meter": "Like llm.input_tokens or api.calls.",
    "model": "A name or a part of one, like gpt-4o*. Empty: any.",
    "per_units": "How many units the price is for, like 1000000.",
    "prepaid_nanos": "A balance that charges for usage are paid from first.",
    "price_nanos": "In the catalog's currency, like 2.50.",
    "provider": "As the gateway names it, like openai. Empty: any.",
    "revenue_nanos": (
        "What this usage has to live on, per billing period, in the catalog's currency."
    ),
    "revenue_share_bp": "Instead of an amount: a share of the contract's revenue, like 60%.",
    "stale_margin_blocks": "A margin that is too old to be trusted still blocks.",
    "throttle_below_bp": "Calls are marked, and may go to a cheaper model.",
    "until": "From this moment on it no longer holds.",
    "Deal.allowance_nanos": "Instead of the plan's, in the catalog's currency. Empty: the plan's.",
    "Deal.committed_fee_nanos": (
        "Instead of the plan's, per billing period, in the currency below. Empty: the plan's."
    ),
    "Deal.currency": "Like EUR. Empty: the plan's.",
    "General.currency": "Of costs, and of all amounts that name no other. Like USD.",
    "PlanVersion.allowance_nanos": (
        "Without a fee: what usage may cost us per billing period, in the catalog's currency."
    ),
    "PlanVersion.committed_fee_nanos": "Per billing period, in the currency below. 0: no fee.",
    "PlanVersion.currency": "Like EUR. Empty: the catalog's.",
    "PlanVersion.features": "Ids, separated by commas, like chat, reports.",
    "PlanVersion.shadow": "Decide, count and log, but let every call pass.",
}


def put(column: models.Field, field: Any) -> None:
    """Give a form's field the label and the hint that people read."""
    field.label = LABELS.get(column.name, field.label)
    if isinstance(column, models.DateTimeField):
        field.label = f"{field.label} {UTC}"
    named = f"{column.model.__name__}.{column.name}"
    field.help_text = HINTS.get(named, HINTS.get(column.name, field.help_text))
