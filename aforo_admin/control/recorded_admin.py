"""What all forms of the admin share: every save is a recorded, permitted, checked change.

A change is tried. If it breaks a rule of the catalog, nothing has changed, and the same input is
read once more, this time with the faults at their fields: so nobody types anything twice.
"""

from collections.abc import Callable, Collection
from typing import Any, ClassVar, Final

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import ValidationError
from django.db.models import JSONField, TextField
from django.forms.models import _get_foreign_key
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.admin import ModelAdmin, StackedInline, TabularInline
from unfold.widgets import UnfoldAdminTextInputWidget

from aforo_admin import store
from aforo_admin.control import opened, permitting, recorded_values, roles, words
from aforo_admin.control.fault_places import Place, in_words_of_forms, model_of, place_of_fault
from aforo_admin.control.fields import in_plain_words
from aforo_admin.control.forms import (
    REASON,
    PartFormSet,
    RecordedForm,
    Told,
    read_once,
    reason_input,
)
from aforo_admin.control.gone import GoneMixin
from aforo_admin.control.lines_field import LinesField
from aforo_admin.control.lookups import LookupsMixin
from aforo_admin.control.models_base import NeverEditedError, Ordered
from aforo_admin.control.opened import ChangedSinceOpenedError
from aforo_admin.control.permitting import FLOORS, NotPermittedError, ReasonMissingError
from aforo_admin.control.recording import Change, Source, current
from aforo_admin.control.shown import as_written
from aforo_admin.faults import CatalogError, Fault, NoCatalogError

FAULTS_SHOWN_MAX: Final = 20
LOOK_AGAIN: Final = "look at what it is now, and decide again"
SET_FLOORS: Final = f"control.{roles.SET_FLOORS}"
# Paths, names and places: a database's text, and a line to people.
ON_ONE_LINE: Final = {TextField: {"widget": UnfoldAdminTextInputWidget}}
REFUSALS: Final = (
    CatalogError,
    ChangedSinceOpenedError,
    NeverEditedError,
    NoCatalogError,
    NotPermittedError,
    ReasonMissingError,
    ValidationError,
)


class TriedError(Exception):
    """A change was only tried, and could be made. It is undone; its form shows what it would do.

    Args:
        shown: Returns that, as a template has it. It is asked once the trial is undone.
    """

    def __init__(self, shown: Callable[[], dict[str, Any]]) -> None:
        super().__init__("it was only tried")
        self.shown = shown


def recorded(request: HttpRequest, reason: str = "", *, checked: bool = False) -> Any:
    """Return a change that the user who asks makes, as far as their role goes.

    Args:
        request: Who asks.
        reason: Why, in their words.
        checked: It changes nothing that the catalog's rules speak of.
    """

    def permit(made: Change) -> None:
        permitting.check(made, request.user.has_perm)

    return store.change(
        actor=request.user.get_username(),
        source=Source.UI,
        reason=reason,
        checked=checked,
        permit=permit,
    )


def faults_of(error: Exception) -> list[Fault]:
    if isinstance(error, CatalogError):
        return list(error.faults[:FAULTS_SHOWN_MAX])
    lines = error.messages if isinstance(error, ValidationError) else [str(error)]
    return [Fault(line=0, place="", message=line) for line in lines]


def tell(request: HttpRequest, error: Exception) -> None:
    """Say on the next page why nothing was done."""
    for fault in faults_of(error):
        place = f"{fault.place}: " if fault.place else ""
        messages.error(request, f"Nothing was changed: {place}{fault.message}")


class PlainMixin:
    """Fields as people read them."""

    formfield_overrides: ClassVar = ON_ONE_LINE

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **options)  # type: ignore[misc]
        return in_plain_words(db_field, field)

    def formfield_for_choice_field(self, column: Any, request: HttpRequest, **options: Any) -> Any:
        """Let people choose where nothing is the default: unfold would take the first for them."""
        unsaid = column.blank or not column.has_default()
        choices = column.get_choices(include_blank=unsaid, blank_choice=[("", "Select value")])
        options = {"choices": choices, **options}
        return super().formfield_for_choice_field(column, request, **options)  # type: ignore[misc]


