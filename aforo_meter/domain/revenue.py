"""What a contract brings in one billing period. Pure."""

from aforo_meter.domain.terms import Terms


def revenue_nanos(terms: Terms) -> int:
    """Return the contract's revenue of a whole period: its committed fee.

    The whole period counts from its first day: a customer who pays at the month's end is no worse
    than one who has paid. Zero means that there is none, and the margin is undefined.
    """
    return terms.committed_fee_nanos
