"""How columns look where they are read: as the catalog's YAML writes them."""

import json
from collections.abc import Callable
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.utils import lookup_field
from django.core.exceptions import ObjectDoesNotExist
from django.db import models
from django.utils.html import conditional_escape, format_html
from unfold import forms
from unfold.fields import UnfoldAdminReadonlyField

from aforo_admin.control import limits
from aforo_admin.control.limits import LIMIT
from aforo_admin.control.words import UTC

FIGURE: Final = "figure"


class ReadonlyField(UnfoldAdminReadonlyField):
    """A field that is read. Unfold would colour JSON by styles that stand in the page."""

    def contents(self) -> Any:
        try:
            column, _, value = lookup_field(
                self.field["field"], self.form.instance, self.model_admin
            )
        except (AttributeError, ValueError, ObjectDoesNotExist):
            return super().contents()
        if value is not None and hasattr(column, "written"):
            return conditional_escape(column.written(value))
        if value is not None and column is not None and column.name == LIMIT:
            return conditional_escape(limits.written(self.form.instance.meter, value))
        if isinstance(column, models.JSONField):
            text = json.dumps(value, indent=2, ensure_ascii=False)
            return format_html("<pre>{}</pre>", text)
        return super().contents()


def install() -> None:
    """Use it in unfold's forms, which have no setting for that."""
    forms.UnfoldAdminReadonlyField = ReadonlyField


def as_written(model: Any, name: Any) -> Any:
    """Return what a list of rows shows of a column: its name, or how it is written."""
    if not isinstance(name, str) or name not in {each.name for each in model._meta.fields}:
        return name
    column = model._meta.get_field(name)
    if isinstance(column, models.DateTimeField):
        return _of_utc(column)
    return _shown(column) if hasattr(column, "written") else name


def _of_utc(column: Any) -> Callable[[Any], Any]:
    @admin.display(description=f"{column.verbose_name} {UTC}", ordering=column.name)
    def show(row: Any) -> Any:
        return getattr(row, column.name)

    shown: Callable[[Any], Any] = show
    return shown


def _shown(column: Any) -> Callable[[Any], str | None]:
    @admin.display(description=str(column.verbose_name), ordering=column.name)
    def show(row: Any) -> str | None:
        value = getattr(row, column.name)
        return None if value is None else str(column.written(value))

    if isinstance(column, models.IntegerField):
        show.__name__ = FIGURE  # It becomes a class of its cells.
    shown: Callable[[Any], str | None] = show
    return shown
