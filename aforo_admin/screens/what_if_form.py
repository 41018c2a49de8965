"""The form of the what-if → a scenario, with each fault at its field."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from django import forms

from aforo_admin import what_if_flags
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.scenario import Scenario
from aforo_admin.faults import CatalogError, Fault
from aforo_admin.scenario_yaml import read_scenario_text, scenario_of
from aforo_admin.yaml_writing import node_of

LINES_CHARS_MAX: Final = 4000
WRITTEN_CHARS_MAX: Final = 64 * 1024
SAVED_AS: Final = "written"
FIELD_OF: Final = {key: name for name, (key, _) in what_if_flags.LISTS.items()} | {
    "month": "month",
    "tenants": "tenants",
}
PART: Final = re.compile(r"\w+\[(\d+)\]", re.ASCII)
# By the fields of the catalog that changes lead to.
OF_CATALOG: Final = {
    "thresholds": "floors",
    "allowance_thresholds": "floors",
    "committed_fee": "fees",
    "rate_card": "prices",
}


class Lines(forms.CharField):
    """One thing a line. `starts` are lines to begin with, for a click."""

    starts: Sequence[str] = ()

    def __init__(self, label: str, help_text: str) -> None:
        super().__init__(
            label=label,
            help_text=help_text,
            required=False,
            max_length=LINES_CHARS_MAX,
            widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        )

    def to_python(self, value: Any) -> list[str]:
        text = super().to_python(value) or ""
        return [line.strip() for line in text.splitlines() if line.strip()]

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def validate(self, value: list[str]) -> None:
        """Accept any: their forms are for `what_if_flags`."""

    def run_validators(self, value: list[str]) -> None:
        super().run_validators("\n".join(value))


class WhatIfForm(forms.Form):
    """What changes, one a line; or as it is written in a file."""

    said: Mapping[str, Any]  # By field.
    lines: Mapping[str, Sequence[str]]  # Those that could be read, by field.
    readable: Scenario | None = None

    month = forms.CharField(
        label="Month",
        required=False,
        max_length=7,
        help_text="Like 2026-11: each tenant's billing period at its end. Empty: the one in force.",
    )
    tenants = Lines("Tenants", "One a line. Empty: all.")
    provider_cost = Lines(
        "What providers cost", "openai=+20%, or openai/gpt-4o:llm.output_tokens=8.00/1M"
    )
    price = Lines("What we charge for usage", "pro=+5%, or pro/COMPONENT=0.02/1k")
    fee = Lines("Committed fees", "pro=+10%, or pro=550")
    threshold = Lines("Thresholds", "block=5%, plan:pro/warn=30%, or tenant:acme/block=-10%")
    model = Lines("Models", "gpt-4o=gpt-4o-mini: all usage of the first at the second's prices")
    growth = Lines("Growth of usage", "+30%, tenant:acme=+30%, or feature:chat=-10%")
    draft = Lines("Versions of plans", "pro=3, instead of the version in force")
    written = forms.CharField(
        label="Scenario as YAML",
        required=False,
        max_length=WRITTEN_CHARS_MAX,
        help_text="As kept ones are loaded; deals too. The fields add to it.",
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
    )

    def offer(self, starts: Mapping[str, Sequence[str]]) -> None:
        """Show lines to begin with, by the names of fields."""
        for name, lines in starts.items():
            self.fields[name].starts = lines

    def scenario(self, catalog: Catalog) -> Scenario | None:
        """Return the scenario; None if a field is wrong, which says so.

        What could be read beside is `readable` then: whoever knows more looks for its faults.
        """
        self.said = dict(self.cleaned_data)  # Of a field with an error the form forgets what it is.
        text = self.said[SAVED_AS].strip()
        held = Scenario()
        if text:
            held = self._read(lambda: read_scenario_text(text.encode(), catalog)) or held
        lines = {name: self.said[name] for name in what_if_flags.LISTS}
        try:
            written = what_if_flags.written(lines)
        except what_if_flags.LinesError as error:
            written = dict(error.rest)
            wrong = {(each.name, each.given) for each in error.errors}
            for each in error.errors:
                self.add_error(each.name, str(each))
            lines = {
                name: [line for line in given if (name, line) not in wrong]
                for name, given in lines.items()
            }
        if tenants := self.said["tenants"]:
            lines["tenants"] = written["tenants"] = tenants
        if month := self.said["month"].strip():
            written["month"] = month
        self.lines = lines
        more = self._read(lambda: scenario_of(node_of(written), catalog), fields=written)
        self.readable = None if more is None else held.with_more(more)
        return None if self.errors else self.readable

    def _read(
        self, read: Callable[[], Scenario], fields: Mapping[str, Any] | None = None
    ) -> Scenario | None:
        try:
            return read()
        except CatalogError as error:
            self.put(error, fields or {})
            return None

    def put(self, error: CatalogError, said: Mapping[str, Any]) -> None:
        """Say each fault at its field; what stands in the written form, there.

        Args:
            error: What is wrong.
            said: What the fields say, by its name in the written form.
        """
        for fault in error.faults:
            key = _key_of(fault.place)
            if key in FIELD_OF and key in said:
                self.add_error(FIELD_OF[key], _told(fault, self.lines.get(FIELD_OF[key], ())))
            else:
                self.add_error(self._otherwise(key), _told(fault))

    def _otherwise(self, key: str) -> str | None:
        if self.said.get(SAVED_AS):
            return SAVED_AS
        field = FIELD_OF.get(key)
        return field if field is not None and self.said.get(field) else None


def _key_of(place: str) -> str:
    """Return which part of a scenario a fault of it, or of its catalog, is about."""
    for part, key in OF_CATALOG.items():
        if part in place.split("[", maxsplit=1)[0].split("."):
            return key
    return place.partition("[")[0].partition(".")[0]


def _told(fault: Fault, lines: Sequence[str] = ()) -> str:
    """Say a fault: of a line in the words of the line, else with its place in the written form."""
    match = PART.match(fault.place)
    if match is not None and int(match[1]) < len(lines):
        return f"{lines[int(match[1])]}: {fault.message}"
    return f"{fault.place}: {fault.message}" if fault.place else fault.message
