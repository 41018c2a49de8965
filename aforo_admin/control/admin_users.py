"""Users and their role. Only owners come here."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget

from aforo_admin.control import opened, role_groups, users
from aforo_admin.control.gone import GoneMixin
from aforo_admin.control.lookups import LookupsMixin
from aforo_admin.control.opened import OPENED, ChangedSinceOpenedError
from aforo_admin.control.recorded_admin import recorded, rendered
from aforo_admin.control.roles import Role

ROLES = [(role.value, role.value) for role in Role]


def role_field() -> forms.ChoiceField:
    return forms.ChoiceField(choices=ROLES, widget=UnfoldAdminSelectWidget())


class NewUserForm(UserCreationForm):
    role = role_field()


class EditUserForm(UserChangeForm):
    """A user's form. A subclass made for one request knows how it was opened, as `RecordedForm`."""

    told = ""  # Why it was not saved.
    opened: int | None = None
    role = role_field()
    opened_at_change = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.initial[OPENED] = self.opened
        held = role_groups.roles_of(self.instance)
        if "role" in self.fields:
            self.fields["role"].initial = min(held, default=Role.VIEWER).value

    def clean(self) -> Any:
        """Refuse that the last who looks after users no longer does; superusers do in any role."""
        given = super().clean()
        if self.told:
            self.add_error(None, self.told)
        if users.is_last_owner(self.instance):
            if not self.cleaned_data.get("is_active"):
                self.add_error("is_active", users.NO_OWNER_LEFT)
            elif not self.instance.is_superuser and self.cleaned_data.get("role") != Role.OWNER:
                self.add_error("role", users.NO_OWNER_LEFT)
        return given


admin.site.unregister(User)  # Django's own form.


@admin.register(User)
class ControlUserAdmin(LookupsMixin, GoneMixin, UserAdmin, ModelAdmin):
    form = EditUserForm
    add_form = NewUserForm
    change_form_after_template = "control/opened.html"
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "roles", "is_active", "last_login")
    list_filter = ("is_active", "groups")
    filter_horizontal = ()
    actions = None
    fieldsets = ((None, {"fields": ("username", "role", "is_active", "password")}),)
    add_fieldsets = ((None, {"fields": ("username", "role", "password1", "password2")}),)

    @admin.display
    def roles(self, user: User) -> str:
        if user.is_superuser:
            return "superuser"
        return ", ".join(sorted(group.name for group in user.groups.all()))

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).prefetch_related("groups")

    def get_form(self, request: HttpRequest, obj: Any = None, **options: Any) -> Any:
        form = super().get_form(request, obj, **options)
        if obj is None:
            return form
        own = {
            "told": str(getattr(request, "refusal", "")),
            "opened": getattr(request, "opened", None),
        }
        return type(form.__name__, (form,), own)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, *arguments: Any, **options: Any
    ) -> Any:
        view = super().changeform_view
        if request.method != "POST":
            opened.mark(request)
            return view(request, object_id, *arguments, **options)
        try:
            with recorded(request, checked=True):  # No rule of the catalog speaks of users.
                user = None if object_id is None else self.get_object(request, unquote(object_id))
                if user is not None:
                    opened.check(request, user)
                return rendered(view(request, object_id, *arguments, **options))
        except ChangedSinceOpenedError as error:
            request.refusal = error
            opened.renew(request)
            return view(request, object_id, *arguments, **options)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:  # noqa: A002 - Django's name.
        view = super().user_change_password
        if request.method != "POST":
            return view(request, id, form_url)
        with recorded(request, checked=True):
            return rendered(view(request, id, form_url))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        obj.is_staff = True
        super().save_model(request, obj, form, change)
        role_groups.set_role(obj, Role(form.cleaned_data["role"]))

    def save_related(self, *_arguments: Any) -> None:
        """Roles are saved with the user: it would take their groups away."""

    def log_addition(self, *_arguments: Any) -> None:
        """Our record has it."""

    log_change = log_addition

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False  # Their changes stay on the record: they no longer sign in, that is all.


def unregister_others() -> None:
    """Take away the forms that apps bring along: roles are code, and nobody edits the rest."""
    others = [
        model
        for model in admin.site._registry
        if model is not User and model._meta.app_label != "control"
    ]
    admin.site.unregister(others)
