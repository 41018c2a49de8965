"""What a tenant's margin is measured by: its contract, as of an instant."""

from aforo_meter.domain.prices import PriceBook
from aforo_meter.domain.revenue import exchange_rate, fixed_nanos
from aforo_meter.domain.terms import Terms
from aforo_meter.ledger import Watch


def watch_of(terms: Terms, book: PriceBook, *, now_micros: int) -> Watch | None:
    """Return what a tenant's margin is measured by; None if its revenue has no exchange rate."""
    period = terms.period_at(now_micros)
    fixed = fixed_nanos(terms, period, book_currency=book.currency)
    if fixed is None and exchange_rate(terms, period, book_currency=book.currency) is None:
        return None
    return Watch(
        tenant_id=terms.tenant_id,
        subscription_id=terms.subscription_id,
        period=period,
        revenue_nanos=fixed or 0,
        terms=terms if fixed is None else None,
        allowance_nanos=round(terms.allowance_nanos * terms.covered(period)),
        currency=book.currency,
        thresholds=terms.thresholds,
        guards=terms.guards,
        catalog_version=terms.catalog_version,
        price_book_version=book.version,
    )