class RecordedAdmin(LookupsMixin, GoneMixin, PlainMixin, ModelAdmin):
    """The form of a row, and of what belongs to it."""

    form = RecordedForm
    list_per_page = 50
    show_full_result_count = False
    actions = None  # One row at a time, with a reason.
    warn_unsaved_form = True
    delete_confirmation_template = "control/delete.html"
    change_form_after_template = "control/opened.html"
    reason_required = False
    empty_words = ""  # What to know where the list has no rows.
    hidden: tuple[str, ...] = ()  # Columns that no form shows.

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, *arguments: Any, **options: Any
    ) -> Any:
        view = super().changeform_view

        def show() -> HttpResponse:
            return rendered(view(request, object_id, *arguments, **options))

        if request.method != "POST":
            opened.mark(request)
            return view(request, object_id, *arguments, **options)
        try:
            with recorded(request):
                self._check_opened(request, object_id)
                return show()
        except TriedError as tried:
            request.tried = tried.shown()
            return show()
        except REFUSALS as error:
            request.refusal = error
            if isinstance(error, ChangedSinceOpenedError):
                opened.renew(request)
            # "Added successfully", it may have said before the change came to its end.
            messages.get_messages(request)._queued_messages.clear()
            return show()

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        view = super().delete_view
        if request.method != "POST":
            opened.mark(request)
            row = self.get_object(request, unquote(object_id))
            context = {
                "reason": reason_input(),
                "opened": opened.hidden_input(request),
                "named": "" if row is None else self.named(row),
            }
            return view(request, object_id, {**(extra_context or {}), **context})
        try:
            with recorded(request, request.POST.get(REASON, "")):
                self._check_opened(request, object_id, remedy=LOOK_AGAIN)
                return rendered(view(request, object_id, extra_context))
        except REFUSALS as error:
            tell(request, error)
            return HttpResponseRedirect(request.get_full_path())

    def named(self, row: Any) -> str:
        """Return what a row is called where it is asked whether it should go."""
        return f"the {row._meta.verbose_name} {row}"

    def _check_opened(
        self, request: HttpRequest, object_id: str | None, *, remedy: str = opened.REMEDY
    ) -> None:
        row = None if object_id is None else self.get_object(request, unquote(object_id))
        if row is not None:
            opened.check(request, row, [each.model for each in self.inlines], remedy)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Return what goes along; whether it may, is judged as the change ends."""
        found, counts, _, protected = super().get_deleted_objects(objs, request)
        return found, counts, set(), protected

    def get_form(self, request: HttpRequest, obj: Any = None, **options: Any) -> Any:
        form = super().get_form(request, obj, **options)
        own = {
            "told": told(request, obj, self.model, {each.model.__name__ for each in self.inlines}),
            "reason_required": self.reason_required,
            "only_shown": hasattr(request, "tried"),
            "opened": getattr(request, "opened", None) if obj is not None else None,
        }
        made = type(form.__name__, (form,), own)
        words.put_where_read(self.model, made)
        return made

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *arguments: Any, **options: Any
    ) -> Any:
        context |= getattr(request, "tried", {})
        return super().render_change_form(request, context, *arguments, **options)

    def get_inline_instances(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Leave out a part that has no row here and gets none from whoever asks."""
        return [
            part
            for part in super().get_inline_instances(request, obj)
            if part.has_add_permission(request, obj) or self._has_rows(part, obj)
        ]

    def _has_rows(self, part: Any, obj: Any) -> bool:
        if obj is None:
            return False
        owner = _get_foreign_key(self.model, part.model, fk_name=part.fk_name)
        return bool(part.model.objects.filter(**{owner.name: obj}).exists())

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        current().reason = form.cleaned_data.get(REASON, "")
        super().save_model(request, obj, form, change)

    def log_addition(self, *_arguments: Any) -> None:
        """Our record has it."""

    log_change = log_deletions = log_addition

    def get_exclude(self, _request: HttpRequest, _obj: Any = None) -> list[str]:
        return list(self.hidden)

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return [as_written(self.model, name) for name in super().get_list_display(request)]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the row's own columns, its floors, and why it changes."""
        ((_, options),) = super().get_fieldsets(request, obj)
        names = [name for name in dict.fromkeys(options["fields"]) if name != REASON]
        floors = [name for name in names if name in FLOORS]
        sets: list[Any] = [(None, {"fields": [name for name in names if name not in FLOORS]})]
        if floors and (obj is not None or request.user.has_perm(SET_FLOORS)):
            sets.append(("Margin floors", {"fields": floors}))
        if self._editable(request, obj):
            sets.append(("The record", {"fields": [REASON]}))
        return sets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return what can't be edited: ids, what never is, and floors of those without them."""
        fixed = list(super().get_readonly_fields(request, obj))
        if obj is not None:
            names = {each.name for each in obj._meta.fields}
            fixed += [*(name for name in obj.key_fields if name in names), *obj.never_edited]
            if not request.user.has_perm(SET_FLOORS):
                fixed += [each.name for each in obj._meta.fields if each.name in FLOORS]
        return list(dict.fromkeys(fixed))

    def _editable(self, request: HttpRequest, obj: Any) -> bool:
        if obj is None:
            return bool(self.has_add_permission(request))
        return bool(self.has_change_permission(request, obj))


