"""What a catalog may say, and probably should not: told, never refused. Pure."""

from collections.abc import Iterator
from typing import Final

from aforo_admin.domain.catalog import API_CALLS, Catalog
from aforo_admin.domain.checking_costs import open_hours
from aforo_admin.domain.problems import place_of

# Where the catalog has no metering rules: what every call counts on (docs/catalog.md#metering).
COUNTED_WITHOUT_RULES: Final = (API_CALLS, "bytes.request", "bytes.response")


def find_hints(catalog: Catalog) -> Iterator[str]:
    """Yield each hint: where, what follows from it, what to do."""
    yield from _meters_without_price(catalog)
    places = [
        (("costs",), catalog.costs),
        *(
            (("tenants", tenant.tenant_id, "negotiated_costs"), tenant.negotiated_costs)
            for tenant in catalog.tenants.values()
        ),
    ]
    for path, prices in places:
        for index, what in open_hours(prices):
            # What was not negotiated, the catalog's own price holds for.
            if path == ("costs",) or not any(
                own.meter == prices[index].meter for own in catalog.costs
            ):
                yield f"{place_of((*path, index))}: {what}"


def _meters_without_price(catalog: Catalog) -> Iterator[str]:
    """Of what metering rules count, all usage is to have a price: also that of no model."""
    counted = [rule.meter for rule in catalog.metering if not rule.exclude]
    priced = {cost.meter for cost in catalog.costs if not cost.provider and not cost.model}
    source = "the metering rules count" if catalog.metering else "every call counts on"
    for meter in dict.fromkeys(counted if catalog.metering else COUNTED_WITHOUT_RULES):
        if meter not in priced:
            yield (
                f"costs: {source} {meter}, and no cost price covers all of it: such usage is "
                f"unpriced, and alerted as that. Add a price, {{meter: {meter}, price: 0, per: 1, "
                "from: 2026-01-01} where it costs nothing, or metering rules without it"
            )
