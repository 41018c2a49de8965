"""What a contract brings in one billing period: fees, usage by the rate card. Pure, exact."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from aforo_meter.domain.account import Account
from aforo_meter.domain.charging import NOTHING, Line, LineKind, Shares, charge
from aforo_meter.domain.periods import DAY_MICROS, PeriodMicros
from aforo_meter.domain.rate_card import NANOS_PER_UNIT
from aforo_meter.domain.terms import RevenueBasis, Terms

SECOND_MICROS: Final = 1_000_000


class MissingRateError(Exception):
    """No exchange rate is in force from the contract's currency to the price book's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revenue:
    """A period's revenue, in the contract's currency and in the price book's."""

    lines: tuple[Line, ...]
    currency: str
    total_nanos: int  # >= 0: the sum of the lines. 0: there is none, and no margin.
    book_currency: str
    book_nanos: int  # The same at the period's exchange rate, rounded once.
    prepaid_drawn_nanos: int = 0  # How much of the usage charges a prepaid balance pays.
    prepaid_left_nanos: int = 0

    @property
    def usage_nanos(self) -> int:
        """All that is charged by the rate card."""
        return _charged_nanos(self.lines)


def revenue(
    terms: Terms,
    account: Account,
    *,
    period: PeriodMicros,
    now_micros: int,
    book_currency: str,
    drawn_before_nanos: int = 0,
) -> Revenue:
    """Return what a contract brings in a period.

    Usage is revenue as it is used, whether it is invoiced later or a prepaid balance pays for it.

    Args:
        terms: The contract.
        account: The period's usage; may be empty where `terms.card_of(period)` is None.
        period: A billing period of the contract.
        now_micros: Until when revenue accrues, if the contract's basis says so.
        book_currency: Of the price book, which margins are measured in.
        drawn_before_nanos: What earlier periods are charged of the prepaid balance; may exceed it.

    Raises:
        MissingRateError: The currencies differ, and no rate was in force as the period began.
    """
    opening = terms.opening(period)
    lines = [*_fees(terms, period, now_micros), *_usage(terms, account, period, now_micros)]
    total_nanos = sum(line.amount_nanos for line in lines)
    balance_nanos = max(0, opening.prepaid_nanos - drawn_before_nanos)
    drawn_nanos = min(balance_nanos, _charged_nanos(lines))
    rate = exchange_rate(terms, period, book_currency=book_currency)
    if rate is None:
        raise MissingRateError(
            f"no exchange rate from {opening.currency} to {book_currency} as the period begins"
        )
    return Revenue(
        lines=tuple(lines),
        currency=opening.currency,
        total_nanos=total_nanos,
        book_currency=book_currency,
        book_nanos=round(total_nanos * rate),  # Half to even.
        prepaid_drawn_nanos=drawn_nanos,
        prepaid_left_nanos=balance_nanos - drawn_nanos,
    )


def draws_before(
    terms: Terms, period: PeriodMicros, others: Iterable[PeriodMicros]
) -> list[PeriodMicros]:
    """Return which of a contract's periods draw on a period's prepaid balance before it does."""
    balance = terms.opening(period)
    return [
        each
        for each in others
        if balance.prepaid_from_micros <= each.start_micros < period.start_micros
        and (opening := terms.opening(each)).prepaid_nanos
        and opening.prepaid_from_micros == balance.prepaid_from_micros
    ]


def usage_nanos(terms: Terms, account: Account, period: PeriodMicros) -> int:
    """Return what the rate card charges for a whole period."""
    lines = _usage(terms, account, period, period.end_micros)
    return sum(line.amount_nanos for line in lines)


def fixed_nanos(terms: Terms, period: PeriodMicros, *, book_currency: str) -> int | None:
    """Return the revenue of a contract that neither usage nor time can change; None of others.

    Most contracts are such: it is asked with every batch.
    """
    phase = terms.phase_throughout(period)
    if phase is None or phase.currency != book_currency or terms.basis is not RevenueBasis.PERIOD:
        return None
    return None if phase.rate_cards or phase.prepaid_nanos else phase.committed_fee_nanos


def exchange_rate(terms: Terms, period: PeriodMicros, *, book_currency: str) -> Fraction | None:
    """Return what one unit of the contract's currency is worth; None if that is not known.

    One rate holds for the whole period, the one in force as it begins: a margin moves with usage
    and prices, not with the exchanges of each day.
    """
    currency = terms.opening(period).currency
    if currency == book_currency:
        return Fraction(1)
    at_micros = terms.begin_of(period)
    begun = [
        rate
        for rate in terms.exchange_rates
        if (rate.currency, rate.to_currency) == (currency, book_currency)
        and rate.effective_from_micros <= at_micros
    ]
    latest = max(begun, key=lambda rate: rate.effective_from_micros, default=None)
    return None if latest is None else Fraction(latest.rate_nanos, NANOS_PER_UNIT)


def _charged_nanos(lines: Iterable[Line]) -> int:
    return sum(line.amount_nanos for line in lines if line.kind is not LineKind.FEE)


def _fees(terms: Terms, period: PeriodMicros, now_micros: int) -> Iterator[Line]:
    """Yield the committed fees, each for its part of the period.

    What is rounded is their running sum: parts of one fee add up to the whole.
    """
    length_micros = period.end_micros - period.start_micros
    until_micros = _recognised_until(terms, period, now_micros)
    exact, rounded_nanos = NOTHING, 0
    for phase, span in terms.spans_of(period):
        passed_micros = max(0, min(span.end_micros, until_micros) - span.start_micros)
        exact += Fraction(phase.committed_fee_nanos * passed_micros, length_micros)
        amount_nanos = round(exact) - rounded_nanos
        rounded_nanos += amount_nanos
        if phase.committed_fee_nanos:
            yield Line(
                kind=LineKind.FEE,
                name=phase.source,
                amount_nanos=amount_nanos,
                start_micros=span.start_micros,
                end_micros=span.end_micros,
            )


def _usage(
    terms: Terms, account: Account, period: PeriodMicros, now_micros: int
) -> tuple[Line, ...]:
    card = terms.card_of(period)
    begin_micros = terms.begin_of(period)
    if card is None or begin_micros >= terms.end_of(period):
        return ()
    shares = Shares(
        covered=terms.covered(period),
        recognised=recognised(terms, period, now_micros=now_micros),
    )
    return charge(card, account, at_micros=begin_micros, shares=shares)


def recognised(terms: Terms, period: PeriodMicros, *, now_micros: int) -> Fraction:
    """Return how much of what is agreed for a whole period counts by now."""
    passed_micros = _recognised_until(terms, period, now_micros) - terms.begin_of(period)
    return Fraction(max(0, passed_micros), period.end_micros - period.start_micros)


def _recognised_until(terms: Terms, period: PeriodMicros, now_micros: int) -> int:
    """Return up to when what is fixed for the period counts."""
    end_micros = terms.end_of(period)
    if terms.basis is RevenueBasis.PERIOD:
        return end_micros
    # A day counts at least: the first call of a period is not measured against a second's revenue.
    first_day_micros = terms.begin_of(period) + DAY_MICROS
    return min(max(now_micros - now_micros % SECOND_MICROS, first_day_micros), end_micros)