class PartMixin(PlainMixin):
    """What belongs to a row, in its form."""

    extra = 0
    formset = PartFormSet
    hide_title = True

    def get_formset(self, request: HttpRequest, obj: Any = None, **options: Any) -> Any:
        formset = super().get_formset(request, obj, **options)  # type: ignore[misc]
        tables = {self.model.__name__}  # type: ignore[attr-defined]
        own = {"told": told(request, obj, self.parent_model, tables)}  # type: ignore[attr-defined]
        words.put_where_read(self.model, formset.form)  # type: ignore[attr-defined]
        return type(formset.__name__, (formset,), own)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        if type(db_field) is not JSONField:
            return super().formfield_for_dbfield(db_field, request, **options)
        field = super().formfield_for_dbfield(
            db_field, request, **{**options, "form_class": LinesField}
        )
        field.example = words.EXAMPLES.get(db_field.name, "")
        return field

    def formfield_for_foreignkey(self, *arguments: Any, **options: Any) -> Any:
        field = super().formfield_for_foreignkey(*arguments, **options)  # type: ignore[misc]
        field.iterator = read_once()
        return field

    def get_exclude(self, _request: HttpRequest, _obj: Any = None) -> list[str]:
        return ["position"] if issubclass(self.model, Ordered) else []  # type: ignore[attr-defined]


class Part(PartMixin, StackedInline):
    """Shown one below the other."""


class PartTable(PartMixin, TabularInline):
    """Shown as a table."""


def told(request: HttpRequest, obj: Any, model: Any, tables: Collection[str]) -> Told:
    """Return what the last attempt to save the same input was refused for, and where.

    Args:
        request: It knows of the attempt.
        obj: The form's row; None: it is to be added.
        model: Of the row.
        tables: Whose rows the form shows beside its own. Of others, the form itself tells.
    """
    error = getattr(request, "refusal", None)
    if error is None:
        return []
    if isinstance(error, NotPermittedError):
        return [(Place(column=error.column), str(error))]
    if isinstance(error, ReasonMissingError):
        return [(Place(column=REASON), str(error))]
    row = obj if obj is not None else _row_of(request, model)
    found: Told = []
    for fault in faults_of(error):
        place = place_of_fault(row, fault) if fault.place else None
        if place is None or place.table not in {"", *tables}:
            place = Place()
        where = f"{place.within}: " if place.within else ""
        if fault.place and not place.column:
            where = f"{fault.place}: "
        message = fault.message
        if fault.pair is not None and len(place.among) == len(fault.pair):
            labels = [recorded_values.label(model_of(place, model), each) for each in place.among]
            message = in_words_of_forms(fault, labels)
        found.append((place, f"{where}{message}"))
    return found


def _row_of(request: HttpRequest, model: Any) -> Any:
    """Return what a row that was to be added would be called."""
    row = model()
    for name in ("tenant_id", "plan_id", "position"):
        given = request.POST.get(name, request.POST.get(name.removesuffix("_id"), ""))
        if hasattr(row, name) and given:
            setattr(row, name, int(given) if name == "position" else given)
    return row


def rendered(response: HttpResponse) -> HttpResponse:
    """Return a response that needs the change no longer."""
    if hasattr(response, "render"):
        response.render()
    return response


def back_to(admin: ModelAdmin, obj: Any) -> HttpResponseRedirect:
    name = f"admin:{obj._meta.app_label}_{obj._meta.model_name}_change"
    return HttpResponseRedirect(reverse(name, args=[obj.pk], current_app=admin.admin_site.name))
