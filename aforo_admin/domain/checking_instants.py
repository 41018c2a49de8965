"""Which years instants of a catalog are of: those that its written form can say. Pure."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from aforo_admin.domain.catalog import Catalog, CostPrice, Subscription, Tenant
from aforo_admin.domain.problems import Path, Problem, check_year, is_in_years
from aforo_meter.domain.periods import datetime_of
from aforo_meter.domain.rate_card import Discount, RateCard

Instants = Iterator[tuple[Path, datetime | None]]


def instant_problems(catalog: Catalog) -> Iterator[Problem]:
    for path, at in _of_catalog(catalog):
        yield from check_year(path, at)


def has_instants_in_years(tenant: Tenant) -> bool:
    """Say whether periods can be reckoned with a tenant's instants."""
    return all(at is None or is_in_years(at) for _, at in _of_tenant((), tenant))


def _of_catalog(catalog: Catalog) -> Instants:
    for index, rate in enumerate(catalog.exchange_rates):
        yield ("exchange_rates", index, "from"), datetime_of(rate.effective_from_micros)
    for index, key in enumerate(catalog.ingest_keys):
        yield ("ingest_keys", index, "expires_at"), key.expires_at
    yield from _of_costs(("costs",), catalog.costs)
    for plan in catalog.plans.values():
        yield from _of_cards(("plans", plan.plan_id, "rate_card"), plan.rate_cards)
    for tenant in catalog.tenants.values():
        yield from _of_tenant(("tenants", tenant.tenant_id), tenant)


def _of_tenant(path: Path, tenant: Tenant) -> Instants:
    yield from _of_subscription((*path, "subscription"), tenant.subscription)
    for index, former in enumerate(tenant.former):
        yield from _of_subscription((*path, "former_subscriptions", index), former)
    for index, credential in enumerate(tenant.credentials):
        yield (*path, "credentials", index, "expires_at"), credential.expires_at
    for index, deal in enumerate(tenant.deals):
        here = (*path, "deals", index)
        yield (*here, "from"), deal.effective_from
        yield (*here, "until"), deal.effective_until
        yield from _of_cards((*here, "rate_card"), deal.rate_cards or ())
    if tenant.margin_override is not None:
        yield (*path, "margin_override", "until"), tenant.margin_override.until
    yield from _of_costs((*path, "negotiated_costs"), tenant.negotiated_costs)


def _of_subscription(path: Path, subscription: Subscription) -> Instants:
    yield (*path, "started_at"), subscription.started_at
    yield (*path, "ended_at"), subscription.ended_at
    for index, change in enumerate(subscription.changes):
        yield (*path, "changes", index, "from"), change.effective_from


def _of_costs(path: Path, prices: Iterable[CostPrice]) -> Instants:
    for index, price in enumerate(prices):
        yield (*path, index, "from"), price.effective_from


def _of_cards(path: Path, cards: Iterable[RateCard]) -> Instants:
    for index, card in enumerate(cards):
        here = (*path, index)
        yield (*here, "from"), datetime_of(card.effective_from_micros)
        yield from _of_discounts((*here, "discounts"), card.discounts)
        for number, component in enumerate(card.components):
            yield from _of_discounts(
                (*here, "components", number, "discounts"), component.discounts
            )


def _of_discounts(path: Path, discounts: Iterable[Discount]) -> Instants:
    for index, discount in enumerate(discounts):
        until = discount.effective_until_micros
        yield (*path, index, "from"), datetime_of(discount.effective_from_micros)
        yield (*path, index, "until"), None if until is None else datetime_of(until)
