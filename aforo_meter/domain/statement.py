"""What a contract bills for one period: lines and their total. Pure.

A preview: taxes, rounding to what can be paid, and the invoice's number are the billing system's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from aforo_meter.domain import charging
from aforo_meter.domain.account import Account
from aforo_meter.domain.inquiry import Record
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.rate_card import RateCard
from aforo_meter.domain.revenue import Revenue, draws_before, revenue, usage_nanos
from aforo_meter.domain.terms import Terms
from aforo_meter.domain.usage import MICROS_PER_UNIT

AS_ASSESSED: Final = "as_assessed"  # The item of all that a former contract brought.


class LineKind(StrEnum):
    FEE = "fee"  # Agreed, whatever is used.
    USAGE = "usage"  # By the rate card; of meters that it does not name, at no charge.
    DISCOUNT = "discount"
    MINIMUM = "minimum"  # What usage lacks of the least that was agreed.
    ADJUSTMENT = "adjustment"  # What corrections after the period was closed change.
    PREPAID = "prepaid"  # Paid from the balance, so not due.


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line. Its amount is exact: nothing is rounded to cents."""

    kind: LineKind
    item: str  # What is billed: the rule of a fee, a component of the rate card. "": nothing.
    meter: str = ""  # Of usage.
    used_micros: int = 0  # 10^-6 units, as metered.
    charged_micros: int = 0  # Weighted, less what is included, rounded; the amount is not by it.
    is_estimated: bool = False  # Usage of its meter is partly estimated.
    span: PeriodMicros | None = None  # The part of the period that a fee is for.
    amount_nanos: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is due for a period, in the contract's currency."""

    tenant_id: str
    subscription_id: str
    plan_id: str  # "" where the contract is a former one: the ledger does not keep its plan.
    period: PeriodMicros
    currency: str
    as_of_micros: int
    lines: tuple[Line, ...]
    prepaid_left_nanos: int = 0
    begins_micros: int | None = None  # Of a contract that begins after the period.

    @property
    def total_nanos(self) -> int:
        return sum(line.amount_nanos for line in self.lines)

    @property
    def is_final(self) -> bool:
        """Return whether the period is over. Late usage may come still."""
        return self.as_of_micros >= self.period.end_micros


def statement_of(
    record: Record,
    terms: Terms | None,
    *,
    as_of_micros: int,
    accrued_to_micros: int | None = None,
) -> Statement:
    """Return what a period bills: its fees whole, and what was used by now.

    Of a contract that is not known any more it is one line, as it was last assessed.

    Args:
        record: What the ledger has of the period.
        terms: The tenant's contract now, with those of former subscriptions that it tells.
        as_of_micros: Now.
        accrued_to_micros: Where only what has accrued by then is wanted, of a contract that does.
    """
    state = record.state
    known = terms_for(record, terms)
    if known is None:
        lines, currency, left_nanos = tuple(_as_assessed(record)), state.contract_currency, 0
    else:
        to_micros = accrued_to_micros or state.period.end_micros
        told = revenue_of(record, known, now_micros=to_micros)
        closed = told
        if record.account_at_close is not None:
            closed = revenue_of(
                record, known, now_micros=to_micros, account=record.account_at_close
            )
        lines = (*_lines(record, known, closed), *_since_close(closed, told))
        currency, left_nanos = told.currency, told.prepaid_left_nanos
    return Statement(
        tenant_id=state.tenant_id,
        subscription_id=state.subscription_id,
        plan_id=known.plan_id if known else "",
        period=state.period,
        currency=currency or "",
        as_of_micros=as_of_micros,
        lines=lines,
        prepaid_left_nanos=left_nanos,
        begins_micros=_begins_after(known, state.period),
    )


def _begins_after(terms: Terms | None, period: PeriodMicros) -> int | None:
    begins_micros = terms.begin_of(period) if terms is not None else period.start_micros
    return begins_micros if begins_micros >= period.end_micros else None


