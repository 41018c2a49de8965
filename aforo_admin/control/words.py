"""What forms say beside their fields: labels and hints for those who sell and price.

Columns say what databases must know. A hint is found by its model and column, else by its column.
"""

from typing import Any, Final

from django.db import models

UTC: Final = "(UTC)"
ENDS: Final = "From this moment on it no longer holds. Empty: no end is set."

LABELS: Final = {
    "basis": "Revenue basis",
    "day_from_s": f"Day from {UTC}",
    "day_to_s": f"Day to {UTC}",
    "level_max": "At worst",
    "quantity_micros": "Units a call",
    "rate_nanos": "Worth",
    "url_kept_in": "URL kept in",
}

# Lines as the catalog writes them, each of which a form reads as it stands here.
EXAMPLES: Final = {
    "components": "- {id: calls, meter: api.calls, included: 1000, price: 0.50, per: 1k}",
    "discounts": "- {percent: 10%, from: 2027-01-01, until: 2027-04-01}",
}
TIERS: Final = (
    "- {id: tokens, meter: llm.input_tokens, "
    "graduated: [{up_to: 1M, price: 3, per: 1M}, {price: 2, per: 1M}]}"
)

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
    "components": (
        "What usage is charged: each line of the bill a line like "
        f"{EXAMPLES['components']} or, with tiers, {TIERS} \N{EM DASH} in the currency of the fee. "
        "Empty: nothing. docs/catalog.md#rate_card has all that a line can say, docs/pricing.md "
        "how it is worked out. JSON is read as well."
    ),
    "discounts": (
        f"Off the sum of these lines, in turn: like {EXAMPLES['discounts']} or "
        "- {amount: 50}. Empty: none. docs/catalog.md#rate_card says more."
    ),
    "day_from_s": "The time of the day, like 22:00. 00:00 in both: all day.",
    "day_to_s": "Until then, like 06:30, the next morning if it is earlier. 24:00 is 00:00.",
    "effective_until": ENDS,
    "ended_at": ENDS,
    "hysteresis_bp": "How far above a floor the margin must rise before its level ends, like 1%.",
    "level_max": "Calls are decided as if the level were no worse than this.",
    "meter": "Like llm.input_tokens or api.calls.",
    "model": "A name or a part of one, like gpt-4o*. Empty: any.",
    "per_units": "How many units the price is for, like 1000000.",
    "prepaid_nanos": "A balance that charges for usage are paid from first.",
    "price_nanos": "In the catalog's currency, like 2.50.",
    "quantity": "What a call counts: one, or what is known of it.",
    "quantity_micros": "With one: how many units each call counts, like 1, 10 or 0.5.",
    "provider": "As the gateway names it, like openai. Empty: any.",
    "revenue_nanos": (
        "What this usage has to live on, per billing period, in the catalog's currency."
    ),
    "revenue_share_bp": "Instead of an amount: a share of the contract's revenue, like 60%.",
    "stale_margin_blocks": "A margin that is too old to be trusted still blocks.",
    "throttle_below_bp": "Calls are marked, and may go to a cheaper model.",
    "until": "From this moment on it no longer holds. It must be to come.",
    "Deal.allowance_nanos": "Instead of the plan's, in the catalog's currency. Empty: the plan's.",
    "Deal.committed_fee_nanos": (
        "Instead of the plan's, per billing period, in the currency below. Empty: the plan's."
    ),
    "Deal.currency": "Like EUR. Empty: the plan's.",
    "ExchangeRate.currency": "Like EUR.",
    "ExchangeRate.rate_nanos": "Of one unit of it, in the catalog's currency, like 1.12.",
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
    field.label = _label(column, field.label)
    field.help_text = _hint(column, field.help_text)


def put_where_read(model: Any, form: Any) -> None:
    """Give a form's class the same labels and hints for what is only shown."""
    columns = model._meta.concrete_fields
    form._meta.labels = {
        each.name: _label(each, str(each.verbose_name).capitalize()) for each in columns
    }
    form._meta.help_texts = {each.name: _hint(each, each.help_text) for each in columns}


def _label(column: models.Field, otherwise: str) -> str:
    label = LABELS.get(column.name, otherwise)
    return f"{label} {UTC}" if isinstance(column, models.DateTimeField) else label


def _hint(column: models.Field, otherwise: str) -> str:
    named = f"{column.model.__name__}.{column.name}"
    return HINTS.get(named, HINTS.get(column.name, otherwise))
