"""A row that is no longer there: who removed it, when, and what became of what was typed."""

from typing import Any, Final

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from aforo_admin.control.models import AuditEntry
from aforo_admin.control.opened import opened_at

NOTHING_SAVED: Final = " Nothing was saved."


def told(request: HttpRequest, opts: Any, object_id: str) -> str:
    """Return what happened to a row that is not there, as far as the record knows it."""
    removals = AuditEntry.objects.filter(kind=str(opts.verbose_name), after__isnull=True)
    removal = removals.filter(name=object_id).order_by("-seq").first()
    opened = opened_at(request)
    if removal is None and opened is not None:
        # The form knew a number and no name. It was there then: if one alone was removed, it is it.
        later = list(removals.filter(seq__gt=opened)[:2])
        removal = later[0] if len(later) == 1 else None
    saved = NOTHING_SAVED if request.method == "POST" else ""
    if removal is None:
        return (
            f"This {opts.verbose_name} is not there (any more). The audit says who removed what."
            f"{saved}"
        )
    why = f" (\N{LEFT DOUBLE QUOTATION MARK}{removal.reason}\N{RIGHT DOUBLE QUOTATION MARK})"
    return (
        f"{removal.actor} removed the {removal.kind} {removal.name} on"
        f" {removal.at:%Y-%m-%d at %H:%M:%S} UTC{why if removal.reason else ''}.{saved}"
    )


class GoneMixin:
    """Whoever opens or sends the form of a row that is gone is told so, beside those that are."""

    opts: Any
    has_view_permission: Any

    def gone(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say what happened to a row, in the list that it was in."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        messages.warning(request, told(request, self.opts, unquote(object_id)))
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"
        return HttpResponseRedirect(reverse(name))

    def _get_obj_does_not_exist_redirect(
        self, request: HttpRequest, _opts: Any, object_id: str
    ) -> HttpResponse:
        """Take the place of Django's, which names a number and leads to the first page."""
        return self.gone(request, object_id)
