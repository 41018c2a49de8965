"""Plans and their versions: drafts are edited, published and retired; others are read."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path
from unfold.widgets import UnfoldAdminTextInputWidget

from aforo_admin import store
from aforo_admin.control import opened, plan_preview, roles
from aforo_admin.control.forms import REASON, RecordedForm, reason_input
from aforo_admin.control.limits import QuotaForm
from aforo_admin.control.models import Plan, PlanGuard, PlanQuota, PlanRateCard, PlanVersion
from aforo_admin.control.models_plans import State
from aforo_admin.control.recorded_admin import (
    LOOK_AGAIN,
    REFUSALS,
    Part,
    PartTable,
    RecordedAdmin,
    back_to,
    recorded,
    tell,
)
from aforo_admin.domain.problems import check_id

PARTS = (PlanQuota, PlanGuard, PlanRateCard)
PUBLISH = f"control.{roles.PUBLISH}"
WITHOUT_VERSION_MAX = 50  # On the list, beside those that have one.


class OfDraft:
    """A version, or what belongs to it: edited as long as it is a draft."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed = super().has_change_permission(request, obj)  # type: ignore[misc]
        return bool(allowed) and is_draft(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed = super().has_delete_permission(request, obj)  # type: ignore[misc]
        return bool(allowed) and is_draft(obj)


class PartOfDraft(OfDraft):
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed = super().has_add_permission(request, obj)  # type: ignore[misc]
        return bool(allowed) and is_draft(obj)


def is_draft(version: Any) -> bool:
    return version is None or version.state == State.DRAFT


class QuotaTable(PartOfDraft, PartTable):
    model = PlanQuota
    form = QuotaForm


class GuardPart(PartOfDraft, Part):
    model = PlanGuard


class RateCardPart(PartOfDraft, Part):
    model = PlanRateCard


class NewPlanForm(RecordedForm):
    """A first version of a plan, or a further one."""

    plan_id = forms.CharField(
        label="Plan",
        max_length=64,
        widget=UnfoldAdminTextInputWidget(),
        help_text="Its id, like pro: of a new plan, or of one that gets a further version.",
    )
    field_order = ("plan_id",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fields["cadence"].error_messages["required"] = (
            "choose month or year: the period that its fee and its quotas are for"
        )

    def clean_plan_id(self) -> str:
        plan_id: str = self.cleaned_data["plan_id"]
        for problem in check_id((), plan_id):
            raise ValidationError(problem.message)
        last = PlanVersion.objects.filter(plan_id=plan_id).order_by("-number").first()
        self.instance.plan_id = plan_id
        self.instance.number = 1 if last is None else last.number + 1
        return plan_id


@admin.register(PlanVersion)
class PlanVersionAdmin(OfDraft, RecordedAdmin):
    list_display = ("plan", "number", "state", "title", "committed_fee_nanos", "published_at")
    list_filter = ("state",)
    list_select_related = ("plan",)
    search_fields = ("plan__plan_id", "title")
    inlines = (QuotaTable, GuardPart, RateCardPart)
    change_form_before_template = "control/plan_before.html"
    list_before_template = "control/plans_before.html"

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        more = {} if "state__exact" in request.GET else _without_version(request)
        return super().changelist_view(request, {**(extra_context or {}), **more})

    def get_form(self, request: HttpRequest, obj: Any = None, **options: Any) -> Any:
        if obj is None:
            options["form"] = NewPlanForm
        return super().get_form(request, obj, **options)

    def get_exclude(self, _request: HttpRequest, obj: Any = None) -> list[str]:
        return ["plan", "number", "state"] if obj is None else []

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        sets = super().get_fieldsets(request, obj)
        names = sets[0][1]["fields"]
        names.sort(key=lambda name: name not in {"plan_id", "plan", "number", "state"})
        return sets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fixed = super().get_readonly_fields(request, obj)
        return [*fixed, "plan", "number", "state"] if obj is not None else fixed

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        if not change:
            Plan.objects.get_or_create(pk=obj.plan_id)
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: Any) -> None:
        super().save_related(request, form, formsets, change)
        store.check_draft(form.instance)

    def get_urls(self) -> list[Any]:
        asked = self.admin_site.admin_view
        steps = [
            path(f"<int:pk>/{step}/", asked(getattr(self, step)), name=f"planversion_{step}")
            for step in ("publish", "retire", "copy")
        ]
        return [*steps, *super().get_urls()]

    def publish(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show what publishing a draft changes; then do it."""
        opened.mark(request)
        draft = PlanVersion.objects.filter(pk=pk, state=State.DRAFT).first()
        if draft is None:
            return self._no_longer(request, pk, State.DRAFT)
        return self._step(request, draft, "publish", lambda made: store.publish(draft, made))

    def retire(self, request: HttpRequest, pk: int) -> HttpResponse:
        """End a version in force."""
        opened.mark(request)
        version = PlanVersion.objects.filter(pk=pk, state=State.PUBLISHED).first()
        if version is None:
            return self._no_longer(request, pk, State.PUBLISHED)
        plan_id = version.plan_id
        return self._step(request, version, "retire", lambda made: store.retire(plan_id, made))

    def copy(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Make a draft of what is in force."""
        version = PlanVersion.objects.filter(pk=pk).first()
        if version is None:
            return self.gone(request, str(pk))
        return self._step(request, version, "copy", lambda _: store.new_draft(version.plan_id))

    def _no_longer(self, request: HttpRequest, pk: int, wanted: str) -> HttpResponse:
        """Say that somebody else was faster: it was removed, or is in another state by now."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        version = PlanVersion.objects.filter(pk=pk).first()
        if version is None:
            return self.gone(request, str(pk))
        self.message_user(
            request,
            f"Nothing was changed: {version} is {version.state} by now, and no longer"
            f" {'a draft' if wanted == State.DRAFT else 'in force'}.",
            messages.WARNING,
        )
        return back_to(self, version)

    def _step(self, request: HttpRequest, version: Any, step: str, take: Any) -> HttpResponse:
        needed = "control.add_planversion" if step == "copy" else PUBLISH
        if not request.user.has_perm(needed):
            raise PermissionDenied
        if request.method != "POST":
            return self._asked(request, version, step)
        try:
            with recorded(request, request.POST.get(REASON, "")) as made:
                if step != "copy":
                    opened.check(request, version, PARTS, LOOK_AGAIN)
                result = take(made)
        except REFUSALS as error:
            tell(request, error)
            return HttpResponseRedirect(request.get_full_path())
        self.message_user(request, f"{version}: {DONE[step]}.")
        return back_to(self, result or version)

    def _asked(self, request: HttpRequest, version: Any, step: str) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": f"{TITLES[step]} {version}?",
            "opts": self.opts,
            "version": version,
            "step": step,
            "verb": VERBS[step],
            "reason": reason_input(),
            "opened": "" if step == "copy" else opened.hidden_input(request),
            **(plan_preview.of_draft(version) if step == "publish" else {}),
        }
        return TemplateResponse(request, "control/plan_step.html", context)


def _without_version(request: HttpRequest) -> dict[str, Any]:
    """Return plans that were saved by themselves, or whose only draft was removed."""
    searched = request.GET.get(SEARCH_VAR, "").strip()
    found = Plan.objects.filter(versions=None, plan_id__icontains=searched)
    some = list(found[: WITHOUT_VERSION_MAX + 1])
    return {
        "without_version": some[:WITHOUT_VERSION_MAX],
        "without_version_more": len(some) > WITHOUT_VERSION_MAX,
    }


TITLES = {"publish": "Publish", "retire": "Retire", "copy": "Make a new version of"}
VERBS = {**TITLES, "copy": "Make a draft"}  # On the button, where no version is named.
DONE = {"publish": "in force from now on", "retire": "no longer in force", "copy": "copied"}


@admin.register(Plan)
class PlanAdmin(RecordedAdmin):
    """Its versions say what it is; here it has only its name."""

    list_display = ("plan_id",)
    search_fields = ("plan_id",)

    def get_model_perms(self, _request: HttpRequest) -> dict[str, bool]:
        return {}  # Not in lists of tables.
