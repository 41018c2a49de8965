"""The catalog ↔ rows of tables: each by its name, under what names it there. No I/O.

A row's key begins with its parent's. Rows that stand in an order have a `position`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from aforo_admin.catalog_yaml_rates import read_rate_cards
from aforo_admin.catalog_yaml_tenants import read_subscription
from aforo_admin.columns import Row, columns_of, part_of, row_of
from aforo_admin.domain.catalog import (
    Catalog,
    CostPrice,
    Credential,
    Deal,
    Feature,
    Guard,
    IngestKey,
    MarginOverride,
    Meter,
    MeteringRule,
    Plan,
    PlanChange,
    Quota,
    QuotaChange,
    Route,
    Subscription,
    Tenant,
)
from aforo_admin.domain.problems import Path, Problem
from aforo_admin.faults import CatalogError, fault_of
from aforo_admin.written import plan_change
from aforo_admin.written_rates import components, discounts
from aforo_admin.written_values import EPOCH, amount, instant
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_writing import node_of
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.rate_card import RateCard
from aforo_meter.domain.terms import ExchangeRate

Key = tuple[Any, ...]
Rows = dict[str, dict[Key, Row]]

CARD_COLUMNS: Final = ("effective_from", "minimum_nanos", "components", "discounts")

# By table, parents before what belongs to them: the columns that the catalog knows.
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "General": columns_of(Catalog),
    "Feature": columns_of(Feature),
    "Meter": columns_of(Meter),
    "MeteringRule": columns_of(MeteringRule),
    "Route": columns_of(Route),
    "IngestKey": columns_of(IngestKey),
    "CostPrice": columns_of(CostPrice),
    "ExchangeRate": ("currency", "rate_nanos", "effective_from"),
    "PlanVersion": columns_of(Plan),
    "PlanQuota": columns_of(Quota),
    "PlanGuard": columns_of(Guard),
    "PlanRateCard": CARD_COLUMNS,
    "Tenant": columns_of(Tenant),
    "Subscription": columns_of(Subscription),
    "FormerSubscription": (*columns_of(Subscription), "changes"),
    "PlanChange": columns_of(PlanChange),
    "Credential": columns_of(Credential),
    "MarginOverride": columns_of(MarginOverride),
    "NegotiatedCost": columns_of(CostPrice),
    "Deal": (*columns_of(Deal), "replaces_rate_cards"),
    "DealQuota": columns_of(QuotaChange),
    "DealGuard": columns_of(Guard),
    "DealRateCard": CARD_COLUMNS,
}
UNORDERED: Final = frozenset(
    {"General", "PlanVersion", "Tenant", "Subscription", "PlanChange", "MarginOverride"}
    | {"FormerSubscription"}
)
OF_TENANTS: Final = tuple(list(COLUMNS)[list(COLUMNS).index("Tenant") :])
OF_PLANS: Final = ("PlanVersion", "PlanQuota", "PlanGuard", "PlanRateCard")
# What contracts depend on; of the general settings the currency, and the floors for all.
OF_CONTRACTS: Final = (
    *("General", "ExchangeRate", *OF_PLANS),
    *(table for table in OF_TENANTS if table != "Credential"),
)


def rows_of(catalog: Catalog) -> Rows:
    """Return every row of a catalog."""
    rows: Rows = {table: {} for table in COLUMNS}
    rows["General"][()] = row_of(catalog)
    _put(rows, "Feature", (), catalog.features, "feature_id")
    _put(rows, "Meter", (), catalog.meters, "meter")
    _put(rows, "MeteringRule", (), catalog.metering, "rule_id")
    _put(rows, "Route", (), catalog.routes, "path_template", "methods")
    _put(rows, "IngestKey", (), catalog.ingest_keys, "key_id")
    _put(rows, "CostPrice", (), catalog.costs, *_COST_KEY)
    for position, rate in enumerate(catalog.exchange_rates):
        rows["ExchangeRate"][(rate.currency, _at(rate.effective_from_micros))] = {
            "currency": rate.currency,
            "rate_nanos": rate.rate_nanos,
            "effective_from": _at(rate.effective_from_micros),
            "position": position,
        }
    for plan in catalog.plans.values():
        _put_plan(rows, plan)
    for tenant in catalog.tenants.values():
        _put_tenant(rows, tenant)
    return rows


def rows_of_plan(plan: Plan) -> Rows:
    """Return the rows of one plan alone."""
    rows: Rows = {table: {} for table in OF_PLANS}
    _put_plan(rows, plan)
    return rows


def _put_plan(rows: Rows, plan: Plan) -> None:
    key = (plan.plan_id,)
    rows["PlanVersion"][key] = row_of(plan)
    _put(rows, "PlanQuota", key, plan.quotas, "quota_id")
    _put(rows, "PlanGuard", key, plan.guards, "guard_id")
    _put_cards(rows, "PlanRateCard", key, plan.rate_cards)


def _put_tenant(rows: Rows, tenant: Tenant) -> None:
    key = (tenant.tenant_id,)
    rows["Tenant"][key] = row_of(tenant)
    rows["Subscription"][key] = row_of(tenant.subscription)
    for change in tenant.subscription.changes:
        rows["PlanChange"][(*key, change.effective_from)] = row_of(change)
    for former in tenant.former:
        changes = [plan_change(change) for change in former.changes]
        row = {**row_of(former), "changes": changes}
        rows["FormerSubscription"][(*key, former.started_at)] = row
    _put(rows, "Credential", key, tenant.credentials, "credential_id")
    if tenant.margin_override is not None:
        rows["MarginOverride"][key] = row_of(tenant.margin_override)
    _put(rows, "NegotiatedCost", key, tenant.negotiated_costs, *_COST_KEY)
    _put(rows, "Deal", key, tenant.deals, "deal_id")
    for deal in tenant.deals:
        of_deal = (*key, deal.deal_id)
        rows["Deal"][of_deal]["replaces_rate_cards"] = deal.rate_cards is not None
        _put(rows, "DealQuota", of_deal, deal.quotas, "quota_id")
        _put(rows, "DealGuard", of_deal, deal.guards, "guard_id")
        _put_cards(rows, "DealRateCard", of_deal, deal.rate_cards or ())


_COST_KEY: Final = (
    *("meter", "provider", "model", "effective_from"),
    *("input_tokens_from", "day_from_s", "day_to_s"),
)


def _put(rows: Rows, table: str, parent: Key, parts: Iterable[Any], *names: str) -> None:
    for position, part in enumerate(parts):
        key = (*parent, *(getattr(part, name) for name in names))
        rows[table][key] = {**row_of(part), "position": position}


def _put_cards(rows: Rows, table: str, parent: Key, cards: Iterable[RateCard]) -> None:
    for position, card in enumerate(cards):
        at = _at(card.effective_from_micros)
        rows[table][(*parent, at)] = {
            "effective_from": at,
            "minimum_nanos": card.minimum_nanos,
            "components": components(card.components),
            "discounts": discounts(card.discounts),
            "position": position,
        }


def catalog_of(rows: Rows) -> Catalog:
    """Return the catalog that rows make up; those of a table come in their order.

    Raises:
        CatalogError: What a rate card holds is not as it is written.
    """
    reading = _Reading(rows)
    (general,) = rows["General"].values()
    currency = general["currency"]
    plans = {key[0]: reading.plan(key, currency) for key in rows["PlanVersion"]}
    tenants = {key[0]: reading.tenant(key, currency, plans) for key in rows["Tenant"]}
    catalog = part_of(
        Catalog,
        general,
        features=reading.parts("Feature", Feature, ()),
        routes=reading.parts("Route", Route, ()),
        plans=plans,
        tenants=tenants,
        costs=reading.parts("CostPrice", CostPrice, ()),
        meters=reading.parts("Meter", Meter, ()),
        metering=reading.parts("MeteringRule", MeteringRule, ()),
        ingest_keys=reading.parts("IngestKey", IngestKey, ()),
        exchange_rates=tuple(
            _exchange_rate(row, currency) for row in rows["ExchangeRate"].values()
        ),
    )
    if reading.problems:
        raise CatalogError("catalog", [fault_of(problem) for problem in reading.problems])
    return catalog


class _Reading:
    """Rows by their parents, and what was wrong with them."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.problems: list[Problem] = []
        self._by_parent: dict[str, Mapping[Key, list[Row]]] = {
            table: _grouped(rows[table], len(parent_of(table)))
            for table in COLUMNS
            if table not in {"General", "ExchangeRate"}
        }

    def parts(self, table: str, kind: type[Any], parent: Key) -> tuple[Any, ...]:
        return tuple(part_of(kind, row) for row in self._by_parent[table].get(parent, ()))

    def plan(self, key: Key, currency: str) -> Plan:
        row = self.rows["PlanVersion"][key]
        path: Path = ("plans", key[0])
        return part_of(
            Plan,
            {**row, "plan_id": key[0]},
            quotas=self.parts("PlanQuota", Quota, key),
            guards=self.parts("PlanGuard", Guard, key),
            rate_cards=self._cards("PlanRateCard", key, row["currency"] or currency, path),
        )

    def tenant(self, key: Key, currency: str, plans: Mapping[str, Plan]) -> Tenant:
        subscription = self._subscription(key)
        plan = plans.get(subscription.plan_id)
        of_plan = (plan.currency if plan is not None else "") or currency
        override = self.parts("MarginOverride", MarginOverride, key)
        deals = self._by_parent["Deal"].get(key, ())
        return part_of(
            Tenant,
            self.rows["Tenant"][key],
            subscription=subscription,
            former=self._former(key),
            credentials=self.parts("Credential", Credential, key),
            deals=tuple(self._deal(key, row, of_plan, number) for number, row in enumerate(deals)),
            margin_override=override[0] if override else None,
            negotiated_costs=self.parts("NegotiatedCost", CostPrice, key),
        )

    def _subscription(self, tenant: Key) -> Subscription:
        row = self.rows["Subscription"].get(tenant)
        if row is None:
            message = "is missing: say which plan the tenant has, and since when"
            path = ("tenants", tenant[0], "subscription")
            self.problems.append(Problem(path=path, message=message))
            return Subscription(subscription_id="", plan_id="", started_at=EPOCH)
        return part_of(Subscription, row, changes=self.parts("PlanChange", PlanChange, tenant))

    def _former(self, tenant: Key) -> tuple[Subscription, ...]:
        rows = self._by_parent["FormerSubscription"].get(tenant, ())
        if not rows:
            return ()
        node = node_of({"former_subscriptions": [_written_subscription(row) for row in rows]})
        fields = Fields(node, path=("tenants", tenant[0]), problems=self.problems)
        return tuple(read_subscription(each) for each in fields.each("former_subscriptions"))

    def _deal(self, tenant: Key, row: Row, of_plan: str, number: int) -> Deal:
        key = (*tenant, row["deal_id"])
        path: Path = ("tenants", tenant[0], "deals", number)
        cards = self._cards("DealRateCard", key, row["currency"] or of_plan, path)
        return part_of(
            Deal,
            row,
            rate_cards=cards if row["replaces_rate_cards"] else None,
            quotas=self.parts("DealQuota", QuotaChange, key),
            guards=self.parts("DealGuard", Guard, key),
        )

    def _cards(self, table: str, parent: Key, currency: str, path: Path) -> tuple[RateCard, ...]:
        cards = [_written_card(row) for row in self._by_parent[table].get(parent, ())]
        if not cards:
            return ()
        try:
            node = node_of({"rate_card": cards})
        except ValueError as error:
            self.problems.append(Problem(path=(*path, "rate_card"), message=str(error)))
            return ()
        fields = Fields(node, path=path, problems=self.problems)
        return read_rate_cards(fields, currency=currency)


