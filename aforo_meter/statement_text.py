"""A statement as a table, as CSV and as JSON. COGS and margin only where they are asked for."""

import csv
import io
import json
from typing import Any, Final

from aforo_meter.command_tables import columns, minute, money, units
from aforo_meter.domain.inquiry import Record
from aforo_meter.domain.statement import Statement
from aforo_meter.explain_json import cost_json, period_json
from aforo_meter.explain_text import model_of, price_text
from aforo_meter.line_text import line_text
from aforo_meter.shown_values import exact_amount, exact_units, instant, margin, span

COGS: Final = "cogs"  # The kind of a CSV row that says what usage cost us.
CSV_COLUMNS: Final = (
    *("tenant", "subscription", "period_start", "period_end", "kind", "item", "meter", "text"),
    *("used", "charged", "is_estimated", "amount", "currency"),
)


def as_table(told: Statement, internal: Record | None) -> str:
    """Return a statement for a terminal; with `internal`, what no customer may see."""
    plan = f", plan {told.plan_id}" if told.plan_id else ""
    state = "the period is over" if told.is_final else "so far"
    rows = [
        (
            line_text(line, told.period),
            f"{'~' if line.is_estimated else ''}{units(line.used_micros)}" if line.meter else "",
            units(line.charged_micros) if line.meter else "",
            money(line.amount_nanos),
        )
        for line in told.lines
    ]
    head = ("", "used", "charged", told.currency)
    total = ("total", "", "", money(told.total_nanos))
    lines = [
        f"statement  {told.tenant_id}, subscription {told.subscription_id or 'none'}{plan}",
        f"period     {span(told.period)}",
        f"as of      {minute(told.as_of_micros)} UTC, {state}",
        "",
        *columns([head, *rows, total], right={1, 2, 3}),
    ]
    if told.begins_micros is not None:
        lines.append(f"the subscription begins {minute(told.begins_micros)} UTC")
    if told.prepaid_left_nanos:
        lines.append(f"left of the prepaid balance: {money(told.prepaid_left_nanos)}")
    if any(line.is_estimated for line in told.lines):
        lines += ["", "~ partly estimated"]
    if internal is not None:
        lines += ["", *_internal(internal)]
    return "\n".join(lines)


def _internal(record: Record) -> list[str]:
    rows = [
        (
            line.meter,
            model_of(line),
            units(line.quantity_micros),
            f"{price_text(line.price)}, {line.price.precedence}" if line.price else "unpriced",
            money(line.cogs_nanos) if line.price else "-",
        )
        for line in record.costs
    ]
    head = ("COGS", "model", "quantity", "price", "amount")
    total = ("total", "", "", "", money(record.state.cogs_nanos))
    return [
        "INTERNAL: not for the customer",
        *columns([head, *rows, total], right={2, 4}),
        f"margin     {margin(record.state.assessment)}",
    ]


def as_csv(told: Statement, internal: Record | None) -> str:
    """Return one row a line of the statement; amounts and quantities are exact decimals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    whose = (
        *(told.tenant_id, told.subscription_id),
        *(instant(told.period.start_micros), instant(told.period.end_micros)),
    )
    for line in told.lines:
        writer.writerow(
            (
                *(*whose, line.kind.value, line.item, line.meter, line_text(line, told.period)),
                *(
                    (exact_units(line.used_micros), exact_units(line.charged_micros))
                    if line.meter
                    else ("", "")
                ),
                *(str(line.is_estimated).lower(), exact_amount(line.amount_nanos), told.currency),
            )
        )
    for cost in internal.costs if internal else ():
        price = cost.price
        # The model last: it comes from outside, and no cell may begin as a spreadsheet's formula.
        text = f"{price_text(price) if price else 'unpriced'}, {model_of(cost)}"
        writer.writerow(
            (
                *(*whose, COGS, price.price_id if price else "", cost.meter, text),
                *(exact_units(cost.quantity_micros), ""),
                str(cost.estimated_micros > 0).lower(),
                *((exact_amount(cost.cogs_nanos), price.currency) if price else ("", "")),
            )
        )
    return out.getvalue().removesuffix("\n")


def as_json(told: Statement, internal: Record | None) -> str:
    """Return a document. Money is whole nanos, quantities are whole micros."""
    document: dict[str, Any] = {
        "tenant": told.tenant_id,
        "subscription": told.subscription_id,
        "plan": told.plan_id,
        "period": period_json(told.period),
        "as_of": instant(told.as_of_micros),
        "is_final": told.is_final,
        "currency": told.currency,
        "lines": [
            {
                "kind": line.kind.value,
                "item": line.item,
                "meter": line.meter,
                "text": line_text(line, told.period),
                "used_micros": line.used_micros,
                "charged_micros": line.charged_micros,
                "is_estimated": line.is_estimated,
                "span": period_json(line.span) if line.span else None,
                "amount_nanos": line.amount_nanos,
            }
            for line in told.lines
        ],
        "prepaid_left_nanos": told.prepaid_left_nanos,
        "total_nanos": told.total_nanos,
    }
    if internal is not None:
        ratio = internal.state.assessment.gross_margin_ratio
        document["internal"] = {
            "cogs": [cost_json(line) for line in internal.costs],
            "cogs_nanos": internal.state.cogs_nanos,
            "unpriced_rows": internal.state.unpriced_rows,
            "gross_margin_ratio": None if ratio is None else str(ratio),
        }
    return json.dumps(document, indent=2)
