"""Limits of quotas as people write them: of money.cogs an amount, of other meters whole units."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget

from aforo_admin.catalog_yaml_tenants import limit_of
from aforo_admin.domain.catalog import COGS
from aforo_admin.domain.problems import check_amount, check_units
from aforo_admin.written_values import amount

LIMIT = "limit_units"


def written(meter: str | None, limit_units: int) -> str:
    """Write a limit as the catalog's YAML does: 50.25 of a currency, or 5000 units."""
    return str(amount(limit_units)) if meter == COGS else str(limit_units)


class QuotaForm(forms.ModelForm):
    """A quota in the form of its plan or deal. Its meter says what its limit is of."""

    limit_units = forms.CharField(
        label="Limit",
        widget=UnfoldAdminTextInputWidget(),
        help_text="5000, 5k or 2M units; of money.cogs an amount, like 50.00.",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        column = self._meta.model._meta.get_field(LIMIT)
        if LIMIT in self.fields:
            self.fields[LIMIT].required = not column.blank
        held = self.initial.get(LIMIT)
        if held is not None:
            self.initial[LIMIT] = written(self.instance.meter, held)

    def clean(self) -> Any:
        given = super().clean()
        text = given.get(LIMIT)
        if text and given.get("unlimited"):
            self.add_error(LIMIT, "is unlimited beside it: leave this empty, or that unticked")
            return given
        if LIMIT not in given:
            return given
        try:
            given[LIMIT] = _read(text.strip(), given.get("meter") or "") if text else None
        except ValueError as error:
            self.add_error(LIMIT, str(error))
        return given


def _read(text: str, meter: str) -> int:
    limit = limit_of(meter, "")(text)
    if meter == COGS and limit > 0:
        problems = check_amount((), limit)
    else:
        problems = check_units((), limit, least=0)
    for problem in problems:
        raise ValueError(problem.message)
    return limit
