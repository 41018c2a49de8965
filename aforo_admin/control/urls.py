"""What the web process answers."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path
from django.views import defaults

from aforo_admin.control import refusals
from aforo_admin.control.sign_on import back_to_login
from aforo_admin.rest.api import failed, missing, refused, urls

API = "/api/"

SIGN_ON: list[Any] = [
    path("sso/", include("allauth.socialaccount.providers.openid_connect.urls")),
    path("sso/failed/", back_to_login, name="socialaccount_login_error"),
    path("sso/cancelled/", back_to_login, name="socialaccount_login_cancelled"),
    path("sso/signup/", back_to_login, name="socialaccount_signup"),
]

urlpatterns = [
    path("admin/", admin.site.urls),
    *(SIGN_ON if settings.AFORO_SIGN_ON is not None else []),
    path("api/v1/", urls()),
    re_path(f"^{API.removeprefix('/')}", missing),
]


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's name, for what it refuses itself: another host, a cookie that was tampered with."""
    if request.path.startswith(API):
        return refused(request, exception)
    return defaults.bad_request(request, exception)


def handler403(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's name, for what somebody may not do."""
    return refusals.denied(request, exception)


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's name, for what is not there."""
    if request.path.startswith(API):
        return missing(request)
    return refusals.not_found(request, exception)


def handler500(request: HttpRequest) -> HttpResponse:
    """Django's name, for what fails outside of all views."""
    return failed().response() if request.path.startswith(API) else defaults.server_error(request)
