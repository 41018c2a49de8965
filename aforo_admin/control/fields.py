"""Columns that forms show and read as the catalog's YAML writes them: one grammar for both."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from unfold.widgets import UnfoldAdminTextInputWidget

from aforo_admin.catalog_yaml_metering import units_micros
from aforo_admin.control import words
from aforo_admin.domain.problems import INT64_MAX, check_amount, check_year, percent
from aforo_admin.written_values import amount, factor, time_of_day
from aforo_admin.yaml_scalars import amount_nanos, percent_bp, time_of_day_s
from aforo_meter.domain.usage import MICROS_PER_UNIT

BP_KEPT_MAX: Final = 2**31 - 1  # What the column holds.
# Of what a tenant or a deal may leave to its plan.
PERHAPS: Final = (("unknown", "as the plan says"), ("true", "yes"), ("false", "no"))


class WrittenField(forms.CharField):
    """A text that one of the catalog's readers reads."""

    def __init__(
        self,
        *,
        read: Callable[[str], int],
        write: Callable[[int], str],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._read = read
        self._write = write

    def prepare_value(self, value: Any) -> Any:
        return str(self._write(value)) if isinstance(value, int) else value

    def to_python(self, value: Any) -> int | None:
        text = super().to_python(value)
        if text in self.empty_values:
            return None
        try:
            return self._read(text.strip())
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            held = self.to_python(self.prepare_value(initial))
        except ValidationError:  # What an address says that a new row begins with.
            return True
        return bool(super().has_changed(held, data))


class NamedByQuantity:
    """A column whose name ends with its unit, which people need not read."""

    unit: str
    verbose_name: Any

    def set_attributes_from_name(self, name: str) -> None:
        super().set_attributes_from_name(name)  # type: ignore[misc]
        self.verbose_name = str(self.verbose_name).removesuffix(f" {self.unit}")


class NanosColumn(NamedByQuantity, models.BigIntegerField):
    """An amount in nanos. A form takes 2000 or 2_000.50."""

    unit = "nanos"

    def written(self, nanos: int) -> str:
        return amount(nanos)

    def formfield(self, **options: Any) -> Any:
        return amount_field(self, options)


class BasisPointsColumn(NamedByQuantity, models.IntegerField):
    """A share in basis points. A form takes 20% or 0.5%."""

    unit = "bp"

    def written(self, bp: int) -> str:
        return percent(bp)

    def formfield(self, **options: Any) -> Any:
        return _written(self, _share_bp, percent, options)


class TimeOfDayColumn(NamedByQuantity, models.PositiveIntegerField):
    """A time of the day in seconds after midnight UTC. A form takes 22:00."""

    unit = "s"

    def deconstruct(self) -> Any:
        """Say for migrations what it is in a database: a number as any other."""
        name, _, positional, named = super().deconstruct()
        return name, "django.db.models.PositiveIntegerField", positional, named

    def written(self, seconds: int) -> str:
        return time_of_day(seconds)

    def formfield(self, **options: Any) -> Any:
        return _written(self, time_of_day_s, time_of_day, options)


class LowerCaseColumn(models.TextField):
    """A name that is compared in lower case, and kept so whoever writes it."""

    def deconstruct(self) -> Any:
        """Say for migrations what it is in a database: a text as any other."""
        name, _, positional, named = super().deconstruct()
        return name, "django.db.models.TextField", positional, named

    def to_python(self, value: Any) -> Any:
        return _lower(super().to_python(value))

    def get_prep_value(self, value: Any) -> Any:
        return _lower(super().get_prep_value(value))

    def pre_save(self, row: Any, add: Any) -> Any:
        value = _lower(super().pre_save(row, add))
        setattr(row, self.attname, value)
        return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class UnitsColumn(NamedByQuantity, models.BigIntegerField):
    """Units in millionths. A form takes 1, 10 or 0.5."""

    unit = "micros"

    def deconstruct(self) -> Any:
        """Say for migrations what it is in a database: a number as any other."""
        name, _, positional, named = super().deconstruct()
        return name, "django.db.models.BigIntegerField", positional, named

    def written(self, micros: int) -> str:
        return factor(micros)

    def formfield(self, **options: Any) -> Any:
        return _written(self, _units_micros, factor, options)


class TextsField(forms.CharField):
    """A list of texts, one a line or separated by commas. Blank: `nothing`."""

    def __init__(self, *, nothing: list[str] | None, **options: Any) -> None:
        super().__init__(**options)
        self._nothing = nothing

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str] | None:
        if isinstance(value, list):
            return value
        text = super().to_python(value) or ""
        texts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
        return texts or self._nothing

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(self.prepare_value(initial)) != self.to_python(data)


class TextsColumn(models.JSONField):
    """A list of texts, in order."""

    def written(self, texts: list[str]) -> str:
        return ", ".join(texts) or "–"

    def formfield(self, **options: Any) -> Any:
        nothing: list[str] | None = None if self.null else []
        options = {**options, "widget": UnfoldAdminTextInputWidget()}
        return TextsField(nothing=nothing, required=False, **_common(self, options))


def in_plain_words(column: models.Field, field: Any) -> Any:
    """Return a form's field with what Django says for databases said for people."""
    if isinstance(column, models.DateTimeField) and field is not None:
        field.validators = [*field.validators, _check_year]
    if isinstance(field, forms.NullBooleanField):
        field.widget.choices = PERHAPS
    if column.name.endswith("_s") and field is not None and not hasattr(column, "written"):
        field.label = f"{str(field.label).removesuffix(' s')}, in seconds"
    if field is not None:
        words.put(column, field)
    return field


def _check_year(at: datetime) -> None:
    for problem in check_year((), at):
        raise ValidationError(problem.message)


def amount_field(column: models.Field, options: Any) -> WrittenField:
    """Return a form's field of an amount, for a column of whole nanos."""
    return _written(column, _amount_nanos, amount, options)


def _amount_nanos(given: str) -> int:
    nanos = amount_nanos("")(given)
    for problem in check_amount((), abs(nanos)):
        raise ValueError(problem.message)
    return nanos


def _units_micros(given: str) -> int:
    micros = units_micros(given)
    if micros > INT64_MAX:
        raise ValueError(f"is too large: write at most {INT64_MAX // MICROS_PER_UNIT}")
    return micros


def _share_bp(given: str) -> int:
    bp = percent_bp(given)
    if abs(bp) > BP_KEPT_MAX:  # The rules, which say what a share may be, would not be asked.
        raise ValueError("is far out of range: write a share like 20%")
    return bp


def _written(
    column: models.Field, read: Callable[[str], int], write: Callable[[int], str], options: Any
) -> WrittenField:
    # Not the one of numbers, into which a browser lets nobody type 20%.
    options = {**options, "widget": UnfoldAdminTextInputWidget()}
    required = not column.blank
    return WrittenField(read=read, write=write, required=required, **_common(column, options))


def _common(column: models.Field, options: Any) -> dict[str, Any]:
    return {
        "label": str(column.verbose_name).capitalize(),
        "help_text": column.help_text,
        "initial": column.get_default() if column.has_default() else None,
        **{name: value for name, value in options.items() if name in {"widget", "disabled"}},
    }