def parent_of(table: str) -> tuple[str, ...]:
    """Return what a table's keys begin with."""
    if table.startswith("Deal") and table != "Deal":
        return ("tenant_id", "deal_id")
    if table in OF_TENANTS and table != "Tenant":
        return ("tenant_id",)
    return ("plan_id",) if table in OF_PLANS and table != "PlanVersion" else ()


def _grouped(rows: Mapping[Key, Row], length: int) -> Mapping[Key, list[Row]]:
    groups: dict[Key, list[Row]] = defaultdict(list)
    for key, row in rows.items():
        groups[key[:length]].append(row)
    return groups


def _written_card(row: Row) -> dict[str, Any]:
    return {
        "from": instant(row["effective_from"]),
        "components": row["components"],
        "discounts": row["discounts"],
        "minimum": amount(row["minimum_nanos"]),
    }


def _written_subscription(row: Row) -> dict[str, Any]:
    ended_at = row["ended_at"]
    return {
        "id": row["subscription_id"],
        "plan": row["plan_id"],
        "state": row["state"],
        "started_at": instant(row["started_at"]),
        "changes": row["changes"],
        **({} if ended_at is None else {"ended_at": instant(ended_at)}),
    }


def _exchange_rate(row: Row, to_currency: str) -> ExchangeRate:
    return ExchangeRate(
        currency=row["currency"],
        to_currency=to_currency,
        rate_nanos=row["rate_nanos"],
        effective_from_micros=micros_of(row["effective_from"]),
    )


def _at(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)
