"""What the record kept of a row, as the forms call it and write it. The record itself is JSON."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import models

from aforo_admin.control import limits
from aforo_admin.control.words import LABELS
from aforo_admin.written_values import amount

NOTHING: Final = "–"


def model_of(kind: str) -> Any:
    """Return the model of an entry's kind; None: it was done to something else."""
    named = {
        str(each._meta.verbose_name): each for each in apps.get_app_config("control").get_models()
    }
    return named.get(kind)


def label(model: Any, name: str) -> str:
    """Return what a form calls a column."""
    column = _column(model, name)
    if column is None:
        return name
    return LABELS.get(column.name, str(column.verbose_name).capitalize())


def text(model: Any, name: str, row: Mapping[str, Any]) -> str:
    """Return a value as people write it: an amount, a share, an instant; else as it is kept.

    Args:
        model: Of the row; None: nobody knows what it is of.
        name: Of the value.
        row: All that the record kept beside it.
    """
    value, column = row.get(name), _column(model, name)
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name == limits.LIMIT and "meter" in row:
        return limits.written(row["meter"], value)
    if isinstance(column, models.DateTimeField) and isinstance(value, str):
        return _instant(value)
    if isinstance(value, int | list) and (write := _writer(column, name)) is not None:
        return str(write(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _writer(column: Any, name: str) -> Callable[[Any], str] | None:
    """Return what writes a column's figures; None: they are written as they are kept."""
    return getattr(column, "written", amount if name.endswith("_nanos") else None)


def _column(model: Any, name: str) -> Any:
    if model is None:
        return None
    for known in (name, name.removesuffix("_id")):
        try:
            return model._meta.get_field(known)
        except FieldDoesNotExist:  # The record's is the column's name: plan_id for plan.
            continue
    return None


def _instant(value: str) -> str:
    try:
        return f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return value
