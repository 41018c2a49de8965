"""Where in a form a fault of the catalog belongs: its path in the YAML's words → row and column."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

from aforo_admin.control import models
from aforo_admin.domain.problems import Path, path_of, place_of
from aforo_admin.faults import Fault

# What belongs to a row, by the name it has in the written form.
PARTS: Final[dict[str, dict[str, str]]] = {
    "PlanVersion": {"quotas": "PlanQuota", "guards": "PlanGuard", "rate_card": "PlanRateCard"},
    "Deal": {"quotas": "DealQuota", "guards": "DealGuard", "rate_card": "DealRateCard"},
    "Tenant": {
        "subscription": "Subscription",
        "former_subscriptions": "FormerSubscription",
        "credentials": "Credential",
        "deals": "Deal",
        "margin_override": "MarginOverride",
        "negotiated_costs": "NegotiatedCost",
    },
    "Subscription": {"changes": "PlanChange"},
}
LISTS: Final = {
    "Feature": "features",
    "Route": "routes",
    "Meter": "meters",
    "MeteringRule": "metering",
    "IngestKey": "ingest_keys",
    "CostPrice": "costs",
    "ExchangeRate": "exchange_rates",
    "Credential": "credentials",
    "Deal": "deals",
    "NegotiatedCost": "negotiated_costs",
}
COLUMNS: Final = {
    "from": "effective_from",
    "path": "path_template",
    "quantity": "quantity_micros",
    "status": "statuses",
    "execution_status": "execution_statuses",
    "revenue_basis": "basis",
    "sha256": "identity",
    "jwt_subject": "identity",
    "certificate_uri": "identity",
}
# Columns of what is one field in the catalog.
TOGETHER: Final = {
    "thresholds": ("warn_below_bp", "throttle_below_bp", "block_below_bp"),
    "allowance_thresholds": (
        *("allowance_warn_at_bp", "allowance_throttle_at_bp", "allowance_block_at_bp"),
    ),
}
WRITTEN: Final = frozenset({"components", "discounts", "changes"})
_WITHIN: Final = frozenset({"thresholds", "allowance_thresholds"})
_SUFFIXES: Final = ("", "_nanos", "_bp", "_units", "_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A field of a form.

    Args:
        table: Of the row; empty: the form's own.
        index: Which of the rows that belong to the form's, in their order.
        column: Empty: the row as such.
        within: Where in a column that is written as in the YAML.
        among: Columns that don't go together: the one that was changed is to be told.
    """

    table: str = ""
    index: int = 0
    column: str = ""
    within: str = ""
    among: tuple[str, ...] = ()


def root_of(row: Any) -> Path:
    """Return the path at which a row stands in the catalog."""
    table = type(row).__name__
    if table == "General":
        return ()
    if table == "PlanVersion":
        return ("plans", row.plan_id)
    if table == "Tenant":
        return ("tenants", row.tenant_id)
    if table == "MarginOverride":
        return ("tenants", row.tenant_id, "margin_override")
    if table not in LISTS:
        return (table,)  # Nothing in the catalog is called so.
    owner: Path = ("tenants", row.tenant_id) if hasattr(row, "tenant_id") else ()
    siblings = type(row).objects.filter(**({"tenant_id": row.tenant_id} if owner else {}))
    return (*owner, LISTS[table], _index(row, siblings))


def place_in(row: Any, path: Path) -> Place | None:
    """Return where a fault belongs in the form of a row; None: nowhere in it."""
    root = root_of(row)
    if path[: len(root)] != root:
        return None
    return _place(type(row), path[len(root) :], Place())


def place_of_fault(row: Any, fault: Fault) -> Place | None:
    """Return where a fault belongs in the form of a row; None: nowhere in it."""
    path = path_of(fault.place)
    place = place_in(row, path)
    if place is None or fault.pair is None:
        return place
    found = [place_in(row, (*path, figure.name)) for figure in fault.pair]
    among = tuple(each.column for each in found if each is not None and each.column)
    return replace(place, among=among) if among else place


def model_of(place: Place, model: Any) -> Any:
    """Return whose column a place is, in the form of a row of a model."""
    return getattr(models, place.table) if place.table else model


def in_words_of_forms(fault: Fault, labels: Sequence[str]) -> str:
    """Return what is wrong with a pair of figures, in the words of the form that has them."""
    assert fault.pair is not None, "others have their message"
    (high, low), (higher, lower) = labels, fault.pair
    inherited = [label for label, each in zip(labels, fault.pair, strict=True) if each.inherited]
    held = f" ({inherited[0]} is not said here, but inherited)" if inherited else ""
    return (
        f"{low} is {lower.written}, and {high} only {higher.written}{held}: lower {low} to "
        f"{higher.written} or less, or raise {high} to {lower.written} or more"
    )


def _place(model: Any, rest: Path, place: Place) -> Place:
    if not rest:
        return place
    step, *further = rest
    part = PARTS.get(model.__name__, {}).get(str(step))
    if part is not None:
        index = int(further.pop(0)) if further and isinstance(further[0], int) else 0
        return _place(getattr(models, part), tuple(further), Place(table=part, index=index))
    together = TOGETHER.get(str(step), ()) if len(rest) == 1 else ()
    if together:
        return replace(place, column=together[0], among=together)
    column = _column(model, rest)
    within = place_of((column, *rest[1:])) if column in WRITTEN and len(rest) > 1 else ""
    return Place(table=place.table, index=place.index, column=column, within=within)


def _column(model: Any, rest: Path) -> str:
    step = str(rest[0])
    if step in _WITHIN and len(rest) > 1:
        step = f"allowance_{rest[1]}" if step == "allowance_thresholds" else str(rest[1])
    names = {field.name for field in model._meta.concrete_fields}
    if step == "id":
        ids = (name for name in model.key_fields if name.endswith("_id") and name in names)
        return next(ids, "meter" if "meter" in names else "")
    wanted = [COLUMNS.get(step, step), *(f"{step}{suffix}" for suffix in _SUFFIXES)]
    wanted += [f"per_{step}", f"effective_{step}", "per_units" if step == "per" else ""]
    return next((name for name in wanted if name in names), "")


def _index(row: Any, siblings: Any) -> int:
    """Return how many rows stand before this one."""
    mine = _rank(row.position, row.pk)
    others = siblings.exclude(pk=row.pk).values_list("position", "pk")
    return sum(1 for position, pk in others if _rank(position, pk) < mine)


def _rank(position: int | None, pk: Any) -> tuple[float, bool, Any]:
    """Rows that are new come last."""
    return (inf if position is None else position, pk is None, "" if pk is None else pk)
