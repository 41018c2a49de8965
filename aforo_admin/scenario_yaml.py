"""The written scenario → the domain's: one grammar for files, the saved ones and the command line.

docs/what-if.md describes it.
"""

import re
from pathlib import Path as FilePath
from typing import Final

from aforo_admin.catalog_yaml_tenants import read_deal
from aforo_admin.catalog_yaml_thresholds import read_thresholds
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.problems import Problem, place_of
from aforo_admin.domain.scenario import (
    CostChange,
    DealChange,
    DraftChoice,
    FeeChange,
    FloorChange,
    Growth,
    ModelSwap,
    PriceChange,
    Scenario,
)
from aforo_admin.faults import CatalogError, Fault, message_of
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_nodes import Node, UnreadableYamlError, compose
from aforo_admin.yaml_scalars import amount_nanos, flag, percent_bp, text, units
from aforo_meter.domain.rate_card import PerUnit

BYTES_MAX: Final = 256 * 1024
NAME: Final = "scenario"  # What faults are told of.
_MONTH: Final = re.compile(r"(19[7-9]\d|2\d{3})-(0[1-9]|1[0-2])", re.ASCII)


def read_scenario_file(path: FilePath, catalog: Catalog) -> Scenario:
    """Read a scenario, in YAML or JSON.

    Raises:
        CatalogError: It can't be read: with every fault that was found.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        what = f"can't be read: {error.strerror or error}"
        raise CatalogError(str(path), [Fault(line=0, place="", message=what)]) from None
    return read_scenario_text(data, catalog, name=str(path))


def read_scenario_text(data: bytes, catalog: Catalog, *, name: str = NAME) -> Scenario:
    """Read a scenario from text, as `read_scenario_file` does."""
    if len(data) > BYTES_MAX:
        what = f"is larger than {BYTES_MAX} bytes: is it a scenario?"
        raise CatalogError(name, [Fault(line=0, place="", message=what)])
    try:
        root, structural = compose(data)
    except UnreadableYamlError as error:
        faults = [Fault(line=line, place="", message=what) for line, what in error.faults]
        raise CatalogError(name, faults) from None
    if structural:
        raise CatalogError(
            name, [Fault(line=line, place="", message=what) for line, what in structural]
        )
    return scenario_of(root, catalog, name=name)


def scenario_of(node: Node, catalog: Catalog, *, name: str = NAME) -> Scenario:
    """Read a scenario from nodes.

    Args:
        node: As YAML or JSON has it.
        catalog: Whose currencies amounts are in.
        name: What to call it in what is raised.

    Raises:
        CatalogError: It can't be read: with every fault that was found.
    """
    problems: list[Problem] = []
    fields = Fields(node, path=(), problems=problems)
    scenario = read_scenario(fields, catalog)
    fields.close()
    refuse(problems, name=name)
    return scenario


def refuse(problems: list[Problem], *, name: str = NAME) -> None:
    """Raise what is wrong, if anything is."""
    if problems:
        raise CatalogError(
            name,
            [
                Fault(line=0, place=place_of(each.path), message=message_of(each))
                for each in problems
            ],
        )


def read_scenario(fields: Fields, catalog: Catalog) -> Scenario:
    """Read a scenario from its fields; amounts are in the catalog's currencies."""
    return Scenario(
        month=fields.may("month", month, ""),
        tenants=fields.texts("tenants") or (),
        costs=tuple(_cost(each, catalog.currency) for each in fields.each("costs")),
        prices=tuple(_price(each, catalog) for each in fields.each("prices")),
        fees=tuple(_fee(each, catalog) for each in fields.each("fees")),
        floors=tuple(_floors(each, catalog.currency) for each in fields.each("floors")),
        swaps=tuple(_swap(each) for each in fields.each("models")),
        growths=tuple(_growth(each) for each in fields.each("growth")),
        drafts=tuple(_draft(each) for each in fields.each("drafts")),
        deals=tuple(_deal(each, catalog) for each in fields.each("deals")),
    )


def month(given: str) -> str:
    if not _MONTH.fullmatch(given):
        raise ValueError(f'"{given[:20]}" is no month: write it like 2026-11')
    return given


def change_bp(given: str) -> int:
    """Read a change by a share: +20%, -5%, 7.5%."""
    return percent_bp(given.strip().removeprefix("+"))


def _cost(fields: Fields, currency: str) -> CostChange:
    change = CostChange(
        provider=fields.may("provider", str.lower, ""),
        model=fields.may("model", str.lower, ""),
        meter=fields.may("meter", text, ""),
        percent_bp=fields.may("percent", change_bp, None),
        price=_unit_price(fields, currency),
        negotiated=fields.may("negotiated", flag, default=False),
    )
    fields.close()
    return change


def _price(fields: Fields, catalog: Catalog) -> PriceChange:
    plan_id = fields.need("plan", text, "")
    change = PriceChange(
        plan_id=plan_id,
        component_id=fields.may("component", text, ""),
        percent_bp=fields.may("percent", change_bp, None),
        price=_unit_price(fields, _currency(catalog, plan_id)),
    )
    fields.close()
    return change


def _unit_price(fields: Fields, currency: str) -> PerUnit | None:
    price_nanos = fields.may("price", amount_nanos(currency), None)
    per_units = fields.may("per", units, 1)
    return None if price_nanos is None else PerUnit(price_nanos=price_nanos, per_units=per_units)


def _fee(fields: Fields, catalog: Catalog) -> FeeChange:
    plan_id = fields.need("plan", text, "")
    change = FeeChange(
        plan_id=plan_id,
        percent_bp=fields.may("percent", change_bp, None),
        fee_nanos=fields.may("fee", amount_nanos(_currency(catalog, plan_id)), None),
    )
    fields.close()
    return change


def _floors(fields: Fields, currency: str) -> FloorChange:
    change = FloorChange(
        plan_id=fields.may("plan", text, ""),
        tenant_id=fields.may("tenant", text, ""),
        thresholds=read_thresholds(fields, currency),
    )
    fields.close()
    return change


def _swap(fields: Fields) -> ModelSwap:
    swap = ModelSwap(
        model=fields.need("from", str.lower, ""),
        to_model=fields.need("to", str.lower, ""),
        provider=fields.may("provider", str.lower, ""),
        to_provider=fields.may("to_provider", str.lower, ""),
    )
    fields.close()
    return swap


def _growth(fields: Fields) -> Growth:
    growth = Growth(
        percent_bp=fields.need("percent", change_bp, 0),
        tenant_id=fields.may("tenant", text, ""),
        feature=fields.may("feature", text, ""),
    )
    fields.close()
    return growth


def _draft(fields: Fields) -> DraftChoice:
    choice = DraftChoice(
        plan_id=fields.need("plan", text, ""), number=fields.need("version", units, 0)
    )
    fields.close()
    return choice


def _deal(fields: Fields, catalog: Catalog) -> DealChange:
    tenant_id = fields.need("tenant", text, "")
    tenant = catalog.tenants.get(tenant_id)
    of_plan = _currency(catalog, tenant.subscription.plan_id if tenant else "")
    deal = read_deal(fields.need_section("deal"), catalog.currency, of_plan)
    change = DealChange(tenant_id=tenant_id, deal=deal)
    fields.close()
    return change


def _currency(catalog: Catalog, plan_id: str) -> str:
    plan = catalog.plans.get(plan_id)
    return (plan.currency if plan is not None else "") or catalog.currency
