"""The admin's site: unfold's, with our pages, and without styles that stand in the page itself."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.sites import UnfoldAdminSite

from aforo_admin.control import navigation
from aforo_admin.control.recorded_admin import recorded, rendered
from aforo_admin.django_security import OIDC


class ControlSite(UnfoldAdminSite):
    login_template = "control/login.html"

    def index(self, _request: HttpRequest, _extra_context: Any = None) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:overview"))

    def password_change(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Let somebody change their own password, on the record; not which it is."""
        view = super().password_change
        if request.method != "POST":
            return view(request, extra_context)
        with recorded(request, checked=True):
            return rendered(view(request, extra_context))

    def extra_urls(self) -> list[Any]:
        return navigation.urls(self.admin_view)

    def extra_context(self, context: dict[str, Any], _request: HttpRequest) -> dict[str, Any]:
        # It would write them into each page, where the content security policy refuses them:
        # aforo.css has them.
        return {**context, "colors": None, "sign_on": _sign_on_url()}


def _sign_on_url() -> str | None:
    """Return where single sign-on begins, where it is on."""
    if settings.AFORO_SIGN_ON is None:
        return None
    return str(reverse("openid_connect_login", kwargs={"provider_id": OIDC}))
