"""What people are told who may not have a page, or ask for one that is not there.

The pages have the frame of the others, for who has signed in: a way on is always in sight.
"""

from http import HTTPStatus
from typing import Any, Final

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from aforo_admin.control import role_groups

PAGE: Final = "control/refused.html"
NOTICE: Final = "control/refused_notice.html"  # For who has not signed in.
ADDRESS: Final = "Nothing is at this address: a link may be old, or mistyped."
CSRF: Final = (
    "The form was sent without the proof that it was yours: cookies may be off, or you have signed "
    "in or out meanwhile. Open the page again, and send it from there."
)


def denied(request: HttpRequest, _exception: Any = None) -> HttpResponse:
    """Say who may instead."""
    return _page(request, HTTPStatus.FORBIDDEN, "Not for your role", _of_role(request))


def not_found(request: HttpRequest, exception: Any = None) -> HttpResponse:
    """Say what is not there, where a page of ours knows it; Django's reasons are of its code."""
    arguments: tuple[Any, ...] = getattr(exception, "args", ())
    reason = arguments[0] if arguments else None
    told = f"{reason[:1].upper()}{reason[1:]}." if isinstance(reason, str) and reason else ADDRESS
    return _page(request, HTTPStatus.NOT_FOUND, "Not there", told)


def unproven(request: HttpRequest, reason: str = "") -> HttpResponse:  # noqa: ARG001 - Django's.
    """Refuse a form that another site may have sent."""
    return _page(request, HTTPStatus.FORBIDDEN, "Nothing was changed", CSRF)


def _of_role(request: HttpRequest) -> str:
    user = getattr(request, "user", None)
    held = [] if user is None or user.pk is None else sorted(role_groups.roles_of(user))
    who = f"You are {' and '.join(held)}, and this" if held else "This"
    return f"{who} is for other roles"


def _page(request: HttpRequest, status: HTTPStatus, title: str, told: str) -> HttpResponse:
    shown: dict[str, Any] = {
        "title": title,
        "told": told,
        "by_role": status is HTTPStatus.FORBIDDEN and told is not CSRF,
    }
    if not hasattr(request, "user") or not admin.site.has_permission(request):
        if status is HTTPStatus.NOT_FOUND:
            shown["told"] = ADDRESS  # What there is, is for those who have signed in.
        return render(request, NOTICE, shown, status=status)
    request.current_app = admin.site.name
    return render(request, PAGE, {**admin.site.each_context(request), **shown}, status=status)
