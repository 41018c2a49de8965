"""The catalog in Django's admin, plainly: every save is a recorded, checked change."""

from collections.abc import Callable, Iterable
from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from unfold.admin import ModelAdmin, StackedInline

from aforo_admin import store
from aforo_admin.control import models
from aforo_admin.control.models_base import NeverEditedError, Recorded
from aforo_admin.control.recording import Source, current
from aforo_admin.faults import CatalogError

FAULTS_SHOWN_MAX = 20


class RecordedAdmin(ModelAdmin):
    """Forms whose changes are somebody's, and leave the catalog right or as it was."""

    def changeform_view(self, request: HttpRequest, *arguments: Any, **options: Any) -> Any:
        view = super().changeform_view
        return _recorded(request, lambda: view(request, *arguments, **options))

    def delete_view(self, request: HttpRequest, *arguments: Any, **options: Any) -> Any:
        view = super().delete_view
        return _recorded(request, lambda: view(request, *arguments, **options))

    def changelist_view(self, request: HttpRequest, *arguments: Any, **options: Any) -> Any:
        view = super().changelist_view
        return _recorded(request, lambda: view(request, *arguments, **options))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return what can't be edited: ids of what is there already, and what never is."""
        fixed = list(super().get_readonly_fields(request, obj))
        if obj is not None:
            names = {each.name for each in obj._meta.fields}
            keys = [name for name in obj.key_fields if name in names]
            fixed += [*keys, *obj.never_edited]
        if self.model is models.PlanVersion:
            fixed.append("state")  # There are actions for that.
        return list(dict.fromkeys(fixed))


def _recorded(request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
    if request.method != "POST" or not request.user.is_authenticated:
        return view()
    try:
        with store.change(actor=request.user.get_username(), source=Source.UI):
            response = view()
            if hasattr(response, "render"):
                response.render()
            return response
    except (CatalogError, NeverEditedError, ValidationError) as error:
        lines = error.lines if isinstance(error, CatalogError) else [str(error)]
        for line in lines[:FAULTS_SHOWN_MAX]:
            messages.error(request, f"Nothing was saved: {line}")
        return HttpResponseRedirect(request.get_full_path())


@admin.action(description="Publish, and retire the version in force")
def publish(_admin: ModelAdmin, _request: HttpRequest, drafts: Iterable[Any]) -> None:
    for draft in drafts:
        store.publish(draft, current())


class PartInline(StackedInline):
    """What belongs to a row, in its form."""

    extra = 0


def _inlines(parent: type[Recorded]) -> list[type[PartInline]]:
    return [
        type(f"{child.__name__}Inline", (PartInline,), {"model": child, "fk_name": each.field.name})
        for each in parent._meta.related_objects
        if (child := each.related_model) is not None
        and issubclass(child, Recorded)
        and each.field.remote_field.on_delete.__name__ == "CASCADE"
    ]


for model in apps.get_app_config("control").get_models():
    if issubclass(model, Recorded):
        actions = [publish] if model is models.PlanVersion else []
        options = {"inlines": _inlines(model), "actions": actions}
        admin.site.register(model, type(f"{model.__name__}Admin", (RecordedAdmin,), options))


@admin.register(models.AuditEntry)
class AuditEntryAdmin(ModelAdmin):
    """The record of changes, to be read."""

    list_display = ("seq", "at", "actor", "source", "kind", "name", "reason")
    list_filter = ("source", "kind")
    search_fields = ("name", "actor", "tenant_id")

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False