def terms_for(record: Record, terms: Terms | None) -> Terms | None:
    """Return the terms if they say what held in a record's period."""
    state = record.state
    terms = terms and terms.of_subscription(state.subscription_id)
    if terms is None:
        return None
    if state.in_force or state.contract_revenue_nanos is None:
        return terms
    # Of a former period the contract knows what held only if it is dated, and reaches back to it.
    reaches_back = terms.begin_of(state.period) < state.period.end_micros
    return terms if terms.phases and reaches_back else None


def revenue_of(
    record: Record,
    terms: Terms,
    *,
    now_micros: int,
    book_currency: str | None = None,
    account: Account | None = None,
) -> Revenue:
    """Return a period's revenue as the ledger reckons it, as of an instant.

    Args:
        record: What the ledger has of the period.
        terms: Those that hold in it.
        now_micros: Until when revenue accrues, where it does.
        book_currency: What to state it in besides; by default it stays in the contract's own.
        account: Other usage than the record's, where another is meant.

    Raises:
        MissingRateError: There is no exchange rate to that currency.
    """
    period = record.state.period
    opening = terms.opening(period)
    drawn_before_nanos = sum(
        usage_nanos(terms, record.accounts_before[each], each)
        for each in draws_before(terms, period, record.accounts_before)
    )
    return revenue(
        terms,
        record.account if account is None else account,
        period=period,
        now_micros=now_micros,
        book_currency=book_currency or opening.currency,
        drawn_before_nanos=drawn_before_nanos,
    )


def _as_assessed(record: Record) -> Iterator[Line]:
    nanos = record.state.contract_revenue_nanos
    if nanos:
        yield Line(
            kind=LineKind.FEE, item=AS_ASSESSED, amount_nanos=nanos, span=record.state.period
        )
    yield from _without_charge(record, None)


def _lines(record: Record, terms: Terms, told: Revenue) -> Iterator[Line]:
    period = record.state.period
    # Before the contract begins nothing is charged by it.
    card = terms.card_of(period) if terms.begin_of(period) < period.end_micros else None
    meters = {one.component_id: one.meter for one in card.components} if card else {}
    units = record.units_by_meter()
    for line in told.lines:
        meter = meters.get(line.name, "") if line.kind is charging.LineKind.USAGE else ""
        is_fee = line.kind is charging.LineKind.FEE
        yield Line(
            kind=LineKind(line.kind),
            item=line.name,
            meter=meter,
            used_micros=_micros(line.used),
            charged_micros=_micros(line.charged),
            is_estimated=meter in units and units[meter].estimated_micros > 0,
            span=PeriodMicros(line.start_micros, line.end_micros) if is_fee else None,
            amount_nanos=line.amount_nanos,
        )
    yield from _without_charge(record, card)
    if told.prepaid_drawn_nanos:
        yield Line(kind=LineKind.PREPAID, item="prepaid", amount_nanos=-told.prepaid_drawn_nanos)


def _since_close(closed: Revenue, told: Revenue) -> Iterator[Line]:
    due_nanos = _due_nanos(told) - _due_nanos(closed)
    if due_nanos:
        yield Line(kind=LineKind.ADJUSTMENT, item="adjustment", amount_nanos=due_nanos)


def _due_nanos(told: Revenue) -> int:
    return told.total_nanos - told.prepaid_drawn_nanos


def _without_charge(record: Record, card: RateCard | None) -> Iterator[Line]:
    """Yield the usage that no component takes, meter by meter."""
    free: dict[str, int] = {}
    account = record.account if record.account_at_close is None else record.account_at_close
    for key, used in account.items():
        if card is None or not any(component.takes(key) for component in card.components):
            free[key.meter] = free.get(key.meter, 0) + used.quantity_micros
    units = record.units_by_meter()
    for meter, quantity_micros in sorted(free.items()):
        if quantity_micros:
            yield Line(
                kind=LineKind.USAGE,
                item="",
                meter=meter,
                used_micros=quantity_micros,
                is_estimated=meter in units and units[meter].estimated_micros > 0,
            )


def _micros(units: Fraction) -> int:
    return round(units * MICROS_PER_UNIT)
