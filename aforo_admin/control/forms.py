"""Forms of the catalog's rows: a reason for each change, and faults told at their fields."""

from collections.abc import Iterator
from typing import Any, Final

from django import forms
from django.forms.models import ModelChoiceIterator
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminTextInputWidget

from aforo_admin.columns import ALLOWANCE_COLUMNS
from aforo_admin.control.fault_places import Place
from aforo_admin.control.opened import OPENED
from aforo_admin.control.permitting import FLOORS

REASON: Final = "change_reason"
REASON_CHARS_MAX: Final = 500
GONE: Final = "somebody has removed this row meanwhile: remove it here too, or add it anew"
SOME_LEVELS: Final = "levels of an allowance hold together: say all three, or none"
Told = list[tuple[Place, str]]


def reason_field(*, required: bool) -> forms.CharField:
    return forms.CharField(
        label="Reason for this change",
        required=required,
        max_length=REASON_CHARS_MAX,
        widget=UnfoldAdminTextInputWidget(),
        help_text="For the record: who looks at it in a year wants to know why.",
        error_messages={"required": "say why: floors and overrides change for a reason"},
    )


def reason_input() -> str:
    """Return the field alone, for pages that ask before they do something."""
    widget = reason_field(required=False).widget
    return str(widget.render(REASON, "", {"id": "id_reason", "maxlength": REASON_CHARS_MAX}))


class RecordedForm(forms.ModelForm):
    """A row's form.

    A subclass made for one request has the faults of an attempt to save the same input.
    """

    told: Told = []  # noqa: RUF012 - never changed in place.
    reason_required = False
    only_shown = False  # What was typed was tried already, and is to be looked at once more.
    opened: int | None = None  # Where the record stood; None: nothing was there to be opened.
    change_reason = reason_field(required=False)
    opened_at_change = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.initial[OPENED] = self.opened
        if REASON in self.fields:
            self.fields[REASON].required = self.reason_required

    def is_valid(self) -> bool:
        return bool(super().is_valid()) and not self.only_shown

    def _post_clean(self) -> None:
        super()._post_clean()
        touched = sorted(FLOORS.intersection(self.changed_data) - self._defaults())
        unsaid = REASON in self.fields and REASON not in self.errors
        if touched and unsaid and not self.cleaned_data.get(REASON):
            names = ", ".join(str(self.fields[name].label) for name in touched)
            self.add_error(REASON, f"say why {names} changes: floors change for a reason")
        self._refuse_some_levels()
        for place, message in self.told:
            if not place.table:
                put(self, place, message)
        if self.told and not self.errors:
            self.add_error(None, "nothing was saved: what belongs to it, below, breaks a rule")

    def _refuse_some_levels(self) -> None:
        """Levels of an allowance hold together: with one missing, none of them would."""
        names = [name for name in ALLOWANCE_COLUMNS.values() if name in self.fields]
        if self.errors.keys() & set(names):
            return
        unsaid = [name for name in names if self.cleaned_data.get(name) is None]
        if len(unsaid) < len(names):
            for name in unsaid:
                self.add_error(name, SOME_LEVELS)

    def _defaults(self) -> set[str]:
        """Return what a new row says without anybody having said it."""
        if self.instance.pk is not None and not self.instance._state.adding:
            return set()
        return {name for name in FLOORS if not self.cleaned_data.get(name)}


class PartFormSet(PaginationInlineFormSet):
    """The rows that belong to one, in its form."""

    told: Told = []  # noqa: RUF012 - as above.

    def clean(self) -> None:
        super().clean()
        for form in self.initial_forms:
            if form.instance._state.adding and not self._should_delete_form(form):
                form.add_error(None, GONE)
        if not self.told:
            return
        rows = sorted(self._kept(), key=self._rank)
        for place, message in self.told:
            if place.table == self.model.__name__:
                if place.index < len(rows):
                    put(rows[place.index], place, message)
                else:
                    self._non_form_errors.append(message)

    def _kept(self) -> list[Any]:
        return [
            form
            for form in self.forms
            if not self._should_delete_form(form)
            and (form.has_changed() or form in self.initial_forms)
        ]

    def _rank(self, form: Any) -> tuple[Any, ...]:
        first = self.model._meta.ordering[0] if self.model._meta.ordering else "pk"
        value = getattr(form.instance, first, None)
        return (value is None, value if value is not None else 0)


def read_once() -> type[ModelChoiceIterator]:
    """Return an iterator of choices that asks the database once for all rows of a form."""
    kept: list[Any] = []

    class Once(ModelChoiceIterator):
        def __iter__(self) -> Iterator[Any]:
            if not kept:
                kept.extend(super().__iter__())
            return iter(kept)

    return Once


def put(form: Any, place: Place, message: str) -> None:
    """Tell a fault at its field, or at the form where it has no such field.

    Of fields that don't go together it is told at those that were changed.
    """
    shown = [name for name in (place.among or (place.column,)) if name in form.fields]
    changed = [name for name in shown if name in form.changed_data]
    for name in changed or shown[:1]:
        form.add_error(name, message)
    if not shown:
        form.add_error(None, message)
