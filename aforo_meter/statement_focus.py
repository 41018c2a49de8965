"""A statement in the columns of FOCUS 1.2, the FinOps Open Cost and Usage Specification.

All mandatory columns, and of the others those that a statement knows. Unit prices and SKUs are
left out: there is no published list of them, and of a graduated price no single one would be true.
"""

import csv
import io
from typing import Final

from aforo_meter.domain.periods import Cadence
from aforo_meter.domain.rating import LLM_METERS
from aforo_meter.domain.statement import Line, LineKind, Statement
from aforo_meter.domain.usage import API_CALLS
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
FEE_UNITS: Final = {str(Cadence.MONTH): "Month", str(Cadence.YEAR): "Year"}


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
    is_fee = line.kind is LineKind.FEE
    start, end = instant(told.period.start_micros), instant(told.period.end_micros)
    # No list price, credit or prepayment is told apart: all four costs are what the line bills.
    cost = exact_amount(line.amount_nanos)
    quantity, unit = exact_units(line.quantity_micros), _unit(line)
    is_of_a_model = line.item.startswith(LLM_METERS)
    return {
        "BilledCost": cost,
        "BillingAccountId": told.tenant_id,
        "BillingAccountName": NULL,  # The ledger knows ids.
        "BillingCurrency": told.currency,
        "BillingPeriodEnd": end,
        "BillingPeriodStart": start,
        "ChargeCategory": "Purchase" if is_fee else "Usage",
        "ChargeClass": NULL,  # "Correction" would be one of a period that was invoiced before.
        "ChargeDescription": line.text,
        "ChargeFrequency": "Recurring" if is_fee else "Usage-Based",
        "ChargePeriodEnd": end,
        "ChargePeriodStart": start,
        "ConsumedQuantity": NULL if is_fee else quantity,
        "ConsumedUnit": NULL if is_fee else unit,
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "InvoiceId": NULL,  # A preview has none.
        "InvoiceIssuerName": issuer,
        "ListCost": cost,
        "PricingCategory": "Standard",
        "PricingQuantity": quantity,
        "PricingUnit": unit,
        "ProviderName": issuer,
        "PublisherName": issuer,
        "ServiceCategory": "AI and Machine Learning" if is_of_a_model else "Other",
        "ServiceName": told.plan_id or "API",
        "ServiceSubcategory": "Generative AI" if is_of_a_model else "Other (Other)",
        "SubAccountId": told.subscription_id,
        "SubAccountName": NULL,
    }


def _unit(line: Line) -> str:
    if line.kind is LineKind.FEE:
        return FEE_UNITS.get(line.unit, "Period")
    if line.item.startswith(LLM_METERS):
        return "Tokens"
    if line.item.startswith(BYTES_METERS):
        return "B"
    return "Requests" if line.item == API_CALLS else "Units"
