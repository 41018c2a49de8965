"""What if: a scenario in its written form, beside the record. Nothing is written."""

import functools
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin import scenario_drafts, store
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.scenario import Scenario
from aforo_admin.domain.simulate import Comparison
from aforo_admin.ledger_periods import TooMuchUsageError
from aforo_admin.ledger_reading import LedgerUnreadableError
from aforo_admin.rest import places
from aforo_admin.rest.authentication import caller_for, require
from aforo_admin.rest.described import Described
from aforo_admin.rest.documents import json_of
from aforo_admin.rest.operations import Operation, Schema
from aforo_admin.rest.problems import ApiError, invalid
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.writes import shown
from aforo_admin.scenario_yaml import read_scenario, scenario_of
from aforo_admin.screens.what_if import deadline
from aforo_admin.simulating import ground_of, simulate
from aforo_admin.simulation_text import comparison_written
from aforo_admin.written_values import amount
from aforo_admin.yaml_writing import node_of

PERMISSION: Final = "control.view_scenario"
NANOS: Final = "_nanos"
OBJECT: Final[Schema] = {"type": "object"}
CALLS: Final[Schema] = {
    "warned_calls": {
        "type": "integer",
        "description": "That passed while the margin's level was warn: reckoned, not recorded.",
    },
    "throttled_calls": {
        "type": "integer",
        "description": "Marked by the margin alone: quotas and other reasons are not counted.",
    },
    "blocked_calls": {
        "type": "integer",
        "description": "Refused by the margin alone: quotas and other reasons are not counted.",
    },
}
SUMS: Final[Schema] = {"type": "object", "properties": CALLS}
COMPARISON: Final[Schema] = {
    "type": "object",
    "properties": {
        "currency": {"type": "string"},
        "totals": {
            "type": "object",
            "properties": dict.fromkeys(("recorded", "replayed", "acted"), SUMS),
        },
        "tenants": {"type": "array", "items": OBJECT},
        "left_out": {"type": "array", "items": OBJECT},
        "remarks": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["currency", "totals", "tenants", "left_out", "remarks"],
}


def operations() -> Iterator[Operation]:
    yield Operation(
        method="POST",
        path="/what-if",
        view=what_if,
        summary="A recorded period under other terms, beside the record: nothing is changed",
        tag="ledger",
        body=scenario_schema(),
        gives=COMPARISON,
    )


@functools.cache
def scenario_schema() -> Schema:
    """Return the schema of a scenario, by its reader."""
    fields = Described()
    read_scenario(fields, Catalog(currency="USD"))
    return fields.schema


def what_if(request: HttpRequest) -> HttpResponse:
    caller = caller_for(request, Scope.MONEY_READ)
    require(caller, PERMISSION)
    _, found = played(places.mapping(json_of(request)))
    return shown(exact(comparison_written(found)))


def played(body: places.Document) -> tuple[Scenario, Comparison]:
    """Play a written scenario, for as long as a page would wait.

    Raises:
        CatalogError: It is wrong: with every fault.
        ApiError: The ledger can't be read, or has too much for so little time.
    """
    ground = ground_of(store.load_catalog().catalog)
    scenario = scenario_of(node_of(body), ground.catalog)
    drafts = scenario_drafts.drafts_of(scenario)
    try:
        return scenario, simulate(scenario, ground, drafts=drafts, progress=deadline())
    except TooMuchUsageError as error:
        raise invalid("tenants", str(error), "name fewer tenants") from None
    except LedgerUnreadableError as error:
        raise ApiError(
            HTTPStatus.SERVICE_UNAVAILABLE, "store-away", str(error), headers={"Retry-After": "5"}
        ) from None


def exact(written: Any) -> Any:
    """Return what counts billionths with amounts instead, as the API writes them."""
    if isinstance(written, Mapping):
        return {
            name.removesuffix(NANOS): str(amount(each)) if name.endswith(NANOS) else exact(each)
            for name, each in written.items()
        }
    return [exact(each) for each in written] if isinstance(written, list) else written
