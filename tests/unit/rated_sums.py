"""What rated usage comes to, added up without regard to how the ledger does it."""

from collections import Counter
from collections.abc import Iterable

from aforo_meter.domain.rating import ChargeKey, Rated
from aforo_meter.domain.usage import API_CALLS


def sums(rated: Iterable[Rated]) -> Counter[ChargeKey]:
    """Add up quantities by row: the only thing the ledger keeps of them."""
    totals: Counter[ChargeKey] = Counter()
    for one in rated:
        for key, quantity_micros in one.charges:
            totals[key] += quantity_micros
    return totals


def extras(rated: Iterable[Rated]) -> Counter[ChargeKey]:
    """Add up what weights add on quotas of api.calls: nothing for most calls."""
    totals: Counter[ChargeKey] = Counter()
    for one in rated:
        weight_units = one.usage.weight_units
        if weight_units > 1:
            for key, quantity_micros in one.charges:
                if key.meter == API_CALLS:
                    totals[key] += quantity_micros * (weight_units - 1)
    return totals


def estimates(rated: Iterable[Rated]) -> Counter[ChargeKey]:
    """Add up what is estimated: nothing for most calls."""
    return sums(one for one in rated if one.usage.estimated)
