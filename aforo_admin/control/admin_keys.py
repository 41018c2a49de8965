"""Keys: made here and shown once, known by their hash and first characters, revoked at once."""

from typing import Any, Final

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone

from aforo_admin import mint
from aforo_admin.control.admin_tenants import OfTenantAdmin
from aforo_admin.control.forms import REASON, RecordedForm, reason_input
from aforo_admin.control.models import Credential, IngestKey
from aforo_admin.control.recorded_admin import REFUSALS, RecordedAdmin, back_to, recorded, tell
from aforo_admin.domain.problems import check_sha256
from aforo_authz.domain.access import CredentialKind

PREFIX_CHARS: Final = 12  # "aforo_" and 6 of 32 random ones.


class KeyForm(RecordedForm):
    """A key that is made, or known already by its hash; what is typed is not shown again."""

    hashed = "sha256"  # The column of the hash.
    minted = ""  # The key, once it is made.

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.hashed in self.fields:
            field = self.fields[self.hashed]
            field.required = False
            # It may hold a key by mistake.
            field.widget = forms.PasswordInput(
                attrs={**field.widget.attrs, "autocomplete": "off"}, render_value=False
            )
            field.help_text = self.hashed_help

    hashed_help = "Empty: a key is made, and shown once. Else the SHA-256 of one that exists."

    def is_key(self) -> bool:
        return True

    def _post_clean(self) -> None:
        if self.hashed in self.fields and self.hashed not in self.errors:
            self._hash()
        super()._post_clean()
        ends_at = self.cleaned_data.get("expires_at")
        if self.instance._state.adding and ends_at is not None and ends_at <= timezone.now():
            self.add_error("expires_at", "is past, so the key would never hold: give a later one")

    def _hash(self) -> None:
        given = self.cleaned_data.get(self.hashed) or ""
        if not self.is_key():
            return
        if given:
            for problem in check_sha256((), given):
                self.add_error(self.hashed, problem.message)
            return
        self.minted = mint.mint_key()
        self.cleaned_data[self.hashed] = mint.sha256_of_key(self.minted)


class CredentialForm(KeyForm):
    hashed = "identity"
    hashed_help = (
        "Of an API key: leave it empty, and one is made and shown once; or the SHA-256 of one that "
        "exists. Else the JWT's subject, or the certificate's URI."
    )

    def is_key(self) -> bool:
        return bool(self.cleaned_data.get("kind") == CredentialKind.API_KEY)

    def clean(self) -> Any:
        given = super().clean()
        if not self.is_key() and self.hashed in self.fields and not given.get(self.hashed):
            self.add_error(self.hashed, "say what it is known by: the subject, or the URI")
        return given


class KeyAdmin(RecordedAdmin):
    """A key: added, revoked, removed."""

    hashed = "sha256"
    shown = ("prefix", "revoked")
    change_form_before_template = "control/key_before.html"

    def get_exclude(self, request: HttpRequest, obj: Any = None) -> list[str]:
        besides = [*self.shown] if obj is None else [self.hashed]
        return [*super().get_exclude(request, obj), *besides]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fixed = super().get_readonly_fields(request, obj)
        if obj is None:
            return fixed
        return [*(name for name in fixed if name != self.hashed), *self.shown]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        if form.minted:
            obj.prefix = form.minted[:PREFIX_CHARS]
        super().save_model(request, obj, form, change)
        request.minted = form.minted

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> Any:
        """Show a key that was made. Sending the form again makes no other: its id is taken."""
        if not request.minted:
            return super().response_add(request, obj, post_url_continue)
        context = {
            **self.admin_site.each_context(request),
            "title": f"The key of {obj}",
            "opts": self.opts,
            "key": request.minted,
            "row": obj,
        }
        response = TemplateResponse(request, "control/minted.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def get_urls(self) -> list[Any]:
        name = f"{self.opts.model_name}_revoke"
        view = self.admin_site.admin_view(self.revoke)
        return [path("<path:object_id>/revoke/", view, name=name), *super().get_urls()]

    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask, then revoke: sync hears of it within a second."""
        row = self.get_object(request, object_id)  # None for what is no id at all, too.
        if row is None:
            return self.gone(request, object_id)
        if not self.has_change_permission(request, row):
            raise PermissionDenied
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request),
                "title": f"Revoke {row}?",
                "opts": self.opts,
                "row": row,
                "reason": reason_input(),
            }
            return TemplateResponse(request, "control/revoke.html", context)
        try:
            with recorded(request, request.POST.get(REASON, "")):
                # As it is now: nothing that somebody else has saved meanwhile is lost. Revoked once
                # more it is what it was, and nothing is on the record.
                row = self.get_object(request, object_id)
                if row is None:
                    return self.gone(request, object_id)
                row.revoked = True
                row.save()
        except REFUSALS as error:
            tell(request, error)
            return HttpResponseRedirect(request.get_full_path())
        self.message_user(request, f"{row} is revoked.")
        return back_to(self, row)


@admin.register(Credential)
class CredentialAdmin(KeyAdmin, OfTenantAdmin):
    form = CredentialForm
    hashed = "identity"
    list_display = ("tenant", "credential_id", "kind", "prefix", "state", "expires_at")
    list_display_links = ("credential_id",)
    list_filter = ("kind", "revoked")
    search_fields = ("tenant__tenant_id", "credential_id", "prefix")

    @admin.display
    def state(self, row: Credential) -> str:
        return "revoked" if row.revoked else "in force"


@admin.register(IngestKey)
class IngestKeyAdmin(KeyAdmin):
    form = KeyForm
    list_display = ("key_id", "prefix", "scopes", "installation", "revoked", "expires_at")
    list_filter = ("revoked",)
    search_fields = ("key_id", "prefix")
    hidden = ("position",)
