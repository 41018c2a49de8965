"""A statement in the columns of FOCUS 1.2, the FinOps Open Cost and Usage Specification.

All mandatory columns, and of the others those that a statement knows. Unit prices and SKUs are
left out: there is no published list of them, and of a graduated price no single one would be true.
"""

import csv
import io
from typing import Final

from aforo_meter.domain.rating import LLM_METERS
from aforo_meter.domain.statement import Line, LineKind, Statement
from aforo_meter.domain.usage import API_CALLS
from aforo_meter.line_text import line_text
from aforo_meter.shown_values import exact_amount, exact_units, instant

COLUMNS: Final = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass"),
    *("ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart"),
    *("ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost", "InvoiceId"),
    *("InvoiceIssuerName", "ListCost", "PricingCategory", "PricingQuantity", "PricingUnit"),
    *("ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ServiceSubcategory"),
    *("SubAccountId", "SubAccountName"),
)
NULL: Final = ""  # What the specification calls null, where it allows that.
BYTES_METERS: Final = "bytes."
FEE_UNIT: Final = "Period"
USAGE: Final = "Usage"
PURCHASE: Final = "Purchase"


def as_focus(told: Statement, *, issuer: str) -> str:
    """Return CSV with one charge a row.

    Args:
        told: The statement.
        issuer: Who sells and invoices: three mandatory columns name it, and none may be null.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(told, line, issuer) for line in told.lines)
    return out.getvalue().removesuffix("\n")


def _row(told: Statement, line: Line, issuer: str) -> dict[str, str]:
    span = line.span or told.period
    # No list price and no amortisation is told apart: all four costs are what the line bills.
    cost = exact_amount(line.amount_nanos)
    category, frequency = _category(line)
    is_priced = category in {USAGE, PURCHASE}
    is_of_a_model = line.meter.startswith(LLM_METERS)
    quantity, unit = ("1", FEE_UNIT)
    if line.meter:
        quantity, unit = exact_units(line.charged_micros), _unit(line.meter)
    return {
        "BilledCost": cost,
        "BillingAccountId": told.tenant_id,
        "BillingAccountName": NULL,  # The ledger knows ids.
        "BillingCurrency": told.currency,
        "BillingPeriodEnd": instant(told.period.end_micros),
        "BillingPeriodStart": instant(told.period.start_micros),
        "ChargeCategory": category,
        "ChargeClass": "Correction" if line.kind is LineKind.ADJUSTMENT else NULL,
        "ChargeDescription": line_text(line, told.period),
        "ChargeFrequency": frequency,
        "ChargePeriodEnd": instant(span.end_micros),
        "ChargePeriodStart": instant(span.start_micros),
        "ConsumedQuantity": exact_units(line.used_micros) if category == USAGE else NULL,
        "ConsumedUnit": unit if category == USAGE else NULL,
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "InvoiceId": NULL,  # A preview has none.
        "InvoiceIssuerName": issuer,
        "ListCost": cost,
        "PricingCategory": "Standard" if is_priced else NULL,
        "PricingQuantity": quantity if is_priced else NULL,
        "PricingUnit": unit if is_priced else NULL,
        "ProviderName": issuer,
        "PublisherName": issuer,
        "ServiceCategory": "AI and Machine Learning" if is_of_a_model else "Other",
        "ServiceName": told.plan_id or "API",
        "ServiceSubcategory": "Generative AI" if is_of_a_model else "Other (Other)",
        "SubAccountId": told.subscription_id,
        "SubAccountName": NULL,
    }


def _category(line: Line) -> tuple[str, str]:
    """Return the charge's category and frequency. What nobody has used is no usage."""
    if line.kind is LineKind.USAGE and line.used_micros:
        return USAGE, "Usage-Based"
    if line.kind in {LineKind.FEE, LineKind.USAGE}:
        return PURCHASE, "Recurring"
    if line.kind is LineKind.MINIMUM:
        return "Adjustment", "Recurring"
    if line.kind is LineKind.ADJUSTMENT:
        return "Adjustment", "One-Time"
    return "Credit", "Recurring"


def _unit(meter: str) -> str:
    if meter.startswith(LLM_METERS):
        return "Tokens"
    if meter.startswith(BYTES_METERS):
        return "B"
    return "Requests" if meter == API_CALLS else "Units"
