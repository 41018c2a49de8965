"""What a contract bills for one period: lines and their total. Pure.

A preview: taxes, rounding to what can be paid, and the invoice's number are the billing system's.
"""

from dataclasses import dataclass
from enum import StrEnum

from aforo_meter.domain.inquiry import Record
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.terms import Terms


class LineKind(StrEnum):
    FEE = "fee"  # Agreed for the period, whatever is used.
    USAGE = "usage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line. Its amount is exact: nothing is rounded to cents."""

    kind: LineKind
    text: str  # For people.
    item: str  # What is billed, as the catalog names it: a plan, a meter.
    quantity_micros: int  # 10^-6 of `unit`.
    unit: str
    amount_nanos: int
    estimated_micros: int = 0  # The part of the quantity that is estimated.


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Everything but the currency of an amount is in its lines."""

    tenant_id: str
    subscription_id: str
    plan_id: str  # "" where the contract is a former one: the ledger does not keep its plan.
    period: PeriodMicros
    currency: str
    as_of_micros: int
    lines: tuple[Line, ...]

    @property
    def total_nanos(self) -> int:
        return sum(line.amount_nanos for line in self.lines)

    @property
    def is_final(self) -> bool:
        """Return whether the period is over. Late usage may come still."""
        return self.as_of_micros >= self.period.end_micros


def statement_of(record: Record, terms: Terms | None, *, as_of_micros: int) -> Statement:
    """Return what a period bills.

    The fee is that of the contract in force as the period was last assessed.

    Args:
        record: What the ledger has of the period.
        terms: The tenant's contract now; of another subscription it says nothing of this one.
        as_of_micros: Now.
    """
    state = record.state
    known = terms if terms and terms.subscription_id == state.subscription_id else None
    fee_nanos = state.revenue_nanos
    if fee_nanos is None:
        fee_nanos = known.committed_fee_nanos if known else 0
    currency = state.currency or (known.currency if known else "")
    return Statement(
        tenant_id=state.tenant_id,
        subscription_id=state.subscription_id,
        plan_id=known.plan_id if known else "",
        period=state.period,
        currency=currency,
        as_of_micros=as_of_micros,
        lines=(
            *_fee_lines(fee_nanos, known),
            *(
                Line(
                    kind=LineKind.USAGE,
                    text=f"{meter}, included",
                    item=meter,
                    quantity_micros=units.quantity_micros,
                    unit=meter,
                    amount_nanos=0,
                    estimated_micros=units.estimated_micros,
                )
                for meter, units in record.units_by_meter().items()
                if units.quantity_micros
            ),
        ),
    )


def _fee_lines(fee_nanos: int, terms: Terms | None) -> tuple[Line, ...]:
    if not fee_nanos:
        return ()
    plan = terms.plan_id if terms else ""
    return (
        Line(
            kind=LineKind.FEE,
            text=f"Committed fee of plan {plan}" if plan else "Committed fee",
            item=plan or "committed_fee",
            quantity_micros=1_000_000,
            unit=str(terms.cadence) if terms else "period",
            amount_nanos=fee_nanos,
        ),
    )
