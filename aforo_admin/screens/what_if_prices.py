"""What a new cost price would do: who crosses which level, and when, by recorded usage."""

from typing import Any, Final

from django import forms
from django.http import HttpRequest, HttpResponse

from aforo_admin import store
from aforo_admin.catalog_yaml_tenants import read_costs
from aforo_admin.domain.catalog import Catalog, CostPrice
from aforo_admin.domain.problems import Problem
from aforo_admin.faults import CatalogError, NoCatalogError
from aforo_admin.ledger_periods import TooMuchUsageError
from aforo_admin.ledger_reading import LedgerUnreadableError
from aforo_admin.places import NotSetError
from aforo_admin.previews import preview_prices
from aforo_admin.scenario_yaml import refuse
from aforo_admin.screens.page import ScreenView
from aforo_admin.simulating import ground_of
from aforo_admin.simulation_text import in_order
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_writing import node_of

TENANTS_SHOWN: Final = 200
AWAY: Final = (LedgerUnreadableError, NotSetError, NoCatalogError, TooMuchUsageError)
FIELDS: Final = ("meter", "price", "per", "from", "provider", "model")


class PriceForm(forms.Form):
    """An entry of the price book, as the catalog writes it."""

    meter = forms.CharField(max_length=128, label="Meter", initial="llm.output_tokens")
    provider = forms.CharField(max_length=128, required=False, label="Provider")
    model = forms.CharField(max_length=128, required=False, label="Model")
    price = forms.CharField(max_length=64, label="Price", help_text="Like 8.00")
    per = forms.CharField(max_length=32, label="For so many units", initial="1M")
    begins = forms.CharField(
        max_length=32, label="From", help_text="Like 2027-01-01 (UTC). Usage is taken as of then."
    )

    def entries(self, catalog: Catalog) -> tuple[CostPrice, ...]:
        """Return the entry that the fields say.

        Raises:
            CatalogError: One is wrong.
        """
        said = {"from": self.cleaned_data["begins"], **self.cleaned_data}
        row = {name: said[name] for name in FIELDS if said.get(name)}
        problems: list[Problem] = []
        fields = Fields(node_of({"costs": [row]}), path=(), problems=problems)
        found = read_costs(fields, "costs", currency=catalog.currency)
        refuse(problems)
        return found


class PricePreviewView(ScreenView):
    template_name = "control/screens/what_if_prices.html"

    _form: PriceForm
    _shown: dict[str, Any]

    def get(self, request: HttpRequest, *_arguments: Any, **_named: Any) -> HttpResponse:
        fields = [name for name in PriceForm.base_fields if name in request.GET]
        initial = {name: request.GET[name][:128] for name in fields}
        self._form, self._shown = PriceForm(initial=initial or None), {}
        return self.render_to_response(self.get_context_data())

    def post(self, request: HttpRequest, *_arguments: Any, **_named: Any) -> HttpResponse:
        self._form, self._shown = PriceForm(request.POST), {}
        if self._form.is_valid():
            self._shown = _preview(self._form)
        return self.render_to_response(self.get_context_data())

    def figures(self, now_micros: int) -> dict[str, Any]:  # noqa: ARG002 - the record has its own.
        return {"form": self._form, **self._shown}


def _preview(form: PriceForm) -> dict[str, Any]:
    try:
        ground = ground_of(store.load_catalog().catalog)
        found, crossings = preview_prices(form.entries(ground.catalog), ground)
    except CatalogError as error:
        for fault in error.faults:
            name = fault.place.rpartition(".")[2]
            column = "begins" if name == "from" else name
            form.add_error(column if column in form.fields else None, fault.message)
        return {}
    except AWAY as error:
        return {"missing": [str(error)]}
    crossed = {id(one.outcome) for one in crossings}
    moved = [one for one in in_order(found) if id(one) not in crossed]
    return {
        "found": found,
        "crossings": crossings[:TENANTS_SHOWN],
        "crossings_more": max(0, len(crossings) - TENANTS_SHOWN),
        "moved": moved[:TENANTS_SHOWN],
        "moved_more": max(0, len(moved) - TENANTS_SHOWN),
    }
